//! Asking a service whether a request may pass.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use weir_proto::envoy::{
    config::core::v3::{self as core, HeaderValueOption, header_value_option::HeaderAppendAction},
    extensions::filters::{
        http::ext_authz::v3::{self as proto, check_settings, ext_authz::Services},
        network::ext_authz::v3::ExtAuthz as NetworkProto,
    },
    r#type::matcher::v3::ListStringMatcher,
};

use super::{grpc_service, http_uri};
use crate::{
    config::{
        convert::{
            context::Context,
            fields::{item, sub},
            headers, matcher, metadata, node,
        },
        error::Error,
        filter::{
            ext_authz::{BodyPart, ExtAuthz, HttpService, OfRoute, Service, ServicePath, Settings},
            stats::{self, Counted},
        },
        network::{AuthzStats, NetworkAuthz, Switch},
    },
    matcher::StringMatcher,
};

/// How long an answer may take where a service of gRPC does not say.
const TIMEOUT: Duration = Duration::from_millis(200);

pub(super) fn ext_authz(cx: &mut Context, message: &proto::ExtAuthz, at: &str) -> Result<ExtAuthz, Error> {
    let supported = [
        "grpc_service",
        "http_service",
        "transport_api_version",
        "failure_mode_allow",
        "failure_mode_allow_header_add",
        "with_request_body",
        "clear_route_cache",
        "status_on_error",
        "validate_mutations",
        "metadata_context_namespaces",
        "route_metadata_context_namespaces",
        "filter_enabled",
        "filter_enabled_metadata",
        "deny_at_disable",
        "include_peer_certificate",
        "include_tls_session",
        "stat_prefix",
        "allowed_headers",
        "disallowed_headers",
        "charge_cluster_response_stats",
        "encode_raw_headers",
        "enable_dynamic_metadata_ingestion",
        "max_denied_response_body_bytes",
    ];
    // There is no typed metadata that could be told, and no trace.
    let harmless = ["typed_metadata_context_namespaces", "route_typed_metadata_context_namespaces", "emit_client_span"];
    cx.only(message, at, &supported, &harmless)?;
    version(message.transport_api_version(), at)?;
    let service = match &message.services {
        Some(Services::GrpcService(service)) => grpc(cx, service, &sub(at, "grpc_service"))?,
        Some(Services::HttpService(service)) => http(cx, service, &sub(at, "http_service"))?,
        None => return Err(Error::at(at, "expected one of grpc_service, http_service")),
    };
    let own = cx.http.scope("ext_authz");
    let scope = if message.stat_prefix.is_empty() { own } else { own.scope(&message.stat_prefix) };
    let enabled_metadata = message.filter_enabled_metadata.as_ref();
    let enabled_metadata_at = sub(at, "filter_enabled_metadata");
    let texts = |list: &[String]| list.iter().map(|text| text.as_str().into()).collect();
    let denies = message.deny_at_disable.as_ref();
    Ok(ExtAuthz {
        service,
        failure_passes: message.failure_mode_allow,
        failure_is_told: message.failure_mode_allow_header_add,
        body: message.with_request_body.as_ref().map(body),
        clear_route: message.clear_route_cache,
        status_on_error: status_on_error(message),
        validates: message.validate_mutations,
        metadata: texts(&message.metadata_context_namespaces),
        route_metadata: texts(&message.route_metadata_context_namespaces),
        enabled: matcher::runtime_fraction(message.filter_enabled.as_ref()),
        enabled_metadata: enabled_metadata
            .map(|message| metadata::metadata_matcher(cx, message, &enabled_metadata_at))
            .transpose()?,
        deny_at_disable: Switch {
            default: denies.and_then(|flag| flag.default_value).unwrap_or(false),
            key: denies.map(|flag| flag.runtime_key.as_str()).unwrap_or_default().into(),
        },
        peer_certificate: message.include_peer_certificate,
        tls_session: message.include_tls_session,
        allowed_headers: list(message.allowed_headers.as_ref(), &sub(at, "allowed_headers"))?,
        disallowed_headers: list(message.disallowed_headers.as_ref(), &sub(at, "disallowed_headers"))?
            .unwrap_or_default(),
        raw_headers: message.encode_raw_headers,
        charges: message.charge_cluster_response_stats.unwrap_or(true),
        takes_metadata: message.enable_dynamic_metadata_ingestion.unwrap_or(true),
        longest_body: Some(message.max_denied_response_body_bytes as usize).filter(|longest| *longest > 0),
        prefix: message.stat_prefix.as_str().into(),
        stats: Counted::<stats::ExtAuthz>::new(scope),
    })
}

/// The network filter.
pub(in crate::config::convert) fn connection_authz(
    cx: &mut Context,
    message: &NetworkProto,
    at: &str,
) -> Result<NetworkAuthz, Error> {
    let supported = [
        "stat_prefix",
        "grpc_service",
        "failure_mode_allow",
        "include_peer_certificate",
        "transport_api_version",
        "filter_enabled_metadata",
        "include_tls_session",
        "metadata_context_namespaces",
    ];
    // There is no typed metadata that could be told.
    cx.only(message, at, &supported, &["typed_metadata_context_namespaces"])?;
    version(message.transport_api_version(), at)?;
    let service_at = sub(at, "grpc_service");
    let service = message.grpc_service.as_ref().ok_or_else(|| Error::at(&service_at, "a service is required"))?;
    let enabled_at = sub(at, "filter_enabled_metadata");
    let enabled = message.filter_enabled_metadata.as_ref();
    Ok(NetworkAuthz {
        service: Arc::new(grpc_service(cx, service, TIMEOUT, &service_at)?),
        failure_passes: message.failure_mode_allow,
        peer_certificate: message.include_peer_certificate,
        tls_session: message.include_tls_session,
        metadata: message.metadata_context_namespaces.iter().map(|name| name.as_str().into()).collect(),
        node: node::address(),
        enabled_metadata: enabled.map(|message| metadata::metadata_matcher(cx, message, &enabled_at)).transpose()?,
        stats: AuthzStats::new(cx.stats.scope("ext_authz").scope(&message.stat_prefix)),
    })
}

/// Only one version of the service is spoken, by Envoy too.
#[expect(deprecated, reason = "to refuse it")]
fn version(version: core::ApiVersion, at: &str) -> Result<(), Error> {
    match version {
        core::ApiVersion::V3 | core::ApiVersion::Auto => Ok(()),
        core::ApiVersion::V2 => Err(Error::at(sub(at, "transport_api_version"), "expected V3: V2 is gone")),
    }
}

fn status_on_error(message: &proto::ExtAuthz) -> StatusCode {
    let code = message.status_on_error.as_ref().and_then(|status| u16::try_from(status.code).ok());
    let code = code.filter(|code| *code > 0).and_then(|code| StatusCode::from_u16(code).ok());
    code.unwrap_or(StatusCode::FORBIDDEN)
}

pub(super) fn of_route(cx: &mut Context, message: &proto::ExtAuthzPerRoute, at: &str) -> Result<OfRoute, Error> {
    use proto::ext_authz_per_route::Override;
    let message = match &message.r#override {
        // As in Envoy, to say that it is not off says nothing.
        Some(Override::Disabled(true)) => return Ok(OfRoute::Off),
        Some(Override::Disabled(false)) => &proto::CheckSettings::default(),
        Some(Override::CheckSettings(message)) => message,
        None => return Err(Error::at(at, "expected one of disabled, check_settings")),
    };
    let at = sub(at, "check_settings");
    let supported =
        ["context_extensions", "disable_request_body_buffering", "with_request_body", "grpc_service", "http_service"];
    cx.only(message, &at, &supported, &["emit_client_span"])?;
    if message.disable_request_body_buffering && message.with_request_body.is_some() {
        let why = "not together with disable_request_body_buffering";
        return Err(Error::at(sub(&at, "with_request_body"), why));
    }
    let mut extensions: Vec<(Box<str>, Box<str>)> =
        message.context_extensions.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect();
    extensions.sort_unstable();
    Ok(OfRoute::Settings(Box::new(Settings {
        extensions,
        without_body: message.disable_request_body_buffering,
        body: message.with_request_body.as_ref().map(body),
        service: match &message.service_override {
            None => None,
            Some(check_settings::ServiceOverride::GrpcService(service)) => {
                Some(grpc(cx, service, &sub(&at, "grpc_service"))?)
            }
            Some(check_settings::ServiceOverride::HttpService(service)) => {
                Some(http(cx, service, &sub(&at, "http_service"))?)
            }
        },
    })))
}

fn body(message: &proto::BufferSettings) -> BodyPart {
    BodyPart {
        most: message.max_request_bytes as usize,
        partial: message.allow_partial_message,
        as_bytes: message.pack_as_bytes,
    }
}

fn list(message: Option<&ListStringMatcher>, at: &str) -> Result<Option<Vec<StringMatcher>>, Error> {
    let Some(message) = message else { return Ok(None) };
    let patterns = message.patterns.iter().enumerate();
    patterns
        .map(|(index, pattern)| matcher::string(pattern, &item(at, "patterns", index)))
        .collect::<Result<_, _>>()
        .map(Some)
}

fn grpc(cx: &mut Context, message: &core::GrpcService, at: &str) -> Result<Service, Error> {
    Ok(Service::Grpc(Arc::new(grpc_service(cx, message, TIMEOUT, at)?)))
}

fn http(cx: &mut Context, message: &proto::HttpService, at: &str) -> Result<Service, Error> {
    let supported = [
        "server_uri",
        "path_prefix",
        "path_override",
        "authorization_request",
        "authorization_response",
        "retry_policy",
    ];
    cx.only(message, at, &supported, &[])?;
    let uri_at = sub(at, "server_uri");
    let uri = message.server_uri.as_ref().ok_or_else(|| Error::at(&uri_at, "a URI is required"))?;
    let target = http_uri(uri, &uri_at)?;
    let path = match (message.path_prefix.as_str(), message.path_override.as_str()) {
        (prefix, "") if prefix.is_empty() || prefix.starts_with('/') => ServicePath::Prefixed(prefix.into()),
        ("", path) if path.starts_with('/') => ServicePath::Always(path.into()),
        ("", _) => return Err(Error::at(sub(at, "path_override"), "expected a path that begins with a slash")),
        (_, "") => return Err(Error::at(sub(at, "path_prefix"), "expected a path that begins with a slash")),
        _ => return Err(Error::at(sub(at, "path_override"), "not together with path_prefix")),
    };
    let mut additions = Vec::new();
    if let Some(request) = &message.authorization_request {
        let at = sub(at, "authorization_request");
        cx.only(request, &at, &["headers_to_add"], &[])?;
        let set = |header: &core::HeaderValue| HeaderValueOption {
            header: Some(header.clone()),
            append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
            ..HeaderValueOption::default()
        };
        let options: Vec<_> = request.headers_to_add.iter().map(set).collect();
        additions = headers::additions(cx, &options, &at, "headers_to_add")?;
    }
    let answer = message.authorization_response.clone().unwrap_or_default();
    let answer_at = sub(at, "authorization_response");
    let chosen = |message: Option<&ListStringMatcher>, field: &str| list(message, &sub(&answer_at, field));
    let retries = match &message.retry_policy {
        None => 0,
        Some(policy) => {
            cx.only(policy, &sub(at, "retry_policy"), &["num_retries"], &["retry_back_off", "retry_on"])?;
            policy.num_retries.unwrap_or(1)
        }
    };
    Ok(Service::Http(Arc::new(HttpService {
        cluster: target.cluster,
        scheme: target.scheme,
        timeout: Some(target.timeout).filter(|timeout| !timeout.is_zero()),
        path,
        additions,
        upstream: chosen(answer.allowed_upstream_headers.as_ref(), "allowed_upstream_headers")?.unwrap_or_default(),
        upstream_append: chosen(
            answer.allowed_upstream_headers_to_append.as_ref(),
            "allowed_upstream_headers_to_append",
        )?
        .unwrap_or_default(),
        client: chosen(answer.allowed_client_headers.as_ref(), "allowed_client_headers")?,
        client_on_success: chosen(
            answer.allowed_client_headers_on_success.as_ref(),
            "allowed_client_headers_on_success",
        )?
        .unwrap_or_default(),
        metadata: chosen(answer.dynamic_metadata_from_headers.as_ref(), "dynamic_metadata_from_headers")?
            .unwrap_or_default(),
        retries,
    })))
}
