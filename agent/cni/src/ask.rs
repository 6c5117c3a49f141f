//! Asking the agent over its socket, never longer than until a deadline.

use std::{
    io::{self, BufRead, BufReader, IoSlice, Read},
    os::{
        fd::{AsRawFd, BorrowedFd},
        unix::net::UnixStream,
    },
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, socket},
};

use crate::protocol::{Answer, LONGEST, Request, Verdict, line};

/// A socket whose backlog is full is tried again after this.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// Nobody is at the socket.
    #[error("no agent answers ({0})")]
    Unreachable(io::Error),
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
    stream: BufReader<UnixStream>,
}

impl Asked {
    /// Sends a request, with the pod's network namespace beside it.
    pub fn send(
        path: &Path,
        request: &Request,
        netns: Option<BorrowedFd<'_>>,
        deadline: Instant,
    ) -> Result<Self, NoAnswer> {
        let stream = dial(path, deadline)?;
        let request = line(request);
        let descriptors: Vec<_> = netns.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&descriptors)];
        let rights = if descriptors.is_empty() { &rights[..0] } else { &rights[..] };
        set_timeout(&stream, deadline)?;
        // The socket's buffer is empty and larger than a request.
        match sendmsg::<UnixAddr>(stream.as_raw_fd(), &[IoSlice::new(&request)], rights, MsgFlags::MSG_NOSIGNAL, None) {
            Ok(sent) if sent == request.len() => Ok(Self { stream: BufReader::new(stream) }),
            Ok(_) | Err(Errno::EAGAIN) => Err(NoAnswer::Silent),
            Err(_) => Err(NoAnswer::Ended),
        }
    }

    /// The next answer.
    pub fn answer(&mut self, deadline: Instant) -> Result<Answer, NoAnswer> {
        let mut text = Vec::new();
        loop {
            // Set anew for each read: an agent that sends a byte now and then must not be waited for longer.
            set_timeout(self.stream.get_ref(), deadline)?;
            let room = (LONGEST - text.len()) as u64;
            let available = self.stream.fill_buf().map(<[u8]>::len);
            match available {
                Ok(0) => return Err(NoAnswer::Ended),
                Ok(available) => {
                    let mut part = self.stream.by_ref().take(room.min(available as u64));
                    part.read_until(b'\n', &mut text).map_err(|_| NoAnswer::Ended)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Err(NoAnswer::Silent);
                }
                Err(_) => return Err(NoAnswer::Ended),
            }
            if text.last() == Some(&b'\n') {
                return understood(&text);
            }
            if text.len() >= LONGEST {
                return Err(NoAnswer::NotUnderstood(format!("longer than {LONGEST} bytes")));
            }
        }
    }
}

fn understood(text: &[u8]) -> Result<Answer, NoAnswer> {
    match serde_json::from_slice(text) {
        Ok(Answer { verdict: Verdict::Other, version, .. }) => {
            Err(NoAnswer::NotUnderstood(format!("it speaks version {version} of the protocol")))
        }
        Ok(answer) => Ok(answer),
        Err(error) => Err(NoAnswer::NotUnderstood(error.to_string())),
    }
}

/// Connects. Without blocking: to a listener that accepts nobody, that would last as long as it lives.
fn dial(path: &Path, deadline: Instant) -> Result<UnixStream, NoAnswer> {
    let unreachable = |errno: Errno| NoAnswer::Unreachable(errno.into());
    let address = UnixAddr::new(path).map_err(unreachable)?;
    loop {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let dialled = socket(AddressFamily::Unix, SockType::Stream, flags, None).map_err(unreachable)?;
        match connect(dialled.as_raw_fd(), &address) {
            Ok(()) => {
                let stream = UnixStream::from(dialled);
                stream.set_nonblocking(false).map_err(NoAnswer::Unreachable)?;
                return Ok(stream);
            }
            Err(Errno::EAGAIN) if Instant::now() < deadline => thread::sleep(BUSY_PAUSE),
            Err(Errno::EAGAIN) => return Err(NoAnswer::Silent),
            Err(errno) => return Err(unreachable(errno)),
        }
    }
}

fn set_timeout(stream: &UnixStream, deadline: Instant) -> Result<(), NoAnswer> {
    let left = deadline.saturating_duration_since(Instant::now());
    // None would mean for ever.
    if left.is_zero() {
        return Err(NoAnswer::Silent);
    }
    let set = stream.set_read_timeout(Some(left)).and_then(|()| stream.set_write_timeout(Some(left)));
    set.map_err(NoAnswer::Unreachable)
}
