//! TCP proxying: an upstream for a connection, then bytes both ways until both sides are done.

mod connect;
pub(crate) mod copy;

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use self::{
    connect::{Connected, Failed},
    copy::{Copied, Ended, Side},
};
use crate::{
    intake::Downstream,
    telemetry::{
        access_log::{self, AccessLog, Entry, Flag},
        stats::Counter,
    },
    worker::Worker,
};

/// Where a TCP connection goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Its original destination, logged as this cluster (`PassthroughCluster`, `InboundPassthroughCluster`).
    OriginalDestination(Arc<str>),
    /// Hosts of one of these clusters, drawn by weight.
    Clusters(Arc<[WeightedCluster]>),
}

/// A cluster by name, and its share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedCluster {
    /// The cluster's name.
    pub name: Arc<str>,
    /// Its share of the sum of all weights; a single cluster's does not matter.
    pub weight: u32,
}

/// Envoy's default for `tcp_proxy.idle_timeout`.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// How to proxy a TCP connection (Envoy's `tcp_proxy`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where to.
    pub target: Target,
    /// Close when no byte moved either way for so long; none: never.
    pub idle_timeout: Option<Duration>,
    /// Hosts to try, at least 1.
    pub max_connect_attempts: u32,
}

impl Settings {
    /// To the original destination, with Envoy's defaults.
    pub fn passthrough(cluster: &str) -> Self {
        Self {
            target: Target::OriginalDestination(cluster.into()),
            idle_timeout: Some(IDLE_TIMEOUT),
            max_connect_attempts: 1,
        }
    }
}

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
    let Connected { stream: mut upstream, _permit } = match connected {
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
    let ended = copy::both_ways(&mut downstream.stream, &mut upstream, settings.idle_timeout, &mut line.copied).await;
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
        self.worker.stats.add(Counter::TcpRxBytes, self.copied.received);
        self.worker.stats.add(Counter::TcpTxBytes, self.copied.sent);
        access_log::write(&self.worker.log, self.logs, &self.entry);
    }
}
