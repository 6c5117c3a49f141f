//! The access log lines of one connection: its listener's, and its TCP proxy's.

use std::{borrow::Cow, cell::Cell, rc::Rc, sync::Arc, time::Instant};

use crate::{
    config::{
        listener::{Listener, ListenerStats},
        tcp::TcpProxy,
    },
    intake::Downstream,
    telemetry::{
        access_log::{self, Entry},
        stats::{Counter, process},
    },
    worker::state::Worker,
};

/// What is known of a connection. Its lines are written when this is dropped: also when the connection is closed at the
/// end of a drain.
#[derive(Debug)]
pub(crate) struct Line {
    worker: Rc<Worker>,
    /// None: a connection that passes without a listener.
    listener: Option<Arc<Listener>>,
    /// What proxies it; none: not known yet, or not TCP.
    pub proxy: Option<Arc<TcpProxy>>,
    /// What lines say.
    pub entry: Entry,
    /// Bytes from the client so far.
    pub received: Cell<u64>,
    /// Bytes for the client so far.
    pub sent: Cell<u64>,
}

impl Line {
    /// Of a connection that a listener has, or none.
    pub fn new(worker: Rc<Worker>, downstream: &Downstream, listener: Option<Arc<Listener>>) -> Self {
        let mut entry = Entry::since(downstream.accepted, downstream.destination, downstream.peer);
        entry.requested_server_name.clone_from(&downstream.server_name);
        Self { worker, listener, proxy: None, entry, received: Cell::new(0), sent: Cell::new(0) }
    }

    /// This side closes the client's connection, for a reason.
    pub fn closes(&mut self, reason: impl Into<Cow<'static, str>>) {
        let reason: Cow<'static, str> = reason.into();
        tracing::debug!(peer = %self.entry.downstream_remote, %reason, "connection closed");
    }

    /// Counts something of the listener's.
    pub fn count(&self, counter: impl Fn(&ListenerStats) -> Counter) {
        if let Some(listener) = &self.listener {
            self.worker.stats.inc(counter(&listener.stats));
        }
    }

    /// Writes a line of the TCP proxy's while the connection goes on.
    pub fn write_now(&self) {
        if let Some(proxy) = &self.proxy {
            let mut entry = self.entry.clone();
            complete(&mut entry, self.received.get(), self.sent.get());
            access_log::write(&self.worker.log, &proxy.access_log, &entry);
        }
    }
}

fn complete(entry: &mut Entry, received: u64, sent: u64) {
    entry.bytes_received = received;
    entry.bytes_sent = sent;
    entry.request_received.get_or_insert_with(Instant::now);
}

impl Drop for Line {
    fn drop(&mut self) {
        let Self { worker, listener, proxy, entry, received, sent } = self;
        complete(entry, received.get(), sent.get());
        if let Some(listener) = listener {
            access_log::write(&worker.log, &listener.access_log, entry);
        }
        if let Some(proxy) = proxy {
            worker.stats.add(process::TCP_RX_BYTES, entry.bytes_received);
            worker.stats.add(process::TCP_TX_BYTES, entry.bytes_sent);
            access_log::write(&worker.log, &proxy.access_log, entry);
        }
    }
}
