//! Authorization by gRPC: what is asked about a connection, and how what is known is told.

use std::net::SocketAddr;

use weir_proto::envoy::{
    config::core::v3 as core,
    service::auth::v3::{
        AttributeContext, CheckRequest, CheckResponse,
        attribute_context::{Peer, TlsSession},
        check_response::HttpResponse,
    },
};

use super::grpc;
use crate::{
    config::network::NetworkAuthz,
    http::stream::behalf::Behalf,
    matcher::{
        metadata::Metadata,
        structs::{message, object},
    },
    tls::{PeerTls, certificate::Certificate},
    wire::named::{Name, NamedAddress},
};

/// The method.
pub(in crate::http) const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// What a service says about a connection.
#[derive(Debug)]
pub(crate) struct Answer {
    /// None: it did not say.
    pub allowed: Option<bool>,
    /// What it wants noted.
    pub metadata: serde_json::Map<String, serde_json::Value>,
}

/// What is asked about a connection.
pub(crate) fn about_connection(
    filter: &NetworkAuthz,
    client: SocketAddr,
    local: SocketAddr,
    server_name: Option<&str>,
    tls: Option<&PeerTls>,
    metadata: Option<&Metadata>,
) -> CheckRequest {
    let peer = tls.and_then(PeerTls::peer);
    CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(Peer {
                address: Some(address(client)),
                principal: principal(peer),
                certificate: peer
                    .filter(|_| filter.peer_certificate)
                    .map(Certificate::url_encoded_pem)
                    .unwrap_or_default(),
                ..Peer::default()
            }),
            destination: Some(Peer {
                address: Some(address(local)),
                principal: principal(tls.and_then(|tls| tls.local.as_ref())),
                ..Peer::default()
            }),
            metadata_context: Some(chosen(metadata, &filter.metadata)),
            tls_session: filter.tls_session.then(|| TlsSession { sni: server_name.unwrap_or_default().to_owned() }),
            ..AttributeContext::default()
        }),
    }
}

/// Asks about a connection.
pub(crate) async fn ask(behalf: Behalf<'_>, filter: &NetworkAuthz, question: &CheckRequest) -> Answer {
    match grpc::unary::<CheckResponse>(behalf, &filter.service, CHECK, question).await {
        Ok(answer) => Answer {
            allowed: match (&answer.status, &answer.http_response) {
                (Some(status), Some(HttpResponse::ErrorResponse(_))) if status.code != 0 => None,
                (status, _) => Some(status.as_ref().is_none_or(|status| status.code == 0)),
            },
            metadata: answer.dynamic_metadata.as_ref().map(object).unwrap_or_default(),
        },
        Err(status) => {
            tracing::debug!(connection = behalf.id, cluster = &*filter.service.cluster, status, "authorization failed");
            Answer { allowed: None, metadata: serde_json::Map::new() }
        }
    }
}

/// What a certificate says who somebody is: a URI, else a DNS name, else the subject.
pub(in crate::http) fn principal(certificate: Option<&Certificate>) -> String {
    let Some(content) = certificate.map(Certificate::content) else { return String::new() };
    content.uris().chain(content.dns()).next().unwrap_or(&content.subject).to_owned()
}

pub(in crate::http) fn address(address: SocketAddr) -> core::Address {
    use core::{address::Address, socket_address::PortSpecifier};
    if let Some(Name::Pipe(path)) = NamedAddress::of(&address).as_deref().map(|named| &named.name) {
        let pipe = core::Pipe { path: path.to_string(), mode: 0 };
        return core::Address { address: Some(Address::Pipe(pipe)) };
    }
    core::Address {
        address: Some(Address::SocketAddress(core::SocketAddress {
            address: address.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(address.port().into())),
            ..core::SocketAddress::default()
        })),
    }
}

/// Namespaces of metadata.
pub(in crate::http) fn chosen(metadata: Option<&Metadata>, namespaces: &[Box<str>]) -> core::Metadata {
    let found = namespaces.iter().filter_map(|name| Some(((**name).to_owned(), message(metadata?.namespace(name)?))));
    core::Metadata { filter_metadata: found.collect(), ..core::Metadata::default() }
}
