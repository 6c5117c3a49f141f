//! `ssl.*`: what listeners and clusters count about TLS.

use hashbrown::HashMap;
use parking_lot::Mutex;

use super::{
    certificate::Certificate,
    failure::{Failure, Kind},
    hello::Hello,
    session::PeerTls,
};
use crate::telemetry::stats::{Counter, Histogram, Scope, Shard, Shared, Store, Unit};

/// Counters of a listener's or a cluster's TLS. Those whose names follow what is negotiated come into being with the
/// first connection that has it, as in Envoy.
#[derive(Debug)]
pub struct SslStats {
    scope: Scope,
    connection_error: Counter,
    handshake: Counter,
    session_reused: Counter,
    no_certificate: Counter,
    fail_verify_no_cert: Counter,
    fail_verify_error: Counter,
    fail_verify_san: Counter,
    fail_verify_cert_hash: Counter,
    ocsp_staple_requests: Counter,
    ocsp_staple_responses: Counter,
    ocsp_staple_omitted: Counter,
    named: Mutex<HashMap<(&'static str, &'static str), Counter>>,
}

impl SslStats {
    /// Counters below `scope`, which is a listener's or a cluster's.
    pub fn new(scope: &Scope) -> Self {
        let scope = scope.scope("ssl");
        // Never counted: what is stapled is not checked. Dashboards expect the name.
        scope.counter("ocsp_staple_failed");
        Self {
            connection_error: scope.counter("connection_error"),
            handshake: scope.counter("handshake"),
            session_reused: scope.counter("session_reused"),
            no_certificate: scope.counter("no_certificate"),
            fail_verify_no_cert: scope.counter("fail_verify_no_cert"),
            fail_verify_error: scope.counter("fail_verify_error"),
            fail_verify_san: scope.counter("fail_verify_san"),
            fail_verify_cert_hash: scope.counter("fail_verify_cert_hash"),
            ocsp_staple_requests: scope.counter("ocsp_staple_requests"),
            ocsp_staple_responses: scope.counter("ocsp_staple_responses"),
            ocsp_staple_omitted: scope.counter("ocsp_staple_omitted"),
            named: Mutex::default(),
            scope,
        }
    }

    /// A client asks for a stapled OCSP response; whether it gets one.
    pub fn staple_asked(&self, shard: &Shard, stapled: bool) {
        shard.inc(self.ocsp_staple_requests);
        shard.inc(if stapled { self.ocsp_staple_responses } else { self.ocsp_staple_omitted });
    }

    /// A handshake is done.
    pub fn established(&self, shard: &Shard, session: &PeerTls) {
        shard.inc(self.handshake);
        if session.resumed {
            shard.inc(self.session_reused);
        }
        // As Envoy counts them, which looks at no certificate twice.
        if let Some(untrusted) = session.overlooked.as_ref().filter(|_| !session.resumed) {
            self.count_failure(shard, Kind::of(untrusted));
        }
        let signature = match session.peer() {
            Some(peer) => peer.content().key.signature(),
            None => {
                shard.inc(self.no_certificate);
                None
            }
        };
        self.count(shard, "ciphers", session.cipher);
        self.count(shard, "versions", session.version);
        self.count(shard, "curves", session.group);
        self.count(shard, "sigalgs", signature.unwrap_or_default());
    }

    /// A handshake, or an established connection, failed.
    pub fn failed(&self, shard: &Shard, failure: &Failure) {
        if let Some(kind) = failure.kind() {
            self.count_failure(shard, kind);
        }
    }

    fn count_failure(&self, shard: &Shard, kind: Kind) {
        shard.inc(match kind {
            Kind::Connection => self.connection_error,
            Kind::NoCertificate => self.fail_verify_no_cert,
            Kind::Chain => self.fail_verify_error,
            Kind::Names => self.fail_verify_san,
            Kind::Hash => self.fail_verify_cert_hash,
        });
    }

    /// Shows when a certificate expires; `name` is its secret's, or `unnamed_cert` and the like.
    pub fn expires(&self, name: &str, certificate: &Certificate) {
        let gauge = self.scope.gauge(&format!("certificate.{name}.expiration_unix_time_seconds"));
        if let Some(store) = Store::of(&self.scope) {
            store.set(gauge, u64::try_from(certificate.content().not_after).unwrap_or_default());
        }
    }

    fn count(&self, shard: &Shard, group: &'static str, name: &'static str) {
        if name.is_empty() {
            return;
        }
        // A few names, once per handshake.
        let counter =
            *self.named.lock().entry((group, name)).or_insert_with(|| self.scope.counter(&format!("{group}.{name}")));
        shard.inc(counter);
    }
}

/// What contexts count as they are made, and where there is none.
#[derive(Debug)]
pub struct FactoryStats {
    /// What the handles belong to.
    _scope: Scope,
    shared: Shared,
    updated: Counter,
    not_ready: Counter,
}

impl FactoryStats {
    /// Of contexts towards clients, below a listener's scope.
    pub fn of_server(scope: &Scope) -> Self {
        Self::new(scope.scope("server_ssl_socket_factory"), "downstream_context_secrets_not_ready")
    }

    /// Of contexts towards servers, below a cluster's scope.
    pub fn of_client(scope: &Scope) -> Self {
        Self::new(scope.scope("client_ssl_socket_factory"), "upstream_context_secrets_not_ready")
    }

    fn new(scope: Scope, not_ready: &str) -> Self {
        // Envoy has both on both sides.
        for name in ["downstream_context_secrets_not_ready", "upstream_context_secrets_not_ready"] {
            scope.counter(name);
        }
        Self {
            shared: Store::of(&scope).as_ref().map(Store::shared).unwrap_or_default(),
            updated: scope.counter("ssl_context_update_by_sds"),
            not_ready: scope.counter(not_ready),
            _scope: scope,
        }
    }

    /// A secret has changed.
    pub fn updated(&self) {
        self.shared.inc(self.updated);
    }

    /// A connection finds no context: a secret that it needs has not come.
    pub fn not_ready(&self, shard: &Shard) {
        shard.inc(self.not_ready);
    }
}

/// `tls_inspector.*`: one set for all listeners.
#[derive(Clone, Debug)]
pub struct InspectorStats {
    /// Names last as long as somebody claims them.
    _scope: Scope,
    bytes_processed: Histogram,
    client_hello_too_large: Counter,
    tls_found: Counter,
    tls_not_found: Counter,
    alpn_found: Counter,
    alpn_not_found: Counter,
    sni_found: Counter,
    sni_not_found: Counter,
}

impl InspectorStats {
    /// Below the root scope.
    pub fn new(root: &Scope) -> Self {
        let scope = root.scope("tls_inspector");
        let counter = |name: &str| scope.counter(name);
        Self {
            bytes_processed: scope.histogram("bytes_processed", Unit::Bytes),
            client_hello_too_large: counter("client_hello_too_large"),
            tls_found: counter("tls_found"),
            tls_not_found: counter("tls_not_found"),
            alpn_found: counter("alpn_found"),
            alpn_not_found: counter("alpn_not_found"),
            sni_found: counter("sni_found"),
            sni_not_found: counter("sni_not_found"),
            _scope: scope.clone(),
        }
    }

    /// So many bytes were looked at.
    pub fn looked_at(&self, shard: &Shard, bytes: usize) {
        shard.record(self.bytes_processed, bytes as u64);
    }

    /// A ClientHello was read.
    pub fn found(&self, shard: &Shard, hello: &Hello) {
        shard.inc(self.tls_found);
        shard.inc(if hello.protocols.is_empty() { self.alpn_not_found } else { self.alpn_found });
        shard.inc(if hello.server_name.is_empty() { self.sni_not_found } else { self.sni_found });
    }

    /// It is not TLS.
    pub fn not_found(&self, shard: &Shard) {
        shard.inc(self.tls_not_found);
    }

    /// A ClientHello was too long.
    pub fn too_large(&self, shard: &Shard) {
        shard.inc(self.client_hello_too_large);
    }
}
