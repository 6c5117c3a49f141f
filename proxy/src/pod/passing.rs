//! Passing connections on: when another proxy accepts instead of this one, those whose bytes pass as they are go on there,
//! and none of them ends. The sockets go as file descriptors, and with them what was read of them and not delivered.
//!
//! A connection goes on being carried until it has a [`Place`]; only a few have one at a time. Then it is offered. Whoever
//! takes an [`Offer`]'s content first has the connection: the agent's client, to send it, or the connection itself, when
//! it is not wanted any more.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
};

use super::direction::Direction;
use crate::linger::close_by_reset;

/// What is known of a connection that another proxy is to carry on.
#[derive(Debug)]
pub struct Passage {
    /// Which of its pod's sockets accepted it.
    pub direction: Direction,
    /// When.
    pub accepted: Instant,
    /// Bytes so far from the client.
    pub received: u64,
    /// Bytes so far to it.
    pub sent: u64,
    /// The server spoke last.
    pub answered: bool,
    /// And with pauses.
    pub streams: bool,
    /// What was read and not delivered: towards the upstream, and from it.
    pub undelivered: [Undelivered; 2],
}

/// What one direction has read and not delivered.
#[derive(Debug, Default)]
pub struct Undelivered {
    /// What comes first: a pipe's end to read, and how much is in it.
    pub buffered: Option<(OwnedFd, usize)>,
    /// What comes after it, in the pipe of a bulk direction: its ends to read and to write, and how much is in it.
    pub pipe: Option<([OwnedFd; 2], usize)>,
}

/// What becomes of a connection that was to be passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The other proxy has it.
    Taken,
    /// It is still this one's, and why.
    Kept(String),
    /// The other proxy may have it: nobody said.
    Unknown,
}

/// A connection on its way.
#[derive(Debug)]
pub struct Content {
    /// Its pod's UID.
    pub uid: String,
    /// What is known of it.
    pub passage: Passage,
    /// The client's connection, and the upstream's.
    pub sockets: [OwnedFd; 2],
}

/// A connection that another proxy may have.
#[derive(Debug)]
pub struct Offer {
    slot: Slot,
    /// What becomes of it, once its content was taken.
    pub answer: oneshot::Sender<Fate>,
}

impl Offer {
    /// The connection; none: it is not offered any more.
    pub fn take(&self) -> Option<Content> {
        self.slot.take()
    }
}

#[derive(Clone, Debug)]
struct Slot(Arc<Mutex<Option<Content>>>);

impl Slot {
    fn take(&self) -> Option<Content> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Takes an offer back when its connection ends.
struct Offered(Slot);

impl Drop for Offered {
    fn drop(&mut self) {
        self.0.take();
    }
}

/// The right to be passed on.
#[derive(Debug)]
pub struct Place {
    _permit: OwnedSemaphorePermit,
}

/// The way to another proxy, as connections see it.
#[derive(Clone, Debug)]
pub struct Passing {
    wanted: watch::Receiver<bool>,
    places: Arc<Semaphore>,
    way: mpsc::Sender<Offer>,
}

impl Passing {
    /// Up to `places` connections at a time are offered on `way` while they are `wanted` elsewhere. The channel holds as
    /// many.
    pub fn new(wanted: watch::Receiver<bool>, places: usize, way: mpsc::Sender<Offer>) -> Self {
        Self { wanted, places: Arc::new(Semaphore::new(places)), way }
    }

    /// Nobody will ever want them.
    pub fn never() -> Self {
        Self::new(watch::channel(false).1, 1, mpsc::channel(1).0)
    }

    /// Resolves once another proxy takes connections over and this one's turn has come; `again`: it was not taken before.
    pub async fn place(&self, again: bool) -> Place {
        let mut wanted = self.wanted.clone();
        if again {
            wanted.mark_unchanged();
            if wanted.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
        loop {
            if wanted.wait_for(|wanted| *wanted).await.is_err() {
                return std::future::pending().await;
            }
            // Never closed.
            let Ok(permit) = self.places.clone().acquire_owned().await else { return std::future::pending().await };
            if *wanted.borrow() {
                return Place { _permit: permit };
            }
        }
    }

    /// Hands a connection to the other proxy, which this side must not read from or write to meanwhile.
    pub async fn pass(&self, _place: Place, uid: String, passage: Passage, ends: [&TcpStream; 2]) -> Fate {
        let [Ok(client), Ok(server)] = ends.map(copy_of) else { return Fate::Kept("out of file descriptors".into()) };
        // Neither end may take what gets lost on the way for the whole.
        ends.iter().for_each(|socket| close_by_reset(socket, true));
        let content = Content { uid, passage, sockets: [client, server] };
        let fate = self.offer(content).await;
        if matches!(fate, Fate::Kept(_)) {
            ends.iter().for_each(|socket| close_by_reset(socket, false));
        }
        fate
    }

    async fn offer(&self, content: Content) -> Fate {
        let slot = Slot(Arc::new(Mutex::new(Some(content))));
        let _offered = Offered(slot.clone());
        let (answer, mut answered) = oneshot::channel();
        if self.way.try_send(Offer { slot: slot.clone(), answer }).is_err() {
            return Fate::Kept("nobody speaks with the agent".into());
        }
        let kept = || Fate::Kept("the agent is away".into());
        // Taken back before it was sent; else only the answer tells.
        let answer = tokio::select! {
            biased;
            fate = &mut answered => fate,
            () = self.unwanted() => match slot.take() {
                Some(_) => return kept(),
                None => answered.await,
            },
        };
        answer.unwrap_or_else(|_| if slot.take().is_some() { kept() } else { Fate::Unknown })
    }

    async fn unwanted(&self) {
        // Without an owner nobody wants them either.
        let _ = self.wanted.clone().wait_for(|wanted| !*wanted).await;
    }
}

fn copy_of(socket: &TcpStream) -> io::Result<OwnedFd> {
    socket.as_fd().try_clone_to_owned()
}
