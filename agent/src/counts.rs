//! What this agent did since it started, counted where it happens and shown by `metrics`.

use prometheus_client::metrics::{counter::Counter, histogram::Histogram};

/// Upper ends of the buckets of [`Counts::enrolment`], seconds: a pod takes some 10 ms, more on a busy node, and as long as
/// it takes where no proxy is there.
const ENROLMENT_BUCKETS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// The counts. A clone counts on.
#[derive(Clone, Debug)]
pub struct Counts {
    /// Pods that the kernel began to redirect.
    pub redirected: Counter,
    /// Attempts at that which failed.
    pub failed: Counter,
    /// Seconds from the beginning of a pod's enrolment until a proxy acknowledged it.
    pub enrolment: Histogram,
    /// Pods whose listening sockets were sent to a proxy.
    pub pods_sent: Counter,
    /// Proxies that began to accept in the place of another.
    pub takeovers: Counter,
    /// Upstream sockets made.
    pub upstream_sockets: Counter,
    /// Requests for upstream sockets that failed.
    pub upstream_failures: Counter,
    /// Kubernetes events that were too many to be written.
    pub events_dropped: Counter,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            redirected: Counter::default(),
            failed: Counter::default(),
            enrolment: Histogram::new(ENROLMENT_BUCKETS),
            pods_sent: Counter::default(),
            takeovers: Counter::default(),
            upstream_sockets: Counter::default(),
            upstream_failures: Counter::default(),
            events_dropped: Counter::default(),
        }
    }
}
