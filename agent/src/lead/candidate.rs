//! The side of an agent that is to lead: it takes the lock, and asks whoever has it to step down.

use std::{io, path::PathBuf, time::Duration};

use nix::{errno::Errno, sys::socket::SockType};
use prost::Message;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    Heir, Identity, Lineage, Place,
    departure::Lookout,
    holder::Post,
    wire::{Answer, Ask, Done, FromAsker, FromHolder, Handed, Reply, Said},
};
use crate::{
    handoff::{
        ListenersHandedBack,
        channel::{Channel, Packet},
    },
    redirect::{self, pins::Pins},
    unix,
};

/// How often the lock is tried.
const POLL: Duration = Duration::from_millis(100);
/// How long whoever has the lock may do so without being there to be asked: an agent that starts or ends, an `uninstall`.
const NOBODY: Duration = Duration::from_secs(10);
/// How long the one that leads may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// How long it may take to finish the step in hand and to let go.
const STEP_DOWN: Duration = Duration::from_secs(60);

/// Why an agent cannot lead.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The pins cannot be locked, or nobody who could be asked has the lock.
    #[error(transparent)]
    Pins(#[from] redirect::Error),
    /// The socket cannot be made.
    #[error(transparent)]
    Socket(#[from] unix::Error),
    /// Another agent of this node takes weir off it.
    #[error("another agent takes weir off this node")]
    Departed,
    /// A file of the state cannot be read.
    #[error("state: cannot read {}: {source}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Where an agent stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// It is about to lead.
    #[default]
    Asks,
    /// It leads.
    Leads,
    /// Another one leads, that superseded it.
    Waits,
}

/// An agent that leads, or waits for its turn.
#[derive(Debug)]
pub struct Candidate {
    place: Place,
    identity: Identity,
    standing: watch::Sender<Standing>,
    lookout: Lookout,
    /// Whether to ask: one that was superseded waits until the lock is free.
    asks: bool,
}

impl Candidate {
    /// An agent that wants to lead.
    pub fn new(place: Place, identity: Identity) -> Self {
        let lookout = Lookout::new(&place.state);
        Self { place, identity, standing: watch::Sender::default(), lookout, asks: true }
    }

    /// Where it stands.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Whoever leads by now is to be asked, as the first time.
    pub fn begin_anew(&mut self) {
        self.asks = true;
    }

    /// Resolves when no agent is there any more that takes weir off the node.
    pub async fn departed(&self) {
        while self.lookout.sees_departure() {
            tokio::time::sleep(POLL).await;
        }
    }

    /// Takes the lead. The first time whoever has it is asked to step down; later, or if that one superseded this one, this
    /// waits until the lock is free. `held` is what a tenure before this one held.
    pub async fn take(&mut self, held: Vec<ListenersHandedBack>) -> Result<Tenure, Error> {
        self.standing.send_replace(if self.asks { Standing::Asks } else { Standing::Waits });
        let mut inherited = held;
        let mut predecessor = None;
        let mut nobody_since = None;
        let pins = loop {
            if self.lookout.sees_departure() {
                return Err(Error::Departed);
            }
            let taken = match Pins::lock(&self.place.pins) {
                // Free because they were removed?
                Ok(_) if self.lookout.sees_departure() => return Err(Error::Departed),
                Ok(pins) => break pins,
                Err(taken @ redirect::Error::AnotherAgent(_)) => taken,
                Err(error) => return Err(error.into()),
            };
            if self.asks {
                match self.ask().await {
                    Ok(Asked::SteppedDown(handed, former)) => {
                        (inherited, predecessor, nobody_since) = (handed, Some(former), None);
                        continue;
                    }
                    // It does not wait in peace: nobody knows yet whether the other one will be able to lead.
                    Ok(Asked::Refused { refusal, by, busy: true }) => {
                        tracing::debug!(%refusal, %by, "the agent that leads is asked again");
                        nobody_since = None;
                    }
                    Ok(Asked::Refused { refusal, by, busy: false }) => {
                        tracing::warn!(%refusal, %by, "another agent leads; this one waits until it ends");
                        self.asks = false;
                        self.standing.send_replace(Standing::Waits);
                    }
                    Ok(Asked::Nobody) => {
                        if nobody_since.get_or_insert_with(Instant::now).elapsed() > NOBODY {
                            return Err(taken.into());
                        }
                    }
                    Err(error) => tracing::warn!(%error, "the agent that leads did not step down; it is asked again"),
                }
            }
            sleep(POLL).await;
        };
        self.asks = false;
        // The directory may be made by this agent only.
        let _ = std::fs::create_dir_all(&self.place.state);
        self.lookout = Lookout::new(&self.place.state);
        let path = &self.place.lineage;
        let mut lineage = Lineage::read(path).map_err(|source| Error::State { path: path.clone(), source })?;
        // A full disk keeps nobody from leading: at worst this agent gives way to one that it superseded.
        if lineage.add(&self.identity)
            && let Err(error) = lineage.write(path)
        {
            tracing::warn!(%error, path = %path.display(), "who led cannot be written down");
        }
        let post = Post::open(&self.place.socket, self.identity.clone(), lineage.clone())?;
        tracing::info!(identity = %self.identity, pods = inherited.len(), "this agent leads");
        self.standing.send_replace(Standing::Leads);
        Ok(Tenure { pins, inherited, lineage, turn: Turn { post, predecessor } })
    }

    async fn ask(&self) -> io::Result<Asked> {
        let socket = match unix::dial(&self.place.socket, SockType::SeqPacket) {
            Ok(socket) => socket,
            Err(Errno::ENOENT | Errno::ECONNREFUSED | Errno::EAGAIN) => return Ok(Asked::Nobody),
            Err(errno) => return Err(errno.into()),
        };
        let former = Predecessor(Channel::new(socket)?);
        let software = env!("CARGO_PKG_VERSION").to_owned();
        former.say(Said::Ask(Ask { identity: self.identity.as_str().to_owned(), software })).await?;
        let answer = timeout(ANSWER, former.hear()).await.map_err(io::Error::from)??.0;
        let Reply::Answer(Answer { refusal, identity, software, busy }) = answer else {
            return Err(unexpected("an answer"));
        };
        if !refusal.is_empty() {
            return Ok(Asked::Refused { refusal, by: identity, busy });
        }
        tracing::info!(%identity, version = %software, "the agent that leads steps down");
        let deadline = Instant::now() + STEP_DOWN;
        let mut handed = Vec::new();
        loop {
            match timeout_at(deadline, former.hear()).await.map_err(io::Error::from)?? {
                (Reply::Handed(Handed { uid, listeners }), fds) => {
                    handed.push(ListenersHandedBack::pair(uid, listeners, fds));
                }
                (Reply::SteppedDown(_), _) => return Ok(Asked::SteppedDown(handed, former)),
                (Reply::Answer(_), _) => return Err(unexpected("sockets")),
            }
        }
    }
}

fn unexpected(expected: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("expected {expected}, got something else"))
}

/// What came of asking.
#[derive(Debug)]
enum Asked {
    /// The lock is free; these are its sockets.
    SteppedDown(Vec<ListenersHandedBack>, Predecessor),
    /// The one that leads goes on; `busy` if only for now.
    Refused { refusal: String, by: String, busy: bool },
    /// There is nobody to ask.
    Nobody,
}

/// The agent that stepped down, and still holds its copies of the sockets.
#[derive(Debug)]
struct Predecessor(Channel);

impl Predecessor {
    async fn say(&self, said: Said) -> io::Result<()> {
        let bytes = FromAsker { said: Some(said) }.encode_to_vec();
        timeout(ANSWER, self.0.send(&bytes, &[])).await.map_err(io::Error::from)?
    }

    async fn hear(&self) -> io::Result<(Reply, Vec<std::os::fd::OwnedFd>)> {
        let Packet { bytes, fds } = self.0.receive().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let reply =
            FromHolder::decode(&*bytes)?.reply.ok_or_else(|| unexpected("a message that this version knows"))?;
        Ok((reply, fds))
    }
}

/// The time that an agent leads.
#[derive(Debug)]
pub struct Tenure {
    /// The locked pins.
    pub pins: Pins,
    /// Listening sockets that the agent before this one held. Not to be believed unseen.
    pub inherited: Vec<ListenersHandedBack>,
    /// Who led, this one included.
    pub lineage: Lineage,
    /// For how long.
    pub turn: Turn,
}

/// How long an agent leads: until another one asks. Dropped, it cannot be asked any more.
#[derive(Debug)]
pub struct Turn {
    post: Post,
    predecessor: Option<Predecessor>,
}

impl Turn {
    /// Resolves when another agent is to lead. Tells the agent before this one, which waits with its copies of the
    /// sockets, when everything is taken over: when `settled` resolves.
    pub async fn over(&mut self, settled: impl Future<Output = ()>) -> Heir {
        let Self { post, predecessor } = self;
        let thank = async {
            settled.await;
            if let Some(former) = predecessor.take() {
                // If it is gone, its copies are too.
                let _ = former.say(Said::Done(Done {})).await;
            }
            std::future::pending().await
        };
        tokio::select! {
            heir = post.asked() => heir,
            never = thank => never,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Parting, *};
    use std::path::Path;
    use weir_proto::handoff::v1::Listener;

    fn candidate(directory: &Path, identity: &str) -> Candidate {
        let place = Place::new(&directory.join("pins/blue"), &directory.join("state"), "blue");
        Candidate::new(place, Identity::parse(identity).unwrap())
    }

    fn held(uid: &str) -> Vec<ListenersHandedBack> {
        let file = tempfile::tempfile().unwrap().into();
        vec![ListenersHandedBack::pair(uid.to_owned(), vec![Listener::default()], vec![file])]
    }

    async fn step_down(tenure: Tenure, held: Vec<ListenersHandedBack>) -> Parting {
        let Tenure { pins, mut turn, .. } = tenure;
        let heir = turn.over(std::future::pending()).await;
        drop(turn);
        drop(pins);
        heir.hand_over(held).await
    }

    #[tokio::test]
    async fn the_lead_passes_with_the_sockets_and_comes_back_when_it_is_free() {
        let directory = tempfile::tempdir().unwrap();
        let (mut old, mut new) = (candidate(directory.path(), "old"), candidate(directory.path(), "new"));
        let standing = old.standing();
        let first = old.take(Vec::new()).await.unwrap();
        assert!(*standing.borrow() == Standing::Leads && first.inherited.is_empty());

        let stepping_down = tokio::spawn(step_down(first, held("u1")));
        let mut second = new.take(Vec::new()).await.unwrap();
        assert_eq!((second.inherited.len(), second.inherited[0].uid.as_str()), (1, "u1"));
        assert_eq!(second.inherited[0].listeners.len(), 1);
        let settled = tokio::time::timeout(Duration::from_millis(50), second.turn.over(async {}));
        assert!(settled.await.is_err(), "nobody asks");
        assert!(matches!(stepping_down.await.unwrap(), Parting::Done));

        // The old pod's container is started again: it is refused, and waits.
        let mut again = candidate(directory.path(), "old");
        let waiting = tokio::spawn(async move { again.take(held("u2")).await });
        assert!(tokio::time::timeout(Duration::from_millis(300), second.turn.over(async {})).await.is_err());
        drop(second);
        let back = waiting.await.unwrap().unwrap();
        assert_eq!(back.inherited[0].uid, "u2");

        // The new one is started again, and may have it again.
        let stepping_down = tokio::spawn(step_down(back, held("u3")));
        let mut new = candidate(directory.path(), "new");
        let third = new.take(Vec::new()).await.unwrap();
        assert_eq!(third.inherited[0].uid, "u3");
        // It ends before it has taken over: what was handed over may be needed again.
        drop(third);
        let Parting::Broken(kept) = stepping_down.await.unwrap() else { panic!("it was not done") };
        assert_eq!(old.take(kept).await.unwrap().inherited[0].uid, "u3");
    }

    #[tokio::test]
    async fn one_that_waits_does_not_lead_where_another_takes_weir_off_the_node() {
        let directory = tempfile::tempdir().unwrap();
        let (mut old, mut new) = (candidate(directory.path(), "old"), candidate(directory.path(), "new"));
        let first = old.take(Vec::new()).await.unwrap();
        let stepping_down = tokio::spawn(step_down(first, Vec::new()));
        let second = new.take(Vec::new()).await.unwrap();
        let waiting = tokio::spawn(async move { old.take(Vec::new()).await });
        let departure = crate::lead::Departure::begin(&directory.path().join("state")).unwrap();
        second.pins.remove().unwrap();
        assert!(matches!(waiting.await.unwrap(), Err(Error::Departed)));
        assert!(!directory.path().join("pins/blue").exists(), "nothing is put back");
        // Taken back, the one that led does so again.
        assert!(tokio::time::timeout(Duration::from_millis(50), new.departed()).await.is_err());
        drop((second, departure));
        new.departed().await;
        assert!(new.take(Vec::new()).await.is_ok() && *new.standing().borrow() == Standing::Leads);
        stepping_down.abort();
    }

    #[tokio::test]
    async fn a_full_disk_keeps_nobody_from_leading() {
        let directory = tempfile::tempdir().unwrap();
        let mut candidate = candidate(directory.path(), "1");
        // What is written first, before it takes the file's place.
        let unfinished = crate::file::unfinished_by(&candidate.place.lineage, std::process::id()).unwrap();
        std::fs::create_dir_all(&unfinished).unwrap();
        assert!(candidate.take(Vec::new()).await.is_ok());
    }

    #[tokio::test]
    async fn one_that_asks_while_the_lead_passes_to_another_asks_again() {
        let directory = tempfile::tempdir().unwrap();
        let [mut first, mut second, mut third] = ["1", "2", "3"].map(|name| candidate(directory.path(), name));
        let Tenure { pins, mut turn, .. } = first.take(Vec::new()).await.unwrap();
        let taking = tokio::spawn(async move { step_down(second.take(Vec::new()).await.unwrap(), Vec::new()).await });
        let heir = turn.over(std::future::pending()).await;
        // The first one is about to step down, and takes its time.
        let standing = third.standing();
        let waiting = tokio::spawn(async move { third.take(Vec::new()).await });
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(*standing.borrow(), Standing::Asks, "nothing supersedes it");
        drop(turn);
        drop(pins);
        let _ = tokio::join!(heir.hand_over(held("u1")), async {
            // Whether the second one led in between or not.
            let led = tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("it gets the lead");
            drop(led.unwrap().unwrap());
            // If it leads only now, it does so until it is asked.
            taking.abort();
        });
    }

    #[tokio::test(start_paused = true)]
    async fn a_lock_of_somebody_who_cannot_be_asked_is_waited_for_and_then_named() {
        let directory = tempfile::tempdir().unwrap();
        let mut candidate = candidate(directory.path(), "new");
        let lock = Pins::lock(&directory.path().join("pins/blue")).unwrap();
        let error = candidate.take(Vec::new()).await.unwrap_err().to_string();
        assert!(error.starts_with("another agent runs with the pins in "), "{error}");
        drop(lock);
        assert!(candidate.take(Vec::new()).await.is_ok());
    }
}
