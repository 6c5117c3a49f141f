//! Sending to a connected proxy.

use std::{
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::mpsc;
use weir_abi::map::MAX_PODS;
use weir_proto::handoff::v1::{self as handoff, FromAgent, from_agent};

use super::question::InFlight;

/// Messages waiting for a proxy: a snapshot of every pod that a node can have, and some more.
const QUEUE: usize = 2 * MAX_PODS as usize;

/// Names a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProxyId(pub u64);

/// A message on its way; dropped when it is sent.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) message: FromAgent,
    pub(crate) fds: Vec<Arc<OwnedFd>>,
    /// What it takes the place of while it is on its way, if it is an answer.
    pub(super) _in_flight: Option<InFlight>,
}

/// Sends to one proxy. Dropping the last copy ends the connection.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// Names the connection.
    pub id: ProxyId,
    queue: mpsc::Sender<Outgoing>,
    sent: Arc<AtomicU64>,
}

impl Proxy {
    /// A proxy, and what it is sent.
    pub(crate) fn new(id: ProxyId) -> (Self, mpsc::Receiver<Outgoing>) {
        let (queue, outgoing) = mpsc::channel(QUEUE);
        (Self { id, queue, sent: Arc::default() }, outgoing)
    }

    /// Queues a message; its id, which an Ack names. None: the proxy is gone, or so far behind that it counts as gone.
    pub fn send(&self, message: from_agent::Message, fds: Vec<Arc<OwnedFd>>) -> Option<u64> {
        self.put(message, fds, None)
    }

    /// Queues an answer to NeedSockets.
    pub(super) fn answer(&self, sockets: handoff::Sockets, fds: Vec<Arc<OwnedFd>>, answer: InFlight) -> Option<u64> {
        self.put(from_agent::Message::Sockets(sockets), fds, Some(answer))
    }

    fn put(&self, message: from_agent::Message, fds: Vec<Arc<OwnedFd>>, in_flight: Option<InFlight>) -> Option<u64> {
        let id = self.sent.fetch_add(1, Ordering::Relaxed) + 1;
        let message = FromAgent { id, message: Some(message) };
        self.queue.try_send(Outgoing { message, fds, _in_flight: in_flight }).is_ok().then_some(id)
    }

    /// The same for whoever does not keep its connection up.
    pub(super) fn downgrade(&self) -> WeakProxy {
        WeakProxy { id: self.id, queue: self.queue.downgrade(), sent: self.sent.clone() }
    }
}

/// A proxy for whoever does not keep its connection up.
#[derive(Clone, Debug)]
pub(super) struct WeakProxy {
    id: ProxyId,
    queue: mpsc::WeakSender<Outgoing>,
    sent: Arc<AtomicU64>,
}

impl WeakProxy {
    /// The proxy, while somebody keeps its connection up.
    pub fn upgrade(&self) -> Option<Proxy> {
        Some(Proxy { id: self.id, queue: self.queue.upgrade()?, sent: self.sent.clone() })
    }
}
