//! Hosts of dynamic forward proxies: found by name, which may have to be resolved first.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{clock, pick::PickContext};
use crate::config::cluster::{CachedName, Cluster, Discovery, Endpoint, ForwardProxy, Health, InUse, Load};

/// The host that is meant, if its name has been resolved.
pub(super) fn host(proxy: &ForwardProxy, context: &PickContext<'_>) -> Option<Arc<Endpoint>> {
    let authority = proxy.authority(context.filter_state, context.host)?;
    let hosts = proxy.hosts.load();
    let known = hosts.get(&*authority.key)?;
    if known.endpoint.host.health() == Health::Unhealthy {
        return None;
    }
    known.name.touch(clock::now());
    Some(known.endpoint.clone())
}

/// What is known of a host that is meant.
#[derive(Debug)]
pub enum Reach {
    /// It need not be resolved, or has been.
    Known,
    /// It can't be resolved; why, as details of responses tell it.
    Failed(String),
    /// It is being resolved.
    Wait(Resolving),
}

/// A host that is being resolved.
#[derive(Debug)]
pub struct Resolving {
    answer: oneshot::Receiver<Arc<CachedName>>,
    _place: InUse,
}

impl Resolving {
    /// Waits; why it can't be resolved.
    pub async fn failure(self) -> Option<String> {
        self.answer.await.map_or_else(|_| Some(String::new()), |name| name.failure())
    }
}

impl Cluster {
    /// What is known of the host that is meant, if this cluster is one of a dynamic forward proxy. One that is not known
    /// is resolved from now on.
    pub fn reach(&self, context: &PickContext<'_>) -> Reach {
        let Discovery::ForwardProxy(proxy) = &self.discovery else { return Reach::Known };
        let Some(authority) = proxy.authority(context.filter_state, context.host) else { return Reach::Known };
        if proxy.hosts.load().contains_key(&*authority.key) {
            return Reach::Known;
        }
        let Some(place) = proxy.cache.admit() else {
            return Reach::Failed("dns_cache_pending_requests_overflow".to_owned());
        };
        match proxy.cache.load(&authority) {
            Load::Known(name) => name.failure().map_or(Reach::Known, Reach::Failed),
            Load::Overflow => Reach::Failed("dns_cache_overflow".to_owned()),
            Load::Wait(answer) => Reach::Wait(Resolving { answer, _place: place }),
        }
    }
}
