//! Which of the connected proxies accepts: the newest of the agent's own pod that said Ready. The others drain.
//!
//! A proxy of another pod is that of an earlier or of a failed rollout, however late its container was started; it accepts
//! while there is no other.

use std::collections::BTreeMap;

use super::ProxyId;
use crate::status::ProxyState;

/// A connected proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Whether it is in the agent's own pod.
    pub own: bool,
    /// Unix time of its start, in nanoseconds.
    pub generation: u64,
    /// Where it stands.
    pub state: ProxyState,
}

impl Member {
    /// The higher one goes before.
    fn rank(&self, id: ProxyId) -> (bool, u64, ProxyId) {
        (self.own, self.generation, id)
    }
}

/// The connected proxies.
#[derive(Debug, Default)]
pub struct Fleet {
    members: BTreeMap<ProxyId, Member>,
}

impl Fleet {
    /// A proxy said Hello.
    pub fn join(&mut self, id: ProxyId, own: bool, generation: u64) {
        self.members.insert(id, Member { own, generation, state: ProxyState::Syncing });
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

    /// A proxy says of itself that it drains.
    pub fn draining(&mut self, id: ProxyId) {
        if let Some(member) = self.members.get_mut(&id) {
            member.state = ProxyState::Draining;
        }
    }

    /// The proxy that accepts; none while none is ready.
    pub fn acceptor(&self) -> Option<ProxyId> {
        let ready = self.members.iter().filter(|(_, member)| member.state == ProxyState::Ready);
        ready.max_by_key(|(id, member)| member.rank(**id)).map(|(id, _)| *id)
    }

    /// The proxies that are to know of pods: those that do not drain.
    pub fn serving(&self) -> impl Iterator<Item = ProxyId> {
        self.members.iter().filter(|(_, member)| member.state != ProxyState::Draining).map(|(id, _)| *id)
    }

    /// The proxy whose word on a pod counts: the one that accepts, else the newest that will.
    pub fn speaker(&self) -> Option<ProxyId> {
        let serving = self.members.iter().filter(|(_, member)| member.state != ProxyState::Draining);
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
        fleet.join(id(1), true, 100);
        assert_eq!((fleet.acceptor(), fleet.speaker()), (None, Some(id(1))));
        assert_eq!(fleet.ready(id(1)), []);
        assert_eq!(fleet.acceptor(), Some(id(1)));

        fleet.join(id(2), true, 200);
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
        fleet.join(id(1), true, 200);
        fleet.join(id(2), true, 100);
        assert_eq!(fleet.ready(id(1)), []);
        assert_eq!(fleet.ready(id(2)), [id(2)]);
        assert_eq!(fleet.acceptor(), Some(id(1)));
        fleet.draining(id(1));
        assert_eq!(fleet.acceptor(), None);
    }

    #[test]
    fn a_proxy_of_another_pod_accepts_only_while_there_is_no_other() {
        let mut fleet = Fleet::default();
        fleet.join(id(1), false, 100);
        assert_eq!(fleet.ready(id(1)), []);
        assert_eq!(fleet.acceptor(), Some(id(1)));
        fleet.join(id(2), true, 200);
        assert_eq!(fleet.ready(id(2)), [id(1)]);
        // The old pod's container is started again, after the new one's.
        fleet.join(id(3), false, 300);
        assert_eq!(fleet.ready(id(3)), [id(3)]);
        assert_eq!(fleet.acceptor(), Some(id(2)));
    }
}
