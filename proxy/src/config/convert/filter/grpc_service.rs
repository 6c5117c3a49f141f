//! `GrpcService`: whose methods are called.

use std::time::Duration;

use http::HeaderValue;
use weir_proto::envoy::config::core::v3::{self as core, grpc_service::TargetSpecifier};

use crate::config::{
    convert::{
        context::Context,
        fields::{header_name, item, limit, sub},
    },
    error::Error,
    grpc_service::GrpcService,
};

/// `patience` is for a service that does not say how long a call may take.
pub(in crate::config::convert) fn grpc_service(
    cx: &mut Context,
    message: &core::GrpcService,
    patience: Duration,
    at: &str,
) -> Result<GrpcService, Error> {
    cx.only(message, at, &["envoy_grpc", "google_grpc", "timeout", "initial_metadata"], &[])?;
    let Some(TargetSpecifier::EnvoyGrpc(target)) = &message.target_specifier else {
        return Err(Error::at(sub(at, "google_grpc"), "not supported: use envoy_grpc"));
    };
    let target_at = sub(at, "envoy_grpc");
    let supported = ["cluster_name", "authority", "max_receive_message_length", "skip_envoy_headers"];
    cx.only(target, &target_at, &supported, &[])?;
    let authority = if target.authority.is_empty() { &target.cluster_name } else { &target.authority };
    let mut metadata = Vec::new();
    for (index, header) in message.initial_metadata.iter().enumerate() {
        let at = item(at, "initial_metadata", index);
        let bad = |_| Error::at(sub(&at, "value"), format!("\"{}\" is no header value", header.value));
        if header.key.ends_with("-bin") {
            return Err(Error::at(sub(&at, "key"), "metadata of bytes is not supported yet"));
        }
        let value = HeaderValue::from_str(&header.value).map_err(bad)?;
        metadata.push((header_name(&header.key, &sub(&at, "key"))?, value));
    }
    Ok(GrpcService {
        cluster: target.cluster_name.as_str().into(),
        authority: HeaderValue::from_str(authority)
            .map_err(|_| Error::at(sub(&target_at, "authority"), format!("\"{authority}\" is no authority")))?,
        timeout: limit(message.timeout.as_ref(), Some(patience), &sub(at, "timeout"))?,
        metadata,
        bare: target.skip_envoy_headers,
        longest: target.max_receive_message_length.map(|longest| longest as usize).filter(|longest| *longest > 0),
    })
}
