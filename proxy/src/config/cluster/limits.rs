//! Circuit breakers: limits of each priority, and what is in use of them.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

/// Which of a cluster's limits a request counts against (`RouteAction.priority`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RoutingPriority {
    /// `DEFAULT`.
    #[default]
    Default,
    /// `HIGH`.
    High,
}

/// Limits of one priority, and what is in use of them.
#[derive(Debug, Default)]
pub struct Breaker {
    /// Limits.
    pub limits: Thresholds,
    /// In use.
    pub usage: Usage,
}

/// `retry_budget`: retries may be a share of the requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryBudget {
    /// Percent of the requests that are under way or wait.
    pub percent: f64,
    /// So many in any case.
    pub least: u32,
}

/// Limits of one priority.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    /// Connections.
    pub max_connections: u32,
    /// Connections of each host (`per_host_thresholds`).
    pub max_connections_per_host: u32,
    /// Requests that wait for a connection.
    pub max_pending: u32,
    /// Requests.
    pub max_requests: u32,
    /// Retries under way.
    pub max_retries: u32,
    /// Instead of that.
    pub retry_budget: Option<RetryBudget>,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_connections_per_host: u32::MAX,
            max_pending: 1024,
            max_requests: 1024,
            max_retries: 3,
            retry_budget: None,
        }
    }
}

/// What is in use of [`Thresholds`], over all workers.
#[derive(Debug, Default)]
pub struct Usage {
    /// Connections.
    pub connections: Gauge,
    /// Requests that wait for a connection.
    pub pending: Gauge,
    /// Requests.
    pub requests: Gauge,
    /// Retries under way.
    pub retries: Gauge,
    /// Pools with connections: of a host, on a worker.
    pub pools: Gauge,
}

/// A number in use; the highest bit says that it ever was.
#[derive(Clone, Debug, Default)]
pub struct Gauge(Arc<AtomicU32>);

const EVER: u32 = 1 << 31;

impl Gauge {
    /// How many are in use.
    pub fn load(&self) -> u32 {
        self.0.load(Relaxed) & !EVER
    }

    /// Whether one ever was.
    pub fn ever(&self) -> bool {
        self.0.load(Relaxed) & EVER != 0
    }

    /// One more, unless `limit` are in use.
    pub fn take(&self, limit: u32) -> Option<InUse> {
        let more = |used: u32| (used & !EVER < limit).then(|| (used + 1) | EVER);
        self.0.fetch_update(Relaxed, Relaxed, more).ok().map(|_| InUse(self.clone()))
    }

    /// One more, whatever the limit.
    pub fn regardless(&self) -> InUse {
        self.0.fetch_add(1, Relaxed);
        self.0.fetch_or(EVER, Relaxed);
        InUse(self.clone())
    }
}

/// One in use, until it is dropped.
#[derive(Debug)]
pub struct InUse(Gauge);

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_given_back() {
        let gauge = Gauge::default();
        assert!(!gauge.ever());
        let first = gauge.take(1).unwrap();
        assert!(gauge.take(1).is_none());
        let second = gauge.regardless();
        assert_eq!(gauge.load(), 2);
        drop((first, second));
        assert!(gauge.take(1).is_some());
        assert_eq!((gauge.load(), gauge.ever()), (0, true));
    }
}
