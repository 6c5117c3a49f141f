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
use crate::matcher::metadata::Metadata;

/// So many new hosts wait for the control thread.
pub(crate) const MEETINGS: usize = 1024;

/// The object of filter state that says where a connection goes.
pub const DESTINATION_KEY: &str = "envoy.network.transport_socket.original_dst_address";

/// Dynamic metadata that says where a connection goes (`metadata_key`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotedDestination {
    /// The namespace.
    pub namespace: Box<str>,
    /// Keys, from the outside in.
    pub path: Vec<Box<str>>,
}

impl NotedDestination {
    /// What the first of these says that has a text there, or a list that begins with one.
    pub fn find<'a>(&self, metadata: &[Option<&'a Metadata>]) -> Option<&'a str> {
        let values = metadata.iter().flatten().filter_map(|metadata| metadata.get(&self.namespace, &self.path));
        values.filter_map(|value| value.as_array().and_then(|list| list.first()).unwrap_or(value).as_str()).next()
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_text_that_is_noted_counts() {
        let noted = |value: serde_json::Value| {
            let mut metadata = Metadata::default();
            metadata.set("n", "k", value);
            metadata
        };
        let key = NotedDestination { namespace: "n".into(), path: vec!["k".into()] };
        let (number, list, text) = (noted(7.into()), noted(serde_json::json!(["a", "b"])), noted("c".into()));
        let find = |metadata: &[&Metadata]| {
            let metadata: Vec<_> = metadata.iter().map(|metadata| Some(*metadata)).collect();
            key.find(&metadata).map(str::to_owned)
        };
        assert_eq!(find(&[&number, &text]).as_deref(), Some("c"));
        assert_eq!(find(&[&list, &text]).as_deref(), Some("a"));
        assert_eq!(find(&[&number]), None);
    }
}
