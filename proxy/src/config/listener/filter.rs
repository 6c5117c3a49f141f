//! Listener filters: what looks at a connection before its filter chain is chosen.

use std::sync::Arc;

use crate::{
    config::cell::Slot,
    telemetry::stats::{Counter, Scope, Shard},
    tls::{fingerprint::Wanted, stats::InspectorStats},
};

/// A listener filter, and which connections it leaves alone.
#[derive(Debug)]
pub struct ListenerFilter {
    /// What it does.
    pub kind: ListenerFilterKind,
    /// `filter_disabled`.
    pub disabled: Option<Predicate>,
}

/// The listener filters.
#[derive(Debug)]
pub enum ListenerFilterKind {
    /// `original_dst`: take the destination that netfilter recorded.
    OriginalDestination,
    /// `proxy_protocol`.
    ProxyProtocol(Box<ProxyProtocol>),
    /// `tls_inspector`: learn SNI and ALPN. Its counters, and the fingerprints that it takes.
    Tls(InspectorStats, Wanted),
    /// `http_inspector`: learn the application protocol. Its counters.
    Http(HttpInspectorStats),
    /// What it does comes by itself (`config_discovery`).
    Discovered(Arc<Slot<ListenerFilterKind>>),
}

/// `ListenerFilterChainMatchPredicate`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Predicate {
    /// Always.
    Any,
    /// Not that.
    Not(Box<Predicate>),
    /// All of them.
    And(Vec<Predicate>),
    /// Any of them.
    Or(Vec<Predicate>),
    /// A destination port in `start..end`.
    DestinationPort(i32, i32),
}

impl Predicate {
    /// Whether a connection to this port is meant.
    pub fn holds(&self, port: u16) -> bool {
        match self {
            Self::Any => true,
            Self::Not(predicate) => !predicate.holds(port),
            Self::And(all) => all.iter().all(|predicate| predicate.holds(port)),
            Self::Or(any) => any.iter().any(|predicate| predicate.holds(port)),
            Self::DestinationPort(start, end) => (*start..*end).contains(&i32::from(port)),
        }
    }
}

/// `proxy_protocol`: the client and the destination as a proxy before this one tells of them.
#[derive(Debug)]
pub struct ProxyProtocol {
    /// Connections without a header are taken as they are.
    pub optional: bool,
    /// Version 1 is read.
    pub v1: bool,
    /// Version 2 is read.
    pub v2: bool,
    /// What becomes metadata.
    pub rules: Vec<TlvRule>,
    /// What is counted.
    pub stats: ProxyProtocolStats,
}

/// A TLV's value becomes dynamic metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlvRule {
    /// The TLV's type.
    pub kind: u8,
    /// Where the value goes.
    pub namespace: Box<str>,
    /// Under which key.
    pub key: Box<str>,
    /// In base64; else as text, with `!` for each byte that is none.
    pub base64: bool,
}

/// What the PROXY protocol filter counts.
#[derive(Debug)]
pub struct ProxyProtocolStats {
    /// No header, which is allowed.
    pub not_found_allowed: Counter,
    /// No header, which is not.
    pub not_found_disallowed: Counter,
    /// Of the versions 1 and 2.
    pub versions: [VersionStats; 2],
    /// Refused, by all such filters.
    pub errors: Counter,
    _scopes: Vec<Scope>,
}

/// What is counted of one version.
#[derive(Clone, Copy, Debug)]
pub struct VersionStats {
    /// Headers that were read.
    pub found: Counter,
    /// Headers of a version that is not to be read.
    pub disallowed: Counter,
    /// Headers that break the protocol.
    pub error: Counter,
}

impl ProxyProtocolStats {
    /// `proxy_proto.[<prefix>.]*`, and one number that all such filters share.
    pub fn new(root: &Scope, prefix: &str) -> Self {
        let scope = root.scope("proxy_proto");
        let scope = if prefix.is_empty() { scope } else { scope.scope(prefix) };
        let mut scopes = Vec::new();
        let versions = ["versions.v1", "versions.v2"].map(|name| {
            let scope = scope.scope(name);
            let stats = VersionStats {
                found: scope.counter("found"),
                disallowed: scope.counter("disallowed"),
                error: scope.counter("error"),
            };
            scopes.push(scope);
            stats
        });
        let root = root.clone();
        Self {
            not_found_allowed: scope.counter("not_found_allowed"),
            not_found_disallowed: scope.counter("not_found_disallowed"),
            versions,
            errors: root.counter("downstream_cx_proxy_proto_error"),
            _scopes: {
                scopes.extend([scope, root]);
                scopes
            },
        }
    }
}

/// What the HTTP inspector counts: `http_inspector.*`.
#[derive(Debug)]
pub struct HttpInspectorStats {
    found: [Counter; 3],
    http_not_found: Counter,
    read_error: Counter,
    _scope: Scope,
}

impl HttpInspectorStats {
    /// Below the root scope.
    pub fn new(root: &Scope) -> Self {
        let scope = root.scope("http_inspector");
        Self {
            found: ["http10_found", "http11_found", "http2_found"].map(|name| scope.counter(name)),
            http_not_found: scope.counter("http_not_found"),
            read_error: scope.counter("read_error"),
            _scope: scope,
        }
    }

    /// HTTP/1.0, HTTP/1.1 or HTTP/2 was found, by index; or none.
    pub fn looked(&self, shard: &Shard, found: Option<usize>) {
        shard.inc(found.and_then(|index| self.found.get(index)).copied().unwrap_or(self.http_not_found));
    }

    /// The socket could not be read.
    pub fn failed(&self, shard: &Shard) {
        shard.inc(self.read_error);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn predicates() {
        let web = Predicate::DestinationPort(80, 82);
        assert!(web.holds(80) && web.holds(81) && !web.holds(82));
        assert!(!Predicate::Not(Box::new(Predicate::Any)).holds(1));
        assert!(Predicate::Or(vec![web.clone(), Predicate::DestinationPort(90, 91)]).holds(90));
        assert!(!Predicate::And(vec![web, Predicate::DestinationPort(81, 91)]).holds(80));
    }
}
