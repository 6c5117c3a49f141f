//! Asking the agent over its socket, never longer than until a deadline.

use std::{
    io::IoSlice,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, sendmsg, socket,
    },
};

use crate::protocol::{Answer, LONGEST, Request, Verdict, packet};

/// A socket whose backlog is full is tried again after this.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoAnswer {
    /// Nobody is at the socket.
    #[error("no agent answers ({})", .0.desc())]
    Unreachable(Errno),
    /// Somebody is, and says nothing.
    #[error("the agent does not answer")]
    Silent,
    /// The connection ended: the agent ended, or left the socket to its successor.
    #[error("the agent ended the connection")]
    Ended,
    /// It said something that is not in the protocol, or of a version that this plugin does not know.
    #[error("the agent's answer is not understood: {0}")]
    NotUnderstood(String),
}

/// A connection to the agent on which a request was sent.
#[derive(Debug)]
pub struct Asked {
    socket: OwnedFd,
}

impl Asked {
    /// Sends a request, with the pod's network namespace beside it.
    pub fn send(
        path: &Path,
        request: &Request,
        netns: Option<BorrowedFd<'_>>,
        deadline: Instant,
    ) -> Result<Self, NoAnswer> {
        let socket = dial(path, deadline)?;
        let request = packet(request);
        let descriptors: Vec<_> = netns.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&descriptors)];
        let rights = if descriptors.is_empty() { &rights[..0] } else { &rights[..] };
        // Nothing was sent before: there is room.
        let data = [IoSlice::new(&request)];
        let sent = sendmsg::<UnixAddr>(socket.as_raw_fd(), &data, rights, MsgFlags::MSG_NOSIGNAL, None);
        sent.map(|_| Self { socket }).map_err(|_| NoAnswer::Ended)
    }

    /// The next answer.
    pub fn answer(&mut self, deadline: Instant) -> Result<Answer, NoAnswer> {
        let mut bytes = vec![0; LONGEST];
        loop {
            match recv(self.socket.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return Err(NoAnswer::Ended),
                Ok(received) => return understood(&bytes[..received]),
                Err(Errno::EAGAIN | Errno::EINTR) => self.wait(deadline)?,
                Err(_) => return Err(NoAnswer::Ended),
            }
        }
    }

    fn wait(&self, deadline: Instant) -> Result<(), NoAnswer> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(NoAnswer::Silent);
        }
        // Rounded up: a fraction of a millisecond would be no wait at all.
        let left = left + Duration::from_millis(1);
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut polled = [PollFd::new(std::os::fd::AsFd::as_fd(&self.socket), PollFlags::POLLIN)];
        match poll(&mut polled, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(NoAnswer::Unreachable(errno)),
        }
    }
}

fn understood(packet: &[u8]) -> Result<Answer, NoAnswer> {
    match serde_json::from_slice(packet) {
        Ok(Answer { verdict: Verdict::Other, version, .. }) => {
            Err(NoAnswer::NotUnderstood(format!("it speaks version {version} of the protocol")))
        }
        Ok(answer) => Ok(answer),
        Err(error) => Err(NoAnswer::NotUnderstood(error.to_string())),
    }
}

/// Connects. Without blocking: to a listener that accepts nobody, that would last as long as it lives.
fn dial(path: &Path, deadline: Instant) -> Result<OwnedFd, NoAnswer> {
    let address = UnixAddr::new(path).map_err(NoAnswer::Unreachable)?;
    loop {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).map_err(NoAnswer::Unreachable)?;
        match connect(socket.as_raw_fd(), &address) {
            Ok(()) => return Ok(socket),
            Err(Errno::EAGAIN) if Instant::now() < deadline => thread::sleep(BUSY_PAUSE),
            Err(Errno::EAGAIN) => return Err(NoAnswer::Silent),
            Err(errno) => return Err(NoAnswer::Unreachable(errno)),
        }
    }
}
