//! Who subscribed to what: whose first answer is late, and where what comes is counted.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use super::{
    kind::Kind,
    stats::SubscriptionStats,
    update::{Refused, Update},
    wishes::Options,
};

/// What is subscribed to; without a name, everything of a type.
type Wanted = (Kind, Option<Arc<str>>);

/// The subscriptions of one source.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    by_number: HashMap<u64, Subscribed>,
    numbers: HashMap<Wanted, Vec<u64>>,
    /// When whose first answer is late.
    deadlines: BTreeSet<(Instant, u64)>,
}

#[derive(Debug)]
struct Subscribed {
    wanted: Wanted,
    stats: Option<SubscriptionStats>,
    within: Option<Arc<str>>,
    deadline: Option<Instant>,
}

impl Subscriptions {
    /// Adds one that waits for its first answer from `since` on; none: it has it.
    pub(super) fn add(
        &mut self,
        number: u64,
        kind: Kind,
        name: Option<Arc<str>>,
        options: Options,
        since: Option<Instant>,
    ) {
        let Options { timeout, stats, within } = options;
        if let Some(stats) = &stats {
            stats.attempted();
        }
        let deadline = since.zip(timeout).and_then(|(since, timeout)| since.checked_add(timeout));
        self.deadlines.extend(deadline.map(|at| (at, number)));
        self.numbers.entry((kind, name.clone())).or_default().push(number);
        self.by_number.insert(number, Subscribed { wanted: (kind, name), stats, within, deadline });
    }

    /// Takes one away; gives what it was to.
    pub(super) fn remove(&mut self, number: u64) -> Option<Wanted> {
        let Subscribed { wanted, deadline, .. } = self.by_number.remove(&number)?;
        if let Some(at) = deadline {
            self.deadlines.remove(&(at, number));
        }
        if let Some(numbers) = self.numbers.get_mut(&wanted) {
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                self.numbers.remove(&wanted);
            }
        }
        Some(wanted)
    }

    /// When the next first answer is late.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// What nothing has come of in time. Each is told once.
    pub(super) fn late(&mut self, now: Instant) -> Vec<Wanted> {
        let (mut late, mut told) = (Vec::new(), HashSet::new());
        while let Some((at, number)) = self.deadlines.first().copied().filter(|(at, _)| *at <= now) {
            self.deadlines.remove(&(at, number));
            let Some(subscribed) = self.by_number.get_mut(&number) else { continue };
            subscribed.deadline = None;
            if let Some(stats) = &subscribed.stats {
                stats.timed_out();
            }
            if told.insert(subscribed.wanted.clone()) {
                late.push(subscribed.wanted.clone());
            }
        }
        late
    }

    /// Nobody waits any more for a type. Gives what was subscribed to.
    pub(super) fn over(&mut self, kind: Kind) -> Vec<Wanted> {
        for (number, subscribed) in self.by_number.iter_mut().filter(|(_, subscribed)| subscribed.wanted.0 == kind) {
            if let Some(at) = subscribed.deadline.take() {
                self.deadlines.remove(&(at, *number));
            }
        }
        self.numbers.keys().filter(|(of, _)| *of == kind).cloned().collect()
    }

    /// Nobody waits any more for what an update has. Gives where that is counted, and whether as refused: of those that
    /// subscribed to a name, if it was; of those that did to everything, if any was.
    pub(super) fn answered(
        &mut self,
        update: &Update,
        verdict: &Result<(), Refused>,
        rejected: bool,
    ) -> Vec<(SubscriptionStats, bool)> {
        let all = matches!(verdict, Err(Refused::All(_)));
        let refused: HashSet<&str> = match verdict {
            Err(Refused::Some(some)) => some.iter().map(|(name, _)| &**name).collect(),
            _ => HashSet::new(),
        };
        let mut counted = Vec::new();
        let came = update.added.iter().chain(&update.unchanged);
        let names = came.flat_map(|resource| {
            let aliases = resource.aliases.iter().map(|alias| Arc::from(alias.as_str()));
            [resource.name.clone()].into_iter().chain(aliases)
        });
        let names: HashSet<Arc<str>> = names.chain(update.removed.iter().cloned()).collect();
        self.count(&(update.kind, None), rejected, &names, &mut counted);
        for name in names.iter().cloned() {
            let refused = all || refused.contains(&*name);
            self.count(&(update.kind, Some(name)), refused, &names, &mut counted);
        }
        counted
    }

    fn count(
        &mut self,
        wanted: &Wanted,
        refused: bool,
        names: &HashSet<Arc<str>>,
        counted: &mut Vec<(SubscriptionStats, bool)>,
    ) {
        for number in self.numbers.get(wanted).into_iter().flatten() {
            let Some(subscribed) = self.by_number.get_mut(number) else { continue };
            if let Some(at) = subscribed.deadline.take() {
                self.deadlines.remove(&(at, *number));
            }
            let below = |name: &str, of: &str| name.strip_prefix(of).is_some_and(|rest| rest.starts_with('/'));
            if subscribed.within.as_ref().is_none_or(|within| names.iter().any(|name| below(name, within))) {
                counted.extend(subscribed.stats.clone().map(|stats| (stats, refused)));
            }
        }
    }

    /// Where everything is counted.
    pub(super) fn all(&self) -> impl Iterator<Item = &SubscriptionStats> {
        self.by_number.values().filter_map(|subscribed| subscribed.stats.as_ref())
    }

    /// Where a type is counted.
    pub(super) fn all_of(&self, kind: Kind) -> impl Iterator<Item = &SubscriptionStats> {
        let of = self.by_number.values().filter(move |subscribed| subscribed.wanted.0 == kind);
        of.filter_map(|subscribed| subscribed.stats.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::xds::update::{Origin, Resource};

    fn options(seconds: u64) -> Options {
        Options { timeout: Some(Duration::from_secs(seconds)), ..Options::default() }
    }

    #[test]
    fn who_waits_in_vain_is_told_once_and_who_was_answered_never() {
        let now = Instant::now();
        let kind = Kind::LoadAssignment;
        let name = |name: &str| Some(Arc::from(name));
        let mut subscriptions = Subscriptions::default();
        subscriptions.add(1, kind, name("x"), options(5), Some(now));
        subscriptions.add(2, kind, name("x"), options(5), Some(now));
        subscriptions.add(3, kind, name("y"), options(4), Some(now));
        subscriptions.add(4, kind, name("z"), options(3), Some(now));
        subscriptions.add(5, Kind::Cluster, None, options(6), Some(now));
        subscriptions.add(6, kind, name("there"), options(1), None);
        subscriptions.add(7, kind, name("patient"), Options { timeout: None, ..Options::default() }, Some(now));
        assert_eq!(subscriptions.next_deadline(), Some(now + Duration::from_secs(3)));
        assert_eq!(subscriptions.remove(4), Some((kind, name("z"))));
        assert_eq!(subscriptions.remove(4), None);
        let came = Resource {
            name: "y".into(),
            version: Arc::default(),
            body: bytes::Bytes::new(),
            ttl: None,
            aliases: Vec::new(),
        };
        let update = Update {
            kind,
            version: Arc::default(),
            added: vec![came],
            unchanged: Vec::new(),
            removed: Vec::new(),
            whole: false,
            origin: Origin::Server,
        };
        assert!(subscriptions.answered(&update, &Ok(()), false).is_empty());
        let routes = Kind::Routes;
        subscriptions.add(8, routes, name("r"), options(1), Some(now));
        assert_eq!(subscriptions.over(routes), [(routes, name("r"))]);
        let late = now + Duration::from_secs(6);
        assert_eq!(subscriptions.late(late), [(kind, name("x")), (Kind::Cluster, None)]);
        assert!(subscriptions.late(late).is_empty() && subscriptions.next_deadline().is_none());
    }
}
