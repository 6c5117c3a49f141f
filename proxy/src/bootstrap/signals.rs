//! What signals tell the process.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::telemetry::writer::Reopener;

/// Those that the control thread waits for.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reopen: Signal,
    hangup: Signal,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reopen: signal(SignalKind::user_defined1())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for a signal to end and gives its name; meanwhile SIGUSR1 reopens the access logs, and SIGHUP, which
    /// Envoy ignores, is ignored.
    pub(super) async fn end(&mut self, reopener: &Reopener) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.reopen.recv() => reopener.reopen(),
                _ = self.hangup.recv() => {}
            }
        }
    }
}
