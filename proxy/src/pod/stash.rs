//! Upstream sockets of one pod, made by the agent in the pod's network namespace ahead of need.
//!
//! Shared by the workers: the lock is held for a push or a pop, never across an await. Below the low-water mark more
//! are asked for, one request at a time. The stash keeps what is taken in some seconds: as long as an agent needs to be
//! there again. A dial waits only while it is empty.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use weir_proto::handoff::v1 as handoff;

/// Sockets kept per family at least, and at most.
const LEAST: usize = 16;
const MOST: usize = 512;
/// What is taken in this time is kept.
const STOCK: Duration = Duration::from_secs(5);
/// How long is counted how many are taken.
const COUNTED: Duration = Duration::from_secs(1);
/// Asked for at a time, which is what the agent makes at a time.
const BATCH: usize = 128;

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
    demand: Demand,
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
            demand: Demand::new(Instant::now()),
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
        let take = |state: &mut State| {
            let socket = state.sockets.pop_front()?;
            state.demand.count(Instant::now());
            Some(socket)
        };
        self.when(family, take).await
    }

    /// Waits while there is none to take, and tells whether it had to. Fails as taking one does.
    pub async fn filled(&self, family: Family) -> io::Result<Waited> {
        let present = |state: &mut State| (!state.sockets.is_empty()).then_some(());
        Ok(self.when(family, present).await?.1)
    }

    async fn when<T>(&self, family: Family, mut look: impl FnMut(&mut State) -> Option<T>) -> io::Result<(T, Waited)> {
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
                if let Some(found) = look(&mut state) {
                    self.ask(family, &mut state);
                    return Ok((found, waited));
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
                        state.demand.missed();
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
        let target = state.demand.target;
        if state.asked || state.closed || state.sockets.len() > target / 2 {
            return;
        }
        let count = (target - state.sockets.len()).min(BATCH) as u32;
        // Not sent: the next dial asks. Without a handoff client (shutdown) nobody answers, and dials time out.
        state.asked = self.needs.try_send(Need { uid: self.uid.clone(), family, count }).is_ok();
    }
}

/// How many sockets are to be kept, by how many are taken.
#[derive(Debug)]
struct Demand {
    target: usize,
    /// How many were taken since.
    taken: u32,
    since: Instant,
}

impl Demand {
    fn new(now: Instant) -> Self {
        Self { target: LEAST, taken: 0, since: now }
    }

    /// One is taken. What is kept grows with the demand at once, and falls by and by.
    fn count(&mut self, now: Instant) {
        self.taken += 1;
        let counted = now.saturating_duration_since(self.since);
        if counted < COUNTED {
            return;
        }
        let in_stock_time = f64::from(self.taken) * STOCK.as_secs_f64() / counted.as_secs_f64();
        let target = (in_stock_time as usize).max(self.target - self.target / 8);
        (self.target, self.taken, self.since) = (target.clamp(LEAST, MOST), 0, now);
    }

    /// There was none to take.
    fn missed(&mut self) {
        self.target = (self.target * 2).min(MOST);
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

    #[test]
    fn what_is_taken_in_some_seconds_is_kept() {
        let mut now = Instant::now();
        let mut demand = Demand::new(now);
        let second = |demand: &mut Demand, now: &mut Instant, taken: u32| {
            for _ in 0..taken {
                *now += Duration::from_secs(1) / taken;
                demand.count(*now);
            }
            demand.target
        };
        assert_eq!(second(&mut demand, &mut now, 2), LEAST);
        let target = second(&mut demand, &mut now, 50);
        assert!((240..=260).contains(&target), "{target}");
        assert_eq!(second(&mut demand, &mut now, 1000), MOST);
        let target = second(&mut demand, &mut now, 10);
        assert_eq!(target, MOST - MOST / 8, "by and by");
        for _ in 0..60 {
            second(&mut demand, &mut now, 2);
        }
        assert_eq!(demand.target, LEAST);
        // After a pause: not by what was taken since long ago.
        now += Duration::from_secs(3600);
        demand.count(now);
        assert_eq!(demand.target, LEAST);
    }

    #[tokio::test]
    async fn more_than_the_agent_makes_at_a_time_is_asked_for_by_and_by() {
        let (stash, mut asked) = stash();
        stash.v4.state.lock().demand.target = MOST;
        stash.ask_again([Family::V4]);
        let mut kept = 0;
        while let Ok(need) = asked.try_recv() {
            assert!(need.count <= BATCH as u32, "{need:?}");
            kept += need.count as usize;
            stash.put(Family::V4, sockets(need.count as usize));
        }
        assert!((MOST / 2..=MOST).contains(&kept), "{kept}");
    }

    #[tokio::test]
    async fn a_failure_reaches_those_who_wait_and_nobody_later() {
        let (stash, mut asked) = stash();
        let waiting = tokio::spawn({
            let stash = stash.clone();
            async move { stash.take(Family::V4).await }
        });
        asked.recv().await.unwrap();
        let looking = tokio::spawn({
            let stash = stash.clone();
            async move { stash.filled(Family::V4).await }
        });
        tokio::task::yield_now().await;
        stash.fail(Family::V4, "netns is gone");
        assert_eq!(looking.await.unwrap().unwrap_err().to_string(), "no upstream socket: netns is gone");
        assert_eq!(waiting.await.unwrap().unwrap_err().to_string(), "no upstream socket: netns is gone");
        let later = tokio::spawn({
            let stash = stash.clone();
            async move { stash.take(Family::V4).await }
        });
        asked.recv().await.unwrap();
        stash.put(Family::V4, sockets(1));
        assert!(later.await.unwrap().is_ok());
        stash.put(Family::V4, sockets(1));
        assert_eq!(stash.filled(Family::V4).await.unwrap(), Waited(false));
        assert_eq!(stash.len(Family::V4), 1, "looking takes none");
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
