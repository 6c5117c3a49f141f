//! Counters: one shard per worker, written without contention, summed when read. Names are Envoy's where Envoy has one.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// Everything that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Counter {
    /// Accepted connections.
    DownstreamCxTotal,
    /// Ended connections.
    DownstreamCxDestroy,
    /// Connections refused by a ceiling.
    DownstreamCxOverflow,
    /// Bytes from clients of TCP connections.
    TcpRxBytes,
    /// Bytes to clients of TCP connections.
    TcpTxBytes,
    /// Upstream TCP connections tried.
    UpstreamCxTotal,
    /// Upstream TCP connections that failed.
    UpstreamCxConnectFail,
    /// Upstream TCP connections not established in time.
    UpstreamCxConnectTimeout,
    /// Redirected connections without a recorded original destination, closed.
    NoOriginalDestination,
    /// Connections to the redirect ports themselves, closed.
    SelfPortRefused,
    /// accept(2) failures.
    AcceptErrors,
    /// Upstream sockets received from the agent.
    UpstreamSocketsReceived,
    /// Waits for an upstream socket because the stash was empty.
    UpstreamSocketWaits,
    /// Access log lines dropped because the writer fell behind.
    AccessLogDropped,
}

impl Counter {
    /// Every counter, in the order of its index.
    pub const ALL: [Self; 14] = [
        Self::DownstreamCxTotal,
        Self::DownstreamCxDestroy,
        Self::DownstreamCxOverflow,
        Self::TcpRxBytes,
        Self::TcpTxBytes,
        Self::UpstreamCxTotal,
        Self::UpstreamCxConnectFail,
        Self::UpstreamCxConnectTimeout,
        Self::NoOriginalDestination,
        Self::SelfPortRefused,
        Self::AcceptErrors,
        Self::UpstreamSocketsReceived,
        Self::UpstreamSocketWaits,
        Self::AccessLogDropped,
    ];

    /// The name that operators see.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DownstreamCxTotal => "downstream_cx_total",
            Self::DownstreamCxDestroy => "downstream_cx_destroy",
            Self::DownstreamCxOverflow => "downstream_cx_overflow",
            Self::TcpRxBytes => "downstream_cx_rx_bytes_total",
            Self::TcpTxBytes => "downstream_cx_tx_bytes_total",
            Self::UpstreamCxTotal => "upstream_cx_total",
            Self::UpstreamCxConnectFail => "upstream_cx_connect_fail",
            Self::UpstreamCxConnectTimeout => "upstream_cx_connect_timeout",
            Self::NoOriginalDestination => "no_original_destination",
            Self::SelfPortRefused => "self_port_refused",
            Self::AcceptErrors => "accept_errors",
            Self::UpstreamSocketsReceived => "upstream_sockets_received",
            Self::UpstreamSocketWaits => "upstream_socket_waits",
            Self::AccessLogDropped => "access_log_dropped",
        }
    }
}

/// The counters of one worker.
#[derive(Debug, Default)]
pub struct Shard {
    counters: [AtomicU64; Counter::ALL.len()],
}

impl Shard {
    /// Counts one.
    pub fn count(&self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Counts `n`.
    pub fn add(&self, counter: Counter, n: u64) {
        self.counters[counter as usize].fetch_add(n, Relaxed);
    }

    /// This shard's part of a counter.
    pub fn get(&self, counter: Counter) -> u64 {
        self.counters[counter as usize].load(Relaxed)
    }
}

/// All shards.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    shards: Arc<[Arc<Shard>]>,
}

impl Stats {
    /// Counters for `workers` workers and the control thread.
    pub fn new(workers: usize) -> Self {
        Self { shards: (0..=workers).map(|_| Arc::new(Shard::default())).collect() }
    }

    /// The shard of a worker.
    pub fn worker(&self, index: usize) -> Arc<Shard> {
        self.shards[index].clone()
    }

    /// The shard of the control thread.
    pub fn control(&self) -> Arc<Shard> {
        self.shards[self.shards.len() - 1].clone()
    }

    /// A counter over all shards.
    pub fn total(&self, counter: Counter) -> u64 {
        self.shards.iter().map(|shard| shard.get(counter)).sum()
    }

    /// Connections open now.
    pub fn open_connections(&self) -> u64 {
        self.total(Counter::DownstreamCxTotal).saturating_sub(self.total(Counter::DownstreamCxDestroy))
    }

    /// Every counter that is not zero, with its name.
    pub fn totals(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Counter::ALL.into_iter().map(|counter| (counter.name(), self.total(counter))).filter(|(_, total)| *total > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_add_up() {
        let stats = Stats::new(2);
        stats.worker(0).count(Counter::DownstreamCxTotal);
        stats.worker(1).add(Counter::DownstreamCxTotal, 2);
        stats.control().count(Counter::AcceptErrors);
        assert_eq!(stats.totals().collect::<Vec<_>>(), [("downstream_cx_total", 3), ("accept_errors", 1)]);
    }

    #[test]
    fn every_counter_is_at_its_index() {
        for (index, counter) in Counter::ALL.into_iter().enumerate() {
            assert_eq!(counter as usize, index, "{}", counter.name());
        }
    }
}
