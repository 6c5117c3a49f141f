//! Whether a proxy still answers: it is sent a Ping every few seconds, and one that owes the answer for long hangs, or a
//! worker of it does.
//!
//! What counts are looks that were taken after what there was to read had been read, not time alone: an agent that was
//! stopped itself, or had no processor, accuses nobody. A proxy that meanwhile acknowledges what it was sent before the
//! Ping is busy. One that acknowledges what it was sent after that has read the Ping, and its workers owe the answer.

use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use weir_proto::handoff::v1::{self as handoff, from_agent};

use super::proxy::WeakProxy;

/// Between two looks, at least.
const LOOK: Duration = Duration::from_secs(1);
/// Looks from an answer to the next Ping.
const PAUSE: u32 = 3;
/// Looks that find an answer owed until the proxy counts as one that does not answer.
const PATIENCE: u32 = 10;

/// Asks one proxy.
#[derive(Debug)]
pub(super) struct Pulse {
    proxy: WeakProxy,
    looks: Interval,
    state: State,
}

#[derive(Debug)]
enum State {
    /// It is too old to be asked.
    Unasked,
    /// It owes nothing; so many looks since.
    Well(u32),
    /// It owes the answer to this Ping; so many looks found that.
    Owes { ping: u64, since: Instant, looks: u32 },
}

/// What an Ack is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Acked {
    /// The answer to a Ping.
    Ping,
    /// The same, of a proxy that counted as one that does not answer.
    Again,
    /// The answer to something else.
    Other,
}

impl Pulse {
    /// Of a proxy that has just said Hello, and there whether it answers.
    pub fn new(proxy: WeakProxy, answers: bool) -> Self {
        let mut looks = interval_at(Instant::now() + LOOK, LOOK);
        // After a pause of this process one look is due, not all that were missed.
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { proxy, looks, state: if answers { State::Well(0) } else { State::Unasked } }
    }

    /// Resolves when a look is due; to be polled after what there is to read was read.
    pub async fn due(&mut self) {
        match self.state {
            State::Unasked => std::future::pending().await,
            State::Well(_) | State::Owes { .. } => drop(self.looks.tick().await),
        }
    }

    /// Looks, and asks if it is time. If the proxy counts from now on as one that does not answer: since when it owes.
    pub fn look(&mut self) -> Option<Instant> {
        match &mut self.state {
            State::Unasked => None,
            State::Well(looks) => {
                *looks += 1;
                if *looks >= PAUSE {
                    let ping = from_agent::Message::Ping(handoff::Ping {});
                    // One that is too far behind to be asked is about to be dropped.
                    if let Some(ping) = self.proxy.upgrade().and_then(|proxy| proxy.send(ping, Vec::new())) {
                        self.state = State::Owes { ping, since: Instant::now(), looks: 0 };
                    }
                }
                None
            }
            State::Owes { since, looks, .. } => {
                if *looks == 0 {
                    // What passed while this process was stopped says nothing of the proxy.
                    *since = (*since).max(Instant::now() - LOOK);
                }
                *looks = looks.saturating_add(1);
                (*looks == PATIENCE).then_some(*since)
            }
        }
    }

    /// The proxy acknowledged a message.
    pub fn acked(&mut self, message: u64) -> Acked {
        match &mut self.state {
            State::Owes { ping, looks, .. } if *ping == message => {
                let again = *looks >= PATIENCE;
                self.state = State::Well(0);
                if again { Acked::Again } else { Acked::Ping }
            }
            State::Owes { ping, since, looks } if message < *ping && *looks < PATIENCE => {
                (*since, *looks) = (Instant::now(), 0);
                Acked::Other
            }
            State::Unasked | State::Well(_) | State::Owes { .. } => Acked::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{sync::mpsc, time::advance};

    use super::{
        super::proxy::{Outgoing, Proxy, ProxyId},
        *,
    };

    struct Asked {
        pulse: Pulse,
        outgoing: mpsc::Receiver<Outgoing>,
        proxy: Proxy,
    }

    fn ask(answers: bool) -> Asked {
        let (proxy, outgoing) = Proxy::new(ProxyId(1));
        Asked { pulse: Pulse::new(proxy.downgrade(), answers), outgoing, proxy }
    }

    impl Asked {
        /// Looks so often, when it is due; what came of the last look.
        async fn look(&mut self, times: u32) -> Option<Instant> {
            let mut last = None;
            for _ in 0..times {
                self.pulse.due().await;
                last = self.pulse.look();
            }
            last
        }

        /// Sends it something else.
        fn tell(&mut self) {
            self.proxy.send(from_agent::Message::SnapshotSent(handoff::SnapshotSent {}), Vec::new());
            assert!(self.outgoing.try_recv().is_ok());
        }

        /// The Pings since.
        fn pings(&mut self) -> Vec<u64> {
            let mut pings = Vec::new();
            while let Ok(Outgoing { message, .. }) = self.outgoing.try_recv() {
                assert!(matches!(message.message, Some(from_agent::Message::Ping(_))), "{message:?}");
                pings.push(message.id);
            }
            pings
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_owes_an_answer_for_ten_seconds_does_not_answer_until_it_does() {
        let mut asked = ask(true);
        assert_eq!((asked.look(PAUSE - 1).await, asked.pings()), (None, vec![]));
        assert_eq!((asked.look(1).await, asked.pings()), (None, vec![1]));
        let since = Instant::now();
        assert_eq!(asked.look(PATIENCE - 1).await, None, "it has its time");
        assert_eq!(asked.look(1).await, Some(since));
        assert_eq!(since.elapsed(), Duration::from_secs(10));
        assert_eq!((asked.look(100).await, asked.pings()), (None, vec![]), "told once, and not asked again");
        assert_eq!(asked.pulse.acked(9), Acked::Other, "another answer is not this one");
        assert_eq!(asked.pulse.acked(1), Acked::Again);

        // All is as it was.
        assert_eq!((asked.look(PAUSE).await, asked.pings()), (None, vec![2]));
        assert_eq!((asked.look(PATIENCE - 1).await, asked.pulse.acked(2)), (None, Acked::Ping));
        assert_eq!((asked.look(PAUSE).await, asked.pings()), (None, vec![3]));
    }

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_was_stopped_itself_accuses_nobody() {
        let mut asked = ask(true);
        asked.look(PAUSE).await;
        assert_eq!(asked.pings(), [1]);
        advance(Duration::from_secs(600)).await;
        assert_eq!(asked.look(PATIENCE - 1).await, None, "one look is due, not six hundred");
        assert_eq!(asked.pulse.acked(1), Acked::Ping);

        asked.look(PAUSE).await;
        advance(Duration::from_secs(600)).await;
        let since = asked.look(PATIENCE).await.unwrap();
        assert_eq!(since.elapsed(), Duration::from_secs(10), "of what it was not there for it says nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_acknowledges_pods_meanwhile_is_busy() {
        let mut asked = ask(true);
        for _ in 0..5 {
            asked.tell();
        }
        asked.look(PAUSE).await;
        assert_eq!(asked.pings(), [6]);
        for before in 1..=5 {
            assert_eq!((asked.look(PATIENCE - 1).await, asked.pulse.acked(before)), (None, Acked::Other));
        }
        let since = Instant::now();
        assert_eq!(asked.look(PATIENCE).await, Some(since));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_acknowledges_what_came_after_the_ping_owes_its_answer() {
        let mut asked = ask(true);
        asked.look(PAUSE).await;
        let since = Instant::now();
        assert_eq!(asked.pings(), [1]);
        for after in 2..=4 {
            assert_eq!((asked.look(3).await, asked.pulse.acked(after)), (None, Acked::Other));
        }
        assert_eq!(asked.look(1).await, Some(since), "a worker of it hangs");
        assert_eq!((asked.pulse.acked(5), asked.pulse.acked(1)), (Acked::Other, Acked::Again));
    }

    #[tokio::test(start_paused = true)]
    async fn an_older_one_is_never_asked() {
        let mut asked = ask(false);
        let never = tokio::time::timeout(Duration::from_secs(600), asked.pulse.due()).await;
        assert!(never.is_err() && asked.pulse.look().is_none());
        assert_eq!((asked.pings(), asked.pulse.acked(1)), (vec![], Acked::Other));
    }
}
