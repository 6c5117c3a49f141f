//! The side of the agent that leads: being asked to step down, and passing on what it holds.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use nix::{
    sys::socket::{Shutdown, SockType, shutdown},
    unistd::geteuid,
};
use prost::Message;
use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};

use super::{
    Identity, Lineage,
    wire::{Answer, Ask, FromAsker, FromHolder, Handed, Reply, Said, SteppedDown},
};
use crate::{
    handoff::{
        ListenersHandedBack,
        channel::{Channel, Packet},
    },
    unix::{self, Access},
};

/// How long the other side may take for one message.
const MESSAGE: Duration = Duration::from_secs(5);
/// After a failed accept, which mostly means that file descriptors ran out.
const PAUSE: Duration = Duration::from_millis(100);
/// How long the copies of the sockets are held for a successor that does not say that it has them: it may be waiting for
/// its source of pods. The proxy and the keeper hold copies as well.
const HOLD: Duration = Duration::from_secs(300);

/// Waits to be asked to step down.
#[derive(Debug)]
pub(super) struct Post {
    asked: mpsc::Receiver<Heir>,
    listener: OwnedFd,
    serving: JoinHandle<()>,
}

impl Drop for Post {
    fn drop(&mut self) {
        self.serving.abort();
        // Who dials is refused from now on, not only once the task has ended.
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Read);
    }
}

impl Post {
    /// Listens at `path`.
    pub(super) fn open(path: &Path, identity: Identity, lineage: Lineage) -> Result<Self, unix::Error> {
        let key = "state";
        let listener = unix::listen_at(key, path, SockType::SeqPacket, Access::Owner)?;
        let failed = |source| unix::Error::Make { key, action: "poll", path: path.to_owned(), source };
        let polled = listener.try_clone().and_then(Channel::new).map_err(failed)?;
        let (asked_by, asked) = mpsc::channel(1);
        let bench =
            Arc::new(Bench { identity, lineage, owner: geteuid().as_raw(), leaving: AtomicBool::new(false), asked_by });
        Ok(Self { asked, listener, serving: tokio::spawn(serve(polled, bench)) })
    }

    /// Resolves when another agent is to lead.
    pub(super) async fn asked(&mut self) -> Heir {
        match self.asked.recv().await {
            Some(heir) => heir,
            None => std::future::pending().await,
        }
    }
}

/// What every asker is judged by.
#[derive(Debug)]
struct Bench {
    identity: Identity,
    lineage: Lineage,
    /// The only user that may ask.
    owner: u32,
    leaving: AtomicBool,
    asked_by: mpsc::Sender<Heir>,
}

async fn serve(listener: Channel, bench: Arc<Bench>) {
    let mut askers = JoinSet::new();
    loop {
        match listener.accept().await.and_then(Channel::new) {
            Ok(channel) => {
                askers.spawn(hear(channel, bench.clone()));
            }
            Err(error) => {
                tracing::error!(%error, "cannot accept another agent");
                sleep(PAUSE).await;
            }
        }
        while askers.try_join_next().is_some() {}
    }
}

async fn hear(channel: Channel, bench: Arc<Bench>) {
    let peer = unix::peer(&channel.socket());
    if peer.uid != bench.owner {
        tracing::warn!(
            pid = peer.pid,
            uid = peer.uid,
            "a process that is not root asked for the lead; it is not heard"
        );
        return;
    }
    // Nothing: it only looked whether somebody listens.
    let Ok(Ok(Some(Packet { bytes, .. }))) = timeout(MESSAGE, channel.receive()).await else { return };
    let Ok(FromAsker { said: Some(Said::Ask(Ask { identity, software })) }) = FromAsker::decode(&*bytes) else {
        tracing::warn!(pid = peer.pid, "another agent said something else than expected; it is not heard");
        return;
    };
    let judged = judge(&identity, &bench.identity, &bench.lineage).and_then(|asker| {
        if bench.leaving.swap(true, Ordering::Relaxed) {
            return Err(Refusal { reason: "it is stepping down for another agent already".to_owned(), busy: true });
        }
        Ok(asker)
    });
    let (refusal, busy) = match &judged {
        Ok(_) => (String::new(), false),
        Err(Refusal { reason, busy }) => (reason.clone(), *busy),
    };
    let own = bench.identity.as_str().to_owned();
    let answer = Answer { refusal, identity: own, software: env!("CARGO_PKG_VERSION").to_owned(), busy };
    let answered = say(&channel, Reply::Answer(answer), &[]).await;
    match (judged, answered) {
        (Ok(asker), Ok(())) => {
            tracing::info!(pid = peer.pid, identity = %asker, version = %software, "another agent is to lead");
            let _ = bench.asked_by.send(Heir { channel, identity: asker }).await;
        }
        (Ok(_), Err(error)) => {
            tracing::warn!(%error, "an agent that asked for the lead is gone");
            bench.leaving.store(false, Ordering::Relaxed);
        }
        (Err(Refusal { reason, busy: true }), _) => {
            tracing::debug!(pid = peer.pid, identity, reason, "another agent is to ask again")
        }
        (Err(Refusal { reason, .. }), _) => {
            tracing::warn!(pid = peer.pid, identity, reason, "another agent may not lead")
        }
    }
}

/// Why an agent does not step down for another.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Refusal {
    reason: String,
    /// Whether that will pass.
    busy: bool,
}

/// Whether to step down for an agent.
fn judge(asker: &str, own: &Identity, lineage: &Lineage) -> Result<Identity, Refusal> {
    let refused = |reason| Refusal { reason, busy: false };
    let asker = Identity::parse(asker).ok_or_else(|| refused(format!("{asker:?} is not an agent's identity")))?;
    if lineage.superseded(&asker, own) {
        return Err(refused(format!("{own} superseded {asker}, which has to wait until its pod ends")));
    }
    Ok(asker)
}

async fn say(channel: &Channel, reply: Reply, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = FromHolder { reply: Some(reply) }.encode_to_vec();
    timeout(MESSAGE, channel.send(&bytes, fds)).await.map_err(io::Error::from)?
}

/// An agent that waits for this one to step down.
#[derive(Debug)]
pub struct Heir {
    channel: Channel,
    identity: Identity,
}

/// How handing over went.
#[derive(Debug)]
pub enum Parting {
    /// The other agent has everything.
    Done,
    /// It is gone without having said so: these may be needed again.
    Broken(Vec<ListenersHandedBack>),
}

impl Heir {
    /// Which agent.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Passes on the pods' sockets. The lock must be free. Returns once the other agent has taken everything over, or is
    /// gone, or a long time after.
    pub async fn hand_over(self, held: Vec<ListenersHandedBack>) -> Parting {
        match self.try_hand_over(&held).await {
            Ok(()) => Parting::Done,
            Err(error) => {
                tracing::warn!(heir = %self.identity, %error, "the agent that was to lead is gone before it had everything");
                Parting::Broken(held)
            }
        }
    }

    async fn try_hand_over(&self, held: &[ListenersHandedBack]) -> io::Result<()> {
        for back in held {
            let listeners = back.listeners.iter().map(|(listener, _)| listener.clone()).collect();
            let fds: Vec<_> = back.listeners.iter().map(|(_, fd)| fd.as_fd()).collect();
            say(&self.channel, Reply::Handed(Handed { uid: back.uid.clone(), listeners }), &fds).await?;
        }
        say(&self.channel, Reply::SteppedDown(SteppedDown { pods: held.len() as u32 }), &[]).await?;
        let Ok(received) = timeout(HOLD, self.channel.receive()).await else {
            tracing::warn!(heir = %self.identity, waited = ?HOLD, "the agent that leads does not say that it has every socket");
            return Ok(());
        };
        let Packet { bytes, .. } = received?.ok_or(io::ErrorKind::UnexpectedEof)?;
        match FromAsker::decode(&*bytes)?.said {
            Some(Said::Done(_)) => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "expected Done")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_steps_down_for_one_that_it_superseded() {
        let identity = |text| Identity::parse(text).unwrap();
        let mut lineage = Lineage::default();
        lineage.add(&identity("old"));
        lineage.add(&identity("new"));
        assert_eq!(judge("newer", &identity("new"), &lineage), Ok(identity("newer")));
        assert_eq!(judge("new", &identity("old"), &lineage), Ok(identity("new")));
        assert_eq!(
            judge("old", &identity("new"), &lineage).unwrap_err().reason,
            "new superseded old, which has to wait until its pod ends"
        );
        assert_eq!(
            judge("../x", &identity("new"), &lineage).unwrap_err().reason,
            "\"../x\" is not an agent's identity"
        );
    }
}
