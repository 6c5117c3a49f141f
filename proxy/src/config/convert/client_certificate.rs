//! `x-forwarded-client-cert` of the HTTP connection manager.

use weir_proto::envoy::extensions::filters::network::http_connection_manager::v3::{
    self as proto, http_connection_manager,
};

use super::{context::Context, fields::sub};
use crate::config::{
    error::Error,
    http::{ClientCertificateDetails, ForwardClientCertificate},
};

/// What becomes of the header that a client sends.
pub(super) fn forwarded(message: &proto::HttpConnectionManager) -> ForwardClientCertificate {
    use http_connection_manager::ForwardClientCertDetails as Details;
    match message.forward_client_cert_details() {
        Details::Sanitize => ForwardClientCertificate::Sanitize,
        Details::ForwardOnly => ForwardClientCertificate::ForwardOnly,
        Details::AppendForward => ForwardClientCertificate::AppendForward,
        Details::SanitizeSet => ForwardClientCertificate::SanitizeSet,
        Details::AlwaysForwardOnly => ForwardClientCertificate::AlwaysForwardOnly,
    }
}

/// What the header says of the client's own certificate.
pub(super) fn details(
    cx: &mut Context,
    message: &proto::HttpConnectionManager,
    at: &str,
) -> Result<ClientCertificateDetails, Error> {
    let Some(details) = &message.set_current_client_cert_details else { return Ok(Default::default()) };
    let at = sub(at, "set_current_client_cert_details");
    cx.only(details, &at, &["subject", "cert", "chain", "dns", "uri"], &[])?;
    Ok(ClientCertificateDetails {
        subject: details.subject.unwrap_or(false),
        cert: details.cert,
        chain: details.chain,
        dns: details.dns,
        uri: details.uri,
    })
}
