//! What is kept, and the answer to each request: no sockets here but those that are kept.

use std::{
    collections::BTreeMap,
    os::fd::{AsRawFd, OwnedFd},
};

use weir_proto::handoff::v1::Listener;

use super::wire::{Pod, Reply, Request, State, VERSION, Welcome};

/// The pods' listening sockets.
#[derive(Debug)]
pub(super) struct Shelf {
    kept: BTreeMap<String, (Vec<Listener>, Vec<OwnedFd>)>,
    limit: u32,
    instance: String,
}

/// What a request leads to.
#[derive(Debug, PartialEq)]
pub(super) enum Answer {
    /// To be sent as it is.
    Reply(Reply),
    /// The sockets of each of these pods, and then that these were all.
    Sockets(Vec<String>),
    /// Look after this proxy.
    Watch(Option<Watched>),
    /// Close everything and end.
    End,
}

/// A proxy whose end nobody else may be there to see.
#[derive(Debug)]
pub(super) struct Watched {
    /// The map that says whether a proxy accepts.
    pub(super) map: OwnedFd,
    /// Its process.
    pub(super) process: OwnedFd,
}

impl PartialEq for Watched {
    fn eq(&self, other: &Self) -> bool {
        self.process.as_raw_fd() == other.process.as_raw_fd()
    }
}

impl Shelf {
    /// Room for `limit` sockets of an instance's pods.
    pub(super) fn new(instance: &str, limit: u32) -> Self {
        Self { kept: BTreeMap::new(), limit, instance: instance.to_owned() }
    }

    /// How many pods.
    pub(super) fn pods(&self) -> usize {
        self.kept.len()
    }

    /// How many sockets.
    pub(super) fn sockets(&self) -> usize {
        self.kept.values().map(|(_, fds)| fds.len()).sum()
    }

    /// How much, and what went wrong.
    pub(super) fn state(&self, error: String) -> State {
        State { pods: self.pods() as u32, sockets: self.sockets() as u32, error }
    }

    /// A pod's sockets.
    pub(super) fn get(&self, uid: &str) -> Option<(&[Listener], &[OwnedFd])> {
        self.kept.get(uid).map(|(listeners, fds)| (listeners.as_slice(), fds.as_slice()))
    }

    /// Whether it keeps for this instance.
    pub(super) fn serves(&self, instance: &str) -> bool {
        self.instance == instance
    }

    /// The answer to Hello.
    pub(super) fn welcome(&self) -> Reply {
        Reply::Welcome(Welcome {
            version: VERSION,
            software: env!("CARGO_PKG_VERSION").to_owned(),
            limit: self.limit,
            instance: self.instance.clone(),
        })
    }

    /// Does what an agent asks for.
    pub(super) fn take(&mut self, request: Request, fds: Vec<OwnedFd>) -> Answer {
        match request {
            Request::Hello(_) => Answer::Reply(self.welcome()),
            Request::Keep(pod) => {
                let error = self.keep(pod, fds);
                Answer::Reply(Reply::State(self.state(error)))
            }
            Request::Drop(pod) => {
                self.kept.remove(&pod.uid);
                Answer::Reply(Reply::State(self.state(String::new())))
            }
            Request::Fetch(_) => Answer::Sockets(self.kept.keys().cloned().collect()),
            Request::Watch(_) => {
                let both: Option<[OwnedFd; 2]> = fds.try_into().ok();
                Answer::Watch(both.map(|[map, process]| Watched { map, process }))
            }
            Request::Bye(_) => Answer::End,
        }
    }

    /// Takes a pod's sockets in the place of those kept before, or says why not; then what was kept stays.
    fn keep(&mut self, pod: Pod, fds: Vec<OwnedFd>) -> String {
        if pod.listeners.len() != fds.len() {
            return format!("{} listeners with {} file descriptors", pod.listeners.len(), fds.len());
        }
        let before = self.get(&pod.uid).map_or(0, |(_, fds)| fds.len());
        if self.sockets() - before + fds.len() > self.limit as usize {
            return format!("the limit of open files allows no more than {} sockets", self.limit);
        }
        self.kept.insert(pod.uid, (pod.listeners, fds));
        String::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::wire::{Empty, Uid};

    fn fds(count: usize) -> Vec<OwnedFd> {
        (0..count).map(|_| tempfile::tempfile().unwrap().into()).collect()
    }

    fn pod(uid: &str, listeners: usize) -> Pod {
        Pod { uid: uid.to_owned(), listeners: vec![Listener::default(); listeners] }
    }

    fn state(answer: Answer) -> (u32, u32, String) {
        let Answer::Reply(Reply::State(state)) = answer else { panic!("{answer:?}") };
        (state.pods, state.sockets, state.error)
    }

    #[test]
    fn what_is_kept_can_be_replaced_fetched_and_dropped() {
        let mut shelf = Shelf::new("blue", 5);
        assert!(shelf.serves("blue") && !shelf.serves("green"));
        let Reply::Welcome(welcome) = shelf.welcome() else { panic!("no welcome") };
        assert_eq!((welcome.version, welcome.limit, welcome.instance.as_str()), (VERSION, 5, "blue"));
        assert_eq!(state(shelf.take(Request::Keep(pod("a", 3)), fds(3))), (1, 3, String::new()));
        assert_eq!(state(shelf.take(Request::Keep(pod("a", 2)), fds(2))), (1, 2, String::new()));
        let full = "the limit of open files allows no more than 5 sockets".to_owned();
        assert_eq!(state(shelf.take(Request::Keep(pod("b", 4)), fds(4))), (1, 2, full));
        assert_eq!(state(shelf.take(Request::Keep(pod("b", 3)), fds(3))), (2, 5, String::new()));
        let odd = "2 listeners with 1 file descriptors".to_owned();
        assert_eq!(state(shelf.take(Request::Keep(pod("c", 2)), fds(1))), (2, 5, odd));
        let all = shelf.take(Request::Fetch(Empty {}), vec![]);
        assert_eq!(all, Answer::Sockets(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(state(shelf.take(Request::Drop(Uid { uid: "a".to_owned() }), vec![])), (1, 3, String::new()));
        assert!(shelf.get("a").is_none() && shelf.get("b").unwrap().1.len() == 3);
        assert_eq!(shelf.take(Request::Bye(Empty {}), vec![]), Answer::End);
    }
}
