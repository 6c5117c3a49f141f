//! Who speaks to the keeper: one poll loop over its listening socket, the agent's connection, and connections that have
//! not said Hello.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use prost::Message;
use socket2::SockRef;

use super::{
    shelf::{Answer, Shelf, Watched},
    wire::{FromAgent, FromKeeper, Pod, Reply, Request},
};
use crate::{
    handoff::channel::{self, MAX_PACKET_BYTES, Packet},
    redirect, unix,
};

/// Connections that may be open without having said Hello.
const MAX_STRANGERS: usize = 4;
/// The kernel limits how many file descriptors may be under way: tried again after this.
const SEND_AGAIN: Duration = Duration::from_millis(10);

/// The keeper's sockets and what it keeps.
#[derive(Debug)]
pub(super) struct Table {
    listener: OwnedFd,
    /// The only user that may speak to the keeper.
    owner: u32,
    shelf: Shelf,
    patience: Duration,
    agent: Option<Agent>,
    strangers: VecDeque<OwnedFd>,
    /// The proxy that accepts, as the agent last said.
    watched: Option<Watched>,
    /// Since when no agent has been connected.
    alone: Instant,
    dismissed: bool,
}

/// The agent's connection.
#[derive(Debug)]
struct Agent {
    socket: OwnedFd,
    pid: i32,
    outgoing: VecDeque<Outgoing>,
    /// When to try sending again, when only time makes room.
    send_again: Option<Instant>,
}

/// What waits to be sent. Sockets are looked up when it is their turn: they may have been replaced meanwhile.
#[derive(Debug)]
enum Outgoing {
    Reply(Reply),
    Sockets(String),
    /// That these were all.
    End,
}

/// What is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ready {
    Listener,
    Agent,
    Stranger(usize),
    /// The process of the proxy, which has ended.
    Proxy,
}

impl Table {
    /// Serves whoever of `owner` dials.
    pub(super) fn new(listener: OwnedFd, owner: u32, shelf: Shelf, patience: Duration) -> Self {
        let (alone, strangers) = (Instant::now(), VecDeque::new());
        Self { listener, owner, shelf, patience, agent: None, strangers, watched: None, alone, dismissed: false }
    }

    /// What is kept.
    pub(super) fn shelf(&self) -> &Shelf {
        &self.shelf
    }

    /// Whether an agent said that the keeper is not needed any more.
    pub(super) fn dismissed(&self) -> bool {
        self.dismissed
    }

    /// Whether the keeper should end.
    pub(super) fn over(&self, now: Instant) -> bool {
        self.dismissed || (self.agent.is_none() && now >= self.alone + self.patience)
    }

    /// Waits for something to do, and does it.
    pub(super) fn turn(&mut self, now: Instant) -> io::Result<()> {
        // From the last one on: taking a stranger out moves those behind it.
        for ready in self.wait(now)?.into_iter().rev() {
            match ready {
                Ready::Listener => self.accept(),
                Ready::Agent => self.hear(),
                Ready::Stranger(index) => self.greet(index),
                Ready::Proxy => self.no_proxy(),
            }
        }
        self.send();
        Ok(())
    }

    fn wait(&self, now: Instant) -> io::Result<Vec<Ready>> {
        let mut wanted = vec![(Ready::Listener, self.listener.as_fd(), PollFlags::POLLIN)];
        let mut until = self.agent.is_none().then(|| self.alone + self.patience);
        if let Some(agent) = &self.agent {
            until = agent.send_again;
            let write = !agent.outgoing.is_empty() && agent.send_again.is_none();
            let write = if write { PollFlags::POLLOUT } else { PollFlags::empty() };
            wanted.push((Ready::Agent, agent.socket.as_fd(), PollFlags::POLLIN | write));
        }
        let strangers = self.strangers.iter().enumerate();
        wanted.extend(strangers.map(|(index, fd)| (Ready::Stranger(index), fd.as_fd(), PollFlags::POLLIN)));
        if let (None, Some(watched)) = (&self.agent, &self.watched) {
            // While an agent is there it sees for itself.
            wanted.push((Ready::Proxy, watched.process.as_fd(), PollFlags::POLLIN));
        }
        let mut fds: Vec<PollFd<'_>> = wanted.iter().map(|(_, fd, flags)| PollFd::new(*fd, *flags)).collect();
        // A millisecond more than is left: polling must not end before the time has come.
        let left = until.map(|until| until.saturating_duration_since(now) + Duration::from_millis(1));
        let timeout = left.map_or(PollTimeout::NONE, |left| left.try_into().unwrap_or(PollTimeout::MAX));
        match poll(&mut fds, timeout) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(Vec::new()),
            Err(errno) => return Err(errno.into()),
        }
        let ready = fds.iter().zip(&wanted).filter(|(fd, _)| fd.any().unwrap_or(false));
        Ok(ready.map(|(_, (what, ..))| *what).collect())
    }

    fn accept(&mut self) {
        let accepted = SockRef::from(&self.listener).accept().and_then(|(accepted, _)| {
            accepted.set_nonblocking(true)?;
            Ok(OwnedFd::from(accepted))
        });
        match accepted {
            Ok(stranger) => {
                let peer = unix::peer(&stranger);
                if peer.uid != self.owner {
                    tracing::warn!(
                        pid = peer.pid,
                        uid = peer.uid,
                        expected = self.owner,
                        "a connection of another user is refused"
                    );
                    return;
                }
                let _ = SockRef::from(&stranger).set_send_buffer_size(MAX_PACKET_BYTES);
                if self.strangers.len() == MAX_STRANGERS {
                    self.strangers.pop_front();
                }
                self.strangers.push_back(stranger);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => tracing::warn!(%error, "cannot accept an agent"),
        }
    }

    /// A stranger says something, which is Hello if it is an agent: the newest is the one that is served.
    fn greet(&mut self, index: usize) {
        let Some(socket) = self.strangers.remove(index) else { return };
        let Ok(Some(Packet { bytes, .. })) = channel::receive(&socket) else { return };
        let request = FromAgent::decode(&*bytes).ok().and_then(|message| message.request);
        let Some(Request::Hello(hello)) = request else {
            tracing::warn!("a connection that did not begin with Hello is closed");
            return;
        };
        let pid = unix::peer(&socket).pid;
        if !self.shelf.serves(&hello.instance) {
            tracing::warn!(agent = pid, instance = %hello.instance, "an agent of another instance is not served");
            let welcome = FromKeeper { reply: Some(self.shelf.welcome()) };
            let _ = channel::send(&socket, &welcome.encode_to_vec(), &[]);
            return;
        }
        tracing::info!(agent = pid, pods = self.shelf.pods(), sockets = self.shelf.sockets(), "an agent connected");
        let outgoing = VecDeque::from([Outgoing::Reply(self.shelf.welcome())]);
        self.agent = Some(Agent { socket, pid, outgoing, send_again: None });
    }

    /// Reads all that the agent has sent.
    fn hear(&mut self) {
        while let Some(agent) = &self.agent {
            match channel::receive(&agent.socket) {
                Ok(Some(Packet { bytes, fds })) => match FromAgent::decode(&*bytes) {
                    Ok(FromAgent { request: Some(request) }) => self.answer(request, fds),
                    Ok(FromAgent { request: None }) => {
                        tracing::warn!("the agent asked for what this version does not know")
                    }
                    Err(error) => return self.part(&error.to_string()),
                },
                Ok(None) => return self.part("it closed the connection"),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => return self.part(&error.to_string()),
            }
        }
    }

    fn answer(&mut self, request: Request, fds: Vec<OwnedFd>) {
        let answer = self.shelf.take(request, fds);
        let Some(agent) = &mut self.agent else { return };
        match answer {
            Answer::Reply(reply) => agent.outgoing.push_back(Outgoing::Reply(reply)),
            Answer::Sockets(uids) => {
                agent.outgoing.extend(uids.into_iter().map(Outgoing::Sockets));
                agent.outgoing.push_back(Outgoing::End);
            }
            Answer::Watch(watched) => self.watched = watched,
            Answer::End => self.dismissed = true,
        }
    }

    /// Agent and proxy are both gone: pods that fail open are to be left alone.
    fn no_proxy(&mut self) {
        let Some(Watched { map, .. }) = self.watched.take() else { return };
        match redirect::no_proxy(map) {
            Ok(()) => tracing::warn!("the proxy is gone too; pods that fail open are left alone"),
            Err(error) => tracing::error!(%error, "the kernel does not know that no proxy accepts"),
        }
    }

    /// Sends as much as there is room for.
    fn send(&mut self) {
        let Some(agent) = &mut self.agent else { return };
        agent.send_again = None;
        while let Some(next) = agent.outgoing.front() {
            let (reply, fds): (Reply, Vec<BorrowedFd<'_>>) = match next {
                Outgoing::Reply(reply) => (reply.clone(), Vec::new()),
                Outgoing::End => (Reply::Fetched(self.shelf.state(String::new())), Vec::new()),
                Outgoing::Sockets(uid) => match self.shelf.get(uid) {
                    Some((listeners, fds)) => {
                        let pod = Pod { uid: uid.clone(), listeners: listeners.to_vec() };
                        (Reply::Kept(pod), fds.iter().map(AsFd::as_fd).collect())
                    }
                    None => {
                        agent.outgoing.pop_front();
                        continue;
                    }
                },
            };
            let bytes = FromKeeper { reply: Some(reply) }.encode_to_vec();
            match channel::send(&agent.socket, &bytes, &fds) {
                Ok(()) => drop(agent.outgoing.pop_front()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.raw_os_error() == Some(libc::ETOOMANYREFS) => {
                    agent.send_again = Some(Instant::now() + SEND_AGAIN);
                    return;
                }
                Err(error) => {
                    let error = error.to_string();
                    return self.part(&error);
                }
            }
        }
    }

    fn part(&mut self, why: &str) {
        if let Some(agent) = self.agent.take() {
            self.alone = Instant::now();
            tracing::warn!(
                agent = agent.pid, why, sockets = self.shelf.sockets(), patience = ?self.patience,
                "the agent is gone; its pods' connections wait in their sockets"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        keeper::wire::{Empty, Hello, Uid},
        unix::{Access, listen_at},
    };
    use nix::sys::socket::SockType;
    use std::{fs, os::linux::fs::MetadataExt, path::PathBuf};
    use weir_proto::handoff::v1::Listener;

    struct Scene {
        table: Table,
        path: PathBuf,
        _directory: tempfile::TempDir,
    }

    impl Scene {
        fn new(owner: u32, patience: Duration) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("keeper.sock");
            let listener = listen_at("keeper.socket", &path, SockType::SeqPacket, Access::Owner).unwrap();
            Self { table: Table::new(listener, owner, Shelf::new("blue", 64), patience), path, _directory: directory }
        }

        fn dial(&mut self) -> OwnedFd {
            let agent = unix::dial(&self.path, SockType::SeqPacket).unwrap();
            self.table.turn(Instant::now()).unwrap();
            agent
        }

        fn say(&mut self, agent: &OwnedFd, request: Request, fds: &[BorrowedFd<'_>]) {
            channel::send(agent, &FromAgent { request: Some(request) }.encode_to_vec(), fds).unwrap();
            self.table.turn(Instant::now()).unwrap();
        }

        fn hear(&self, agent: &OwnedFd) -> (Reply, Vec<OwnedFd>) {
            let packet = channel::receive(agent).unwrap().unwrap();
            (FromKeeper::decode(&*packet.bytes).unwrap().reply.unwrap(), packet.fds)
        }
    }

    fn me() -> u32 {
        nix::unistd::geteuid().as_raw()
    }

    fn hello() -> Request {
        Request::Hello(Hello { version: 1, instance: "blue".to_owned() })
    }

    #[test]
    fn sockets_outlive_the_agent_and_the_newest_agent_gets_them() {
        let mut scene = Scene::new(me(), Duration::ZERO);
        let file = tempfile::tempfile().unwrap();
        let first = scene.dial();
        scene.say(&first, hello(), &[]);
        assert!(matches!(scene.hear(&first), (Reply::Welcome(_), _)));
        let pod = Pod { uid: "u1".to_owned(), listeners: vec![Listener { worker: 7, ..Listener::default() }] };
        scene.say(&first, Request::Keep(pod.clone()), &[file.as_fd()]);
        assert!(matches!(scene.hear(&first).0, Reply::State(state) if state.sockets == 1 && state.error.is_empty()));
        assert!(!scene.table.over(Instant::now()), "an agent is connected");

        // One that only looks whether somebody listens takes nothing from the agent.
        drop(scene.dial());
        scene.table.turn(Instant::now()).unwrap();
        scene.say(&first, Request::Drop(Uid { uid: "u2".to_owned() }), &[]);
        assert!(matches!(scene.hear(&first).0, Reply::State(state) if state.pods == 1));

        let second = scene.dial();
        scene.say(&second, hello(), &[]);
        assert!(matches!(scene.hear(&second).0, Reply::Welcome(_)));
        assert!(channel::receive(&first).unwrap().is_none(), "the older one is let go");
        scene.say(&second, Request::Fetch(Empty {}), &[]);
        let (Reply::Kept(kept), fds) = scene.hear(&second) else { panic!("nothing kept") };
        assert_eq!(kept, pod);
        let (given, got) =
            (file.metadata().unwrap(), fs::File::from(fds.into_iter().next().unwrap()).metadata().unwrap());
        assert_eq!(given.st_ino(), got.st_ino());
        assert!(matches!(scene.hear(&second).0, Reply::Fetched(state) if state.pods == 1));

        drop(second);
        scene.table.turn(Instant::now()).unwrap();
        assert!(scene.table.over(Instant::now()) && !scene.table.dismissed(), "its patience, none here, is over");
        let third = scene.dial();
        scene.say(&third, hello(), &[]);
        scene.say(&third, Request::Bye(Empty {}), &[]);
        assert!(scene.table.dismissed());
    }

    #[test]
    fn other_users_are_not_heard() {
        let mut scene = Scene::new(me() + 1, Duration::from_secs(60));
        let stranger = scene.dial();
        assert!(channel::receive(&stranger).unwrap().is_none());
        let mut scene = Scene::new(me(), Duration::from_secs(60));
        let agent = scene.dial();
        scene.say(&agent, hello(), &[]);
        let other = scene.dial();
        scene.say(&other, Request::Hello(Hello { version: 1, instance: "green".to_owned() }), &[]);
        assert!(matches!(scene.hear(&other).0, Reply::Welcome(welcome) if welcome.instance == "blue"));
        assert!(channel::receive(&other).unwrap().is_none(), "another instance's sockets are not its own");
        let rude = scene.dial();
        scene.say(&rude, Request::Fetch(Empty {}), &[]);
        assert!(channel::receive(&rude).unwrap().is_none(), "whoever does not begin with Hello is not served");
    }
}
