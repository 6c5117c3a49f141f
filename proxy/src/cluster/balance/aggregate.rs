//! Choosing among the clusters of an aggregate one: all their priorities in a row, each with its hosts' health.
//!
//! A worker's view of the members as they are now; it is made anew when one of them changes. Which host of the chosen
//! priority is the member's own affair.

use std::sync::{Arc, Weak};

use super::load::{Available, Shares};
use crate::{
    cluster::pick::PickContext,
    config::cluster::{Cluster, Members, Tally},
};

/// The version of a member that is no more.
const GONE: u64 = 0;

/// One worker's state for one version of each member.
#[derive(Debug)]
pub(in crate::cluster) struct Aggregated {
    /// As `members` were when this was made, each in which state.
    linked: Arc<Vec<Weak<Cluster>>>,
    versions: Vec<u64>,
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
    /// The state for the members as they are now; `panic_threshold` is the aggregate cluster's.
    pub fn new(members: &Members, panic_threshold: u32) -> Self {
        let linked = members.load();
        let (mut levels, mut tallies, mut versions) = (Vec::new(), Vec::new(), Vec::with_capacity(linked.len()));
        for (member, cluster) in linked.iter().enumerate() {
            let Some(cluster) = cluster.upgrade() else {
                versions.push(GONE);
                continue;
            };
            // Before its hosts are looked at, so that no change is missed.
            versions.push(cluster.version());
            let endpoints = cluster.endpoints.load();
            for (priority, hosts) in endpoints.priorities().iter().enumerate() {
                if !hosts.endpoints.is_empty() {
                    levels.push(Level { member, priority });
                    tallies.push(Tally::of(hosts, &endpoints.policy));
                }
            }
        }
        let shares = Shares::of(&tallies, panic_threshold);
        Self { linked, versions, levels, tallies, shares }
    }

    /// Whether the members are still the same, and as they were.
    pub fn is_current(&self, members: &Members) -> bool {
        let version = |member: &Weak<Cluster>| member.upgrade().map_or(GONE, |member| member.version());
        members.is(&self.linked)
            && self.linked.iter().zip(&self.versions).all(|(member, known)| version(member) == *known)
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
            member: self.linked[level.member].upgrade()?,
            level: (level.priority, available),
            priority: u32::try_from(index).unwrap_or(u32::MAX),
            anew: shares.is_none() && !context.previous_priorities.is_empty(),
        })
    }

    /// Where a priority of a member stands among those of all members.
    pub fn position(&self, member: &Arc<Cluster>, priority: u32) -> Option<u32> {
        let member = self.linked.iter().position(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(member)))?;
        let priority = usize::try_from(priority).ok()?;
        let position = self.levels.iter().position(|level| level.member == member && level.priority == priority)?;
        u32::try_from(position).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::cluster::{Discovery, Endpoint, EndpointSet, HealthFlags, Host, Template};

    fn endpoint(port: u16, priority: u32, health: HealthFlags) -> Endpoint {
        let template = Arc::new(Template { priority, health, ..Template::default() });
        Endpoint { template, host: Arc::new(Host::new(health)), ..Endpoint::at(([127, 0, 0, 1], port).into()) }
    }

    fn fixed(name: &str, endpoints: impl IntoIterator<Item = Endpoint>) -> Arc<Cluster> {
        Arc::new(Cluster::fixed(name, EndpointSet::new(endpoints)))
    }

    fn aggregate(names: &[&str]) -> (Cluster, Members) {
        let (mut cluster, members) = (Cluster::fixed("all", EndpointSet::default()), Members::default());
        let names = names.iter().map(|name| (*name).into()).collect();
        cluster.discovery = Discovery::Aggregate { names, members: members.clone() };
        (cluster, members)
    }

    fn link(aggregate: &Cluster, clusters: &[Arc<Cluster>]) {
        aggregate.link(|name| clusters.iter().find(|cluster| *cluster.name == *name));
    }

    fn chosen(aggregated: &Aggregated, previous: &[u32]) -> Option<(String, usize, u32, bool)> {
        let context = PickContext { previous_priorities: previous, ..PickContext::default() };
        let Chosen { member, level, priority, anew } = aggregated.choose(&context)?;
        Some((member.name.to_string(), level.0, priority, anew))
    }

    #[test]
    fn priorities_with_hosts_stand_in_a_row() {
        let good = HealthFlags::default();
        let a = fixed("a", [endpoint(1, 1, good), endpoint(2, 3, good)]);
        let b = fixed("b", [endpoint(3, 0, good)]);
        let (cluster, members) = aggregate(&["a", "b"]);
        link(&cluster, &[a.clone(), b.clone()]);
        let aggregated = Aggregated::new(&members, 50);
        assert_eq!(chosen(&aggregated, &[]), Some(("a".into(), 1, 0, false)));
        assert_eq!(chosen(&aggregated, &[0]), Some(("a".into(), 3, 1, false)));
        assert_eq!(chosen(&aggregated, &[0, 1]), Some(("b".into(), 0, 2, false)));
        assert_eq!(chosen(&aggregated, &[0, 1, 2]), Some(("a".into(), 1, 0, true)));
        assert_eq!(aggregated.position(&b, 0), Some(2));
        assert_eq!(aggregated.position(&a, 3), Some(1));
        assert!(aggregated.is_current(&members));
        a.endpoints.load().iter().for_each(|endpoint| {
            endpoint.host.set(HealthFlags::FAILED_ACTIVE);
        });
        a.changed_now(1);
        assert!(!aggregated.is_current(&members));
        assert_eq!(chosen(&Aggregated::new(&members, 50), &[]), Some(("b".into(), 0, 2, false)));
    }

    #[test]
    fn without_hosts_there_is_no_choice() {
        let (cluster, members) = aggregate(&["none"]);
        link(&cluster, &[fixed("none", [])]);
        assert_eq!(chosen(&Aggregated::new(&members, 50), &[]), None);
    }

    #[test]
    fn members_come_go_and_are_replaced() {
        let good = HealthFlags::default();
        let (a, b) = (fixed("a", [endpoint(1, 0, good)]), fixed("b", [endpoint(2, 0, good)]));
        let (cluster, members) = aggregate(&["a", "b"]);
        let mut aggregated = Aggregated::new(&members, 50);
        assert_eq!(chosen(&aggregated, &[]), None);
        let mut expect = |clusters: &[Arc<Cluster>], member: &Arc<Cluster>| {
            assert!(aggregated.is_current(&members));
            link(&cluster, clusters);
            assert!(!aggregated.is_current(&members));
            aggregated = Aggregated::new(&members, 50);
            assert!(Arc::ptr_eq(&aggregated.choose(&PickContext::default()).unwrap().member, member));
            link(&cluster, clusters);
        };
        expect(std::slice::from_ref(&b), &b);
        expect(&[a.clone(), b.clone()], &a);
        let other = fixed("a", [endpoint(3, 0, good)]);
        expect(&[other.clone(), b.clone()], &other);
        expect(std::slice::from_ref(&b), &b);
        // One that ends before the others are told.
        drop(b);
        assert!(!aggregated.is_current(&members));
        assert_eq!(chosen(&Aggregated::new(&members, 50), &[]), None);
    }
}
