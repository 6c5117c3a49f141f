//! TLS of filter chains and clusters: contexts that may be made anew while connections use them.

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;

use super::error::Error;
use crate::{
    config::{
        cell::{Feed, Follower},
        reload::Reload,
    },
    telemetry::stats::{Counter, Scope},
    tls::{
        client::ClientContext,
        server::ServerContext,
        stats::{FactoryStats, SslStats},
    },
    wire::proxy_header::ProxyHeader,
};

/// Towards clients.
pub type DownstreamTls = Tls<ServerContext>;
/// Towards upstreams.
pub type UpstreamTls = Tls<ClientContext>;

/// Makes a context from the configuration, the files that it names and the secrets that come by themselves, as they are
/// now. None: there is a secret that has not come.
pub type Build<C> = Box<dyn Fn() -> Result<Option<Loaded<C>>, Error> + Send + Sync>;

/// A context that was made, and from what.
#[derive(Debug)]
pub struct Loaded<C> {
    /// The context.
    pub context: C,
    /// Files to follow: when one changes, the context is to be made anew.
    pub files: Vec<PathBuf>,
    /// The certificates in use and trusted, for `/certs`.
    pub shown: Shown,
}

/// Certificates as the admin server shows them.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// Those trusted.
    pub roots: Vec<ShownCertificate>,
    /// Those shown to peers.
    pub certificates: Vec<ShownCertificate>,
}

/// A certificate, and where it came from.
#[derive(Clone, Debug)]
pub struct ShownCertificate {
    /// The file's path, or `<inline>`.
    pub path: Arc<str>,
    /// The secret's name; empty: none.
    pub secret: Arc<str>,
    /// The certificate.
    pub certificate: crate::tls::certificate::Certificate,
}

/// A context in use. Connections that are open keep the one that they began with.
pub struct Tls<C> {
    loaded: ArcSwapOption<Loaded<C>>,
    build: Build<C>,
    /// One is made at a time.
    making: Mutex<()>,
    /// The listener's or the cluster's.
    scope: Scope,
    stats: OnceLock<SslStats>,
    /// What it counts apart from its connections.
    pub factory: FactoryStats,
    /// The secrets that come by themselves.
    secrets: Vec<Arc<dyn Feed>>,
}

impl<C> std::fmt::Debug for Tls<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl<C> Tls<C> {
    /// Begins with `first`, which `build` makes anew. Counts below `scope`, which is the listener's or the cluster's.
    pub fn new(
        first: Option<Loaded<C>>,
        build: Build<C>,
        secrets: Vec<Arc<dyn Feed>>,
        scope: &Scope,
        factory: FactoryStats,
    ) -> Self {
        let tls = Self {
            loaded: ArcSwapOption::empty(),
            build,
            making: Mutex::default(),
            scope: scope.clone(),
            stats: OnceLock::new(),
            factory,
            secrets,
        };
        tls.put(first);
        tls
    }

    /// The context, for a new connection; none: a secret that it needs has not come.
    pub fn current(&self) -> Option<Arc<Loaded<C>>> {
        self.loaded.load_full()
    }

    /// `ssl.*` of the listener or the cluster, which are there once there is a context.
    pub fn stats(&self) -> &SslStats {
        self.stats.get_or_init(|| SslStats::new(&self.scope))
    }

    fn put(&self, loaded: Option<Loaded<C>>) {
        let Some(loaded) = loaded else { return };
        Self::show_expiration(&loaded.shown, self.stats());
        self.loaded.store(Some(Arc::new(loaded)));
    }

    fn show_expiration(shown: &Shown, stats: &SslStats) {
        for (certificates, unnamed) in [(&shown.certificates, UNNAMED_CERTIFICATE), (&shown.roots, UNNAMED_ROOT)] {
            for one in certificates {
                let name = if one.secret.is_empty() { unnamed } else { &one.secret };
                stats.expires(name, &one.certificate);
            }
        }
    }
}

impl<C: Send + Sync> Reload for Tls<C> {
    fn files(&self) -> Vec<PathBuf> {
        self.current().map(|loaded| loaded.files.clone()).unwrap_or_default()
    }

    fn may_have_files(&self) -> bool {
        !self.secrets.is_empty() || !self.files().is_empty()
    }

    fn reload(&self) -> Result<(), Error> {
        let _making = self.making.lock();
        self.put((self.build)()?);
        Ok(())
    }
}

impl<C: Send + Sync> Follower for Tls<C> {
    fn prepare(&self) -> Result<Box<dyn FnOnce() + '_>, Error> {
        let making = self.making.lock();
        let made = (self.build)()?;
        Ok(Box::new(move || {
            self.put(made);
            self.factory.updated();
            drop(making);
        }))
    }
}

/// How Envoy names certificates that are no secrets in its statistics.
const UNNAMED_CERTIFICATE: &str = "unnamed_cert_e3b0c442";
/// The same of trusted ones.
const UNNAMED_ROOT: &str = "unnamed_ca_cert_e3b0c442";

/// How connections to a cluster's endpoints are secured.
#[derive(Clone, Debug, Default)]
pub enum Transport {
    /// Not at all.
    #[default]
    Plain,
    /// TLS.
    Tls(Arc<UpstreamTls>),
    /// The upstream is told whose connection it is, in front of all else.
    Proxied(Arc<Proxied>),
    /// Endpoints inside of this process get to know what is known of the connection.
    Internal(Arc<Internal>),
}

/// `InternalUpstreamTransport`.
#[derive(Debug)]
pub struct Internal {
    /// Namespaces of metadata that are passed on.
    pub metadata: Vec<(MetadataOf, Box<str>)>,
    /// How it is secured.
    pub transport: Transport,
}

/// Whose metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetadataOf {
    /// The cluster's.
    Cluster,
    /// The endpoint's.
    Host,
}

/// `ProxyProtocolUpstreamTransport`.
#[derive(Debug)]
pub struct Proxied {
    /// How it is told.
    pub header: ProxyHeader,
    /// How it is secured after that.
    pub transport: Transport,
}

impl Transport {
    /// Its TLS; none: it is bare.
    pub fn tls(&self) -> Option<&Arc<UpstreamTls>> {
        match self {
            Self::Plain => None,
            Self::Tls(tls) => Some(tls),
            Self::Proxied(proxied) => proxied.transport.tls(),
            Self::Internal(internal) => internal.transport.tls(),
        }
    }

    /// What the upstream is told first.
    pub fn proxy_header(&self) -> Option<&ProxyHeader> {
        match self {
            Self::Proxied(proxied) => Some(&proxied.header),
            Self::Internal(internal) => internal.transport.proxy_header(),
            Self::Plain | Self::Tls(_) => None,
        }
    }

    /// What endpoints inside of this process get to know; none: nothing.
    pub fn internal(&self) -> Option<&Internal> {
        match self {
            Self::Internal(internal) => Some(internal),
            Self::Proxied(proxied) => proxied.transport.internal(),
            Self::Plain | Self::Tls(_) => None,
        }
    }
}

/// How connections to a cluster's endpoints are secured, by the endpoints' metadata.
#[derive(Debug, Default)]
pub struct Transports {
    /// `transport_socket_matches`: the first one that matches counts.
    pub matches: Vec<TransportMatch>,
    /// For endpoints that none of them matches.
    pub default: Transport,
    /// Counts endpoints that none of them matches, each time they are heard of: `default.total_match_count`.
    pub unmatched: Counter,
}

/// One of `transport_socket_matches`.
#[derive(Debug)]
pub struct TransportMatch {
    /// For statistics.
    pub name: Box<str>,
    /// What the endpoint's metadata under `envoy.transport_socket_match` must say; empty: anything.
    pub criteria: serde_json::Map<String, serde_json::Value>,
    /// How it is secured then.
    pub transport: Transport,
    /// Counts endpoints that match, each time they are heard of: `<name>.total_match_count`.
    pub matched: Counter,
}

/// Where endpoints' metadata says how they are to be secured.
const MATCH_NAMESPACE: &str = "envoy.transport_socket_match";

impl Transports {
    /// How connections to an endpoint with this metadata are secured.
    pub fn choose(&self, metadata: Option<&serde_json::Map<String, serde_json::Value>>) -> &Transport {
        self.matching(metadata).map_or(&self.default, |one| &one.transport)
    }

    /// What counts an endpoint with this metadata.
    pub fn counter(&self, metadata: Option<&serde_json::Map<String, serde_json::Value>>) -> Counter {
        self.matching(metadata).map_or(self.unmatched, |one| one.matched)
    }

    fn matching(&self, metadata: Option<&serde_json::Map<String, serde_json::Value>>) -> Option<&TransportMatch> {
        if self.matches.is_empty() {
            return None;
        }
        let said = metadata.and_then(|metadata| metadata.get(MATCH_NAMESPACE)).and_then(|said| said.as_object());
        let fits = |one: &&TransportMatch| {
            one.criteria.iter().all(|(key, wanted)| said.and_then(|said| said.get(key)) == Some(wanted))
        };
        self.matches.iter().find(fits)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Transport> {
        self.matches.iter().map(|one| &one.transport).chain([&self.default])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_match_counts_and_an_empty_one_matches_all() {
        let criteria = |json: &str| serde_json::from_str(json).unwrap();
        let name = |transports: &Transports, metadata: &str| {
            let metadata: serde_json::Map<_, _> = serde_json::from_str(metadata).unwrap();
            let chosen = std::ptr::from_ref(transports.choose(Some(&metadata)));
            let of = |one: &&TransportMatch| std::ptr::eq(chosen, &one.transport);
            transports.matches.iter().find(of).map_or("default".to_owned(), |one| one.name.to_string())
        };
        let one = |name: &str, json| TransportMatch {
            name: name.into(),
            criteria: criteria(json),
            transport: Transport::Plain,
            matched: Counter::default(),
        };
        let mut transports = Transports::default();
        transports.matches.push(one("mtls", r#"{ "mtls": true, "version": "2" }"#));
        let at = |json: &str| format!(r#"{{ "envoy.transport_socket_match": {json}, "other": {{ "mtls": true }} }}"#);
        assert_eq!(name(&transports, &at(r#"{ "mtls": true, "version": "2", "more": 1 }"#)), "mtls");
        assert_eq!(name(&transports, &at(r#"{ "mtls": true }"#)), "default");
        assert_eq!(name(&transports, "{}"), "default");
        transports.matches.push(one("any", "{}"));
        assert_eq!(name(&transports, "{}"), "any");
    }
}
