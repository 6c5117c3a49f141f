//! TLS of filter chains and clusters: contexts that may be made anew while connections use them.

use std::{path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;

use crate::{
    config::{Error, reload::Reload},
    tls::{client::ClientContext, server::ServerContext, stats::SslStats},
};

/// Towards clients.
pub type DownstreamTls = Tls<ServerContext>;
/// Towards upstreams.
pub type UpstreamTls = Tls<ClientContext>;

/// Makes a context from the configuration and the files that it names, as they are now.
pub type Build<C> = Box<dyn Fn() -> Result<Loaded<C>, Error> + Send + Sync>;

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
    loaded: ArcSwap<Loaded<C>>,
    build: Build<C>,
    /// `ssl.*` of the listener or the cluster.
    pub stats: Arc<SslStats>,
}

impl<C> std::fmt::Debug for Tls<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl<C> Tls<C> {
    /// Begins with `first`, which `build` makes anew.
    pub fn new(first: Loaded<C>, build: Build<C>, stats: Arc<SslStats>) -> Self {
        let tls = Self { loaded: ArcSwap::from_pointee(first), build, stats };
        tls.show_expiration();
        tls
    }

    /// The context, for a new connection.
    pub fn current(&self) -> arc_swap::Guard<Arc<Loaded<C>>> {
        self.loaded.load()
    }

    fn show_expiration(&self) {
        let loaded = self.current();
        for (certificates, unnamed) in
            [(&loaded.shown.certificates, UNNAMED_CERTIFICATE), (&loaded.shown.roots, UNNAMED_ROOT)]
        {
            for one in certificates {
                let name = if one.secret.is_empty() { unnamed } else { &one.secret };
                self.stats.expires(name, &one.certificate);
            }
        }
    }
}

impl<C: Send + Sync> Reload for Tls<C> {
    fn files(&self) -> Vec<PathBuf> {
        self.current().files.clone()
    }

    fn reload(&self) -> Result<(), Error> {
        self.loaded.store(Arc::new((self.build)()?));
        self.show_expiration();
        Ok(())
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
}
