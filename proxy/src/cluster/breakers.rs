//! Circuit breakers: limits in force, and the gauges that show them.

use crate::config::cluster::{Cluster, Discovery, RoutingPriority, Thresholds, Usage};

/// Connection pools are not limited: there may be so many, as in Envoy.
const UNLIMITED: u64 = u64::MAX;

impl Cluster {
    /// How many retries may be under way: a fixed number, or a share of the requests.
    pub fn retry_limit(&self, priority: RoutingPriority) -> u32 {
        let (limits, usage) = self.limits(priority);
        retry_limit(limits, usage)
    }

    /// Sets the gauges `circuit_breakers.*` of what was ever used: they are computed when somebody reads them.
    pub fn publish_breakers(&self) {
        if let Discovery::ForwardProxy(proxy) = &self.discovery {
            proxy.cache.publish();
        }
        for (index, priority) in [RoutingPriority::Default, RoutingPriority::High].into_iter().enumerate() {
            let (limits, usage) = self.limits(priority);
            let (names, remaining) = (&self.stats.breakers[index], &self.stats.remaining[index]);
            let parts = [
                (names.cx_open, &usage.connections, limits.max_connections, false),
                (names.rq_pending_open, &usage.pending, limits.max_pending, false),
                (names.rq_open, &usage.requests, limits.max_requests, false),
                // As in Envoy, a budget does not move this limit.
                (names.rq_retry_open, &usage.retries, limits.max_retries, limits.retry_budget.is_some()),
            ];
            for (gauge, used, limit, by_budget) in parts.into_iter().filter(|(_, used, ..)| used.ever()) {
                // Where nothing may be used, nothing opens the breaker, but what a budget lets be used all the same.
                let used = used.load();
                self.stats.set(gauge, u64::from(used >= limit && (limit > 0 || used > 0 || by_budget)));
            }
            if usage.pools.ever() {
                self.stats.set(names.cx_pool_open, 0);
            }
            if let Some(names) = remaining {
                let left = |index: usize| u64::from(parts[index].2.saturating_sub(parts[index].1.load()));
                self.stats.set(names.remaining_cx, left(0));
                self.stats.set(names.remaining_pending, left(1));
                self.stats.set(names.remaining_rq, left(2));
                // As in Envoy, there is no telling what a budget leaves once it was asked.
                let of_budget = |_| if usage.retries.ever() { 0 } else { u64::from(limits.max_retries) };
                self.stats.set(names.remaining_retries, limits.retry_budget.map_or_else(|| left(3), of_budget));
                self.stats.set(names.remaining_cx_pools, UNLIMITED - u64::from(usage.pools.load()));
            }
        }
    }
}

fn retry_limit(limits: &Thresholds, usage: &Usage) -> u32 {
    match limits.retry_budget {
        None => limits.max_retries,
        Some(budget) => {
            let busy = usage.requests.load().saturating_add(usage.pending.load());
            let share = f64::from(busy) * budget.percent / 100.0;
            (share as u32).max(budget.least)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::cluster::{EndpointSet, RetryBudget};

    #[test]
    fn a_budget_is_a_share_of_requests_with_a_floor() {
        let mut cluster = Cluster::fixed("c", EndpointSet::default());
        assert_eq!(cluster.retry_limit(RoutingPriority::Default), 3);
        cluster.breakers.retry_budget = Some(RetryBudget { percent: 20.0, least: 3 });
        assert_eq!(cluster.retry_limit(RoutingPriority::Default), 3);
        let _requests: Vec<_> = (0..90).map(|_| cluster.usage.requests.regardless()).collect();
        let _pending: Vec<_> = (0..10).map(|_| cluster.usage.pending.regardless()).collect();
        assert_eq!(cluster.retry_limit(RoutingPriority::Default), 20);
        assert_eq!(cluster.retry_limit(RoutingPriority::High), 3);
    }
}
