//! Draining in two phases, as a type: first "finish what you have" (graceful), then "close now" (forced, at the
//! deadline). A [`Drain`] starts it; connections hold a [`DrainWatch`], and the drain is over once all are dropped.

use std::time::Duration;

use tokio::{sync::watch, time::Instant};

/// How far a drain has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    Draining { deadline: Option<Instant> },
}

/// The owner's end: starts the drain, and knows when nobody watches any more.
#[derive(Debug)]
pub struct Drain {
    phase: watch::Sender<Phase>,
}

/// A connection's end. Clones count as open until dropped.
#[derive(Clone, Debug)]
pub struct DrainWatch {
    phase: watch::Receiver<Phase>,
    /// Of another drain that counts as well.
    also: Option<watch::Receiver<Phase>>,
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl Drain {
    /// A drain that has not started.
    pub fn new() -> Self {
        Self { phase: watch::Sender::new(Phase::Serving) }
    }

    /// An end for a connection, an acceptor or a worker.
    pub fn watch(&self) -> DrainWatch {
        DrainWatch { phase: self.phase.subscribe(), also: None }
    }

    /// Starts the graceful phase, and with `grace` the forced one that much later. A second call only brings the
    /// deadline forward.
    pub fn start(&self, grace: Option<Duration>) {
        let asked = grace.map(|grace| Instant::now() + grace);
        self.phase.send_modify(|phase| {
            let deadline = match *phase {
                Phase::Draining { deadline: Some(earlier) } => Some(asked.map_or(earlier, |asked| asked.min(earlier))),
                _ => asked,
            };
            *phase = Phase::Draining { deadline };
        });
    }

    /// How many watch, the watches that no connection holds included.
    pub fn open(&self) -> usize {
        self.phase.receiver_count()
    }

    /// Resolves once every watch has been dropped.
    pub async fn finished(&self) {
        self.phase.closed().await;
    }
}

impl DrainWatch {
    /// One that follows another drain as well: whichever is further.
    pub fn and(self, other: &Self) -> Self {
        Self { also: Some(other.phase.clone()), ..self }
    }

    /// Whether the graceful phase has begun.
    pub fn is_draining(&self) -> bool {
        [Some(&self.phase), self.also.as_ref()].into_iter().flatten().any(|phase| *phase.borrow() != Phase::Serving)
    }

    /// Resolves when the graceful phase begins: finish the request in hand, keep no connection alive. Never resolves
    /// when the owner is gone without having drained.
    pub async fn draining(&self) {
        match &self.also {
            None => draining(self.phase.clone()).await,
            // Few have two: those are not to make all larger.
            Some(also) => {
                Box::pin(async {
                    tokio::select! {
                        () = draining(self.phase.clone()) => {}
                        () = draining(also.clone()) => {}
                    }
                })
                .await;
            }
        }
    }

    /// Resolves when the deadline has passed: close now.
    pub async fn forced(&self) {
        self.forced_within(Duration::ZERO).await;
    }

    /// Resolves when the deadline is no further away than this: close at the first good moment.
    pub async fn forced_within(&self, ahead: Duration) {
        match &self.also {
            None => forced_within(self.phase.clone(), ahead).await,
            Some(also) => {
                Box::pin(async {
                    tokio::select! {
                        () = forced_within(self.phase.clone(), ahead) => {}
                        () = forced_within(also.clone(), ahead) => {}
                    }
                })
                .await;
            }
        }
    }
}

async fn draining(mut phase: watch::Receiver<Phase>) {
    if phase.wait_for(|phase| *phase != Phase::Serving).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn forced_within(mut phase: watch::Receiver<Phase>, ahead: Duration) {
    loop {
        let deadline = match *phase.borrow_and_update() {
            Phase::Draining { deadline } => deadline,
            Phase::Serving => None,
        };
        let deadline = deadline.map(|deadline| deadline.checked_sub(ahead).unwrap_or(deadline));
        // Each connection waits here, for a change. What a drain needs beside stands apart until there is one.
        let moved = match deadline {
            Some(deadline) => match Box::pin(tokio::time::timeout_at(deadline, phase.changed())).await {
                Err(_) => return,
                Ok(moved) => moved,
            },
            None => phase.changed().await,
        };
        if moved.is_err() {
            match deadline {
                Some(deadline) => Box::pin(tokio::time::sleep_until(deadline)).await,
                None => std::future::pending::<()>().await,
            }
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_phases_come_in_order_and_the_drain_ends_with_its_last_watch() {
        let drain = Drain::new();
        let watch = drain.watch();
        assert!(!watch.is_draining());
        drain.start(Some(Duration::from_secs(5)));
        watch.draining().await;
        let before = Instant::now();
        watch.forced().await;
        assert_eq!(before.elapsed().as_secs(), 5);
        assert_eq!(drain.open(), 1);
        drop(watch);
        drain.finished().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_start_only_brings_the_deadline_forward() {
        let drain = Drain::new();
        let watch = drain.watch();
        drain.start(Some(Duration::from_secs(60)));
        drain.start(Some(Duration::from_secs(600)));
        drain.start(None);
        let before = Instant::now();
        let forced = tokio::spawn(async move { watch.forced().await });
        tokio::task::yield_now().await;
        drain.start(Some(Duration::from_secs(1)));
        forced.await.unwrap();
        assert_eq!(before.elapsed().as_secs(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_the_graceful_phase_is_known_ahead() {
        let drain = Drain::new();
        let watch = drain.watch();
        drain.start(Some(Duration::from_secs(30)));
        let before = Instant::now();
        watch.forced_within(Duration::from_secs(2)).await;
        assert_eq!(before.elapsed().as_secs(), 28);
        watch.forced_within(Duration::from_secs(60)).await;
        assert_eq!(before.elapsed().as_secs(), 28);
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_drains_the_one_that_is_further_counts() {
        let (one, other) = (Drain::new(), Drain::new());
        let both = one.watch().and(&other.watch());
        assert!(!both.is_draining());
        other.start(Some(Duration::from_secs(30)));
        both.draining().await;
        assert!(both.is_draining() && !one.watch().is_draining());
        one.start(Some(Duration::from_secs(5)));
        let before = Instant::now();
        both.forced().await;
        assert_eq!(before.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_deadline_nothing_is_forced() {
        let drain = Drain::new();
        let watch = drain.watch();
        drain.start(None);
        assert!(tokio::time::timeout(Duration::from_secs(86_400), watch.forced()).await.is_err());
    }
}
