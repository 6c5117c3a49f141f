//! Choosing among the clusters of an aggregate one: all their priorities in a row, each with its hosts' health.
//!
//! A worker's view of the members as they are now; it is made anew when one of them changes. Which host of the chosen
//! priority is the member's own affair.

use std::sync::Arc;

use super::load::{Available, Shares};
use crate::{
    cluster::pick::PickContext,
    config::cluster::{Cluster, Tally},
};

/// One worker's state for one version of each member.
#[derive(Debug)]
pub(in crate::cluster) struct Aggregated {
    members: Vec<(Arc<Cluster>, u64)>,
    levels: Vec<Level>,
    tallies: Vec<Tally>,
    shares: Shares,
}

/// A priority of a member.
#[derive(Clone, Copy, Debug)]
struct Level {
    member: usize,
    priority: usize,
}

/// What is chosen: a member, one of its priorities, and which of the hosts.
#[derive(Debug)]
pub(in crate::cluster) struct Chosen {
    pub member: Arc<Cluster>,
    pub level: (usize, Available),
    /// Where the priority stands among those of all members.
    pub priority: u32,
    /// No priority was left but previous ones.
    pub anew: bool,
}

impl Aggregated {
    /// The state for the members of `cluster` as they are now.
    pub fn new(cluster: &Cluster) -> Self {
        let members: Vec<_> = cluster
            .members()
            .map(|member| {
                // Before its hosts are looked at, so that no change is missed.
                let version = member.version();
                (member, version)
            })
            .collect();
        let (mut levels, mut tallies) = (Vec::new(), Vec::new());
        for (member, (cluster, _)) in members.iter().enumerate() {
            let endpoints = cluster.endpoints.load();
            for (priority, hosts) in endpoints.priorities().iter().enumerate() {
                if !hosts.endpoints.is_empty() {
                    levels.push(Level { member, priority });
                    tallies.push(Tally::of(hosts, &endpoints.policy));
                }
            }
        }
        let shares = Shares::of(&tallies, cluster.balancing.panic_threshold);
        Self { members, levels, tallies, shares }
    }

    /// Whether the members are still as they were.
    pub fn is_current(&self) -> bool {
        self.members.iter().all(|(member, version)| member.version() == *version)
    }

    /// Where the next request goes; none: no member has a host.
    pub fn choose(&self, context: &PickContext<'_>) -> Option<Chosen> {
        let shares = match context.previous_priorities {
            [] => None,
            previous => Shares::without(&self.tallies, previous),
        };
        let (index, available) = shares.as_ref().unwrap_or(&self.shares).choose(fastrand::u64(..))?;
        let level = self.levels.get(index)?;
        Some(Chosen {
            member: self.members[level.member].0.clone(),
            level: (level.priority, available),
            priority: u32::try_from(index).unwrap_or(u32::MAX),
            anew: shares.is_none() && !context.previous_priorities.is_empty(),
        })
    }

    /// Where a priority of a member stands among those of all members.
    pub fn position(&self, member: &Arc<Cluster>, priority: u32) -> Option<u32> {
        let member = self.members.iter().position(|(known, _)| Arc::ptr_eq(known, member))?;
        let priority = usize::try_from(priority).ok()?;
        let position = self.levels.iter().position(|level| level.member == member && level.priority == priority)?;
        u32::try_from(position).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use super::*;
    use crate::config::cluster::{Discovery, Endpoint, EndpointSet, HealthFlags, Host, Template};

    fn endpoint(port: u16, priority: u32, health: HealthFlags) -> Endpoint {
        let template = Arc::new(Template { priority, health, ..Template::default() });
        Endpoint { template, host: Arc::new(Host::new(health)), ..Endpoint::at(([127, 0, 0, 1], port).into()) }
    }

    fn aggregate(members: &[Arc<Cluster>]) -> Cluster {
        let mut cluster = Cluster::fixed("all", EndpointSet::default());
        let names = members.iter().map(|member| (&*member.name).into()).collect();
        cluster.discovery = Discovery::Aggregate { names, members: OnceLock::new() };
        cluster.link(|name| members.iter().find(|member| *member.name == *name));
        cluster
    }

    fn chosen(aggregated: &Aggregated, previous: &[u32]) -> Option<(String, usize, u32, bool)> {
        let context = PickContext { previous_priorities: previous, ..PickContext::default() };
        let Chosen { member, level, priority, anew } = aggregated.choose(&context)?;
        Some((member.name.to_string(), level.0, priority, anew))
    }

    #[test]
    fn priorities_with_hosts_stand_in_a_row() {
        let good = HealthFlags::default();
        let a = Arc::new(Cluster::fixed("a", EndpointSet::new([endpoint(1, 1, good), endpoint(2, 3, good)])));
        let b = Arc::new(Cluster::fixed("b", EndpointSet::new([endpoint(3, 0, good)])));
        let cluster = aggregate(&[a.clone(), b.clone()]);
        let aggregated = Aggregated::new(&cluster);
        assert_eq!(chosen(&aggregated, &[]), Some(("a".into(), 1, 0, false)));
        assert_eq!(chosen(&aggregated, &[0]), Some(("a".into(), 3, 1, false)));
        assert_eq!(chosen(&aggregated, &[0, 1]), Some(("b".into(), 0, 2, false)));
        assert_eq!(chosen(&aggregated, &[0, 1, 2]), Some(("a".into(), 1, 0, true)));
        assert_eq!(aggregated.position(&b, 0), Some(2));
        assert_eq!(aggregated.position(&a, 3), Some(1));
        assert!(aggregated.is_current());
        a.endpoints.load().iter().for_each(|endpoint| {
            endpoint.host.set(HealthFlags::FAILED_ACTIVE);
        });
        a.changed_now();
        assert!(!aggregated.is_current());
        assert_eq!(chosen(&Aggregated::new(&cluster), &[]), Some(("b".into(), 0, 2, false)));
    }

    #[test]
    fn without_hosts_there_is_no_choice() {
        let none = Arc::new(Cluster::fixed("none", EndpointSet::default()));
        assert_eq!(chosen(&Aggregated::new(&aggregate(&[none])), &[]), None);
    }
}
