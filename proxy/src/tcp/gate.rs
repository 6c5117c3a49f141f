//! What is asked once the client has said something: the RBAC and authorization filters of a chain.

use std::{
    cell::{Cell, RefCell},
    fmt,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::future::LocalBoxFuture;

use super::{line::Line, way::Watch};
use crate::{
    access_log::Flag,
    config::{
        network::{AUTHZ_NAMESPACE, NetworkAuthz, NetworkFilter, NetworkRbac},
        rbac::Subject,
    },
    downstream::Downstream,
    filter_state::FilterState,
    matcher::metadata::Metadata,
    telemetry::stats::{Gauge, Shard},
    tls::PeerTls,
};

/// What a service says about a connection.
#[derive(Debug)]
pub(crate) struct Said {
    /// None: it did not say.
    pub allowed: Option<bool>,
    /// What it wants noted.
    pub metadata: serde_json::Map<String, serde_json::Value>,
}

/// Asks a service about the connection, of which filters noted this.
pub(crate) type Ask<'a> = Box<dyn Fn(&'a NetworkAuthz, Option<&Metadata>) -> LocalBoxFuture<'a, Said> + 'a>;

/// Asks the filters of a chain about one connection: with its first bytes, or, where one of them says so, with all.
pub(crate) struct Gate<'a> {
    filters: &'a [Arc<NetworkFilter>],
    shard: &'a Shard,
    local: SocketAddr,
    remote: SocketAddr,
    direct_remote: SocketAddr,
    server_name: Option<Arc<str>>,
    tls: Option<Rc<PeerTls>>,
    metadata: Option<Box<Metadata>>,
    filter_state: Option<Box<FilterState>>,
    ask: Ask<'a>,
    /// How many filters have said yes; all have when it is not the first time.
    passed: Cell<usize>,
    asked: Cell<bool>,
    asking: RefCell<Option<(LocalBoxFuture<'a, Said>, Active<'a>)>>,
    denied: RefCell<Option<Denied>>,
    noted: RefCell<Option<Box<Metadata>>>,
}

impl fmt::Debug for Gate<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("filters", &self.filters.len()).field("passed", &self.passed).finish()
    }
}

/// A connection that is being asked about.
struct Active<'a>(&'a Shard, Gauge);

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.gauge_add(self.1, -1);
    }
}

/// A connection that is to be closed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Denied {
    /// By policy.
    Rbac { details: String, delay: Option<Duration> },
    /// By a service: why.
    Authz(&'static str),
}

impl<'a> Gate<'a> {
    /// For a connection whose handshake is done. None: there is no such filter.
    pub fn new(
        filters: &'a [Arc<NetworkFilter>],
        shard: &'a Shard,
        downstream: &Downstream,
        ask: impl FnOnce() -> Ask<'a>,
    ) -> Option<Self> {
        let any = filters.iter().any(|filter| matches!(**filter, NetworkFilter::Rbac(_) | NetworkFilter::Authz(_)));
        any.then(|| Self {
            filters,
            shard,
            local: downstream.destination,
            remote: downstream.peer,
            direct_remote: downstream.direct_peer,
            server_name: downstream.server_name.clone(),
            tls: downstream.tls.clone(),
            metadata: downstream.metadata.clone(),
            filter_state: downstream.filter_state.clone(),
            ask: ask(),
            passed: Cell::new(0),
            asked: Cell::new(false),
            asking: RefCell::default(),
            denied: RefCell::default(),
            noted: RefCell::default(),
        })
    }

    /// Whether the connection may go on.
    pub async fn admits(&self) -> bool {
        std::future::poll_fn(|cx| self.poll_admits(cx)).await
    }

    /// What was found goes into the log; a connection that was refused is held for as long as its filter says.
    pub async fn close(&self, line: Option<&mut Line>) {
        let denied = self.denied.take();
        let delay = match &denied {
            Some(Denied::Rbac { delay, .. }) => *delay,
            _ => None,
        };
        if let Some(line) = line {
            line.note(self.noted.take());
            match denied {
                Some(Denied::Rbac { details, .. }) => {
                    line.entry.termination_details = details.into();
                    line.closes("rbac_deny_close");
                }
                Some(Denied::Authz(why)) => {
                    line.entry.raise(Flag::UnauthorizedExternalService);
                    line.entry.details = why.into();
                    line.closes("ext_authz_close");
                }
                None => {}
            }
        }
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
    }

    /// What filters noted so far.
    fn metadata(&self) -> Option<Box<Metadata>> {
        match (self.metadata.clone(), self.noted.borrow().clone()) {
            (Some(mut known), Some(noted)) => {
                known.absorb(*noted);
                Some(known)
            }
            (known, noted) => known.or(noted),
        }
    }

    fn judge(&self, rbac: &NetworkRbac) -> bool {
        let metadata = self.metadata();
        let subject = Subject {
            request: None,
            local: self.local,
            direct_remote: self.direct_remote,
            remote: self.remote,
            server_name: self.server_name.as_deref().unwrap_or_default(),
            peer: self.tls.as_deref().map(PeerTls::principals),
            metadata: metadata.as_deref(),
            route_metadata: None,
            filter_state: self.filter_state.as_deref(),
        };
        let denied = rbac.rule(&subject, self.shard, &mut self.noted.borrow_mut());
        let Some(details) = denied else { return true };
        *self.denied.borrow_mut() = Some(Denied::Rbac { details, delay: rbac.delay });
        false
    }

    fn poll_authz(&self, authz: &'a NetworkAuthz, cx: &mut Context<'_>) -> Poll<bool> {
        let mut asking = self.asking.borrow_mut();
        if asking.is_none() {
            let metadata = self.metadata();
            if authz.enabled_metadata.as_ref().is_some_and(|enabled| !enabled.matches(metadata.as_deref())) {
                self.shard.inc(authz.stats.disabled);
                return Poll::Ready(true);
            }
            self.shard.inc(authz.stats.total);
            self.shard.gauge_add(authz.stats.active, 1);
            let active = Active(self.shard, authz.stats.active);
            *asking = Some(((self.ask)(authz, metadata.as_deref()), active));
        }
        let Some((future, _)) = asking.as_mut() else { return Poll::Ready(true) };
        let said = ready!(future.as_mut().poll(cx));
        *asking = None;
        Poll::Ready(self.settle(authz, said))
    }

    /// What a service has said is counted and noted; whether the connection may go on.
    fn settle(&self, authz: &NetworkAuthz, said: Said) -> bool {
        let stats = &authz.stats;
        if !said.metadata.is_empty() {
            self.noted.borrow_mut().get_or_insert_default().merge(AUTHZ_NAMESPACE, said.metadata);
        }
        let (counter, why) = match said.allowed {
            Some(true) => (stats.ok, None),
            Some(false) => (stats.denied, Some("ext_authz_denied")),
            None if authz.failure_passes => (stats.error, None),
            None => (stats.error, Some("ext_authz_error")),
        };
        self.shard.inc(counter);
        if said.allowed.is_none() && authz.failure_passes {
            self.shard.inc(stats.failure_mode_allowed);
        }
        let Some(why) = why else { return true };
        self.shard.inc(stats.cx_closed);
        *self.denied.borrow_mut() = Some(Denied::Authz(why));
        false
    }
}

impl Watch for Gate<'_> {
    fn is_continuous(&self) -> bool {
        self.filters.iter().any(|filter| matches!(&**filter, NetworkFilter::Rbac(rbac) if rbac.continuous))
    }

    fn poll_admits(&self, cx: &mut Context<'_>) -> Poll<bool> {
        while let Some(filter) = self.filters.get(self.passed.get()) {
            let admitted = match &**filter {
                NetworkFilter::Rbac(rbac) if !self.asked.get() || rbac.continuous => self.judge(rbac),
                NetworkFilter::Authz(authz) if !self.asked.get() => ready!(self.poll_authz(authz, cx)),
                _ => true,
            };
            if !admitted {
                return Poll::Ready(false);
            }
            self.passed.set(self.passed.get() + 1);
        }
        // What comes next is asked about from the first filter on.
        self.asked.set(true);
        self.passed.set(0);
        Poll::Ready(true)
    }
}
