//! What a handshake settled, and who the peer is: for access logs, statistics, policies and forwarded headers.

use std::{cell::OnceCell, sync::Arc};

use rustls::{CommonState, HandshakeKind, pki_types::UnixTime};

use super::{
    certificate::Certificate,
    names,
    untrusted::Untrusted,
    verify::{Validation, Verifier},
};

/// One side's view of an established TLS connection. Certificates are read when somebody asks for them.
#[derive(Debug)]
pub struct PeerTls {
    /// `TLSv1.3` or `TLSv1.2`.
    pub version: &'static str,
    /// OpenSSL's name of the cipher suite.
    pub cipher: &'static str,
    /// The key exchange group; empty for a session that was resumed without one.
    pub group: &'static str,
    /// SNI, in lower case.
    pub server_name: Option<Arc<str>>,
    /// The protocol that ALPN settled on.
    pub protocol: Option<Box<str>>,
    /// An earlier session was resumed.
    pub resumed: bool,
    /// Why the peer's certificate is not trusted, though it is accepted.
    pub overlooked: Option<Untrusted>,
    /// The certificate shown to the peer.
    pub local: Option<Certificate>,
    /// What the peer sent, its own first.
    sent: Vec<Certificate>,
    validation: Arc<Validation>,
    principals: OnceCell<Vec<Box<str>>>,
}

impl PeerTls {
    /// Of a connection whose handshake is done. `verifier` is that of its peers; `asked` the name it checks them against.
    pub fn new(
        state: &CommonState,
        server_name: Option<Arc<str>>,
        local: Option<Certificate>,
        verifier: &Verifier,
        asked: Option<&str>,
    ) -> Self {
        let certificates = state.peer_certificates().unwrap_or_default();
        Self {
            version: state.protocol_version().map_or("", names::version_name),
            cipher: state.negotiated_cipher_suite().map_or("", |suite| names::suite_name(suite.suite())),
            group: state.negotiated_key_exchange_group().map_or("", |group| names::group_name(group.name())),
            server_name,
            protocol: state.alpn_protocol().map(|name| String::from_utf8_lossy(name).into()),
            overlooked: verifier.overlooked(certificates, asked, UnixTime::now()),
            resumed: state.handshake_kind() == Some(HandshakeKind::Resumed),
            local,
            sent: certificates.iter().cloned().map(Certificate::from).collect(),
            validation: verifier.validation().clone(),
            principals: OnceCell::new(),
        }
    }

    /// The peer's certificate.
    pub fn peer(&self) -> Option<&Certificate> {
        self.sent.first()
    }

    /// Whether the peer's certificate was found good: a chain to a trusted root, or what else was asked of it.
    pub fn validated(&self) -> bool {
        self.validation.asks() && self.overlooked.is_none() && !self.sent.is_empty()
    }

    /// The names that policies know the peer by: its URIs, its DNS names, its subject. A peer without a certificate has
    /// none.
    pub fn principals(&self) -> &[Box<str>] {
        self.principals.get_or_init(|| {
            let Some(content) = self.peer().map(Certificate::content) else { return Vec::new() };
            let subject = std::iter::once(content.subject.as_str());
            content.uris().chain(content.dns()).chain(subject).map(Into::into).collect()
        })
    }

    /// What the peer sent: its certificate, and those above it as far as it sent them.
    pub fn chain(&self) -> &[Certificate] {
        &self.sent
    }
}
