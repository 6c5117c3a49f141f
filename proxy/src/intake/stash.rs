//! Upstream sockets of one pod, made by the agent in the pod's network namespace ahead of need.
//!
//! Shared by the workers: the lock is held for a push or a pop, never across an await. Below the low-water mark more
//! are asked for, one request at a time; a dial waits only while the stash is empty, and how often that happens decides
//! how many the stash keeps.

use std::{collections::VecDeque, io, net::SocketAddr, os::fd::OwnedFd, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use weir_proto::handoff::v1 as handoff;

/// Sockets kept per family at first, and at most.
const FIRST_TARGET: usize = 16;
const MOST_TARGET: usize = 128;

/// Something that wants sockets of a pod: goes to the agent as NeedSockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// The pod.
    pub uid: Arc<str>,
    /// Of which family.
    pub family: Family,
    /// How many.
    pub count: u32,
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// AF_INET.
    V4,
    /// AF_INET6.
    V6,
}

impl Family {
    /// The one that dials an address.
    pub fn of(address: SocketAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// As the handoff protocol says it.
    pub fn to_handoff(self) -> handoff::Family {
        match self {
            Self::V4 => handoff::Family::Ipv4,
            Self::V6 => handoff::Family::Ipv6,
        }
    }

    /// From the handoff protocol.
    pub fn from_handoff(family: handoff::Family) -> Option<Self> {
        match family {
            handoff::Family::Ipv4 => Some(Self::V4),
            handoff::Family::Ipv6 => Some(Self::V6),
            handoff::Family::Unspecified => None,
        }
    }
}

/// The stash of one pod.
#[derive(Debug)]
pub struct Stash {
    uid: Arc<str>,
    needs: mpsc::Sender<Need>,
    v4: Shelf,
    v6: Shelf,
}

#[derive(Debug, Default)]
struct Shelf {
    state: Mutex<State>,
    filled: Notify,
}

#[derive(Debug)]
struct State {
    sockets: VecDeque<OwnedFd>,
    /// A request is under way.
    asked: bool,
    target: usize,
    /// Counts answers without sockets, so that those who waited for one learn of it.
    failures: u64,
    failure: String,
    closed: bool,
}

impl Default for State {
    fn default() -> Self {
        Self {
            sockets: VecDeque::new(),
            asked: false,
            target: FIRST_TARGET,
            failures: 0,
            failure: String::new(),
            closed: false,
        }
    }
}

impl Stash {
    /// An empty stash that asks through `needs`.
    pub fn new(uid: Arc<str>, needs: mpsc::Sender<Need>) -> Self {
        Self { uid, needs, v4: Shelf::default(), v6: Shelf::default() }
    }

    /// Takes a socket; waits while there is none, and tells whether it had to. Fails when the agent cannot make any, or
    /// when the pod is gone.
    pub async fn take(&self, family: Family) -> io::Result<(OwnedFd, Waited)> {
        let shelf = self.shelf(family);
        let mut waited = Waited(false);
        let mut failures = None;
        loop {
            // Before the look: what comes in between wakes us.
            let filled = shelf.filled.notified();
            tokio::pin!(filled);
            filled.as_mut().enable();
            {
                let mut state = shelf.state.lock();
                if let Some(socket) = state.sockets.pop_front() {
                    self.ask(family, &mut state);
                    return Ok((socket, waited));
                }
                if state.closed {
                    return Err(io::Error::new(io::ErrorKind::NotConnected, "the pod was withdrawn"));
                }
                match failures {
                    Some(seen) if seen != state.failures => {
                        return Err(io::Error::other(format!("no upstream socket: {}", state.failure)));
                    }
                    Some(_) => {}
                    None => {
                        failures = Some(state.failures);
                        state.target = (state.target * 2).min(MOST_TARGET);
                    }
                }
                self.ask(family, &mut state);
            }
            waited.0 = true;
            filled.await;
        }
    }

    /// Puts in what the agent sent.
    pub fn put(&self, family: Family, sockets: Vec<OwnedFd>) {
        let shelf = self.shelf(family);
        {
            let mut state = shelf.state.lock();
            state.asked = false;
            if !state.closed {
                state.sockets.extend(sockets);
                self.ask(family, &mut state);
            }
        }
        shelf.filled.notify_waiters();
    }

    /// The agent could not make any: whoever waits now fails.
    pub fn fail(&self, family: Family, reason: &str) {
        let shelf = self.shelf(family);
        {
            let mut state = shelf.state.lock();
            state.asked = false;
            state.failures += 1;
            reason.clone_into(&mut state.failure);
        }
        shelf.filled.notify_waiters();
    }

    /// Asks for what is missing in `families`, also when an earlier request was under way: its answer is lost with the
    /// agent that it went to.
    pub fn ask_again(&self, families: impl IntoIterator<Item = Family>) {
        for family in families {
            let mut state = self.shelf(family).state.lock();
            state.asked = false;
            self.ask(family, &mut state);
        }
    }

    /// The pod is gone: closes the sockets, which would keep its network namespace alive.
    pub fn close(&self) {
        for shelf in [&self.v4, &self.v6] {
            let sockets = {
                let mut state = shelf.state.lock();
                state.closed = true;
                std::mem::take(&mut state.sockets)
            };
            drop(sockets);
            shelf.filled.notify_waiters();
        }
    }

    /// Sockets at hand.
    pub fn len(&self, family: Family) -> usize {
        self.shelf(family).state.lock().sockets.len()
    }

    fn shelf(&self, family: Family) -> &Shelf {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    fn ask(&self, family: Family, state: &mut State) {
        if state.asked || state.closed || state.sockets.len() > state.target / 2 {
            return;
        }
        let count = (state.target - state.sockets.len()) as u32;
        // Not sent: the next dial asks. Without a handoff client (shutdown) nobody answers, and dials time out.
        state.asked = self.needs.try_send(Need { uid: self.uid.clone(), family, count }).is_ok();
    }
}

/// Whether a dial had to wait for the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waited(pub bool);

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn stash() -> (Arc<Stash>, mpsc::Receiver<Need>) {
        let (needs, asked) = mpsc::channel(16);
        (Arc::new(Stash::new("pod".into(), needs)), asked)
    }

    fn sockets(count: usize) -> Vec<OwnedFd> {
        (0..count).map(|_| File::open("/dev/null").unwrap().into()).collect()
    }

    #[tokio::test]
    async fn asks_once_when_empty_and_again_below_the_low_water_mark() {
        let (stash, mut asked) = stash();
        stash.ask_again([Family::V4]);
        assert_eq!(asked.recv().await.unwrap().count, 16);
        stash.put(Family::V4, sockets(16));
        for _ in 0..7 {
            assert_eq!(stash.take(Family::V4).await.unwrap().1, Waited(false));
        }
        assert!(asked.try_recv().is_err());
        stash.take(Family::V4).await.unwrap();
        assert_eq!(asked.try_recv().unwrap(), Need { uid: "pod".into(), family: Family::V4, count: 8 });
        stash.take(Family::V4).await.unwrap();
        assert!(asked.try_recv().is_err(), "one request at a time");
    }

    #[tokio::test]
    async fn whoever_waits_is_served_and_the_stash_grows() {
        let (stash, mut asked) = stash();
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let stash = stash.clone();
                tokio::spawn(async move { stash.take(Family::V6).await })
            })
            .collect();
        assert_eq!(asked.recv().await.unwrap().count, 32);
        stash.put(Family::V6, sockets(3));
        for waiter in waiting {
            assert_eq!(waiter.await.unwrap().unwrap().1, Waited(true));
        }
        assert!(asked.recv().await.unwrap().count > 32, "being found empty made it grow");
    }

    #[tokio::test]
    async fn a_failure_reaches_those_who_wait_and_nobody_later() {
        let (stash, mut asked) = stash();
        let waiting = tokio::spawn({
            let stash = stash.clone();
            async move { stash.take(Family::V4).await }
        });
        asked.recv().await.unwrap();
        stash.fail(Family::V4, "netns is gone");
        assert_eq!(waiting.await.unwrap().unwrap_err().to_string(), "no upstream socket: netns is gone");
        let later = tokio::spawn({
            let stash = stash.clone();
            async move { stash.take(Family::V4).await }
        });
        asked.recv().await.unwrap();
        stash.put(Family::V4, sockets(1));
        assert!(later.await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn a_closed_stash_keeps_nothing() {
        let (stash, _asked) = stash();
        stash.put(Family::V4, sockets(2));
        stash.close();
        stash.put(Family::V4, sockets(2));
        assert_eq!(stash.len(Family::V4), 0);
        assert!(stash.take(Family::V4).await.is_err());
    }
}
