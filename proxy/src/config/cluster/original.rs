//! Hosts of an `ORIGINAL_DST` cluster: those that its workers have connected to.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use hashbrown::HashMap;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::endpoint::Endpoint;

/// So many new hosts wait for the control thread.
pub(crate) const MEETINGS: usize = 1024;

/// The hosts of one cluster by address.
#[derive(Debug)]
pub struct OriginalHosts {
    /// Those that the control thread knows.
    pub known: ArcSwap<HashMap<SocketAddr, Arc<Endpoint>>>,
    met: Sender<Arc<Endpoint>>,
    /// Until the control thread takes it.
    meetings: Mutex<Option<Receiver<Arc<Endpoint>>>>,
    /// Those that are not used leave after this at the earliest (`cleanup_interval`).
    pub cleanup: Duration,
}

impl OriginalHosts {
    /// Envoy's default of `cleanup_interval`.
    pub const DEFAULT_CLEANUP: Duration = Duration::from_secs(5);

    /// None yet; those that are not used leave after `cleanup` at the earliest.
    pub fn new(cleanup: Duration) -> Self {
        let (met, meetings) = channel(MEETINGS);
        Self { known: ArcSwap::default(), met, meetings: Mutex::new(Some(meetings)), cleanup }
    }

    /// The host at an address, if the control thread knows it.
    pub fn get(&self, address: SocketAddr) -> Option<Arc<Endpoint>> {
        self.known.load().get(&address).cloned()
    }

    /// A worker has made a host. Whether the control thread will know it: if not, it is to be told again.
    pub fn meet(&self, endpoint: &Arc<Endpoint>) -> bool {
        self.met.try_send(endpoint.clone()).is_ok()
    }

    /// The hosts that workers make, for the one that is to hear of them.
    pub fn meetings(&self) -> Option<Receiver<Arc<Endpoint>>> {
        self.meetings.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Default for OriginalHosts {
    fn default() -> Self {
        Self::new(Self::DEFAULT_CLEANUP)
    }
}
