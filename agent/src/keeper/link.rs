//! The agent's connection to the keeper.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    time::Duration,
};

use nix::sys::socket::SockType;
use prost::Message;
use tokio::time::timeout;
use weir_proto::handoff::v1::Listener;

use super::wire::{Empty, FromAgent, FromKeeper, Hello, Pod, Reply, Request, State, Uid, VERSION, Welcome};
use crate::{
    handoff::{
        ListenersHandedBack,
        channel::{Channel, Packet},
    },
    unix,
};

/// How long the keeper may take for one answer. It does nothing that blocks.
const ANSWER: Duration = Duration::from_secs(5);

/// Why the keeper is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("cannot dial it: {0}")]
    Dial(#[from] nix::errno::Errno),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it closed the connection")]
    Closed,
    #[error("it does not answer")]
    Silent,
    #[error("not a message of the keeper's: {0}")]
    Decode(#[from] prost::DecodeError),
    #[error("it answered with another message than the expected one")]
    Unexpected,
    #[error("it is the keeper of instance {0:?}: choose another keeper.socket")]
    OtherInstance(String),
}

impl Error {
    /// Whether nobody listens.
    pub(super) fn is_absence(&self) -> bool {
        matches!(self, Self::Dial(nix::errno::Errno::ENOENT | nix::errno::Errno::ECONNREFUSED))
    }
}

/// A connection on which Hello and Welcome were said.
#[derive(Debug)]
pub(super) struct Link {
    channel: Channel,
    welcome: Welcome,
    pid: i32,
}

impl Link {
    /// Dials the keeper that listens at `path`.
    pub(super) async fn dial(path: &Path, instance: &str) -> Result<Self, Error> {
        let socket = unix::dial(path, SockType::SeqPacket)?;
        let pid = unix::peer(&socket).pid;
        let mut link = Self { channel: Channel::new(socket)?, welcome: Welcome::default(), pid };
        link.say(Request::Hello(Hello { version: VERSION, instance: instance.to_owned() }), &[]).await?;
        let Reply::Welcome(welcome) = link.answer().await?.0 else { return Err(Error::Unexpected) };
        if welcome.instance != instance {
            return Err(Error::OtherInstance(welcome.instance));
        }
        link.welcome = welcome;
        Ok(link)
    }

    /// The keeper's process id; 0 if it cannot be seen from here.
    pub(super) fn pid(&self) -> i32 {
        self.pid
    }

    /// How many sockets it can keep.
    pub(super) fn limit(&self) -> u32 {
        self.welcome.limit
    }

    /// Whether it is of another weir: then it is replaced.
    pub(super) fn is_foreign(&self) -> bool {
        self.welcome.version != VERSION || self.welcome.software != env!("CARGO_PKG_VERSION")
    }

    /// Copies of everything that it keeps.
    pub(super) async fn fetch(&self) -> Result<Vec<ListenersHandedBack>, Error> {
        self.say(Request::Fetch(Empty {}), &[]).await?;
        let mut all = Vec::new();
        loop {
            match self.answer().await? {
                (Reply::Kept(pod), fds) => all.push(ListenersHandedBack::pair(pod.uid, pod.listeners, fds)),
                (Reply::Fetched(_), _) => return Ok(all),
                // Answers to what was asked before.
                _ => {}
            }
        }
    }

    /// Gives it a pod's sockets. Answered by a State.
    pub(super) async fn keep(&self, uid: &str, listeners: Vec<Listener>, fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        self.say(Request::Keep(Pod { uid: uid.to_owned(), listeners }), fds).await
    }

    /// The same for sockets that it or another keeper gave back.
    pub(super) async fn keep_again(&self, back: &ListenersHandedBack) -> Result<(), Error> {
        let listeners = back.listeners.iter().map(|(listener, _)| listener.clone()).collect();
        let fds: Vec<_> = back.listeners.iter().map(|(_, fd)| fd.as_fd()).collect();
        self.keep(&back.uid, listeners, &fds).await
    }

    /// Has it look after a proxy, or after none.
    pub(super) async fn watch(&self, map_and_process: &[BorrowedFd<'_>]) -> Result<(), Error> {
        self.say(Request::Watch(Empty {}), map_and_process).await
    }

    /// Has it close a pod's sockets. Answered by a State.
    pub(super) async fn forget(&self, uid: &str) -> Result<(), Error> {
        self.say(Request::Drop(Uid { uid: uid.to_owned() }), &[]).await
    }

    /// Has it close everything and end, and waits until it has let go of its socket.
    pub(super) async fn dismiss(self) -> Result<(), Error> {
        self.say(Request::Bye(Empty {}), &[]).await?;
        loop {
            match self.answer().await {
                Ok(_) => {}
                Err(Error::Closed) => return Ok(()),
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// The next State; returns only then, or when the connection is over.
    pub(super) async fn state(&self) -> Result<State, Error> {
        loop {
            if let (Reply::State(state) | Reply::Fetched(state), _) = self.receive().await? {
                return Ok(state);
            }
        }
    }

    async fn say(&self, request: Request, fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        let bytes = FromAgent { request: Some(request) }.encode_to_vec();
        timeout(ANSWER, self.channel.send(&bytes, fds)).await.map_err(|_| Error::Silent)?.map_err(Error::from)
    }

    async fn answer(&self) -> Result<(Reply, Vec<OwnedFd>), Error> {
        timeout(ANSWER, self.receive()).await.map_err(|_| Error::Silent)?
    }

    async fn receive(&self) -> Result<(Reply, Vec<OwnedFd>), Error> {
        let Packet { bytes, fds } = self.channel.receive().await?.ok_or(Error::Closed)?;
        let reply = FromKeeper::decode(&*bytes)?.reply.ok_or(Error::Unexpected)?;
        Ok((reply, fds))
    }
}
