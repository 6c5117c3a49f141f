//! TCP proxying: an upstream for a connection, then bytes both ways until both sides are done.

mod connect;
pub(crate) mod copy;

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use self::{
    connect::{Connected, Failed},
    copy::{Copied, Ended, Side},
};
use crate::{
    config::tcp::Settings,
    intake::Downstream,
    telemetry::{
        access_log::{self, AccessLog, Entry, Flag},
        stats::process,
    },
    worker::state::Worker,
};

/// How long before the end of a drain a connection ends at its first lull, rather than with a request under way.
const LAST: Duration = Duration::from_secs(2);

/// Carries one connection to its end and writes its line to `logs`. `entry` brings what the listener knows.
pub async fn proxy(
    worker: Rc<Worker>,
    mut downstream: Downstream,
    settings: &Settings,
    logs: &[AccessLog],
    entry: Entry,
) {
    let mut line = Line { worker, logs, entry, copied: Copied::default() };
    let connected = connect::to_target(&line.worker, &downstream, settings, &mut line.entry).await;
    let Connected { stream: mut upstream, tls, _held } = match connected {
        Ok(connected) => connected,
        Err(failed) => {
            line.entry.raise(failed.flag());
            if matches!(failed, Failed::Connect(_)) {
                line.entry.raise(Flag::UpstreamRetryLimitExceeded);
            }
            tracing::debug!(peer = %downstream.peer, destination = %downstream.destination, %failed, "no upstream");
            // The client sees it fail at once, as it would without us.
            copy::reset_on_close(&downstream.stream);
            return;
        }
    };
    line.entry.upstream_local = upstream.local_addr().ok();
    line.entry.upstream_tls = tls;
    let drain = downstream.drain.clone();
    let soon = drain.forced_within(LAST);
    let ended =
        copy::both_ways(&mut downstream.stream, &mut upstream, settings.idle_timeout, soon, &mut line.copied).await;
    if let Ended::Failed(Side::Upstream, _) = &ended {
        line.entry.raise(Flag::UpstreamRemoteReset);
    }
    tracing::debug!(
        peer = %downstream.peer,
        destination = %downstream.destination,
        received = line.copied.received,
        sent = line.copied.sent,
        %ended,
        "connection ended"
    );
}

/// Writes the access log line when dropped: also when the connection is closed at the end of a drain.
struct Line<'a> {
    worker: Rc<Worker>,
    logs: &'a [AccessLog],
    entry: Entry,
    copied: Copied,
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        self.entry.bytes_received = self.copied.received;
        self.entry.bytes_sent = self.copied.sent;
        self.entry.request_received.get_or_insert_with(Instant::now);
        self.worker.stats.add(process::TCP_RX_BYTES, self.copied.received);
        self.worker.stats.add(process::TCP_TX_BYTES, self.copied.sent);
        access_log::write(&self.worker.log, self.logs, &self.entry);
    }
}
