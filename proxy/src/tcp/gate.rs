//! What is asked once the client has said something: the RBAC filters of a chain.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use super::{line::Line, way::Watch};
use crate::{
    config::{
        network::{NetworkFilter, NetworkRbac},
        rbac::Subject,
    },
    downstream::Downstream,
    matcher::metadata::Metadata,
    telemetry::stats::Shard,
    tls::PeerTls,
};

/// Asks the RBAC filters of a chain about one connection: with its first bytes, or, where one of them says so, with all.
#[derive(Debug)]
pub(crate) struct Gate<'a> {
    filters: &'a [Arc<NetworkFilter>],
    shard: &'a Shard,
    local: SocketAddr,
    remote: SocketAddr,
    direct_remote: SocketAddr,
    server_name: Option<Arc<str>>,
    tls: Option<Rc<PeerTls>>,
    metadata: Option<Box<Metadata>>,
    asked: Cell<bool>,
    denied: RefCell<Option<Denied>>,
    noted: RefCell<Option<Box<Metadata>>>,
}

/// A connection that is to be closed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Denied {
    details: String,
    delay: Option<Duration>,
}

impl<'a> Gate<'a> {
    /// For a connection whose handshake is done. None: there is no such filter.
    pub fn new(filters: &'a [Arc<NetworkFilter>], shard: &'a Shard, downstream: &Downstream) -> Option<Self> {
        let any = filters.iter().any(|filter| matches!(**filter, NetworkFilter::Rbac(_)));
        any.then(|| Self {
            filters,
            shard,
            local: downstream.destination,
            remote: downstream.peer,
            direct_remote: downstream.direct_peer,
            server_name: downstream.server_name.clone(),
            tls: downstream.tls.clone(),
            metadata: downstream.metadata.clone(),
            asked: Cell::new(false),
            denied: RefCell::default(),
            noted: RefCell::default(),
        })
    }

    fn rbacs(&self) -> impl Iterator<Item = &'a NetworkRbac> {
        self.filters.iter().filter_map(|filter| match &**filter {
            NetworkFilter::Rbac(rbac) => Some(&**rbac),
            _ => None,
        })
    }

    /// What was found goes into the log; a connection that was refused is held for as long as its filter says.
    pub async fn close(&self, line: Option<&mut Line>) {
        let denied = self.denied.take();
        let delay = denied.as_ref().and_then(|denied| denied.delay);
        if let Some(line) = line {
            line.note(self.noted.take());
            if let Some(denied) = denied {
                line.entry.termination_details = denied.details.into();
                line.closes("rbac_deny_close");
            }
        }
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
    }
}

impl Watch for Gate<'_> {
    fn is_continuous(&self) -> bool {
        self.rbacs().any(|rbac| rbac.continuous)
    }

    fn admits(&self) -> bool {
        let again = self.asked.replace(true);
        let subject = || Subject {
            request: None,
            local: self.local,
            direct_remote: self.direct_remote,
            remote: self.remote,
            server_name: self.server_name.as_deref().unwrap_or_default(),
            peer: self.tls.as_deref().map(PeerTls::principals),
            metadata: self.metadata.as_deref(),
            route_metadata: None,
        };
        for rbac in self.rbacs().filter(|rbac| !again || rbac.continuous) {
            let denied = rbac.rule(&subject(), self.shard, &mut self.noted.borrow_mut());
            if let Some(details) = denied {
                *self.denied.borrow_mut() = Some(Denied { details, delay: rbac.delay });
                return false;
            }
        }
        true
    }
}
