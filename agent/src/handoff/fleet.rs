//! Which of the connected proxies accepts: the newest of the agent's own pod that said Ready, else the newest of another.
//! The others drain.
//!
//! A proxy of another pod is that of an earlier or of a failed rollout, however late its container was started: it makes
//! way for one of the agent's own pod. One that made way may stand by, and is sent for when no proxy accepts any more:
//! the one that accepted crashed, or the rollout was undone.

use std::collections::BTreeMap;

use super::ProxyId;

/// Where a proxy stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyState {
    /// It has not said Ready.
    Syncing,
    /// It accepts.
    Ready,
    /// Another one accepts, or it is about to end.
    Draining,
    /// Another one accepts; if none does any more, it can.
    Standby,
}

impl ProxyState {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Syncing, Self::Ready, Self::Draining, Self::Standby];

    /// As users read it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Syncing => "syncing",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Standby => "standby",
        }
    }
}

/// A connected proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Whether it is in the agent's own pod.
    pub own: bool,
    /// When it started: a later one goes before.
    pub generation: u64,
    /// Where it stands.
    pub state: ProxyState,
    /// Whether it stood by and was sent for.
    summoned: bool,
}

impl Member {
    /// The higher one goes before.
    fn rank(&self, id: ProxyId) -> (bool, u64, ProxyId) {
        (self.own, self.generation, id)
    }

    fn serves(&self) -> bool {
        matches!(self.state, ProxyState::Syncing | ProxyState::Ready)
    }
}

/// The connected proxies.
#[derive(Debug, Default)]
pub struct Fleet {
    members: BTreeMap<ProxyId, Member>,
}

impl Fleet {
    /// A proxy said Hello; one that stands by takes nothing until it is sent for.
    pub fn join(&mut self, id: ProxyId, own: bool, generation: u64, standby: bool) {
        let state = if standby { ProxyState::Standby } else { ProxyState::Syncing };
        self.members.insert(id, Member { own, generation, state, summoned: false });
    }

    /// A proxy is gone.
    pub fn leave(&mut self, id: ProxyId) {
        self.members.remove(&id);
    }

    /// A proxy said Ready. Those that must drain now.
    pub fn ready(&mut self, id: ProxyId) -> Vec<ProxyId> {
        if let Some(member) = self.members.get_mut(&id) {
            member.state = ProxyState::Ready;
        }
        let Some(newest) = self.acceptor() else { return Vec::new() };
        let superseded = |(other, member): (&ProxyId, &mut Member)| {
            let drains = *other != newest && member.state == ProxyState::Ready;
            if drains {
                member.state = ProxyState::Draining;
            }
            drains.then_some(*other)
        };
        self.members.iter_mut().filter_map(superseded).collect()
    }

    /// A proxy is told to drain, or says that it does: to end, or to stand by.
    pub fn draining(&mut self, id: ProxyId, standby: bool) {
        if let Some(member) = self.members.get_mut(&id) {
            member.state = match (member.state, standby) {
                (ProxyState::Draining, true) => ProxyState::Standby,
                // Said before it heard that it was sent for.
                (state, true) => state,
                (_, false) => ProxyState::Draining,
            };
        }
    }

    /// The proxy to send for, if none accepts: the first of those that stand by. It is syncing from then on. No second
    /// one while it is; one that nobody sent for is not waited for, it may never be ready.
    pub fn summon(&mut self) -> Option<ProxyId> {
        let coming = |member: &Member| member.summoned && member.state == ProxyState::Syncing;
        if self.acceptor().is_some() || self.members.values().any(coming) {
            return None;
        }
        let standing_by = self.members.iter_mut().filter(|(_, member)| member.state == ProxyState::Standby);
        let (id, member) = standing_by.max_by_key(|(id, member)| member.rank(**id))?;
        (member.state, member.summoned) = (ProxyState::Syncing, true);
        Some(*id)
    }

    /// The proxy that accepts; none while none is ready.
    pub fn acceptor(&self) -> Option<ProxyId> {
        let ready = self.members.iter().filter(|(_, member)| member.state == ProxyState::Ready);
        ready.max_by_key(|(id, member)| member.rank(**id)).map(|(id, _)| *id)
    }

    /// Whether a proxy of the agent's own pod accepts, or would if the one that does were gone.
    pub fn own_serves(&self) -> bool {
        let able = |member: &Member| matches!(member.state, ProxyState::Ready | ProxyState::Standby);
        self.acceptor().is_some() && self.members.values().any(|member| member.own && able(member))
    }

    /// The proxies that are to know of pods: those that accept or are about to.
    pub fn serving(&self) -> impl Iterator<Item = ProxyId> {
        self.members.iter().filter(|(_, member)| member.serves()).map(|(id, _)| *id)
    }

    /// The proxies that stand by.
    pub fn standing_by(&self) -> impl Iterator<Item = ProxyId> {
        self.members.iter().filter(|(_, member)| member.state == ProxyState::Standby).map(|(id, _)| *id)
    }

    /// The proxy whose word on a pod counts: the one that accepts, else the newest that will.
    pub fn speaker(&self) -> Option<ProxyId> {
        let serving = self.members.iter().filter(|(_, member)| member.serves());
        self.acceptor().or_else(|| serving.max_by_key(|(id, member)| member.rank(**id)).map(|(id, _)| *id))
    }

    /// Where a proxy stands.
    pub fn member(&self, id: ProxyId) -> Option<&Member> {
        self.members.get(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u64) -> ProxyId {
        ProxyId(number)
    }

    #[test]
    fn the_newest_that_is_ready_accepts_and_the_older_drain() {
        let mut fleet = Fleet::default();
        fleet.join(id(1), true, 100, false);
        assert_eq!((fleet.acceptor(), fleet.speaker()), (None, Some(id(1))));
        assert_eq!(fleet.ready(id(1)), []);
        assert_eq!(fleet.acceptor(), Some(id(1)));

        fleet.join(id(2), true, 200, false);
        assert_eq!(fleet.acceptor(), Some(id(1)), "a newer one accepts only when it is ready");
        assert_eq!(fleet.serving().collect::<Vec<_>>(), [id(1), id(2)]);
        assert_eq!(fleet.ready(id(2)), [id(1)]);
        assert_eq!((fleet.acceptor(), fleet.speaker()), (Some(id(2)), Some(id(2))));
        assert_eq!(fleet.serving().collect::<Vec<_>>(), [id(2)]);

        fleet.leave(id(2));
        assert_eq!((fleet.acceptor(), fleet.speaker()), (None, None), "one that drains does not accept again");
    }

    #[test]
    fn an_older_one_that_is_ready_later_drains_at_once() {
        let mut fleet = Fleet::default();
        fleet.join(id(1), true, 200, false);
        fleet.join(id(2), true, 100, false);
        assert_eq!(fleet.ready(id(1)), []);
        assert_eq!(fleet.ready(id(2)), [id(2)]);
        assert_eq!(fleet.acceptor(), Some(id(1)));
        fleet.draining(id(1), false);
        assert_eq!(fleet.acceptor(), None);
    }

    #[test]
    fn a_proxy_of_another_pod_accepts_only_while_there_is_no_other() {
        let mut fleet = Fleet::default();
        fleet.join(id(1), false, 100, false);
        assert_eq!(fleet.ready(id(1)), []);
        assert_eq!(fleet.acceptor(), Some(id(1)));
        fleet.join(id(2), true, 200, false);
        assert_eq!(fleet.ready(id(2)), [id(1)]);
        // The old pod's container is started again, after the new one's.
        fleet.join(id(3), false, 300, false);
        assert_eq!(fleet.ready(id(3)), [id(3)]);
        assert_eq!(fleet.acceptor(), Some(id(2)));
    }

    fn state(fleet: &Fleet, number: u64) -> ProxyState {
        fleet.member(id(number)).unwrap().state
    }

    #[test]
    fn one_that_stands_by_is_sent_for_when_none_accepts() {
        let mut fleet = Fleet::default();
        fleet.join(id(1), false, 100, false);
        assert_eq!(fleet.ready(id(1)), []);
        fleet.join(id(2), true, 200, false);
        assert_eq!(fleet.ready(id(2)), [id(1)]);
        assert_eq!(fleet.summon(), None);
        fleet.draining(id(1), true);
        assert_eq!((state(&fleet, 1), fleet.summon()), (ProxyState::Standby, None));
        assert_eq!(fleet.serving().collect::<Vec<_>>(), [id(2)]);

        // The newer one crashes.
        fleet.leave(id(2));
        assert_eq!(fleet.summon(), Some(id(1)));
        assert_eq!((fleet.serving().collect::<Vec<_>>(), fleet.speaker()), (vec![id(1)], Some(id(1))));
        // What it said before it heard of that does not count.
        fleet.draining(id(1), true);
        assert_eq!((state(&fleet, 1), fleet.summon()), (ProxyState::Syncing, None));
        assert_eq!(fleet.ready(id(1)), []);
        assert_eq!((fleet.acceptor(), fleet.own_serves()), (Some(id(1)), false));

        // It is there again.
        fleet.join(id(3), true, 300, false);
        assert_eq!(fleet.ready(id(3)), [id(1)]);
        fleet.draining(id(1), true);
        // The old pod ends: its proxy is not to come back.
        fleet.draining(id(1), false);
        fleet.leave(id(3));
        assert_eq!((state(&fleet, 1), fleet.summon()), (ProxyState::Draining, None));
    }

    #[test]
    fn the_agents_own_is_sent_for_first_and_one_that_never_becomes_ready_is_not_waited_for() {
        let mut fleet = Fleet::default();
        fleet.join(id(1), true, 100, true);
        fleet.join(id(2), false, 200, true);
        fleet.join(id(3), true, 300, false);
        assert_eq!((fleet.acceptor(), fleet.speaker()), (None, Some(id(3))));
        assert_eq!(fleet.summon(), Some(id(1)));
        assert_eq!(fleet.summon(), None, "one is on its way");
        fleet.leave(id(1));
        assert_eq!(fleet.summon(), Some(id(2)));
        assert_eq!(fleet.ready(id(2)), []);
        assert_eq!(fleet.acceptor(), Some(id(2)));
    }

    #[test]
    fn a_pod_is_served_by_its_own_proxy_also_while_that_stands_by() {
        // The rollout was undone: the new pod's proxy accepts until it ends, the agent of the old pod leads again.
        let mut fleet = Fleet::default();
        fleet.join(id(1), false, 200, false);
        assert_eq!(fleet.ready(id(1)), []);
        assert!(!fleet.own_serves());
        fleet.join(id(2), true, 100, true);
        assert_eq!((fleet.acceptor(), fleet.summon()), (Some(id(1)), None), "connections need not drain for that");
        assert!(fleet.own_serves());
        fleet.draining(id(1), false);
        assert!(!fleet.own_serves());
        assert_eq!(fleet.summon(), Some(id(2)));
        assert_eq!(fleet.ready(id(2)), []);
        assert!(fleet.own_serves());
    }
}
