//! The access log lines of one connection: its listener's, and its TCP proxy's.

use std::{borrow::Cow, cell::Cell, rc::Rc, sync::Arc};

use crate::{
    access_log::{self, CloseType, Entry, Flag, LogType, Metered, Meters},
    config::{listener::Listener, tcp::TcpProxy},
    downstream::{Downstream, Told},
    matcher::metadata::Metadata,
    telemetry::stats::process,
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
    /// What others say of the connection while they have it.
    pub told: Rc<Told>,
    /// Another proxy has the connection, and writes its line.
    pub leaves: Cell<bool>,
}

impl Line {
    /// Of a connection that a listener has, or none.
    pub fn new(worker: Rc<Worker>, downstream: &Downstream, listener: Option<Arc<Listener>>) -> Self {
        let entry = downstream.entry();
        Self { worker, listener, proxy: None, entry, told: Rc::default(), leaves: Cell::default() }
    }

    /// Takes over what is known of the connection by now.
    pub fn learn(&mut self, downstream: &Downstream) {
        downstream.tell(&mut self.entry);
    }

    /// Another listener has the connection.
    pub fn move_to(&mut self, listener: &Arc<Listener>) {
        self.listener = Some(listener.clone());
    }

    /// Adds to what filters noted.
    pub fn note(&mut self, noted: Option<Box<Metadata>>) {
        match (&mut self.entry.metadata, noted) {
            (Some(known), Some(noted)) => known.absorb(*noted),
            (known @ None, Some(noted)) => *known = Some(noted),
            (_, None) => {}
        }
    }

    /// This side closes the client's connection, for a reason.
    pub fn closes(&mut self, reason: impl Into<Cow<'static, str>>) {
        let reason: Cow<'static, str> = reason.into();
        let connection = self.entry.connection;
        tracing::debug!(connection, peer = %self.entry.downstream_remote, %reason, "connection closed");
        self.entry.local_close_reason = reason;
    }

    /// Writes a line of the TCP proxy's while the connection goes on.
    pub fn write_now(&self, log_type: LogType) {
        if let Some(proxy) = &self.proxy {
            let mut entry = self.entry.clone();
            complete(&mut entry, &self.told);
            let worker = &self.worker;
            access_log::write(&worker.log, &worker.runtime, &proxy.access_log, log_type, &entry);
        }
    }
}

fn complete(entry: &mut Entry, told: &Told) {
    let (received, sent) = (told.meter.received.get(), told.meter.sent.get());
    if !told.close_reason.get().is_empty() {
        entry.local_close_reason = told.close_reason.get().into();
    }
    if told.protocol_error.get() {
        entry.raise(Flag::DownstreamProtocolError);
    }
    if told.reset.get() {
        entry.downstream_close = CloseType::RemoteReset;
    }
    (entry.bytes_received, entry.bytes_sent) = (received, sent);
    if entry.protocol.is_none() {
        // The bytes of a TCP connection are its payload. Some are answered here, without an upstream.
        let metered = |wire| Metered { wire, ..Metered::default() };
        let passed = |wire| if entry.upstream.is_some() { metered(wire) } else { Metered::default() };
        entry.meters = Meters {
            downstream_received: metered(received),
            downstream_sent: metered(sent),
            upstream_received: passed(sent),
            upstream_sent: passed(received),
        };
    }
    if received == 0 || told.unintelligible.get() {
        // As in Envoy, to which a client speaks what it has understood of it.
        entry.protocol = None;
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let Self { worker, listener, proxy, entry, told, leaves } = self;
        if leaves.get() {
            return;
        }
        complete(entry, told);
        let (log, runtime) = (&worker.log, &worker.runtime);
        if let Some(listener) = listener {
            access_log::write(log, runtime, &listener.access_log, LogType::NotSet, entry);
        }
        if let Some(proxy) = proxy {
            worker.stats.add(process::TCP_RX_BYTES, entry.bytes_received);
            worker.stats.add(process::TCP_TX_BYTES, entry.bytes_sent);
            access_log::write(log, runtime, &proxy.access_log, LogType::TcpConnectionEnd, entry);
        }
    }
}
