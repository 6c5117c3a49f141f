//! Transport sockets.

mod certificate;
mod loading;
mod parameters;
mod secret;
#[cfg(test)]
mod tests;
mod validation;

use std::{
    path::Path,
    sync::{Arc, Weak},
};

use aws_lc_rs::rand;
use rustls::server::ProducesTickets;
use weir_proto::envoy::{
    config::{
        cluster::v3 as cluster,
        core::v3::{self as core, transport_socket::ConfigType},
    },
    extensions::transport_sockets::{
        internal_upstream::v3::InternalUpstreamTransport,
        proxy_protocol::v3::ProxyProtocolUpstreamTransport,
        tls::v3::{
            self as proto, common_tls_context::ValidationContextType, downstream_tls_context::SessionTicketKeysType,
        },
    },
    r#type::metadata::v3::metadata_kind,
};

use self::{
    loading::{Ground, Loading, Made},
    parameters::Parameters,
};
use super::{
    connect,
    context::Context,
    endpoints::json_struct,
    fields::{cidrs, data_source, duration, item, sub, type_name, unpack},
    istio,
};
use crate::{
    config::{
        cell::Feed,
        error::Error,
        tls::{Build, DownstreamTls, Internal, MetadataOf, Proxied, Tls, Transport, TransportMatch, Transports},
    },
    telemetry::stats::Scope,
    tls::{
        client::{self, ClientContext},
        key_log::{KeyLogFile, KeyLogRange},
        server::{self, KeyPair, Resumption, ServerContext},
        stats::FactoryStats,
        tickets::{KEY_BYTES, TicketKeys},
        verify::Validation,
    },
};

/// BoringSSL's default of how long sessions may be resumed, seconds.
const SESSION_TIMEOUT: u32 = 2 * 60 * 60;
/// Envoy's default of `max_session_keys`.
const SESSIONS: u32 = 1;

const DOWNSTREAM: &str = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
const PROXY_PROTOCOL: &str = "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport";
const INTERNAL: &str = "envoy.extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport";
const UPSTREAM: &str = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";

/// A filter chain's TLS; none: plain. `stats` is the listener's scope.
pub(super) fn downstream(
    cx: &mut Context,
    message: Option<&core::TransportSocket>,
    stats: &Scope,
    at: &str,
) -> Result<Option<Arc<DownstreamTls>>, Error> {
    let Some((any, at)) = typed(message, at)? else { return Ok(None) };
    let message: proto::DownstreamTlsContext = expect(any, DOWNSTREAM, &at)?;
    let ground = Ground::of(cx);
    let registry = cx.cells.clone();
    let _still = registry.still();
    let made = ground.load(|loading| loading.server(&message, &at))?;
    let build = Box::new(move || Ok(ground.load(|loading| loading.server(&message, &at))?.loaded));
    Ok(Some(finished(cx, made, build, stats, FactoryStats::of_server(stats))))
}

/// A context, which is made anew by `build` when a secret changes that it is made of.
fn finished<C: Send + Sync + 'static>(
    cx: &mut Context,
    made: Made<C>,
    build: Build<C>,
    stats: &Scope,
    factory: FactoryStats,
) -> Arc<Tls<C>> {
    let Made { loaded, secrets, ignored } = made;
    cx.ignored.extend(ignored);
    let feeds: Vec<_> = secrets.iter().map(|secret| secret.clone() as Arc<dyn Feed>).collect();
    cx.waits.extend(feeds.iter().cloned());
    let tls = Arc::new(Tls::new(loaded, build, feeds, stats, factory));
    for secret in secrets {
        let follower: Weak<Tls<C>> = Arc::downgrade(&tls);
        secret.followed_by(follower);
    }
    tls
}

/// How a cluster's connections are secured. `stats` is the cluster's scope.
pub(super) fn transports(
    cx: &mut Context,
    message: &cluster::Cluster,
    stats: &Scope,
    at: &str,
) -> Result<Transports, Error> {
    let matched = |name: &str| stats.counter(&format!("{name}.total_match_count"));
    let mut matches = Vec::new();
    for (index, message) in message.transport_socket_matches.iter().enumerate() {
        let at = item(at, "transport_socket_matches", index);
        let criteria = match message.r#match.as_ref().map(json_struct) {
            Some(serde_json::Value::Object(wanted)) => wanted,
            _ => serde_json::Map::new(),
        };
        let transport = upstream(cx, message.transport_socket.as_ref(), stats, &sub(&at, "transport_socket"))?;
        let matched = matched(&message.name);
        matches.push(TransportMatch { name: message.name.as_str().into(), criteria, transport, matched });
    }
    let default = upstream(cx, message.transport_socket.as_ref(), stats, &sub(at, "transport_socket"))?;
    Ok(Transports { matches, default, unmatched: matched("default") })
}

fn upstream(
    cx: &mut Context,
    message: Option<&core::TransportSocket>,
    stats: &Scope,
    at: &str,
) -> Result<Transport, Error> {
    let Some((any, at)) = typed(message, at)? else { return Ok(Transport::Plain) };
    if type_name(any) == PROXY_PROTOCOL {
        let message: ProxyProtocolUpstreamTransport = unpack(any, &at)?;
        let header = connect::proxy_transport(cx, &message, &at)?;
        let at = sub(&at, "transport_socket");
        let transport = upstream(cx, message.transport_socket.as_ref(), stats, &at)?;
        if matches!(transport, Transport::Proxied(_)) {
            return Err(Error::at(at, "PROXY protocol within PROXY protocol is not supported"));
        }
        return Ok(Transport::Proxied(Arc::new(Proxied { header, transport })));
    }
    if type_name(any) == INTERNAL {
        let message: InternalUpstreamTransport = unpack(any, &at)?;
        cx.only(&message, &at, &["transport_socket", "passthrough_metadata"], &[])?;
        let metadata = passed_metadata(cx, &message, &at)?;
        let transport = upstream(cx, message.transport_socket.as_ref(), stats, &sub(&at, "transport_socket"))?;
        return Ok(Transport::Internal(Arc::new(Internal { metadata, transport })));
    }
    let message: proto::UpstreamTlsContext = expect(any, UPSTREAM, &at)?;
    let ground = Ground::of(cx);
    let registry = cx.cells.clone();
    let _still = registry.still();
    let made = ground.load(|loading| loading.client(&message, &at))?;
    let build = Box::new(move || Ok(ground.load(|loading| loading.client(&message, &at))?.loaded));
    Ok(Transport::Tls(finished(cx, made, build, stats, FactoryStats::of_client(stats))))
}

/// What is passed on to internal listeners.
fn passed_metadata(
    cx: &mut Context,
    message: &InternalUpstreamTransport,
    at: &str,
) -> Result<Vec<(MetadataOf, Box<str>)>, Error> {
    let mut passed = Vec::new();
    for (index, source) in message.passthrough_metadata.iter().enumerate() {
        let at = item(at, "passthrough_metadata", index);
        cx.only(source, &at, &["kind", "name"], &[])?;
        let of = match source.kind.as_ref().and_then(|kind| kind.kind.as_ref()) {
            Some(metadata_kind::Kind::Cluster(_)) => MetadataOf::Cluster,
            Some(metadata_kind::Kind::Host(_)) => MetadataOf::Host,
            _ => return Err(Error::at(sub(&at, "kind"), "expected one of cluster, host")),
        };
        passed.push((of, source.name.as_str().into()));
    }
    Ok(passed)
}

/// The configuration of a transport socket and its path; none: raw bytes.
fn typed<'a>(
    message: Option<&'a core::TransportSocket>,
    at: &str,
) -> Result<Option<(&'a prost_types::Any, String)>, Error> {
    let Some(message) = message else { return Ok(None) };
    match &message.config_type {
        Some(ConfigType::TypedConfig(any)) => match type_name(any) {
            "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer" => Ok(None),
            _ => Ok(Some((any, sub(at, "typed_config")))),
        },
        None => Err(Error::at(sub(at, "typed_config"), "a configuration is required")),
    }
}

fn expect<M: prost::Message + prost::Name + Default>(any: &prost_types::Any, kind: &str, at: &str) -> Result<M, Error> {
    match type_name(any) {
        found if found == kind => unpack(any, at),
        other => Err(Error::at(at, format!("transport socket {other} is not supported here"))),
    }
}

impl Loading {
    fn server(&mut self, message: &proto::DownstreamTlsContext, at: &str) -> Result<Option<ServerContext>, Error> {
        let supported = [
            "common_tls_context",
            "require_client_certificate",
            "require_sni",
            "session_ticket_keys",
            "session_ticket_keys_sds_secret_config",
            "disable_stateless_session_resumption",
            "disable_stateful_session_resumption",
            "session_timeout",
            "full_scan_certs_on_sni_mismatch",
            "prefer_client_ciphers",
        ];
        self.cx.only(message, at, &supported, &[])?;
        let default = proto::CommonTlsContext::default();
        let common = message.common_tls_context.as_ref().unwrap_or(&default);
        let common_at = sub(at, "common_tls_context");
        let Common { parameters, certificates, validation, tell_roots, protocols, key_log } =
            self.common(common, true, &common_at)?;
        if certificates.is_empty() && !self.missing {
            return Err(Error::at(&common_at, "no TLS certificates found for server context"));
        }
        let require_client_certificate = message.require_client_certificate.unwrap_or(false);
        let resumption = self.resumption(message, &validation, require_client_certificate, at)?;
        let (Some(resumption), false) = (resumption, self.missing) else { return Ok(None) };
        let Parameters { provider, tls12, tls13 } = parameters;
        let settings = server::Settings {
            provider,
            tls12,
            tls13,
            client_order: message.prefer_client_ciphers,
            certificates,
            validation: Arc::new(validation),
            require_client_certificate,
            tell_roots,
            require_server_name: message.require_sni.unwrap_or(false),
            full_scan: message.full_scan_certs_on_sni_mismatch.unwrap_or(false),
            protocols,
            resumption,
            key_log,
        };
        ServerContext::new(&settings)
            .map(Some)
            .map_err(|(index, error)| Error::at(item(&common_at, "tls_certificates", index), certificate::why(&error)))
    }

    fn client(&mut self, message: &proto::UpstreamTlsContext, at: &str) -> Result<Option<ClientContext>, Error> {
        let supported = ["common_tls_context", "sni", "auto_host_sni", "auto_sni_san_validation", "max_session_keys"];
        // There is no renegotiation in rustls: a server that asks for one ends the connection.
        self.cx.only(message, at, &supported, &["allow_renegotiation", "enforce_rsa_key_usage"])?;
        let default = proto::CommonTlsContext::default();
        let common = message.common_tls_context.as_ref().unwrap_or(&default);
        let common_at = sub(at, "common_tls_context");
        let Common { parameters, certificates, validation, protocols, key_log, .. } =
            self.common(common, false, &common_at)?;
        if certificates.len() > 1 {
            return Err(Error::at(
                sub(&common_at, "tls_certificates"),
                "multiple TLS certificates are not supported for client contexts",
            ));
        }
        if message.sni.len() > 255 {
            return Err(Error::at(sub(at, "sni"), "expected at most 255 bytes"));
        }
        if self.missing {
            return Ok(None);
        }
        if message.auto_sni_san_validation && validation.roots.is_empty() {
            let message = "'auto_sni_san_validation' was configured without configuring a trusted CA";
            return Err(Error::at(sub(at, "auto_sni_san_validation"), message));
        }
        let Parameters { provider, tls12, tls13 } = parameters;
        let sessions = message.max_session_keys.unwrap_or(SESSIONS);
        ClientContext::new(client::Settings {
            provider,
            tls12,
            tls13,
            certificate: certificates.into_iter().next(),
            validation: Arc::new(validation),
            server_name: message.sni.clone(),
            host_server_name: message.auto_host_sni,
            validate_server_name: message.auto_sni_san_validation,
            protocols,
            sessions: usize::try_from(sessions).unwrap_or(usize::MAX),
            key_log,
        })
        .map(Some)
        .map_err(|error| Error::at(item(&common_at, "tls_certificates", 0), certificate::why(&error)))
    }

    fn common(&mut self, message: &proto::CommonTlsContext, server: bool, at: &str) -> Result<Common, Error> {
        let supported = [
            "tls_params",
            "tls_certificates",
            "tls_certificate_sds_secret_configs",
            "validation_context",
            "validation_context_sds_secret_config",
            "combined_validation_context",
            "alpn_protocols",
            "key_log",
        ];
        self.cx.only(message, at, &supported, &[])?;
        let parameters =
            parameters::parameters(&mut self.cx, message.tls_params.as_ref(), server, &sub(at, "tls_params"))?;
        let mut certificates = Vec::new();
        for (index, message) in message.tls_certificates.iter().enumerate() {
            certificates.push(self.certificate(message, "", &item(at, "tls_certificates", index))?);
        }
        for (index, config) in message.tls_certificate_sds_secret_configs.iter().enumerate() {
            let at = item(at, "tls_certificate_sds_secret_configs", index);
            let certificate = self.secret(config, &at, |secret| match secret {
                proto::secret::Type::TlsCertificate(certificate) => Some(certificate.clone()),
                _ => None,
            })?;
            if let Some(certificate) = certificate {
                certificates.push(self.certificate(&certificate, &config.name, &at)?);
            }
        }
        let (validation, tell_roots) = match &message.validation_context_type {
            None => (Validation::default(), true),
            Some(ValidationContextType::ValidationContext(message)) => {
                self.validation(message, "", &sub(at, "validation_context"))?
            }
            Some(ValidationContextType::ValidationContextSdsSecretConfig(config)) => {
                let at = sub(at, "validation_context_sds_secret_config");
                let message = self.validation_secret(config, &at)?.unwrap_or_default();
                self.validation(&message, &config.name, &at)?
            }
            Some(ValidationContextType::CombinedValidationContext(combined)) => {
                let at = sub(at, "combined_validation_context");
                let supported = ["default_validation_context", "validation_context_sds_secret_config"];
                self.cx.only(combined, &at, &supported, &[])?;
                let mut merged = combined.default_validation_context.clone().unwrap_or_default();
                let (mut name, mut there) = ("", true);
                if let Some(config) = &combined.validation_context_sds_secret_config {
                    let found = self.validation_secret(config, &sub(&at, "validation_context_sds_secret_config"))?;
                    there = found.is_some();
                    secret::merge(&mut merged, found.unwrap_or_default());
                    name = &config.name;
                }
                // Without what is to come, it may well ask for what can't be.
                if there { self.validation(&merged, name, &at)? } else { (Validation::default(), true) }
            }
            Some(_) => return Err(Error::at(at, "certificate providers are not supported yet")),
        };
        // As in Envoy, one text may name several.
        let names = |list: &'_ String| list.split(',').all(|name| (1..=255).contains(&name.len()));
        if let Some(index) = message.alpn_protocols.iter().position(|list| !names(list)) {
            return Err(Error::at(item(at, "alpn_protocols", index), "expected names of 1 to 255 bytes"));
        }
        let offered = message.alpn_protocols.iter().flat_map(|list| list.split(','));
        let offered = offered.filter(|name| *name != istio::PEER_EXCHANGE);
        let protocols = offered.map(|name| name.as_bytes().to_vec()).collect();
        let key_log = match &message.key_log {
            None => None,
            Some(message) => Some(self.key_log(message, &sub(at, "key_log"))?),
        };
        Ok(Common { parameters, certificates, validation, tell_roots, protocols, key_log })
    }

    fn key_log(&mut self, message: &proto::TlsKeyLog, at: &str) -> Result<(Arc<KeyLogFile>, KeyLogRange), Error> {
        let file = KeyLogFile::open(Path::new(&message.path))
            .map_err(|error| Error::at(sub(at, "path"), format!("{}: {error}", message.path)))?;
        let range = KeyLogRange {
            local: cidrs(&message.local_address_range, at, "local_address_range")?,
            remote: cidrs(&message.remote_address_range, at, "remote_address_range")?,
        };
        Ok((Arc::new(file), range))
    }

    fn resumption(
        &mut self,
        message: &proto::DownstreamTlsContext,
        validation: &Validation,
        required: bool,
        at: &str,
    ) -> Result<Option<Resumption>, Error> {
        let stateful = !message.disable_stateful_session_resumption;
        let lifetime = match &message.session_timeout {
            None => SESSION_TIMEOUT,
            Some(timeout) => {
                let seconds = duration(timeout, &sub(at, "session_timeout"))?.as_secs();
                u32::try_from(seconds).map_err(|_| Error::at(sub(at, "session_timeout"), "expected at most 2^32 s"))?
            }
        };
        let keys = match &message.session_ticket_keys_type {
            Some(SessionTicketKeysType::DisableStatelessSessionResumption(true)) => {
                return Ok(Some(Resumption { tickets: None, stateful }));
            }
            Some(SessionTicketKeysType::SessionTicketKeys(keys)) => {
                self.ticket_keys(keys, &sub(at, "session_ticket_keys"))?
            }
            Some(SessionTicketKeysType::SessionTicketKeysSdsSecretConfig(config)) => {
                let at = sub(at, "session_ticket_keys_sds_secret_config");
                let keys = self.secret(config, &at, |secret| match secret {
                    proto::secret::Type::SessionTicketKeys(keys) => Some(keys.clone()),
                    _ => None,
                })?;
                let Some(keys) = keys else { return Ok(None) };
                self.ticket_keys(&keys, &at)?
            }
            Some(SessionTicketKeysType::DisableStatelessSessionResumption(false)) | None => {
                let mut key = vec![0; KEY_BYTES];
                rand::fill(&mut key).map_err(|_| Error::at(at, "no random numbers for session ticket keys"))?;
                vec![key]
            }
        };
        // A session is good only where the same is asked of clients.
        let mut context = validation.digest().to_vec();
        context.push(required.into());
        let tickets = TicketKeys::new(&keys, &context, lifetime).ok_or_else(|| {
            Error::at(sub(at, "session_ticket_keys.keys"), format!("expected {KEY_BYTES} bytes each"))
        })?;
        let tickets: Arc<dyn ProducesTickets> = Arc::new(tickets);
        Ok(Some(Resumption { tickets: Some(tickets), stateful }))
    }

    fn ticket_keys(&mut self, message: &proto::TlsSessionTicketKeys, at: &str) -> Result<Vec<Vec<u8>>, Error> {
        let mut keys = Vec::new();
        for (index, source) in message.keys.iter().enumerate() {
            let at = item(at, "keys", index);
            let key = data_source(source, &at)?;
            if key.len() != KEY_BYTES {
                let message = format!("incorrect TLS session ticket key length: {}, expected {KEY_BYTES}", key.len());
                return Err(Error::at(at, message));
            }
            keys.push(key);
        }
        Ok(keys)
    }
}

/// What both sides' contexts have in common.
struct Common {
    parameters: Parameters,
    certificates: Vec<KeyPair>,
    validation: Validation,
    tell_roots: bool,
    protocols: Vec<Vec<u8>>,
    key_log: Option<(Arc<KeyLogFile>, KeyLogRange)>,
}
