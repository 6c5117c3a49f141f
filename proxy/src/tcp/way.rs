//! One direction of a connection that is copied: what is read of one side until it is delivered to the other.
//!
//! No buffer per connection: a worker reads into one scratch buffer and writes on at once; only what the writer does
//! not take is kept. A direction that keeps filling the scratch is bulk and moves to splice(2), which for small
//! messages would cost more than it saves. Bytes under TLS go through the scratch.

use std::{
    cell::RefCell,
    fs::File,
    io::{self, Read, Write},
    os::fd::OwnedFd,
    pin::Pin,
    task::{Context, Poll, ready},
};

use nix::{
    fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice},
    sys::stat::fstat,
    unistd::pipe2,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};

use crate::{linger::readable, pod::passing::Undelivered, wire::io::Io};

/// The largest multiple of the loopback's segment size below 64 KiB: most copying is between a pod and this proxy over
/// its loopback, and with TCP_NODELAY a remainder would go out as a segment of its own.
const SCRATCH_BYTES: usize = 65_483;
/// Reads in a row that fill the scratch before a direction counts as bulk.
const BULK_READS: u32 = 4;
/// Size of a bulk direction's pipe; where the kernel grants less, it has that.
const PIPE_BYTES: usize = 1 << 20;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH_BYTES]);
}

/// Watches over what the client sends.
pub(crate) trait Watch {
    /// The client has sent something, or that it will send no more: whether the connection may go on. Until that is known
    /// it is asked again.
    fn poll_admits(&self, cx: &mut Context<'_>) -> Poll<bool>;

    /// Whether all bytes are to be seen, not only the first.
    fn is_continuous(&self) -> bool;
}

/// Nobody watches.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unwatched;

impl Watch for Unwatched {
    fn poll_admits(&self, _: &mut Context<'_>) -> Poll<bool> {
        Poll::Ready(true)
    }

    fn is_continuous(&self) -> bool {
        false
    }
}

/// Why a direction fails.
pub(super) enum Failure {
    /// The gate did not let the bytes pass.
    Refused,
    /// The side that they come from.
    Reading(io::Error),
    /// The side that they go to.
    Writing(io::Error),
}

/// One direction.
#[derive(Debug, Default)]
pub(super) struct OneWay {
    /// What the writer has not taken yet, from `offset` on.
    pending: Vec<u8>,
    offset: usize,
    /// Bulk only.
    pipe: Option<Pipe>,
    full_reads: u32,
    end_of_input: bool,
    /// What is pending waits until the gate lets it pass.
    withheld: bool,
    /// The end has been passed on too.
    pub done: bool,
}

#[derive(Debug)]
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    /// Bytes inside.
    filled: usize,
    size: usize,
}

impl OneWay {
    /// One that goes on with what another process has read. Error: it is not what it is said to be.
    pub fn with(Undelivered { buffered, pipe }: Undelivered) -> io::Result<Self> {
        let pending = buffered.map(|(read, bytes)| unbuffer(read, bytes)).transpose()?.unwrap_or_default();
        let pipe = pipe.map(|(ends, filled)| Pipe::of(ends, filled)).transpose()?;
        Ok(Self { pending, pipe, ..Self::default() })
    }

    /// A copy of what is not delivered, for another process to go on with while this one does not.
    pub fn undelivered(&self) -> io::Result<Undelivered> {
        let pending = &self.pending[self.offset..];
        let buffered = if pending.is_empty() { None } else { Some((buffer(pending)?, pending.len())) };
        let pipe = self.pipe.as_ref().filter(|pipe| pipe.filled > 0);
        let ends =
            pipe.map(|pipe| Ok::<_, io::Error>(([pipe.read.try_clone()?, pipe.write.try_clone()?], pipe.filled)));
        Ok(Undelivered { buffered, pipe: ends.transpose()? })
    }

    /// Whether something was read that is not delivered.
    pub fn holds(&self) -> bool {
        self.offset < self.pending.len() || self.pipe.as_ref().is_some_and(|pipe| pipe.filled > 0)
    }

    /// Moves what can be moved; ready once the input has ended and everything is delivered. With `other_done` the
    /// sockets are about to be closed, which says FIN as well as shutdown(2) would.
    pub fn poll(
        &mut self,
        from: &mut Io,
        to: &mut Io,
        gate: Option<&impl Watch>,
        taken: &mut u64,
        other_done: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Failure>> {
        if self.done {
            return Poll::Ready(Ok(()));
        }
        if self.withheld {
            if !ready!(gate.map_or(Poll::Ready(true), |gate| gate.poll_admits(cx))) {
                return Poll::Ready(Err(Failure::Refused));
            }
            self.withheld = false;
        }
        loop {
            ready!(self.poll_deliver(to, cx)).map_err(Failure::Writing)?;
            if self.end_of_input {
                // TLS says its end by itself, which closing a socket does not.
                if !other_done || to.plain().is_none() {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(Failure::Writing)?;
                }
                self.done = true;
                return Poll::Ready(Ok(()));
            }
            let bulk = self.full_reads >= BULK_READS && gate.is_none_or(|gate| !gate.is_continuous());
            if bulk && self.pipe.is_none() && from.plain().is_some() && to.plain().is_some() {
                // Without pipes (out of descriptors) the scratch goes on serving.
                self.pipe = Pipe::new().ok();
                self.full_reads = 0;
            }
            match &mut self.pipe {
                Some(pipe) => {
                    let Some(socket) = from.plain() else { return Poll::Ready(Err(Failure::Reading(no_socket()))) };
                    let read = ready!(pipe.poll_fill(socket, cx)).map_err(Failure::Reading)?;
                    self.end_of_input = read == 0;
                    *taken += read as u64;
                }
                None => ready!(self.poll_through_scratch(from, to, gate, taken, cx))?,
            }
        }
    }

    fn poll_deliver(&mut self, to: &mut Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.offset < self.pending.len() {
            let written = ready!(Pin::new(&mut *to).poll_write(cx, &self.pending[self.offset..]))?;
            self.offset += written;
        }
        if self.offset > 0 {
            self.pending = Vec::new();
            self.offset = 0;
        }
        match &mut self.pipe {
            Some(pipe) => match to.plain() {
                Some(socket) => pipe.poll_drain(socket, cx),
                None => Poll::Ready(Err(no_socket())),
            },
            // Records that the socket did not take; nothing for bare bytes.
            None => Pin::new(to).poll_flush(cx),
        }
    }

    fn poll_through_scratch(
        &mut self,
        from: &mut Io,
        to: &mut Io,
        gate: Option<&impl Watch>,
        taken: &mut u64,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Failure>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(poll_read(from, cx, &mut buffer)).map_err(Failure::Reading)?;
            let mut rest = buffer.filled();
            *taken += rest.len() as u64;
            match gate.map_or(Poll::Ready(true), |gate| gate.poll_admits(cx)) {
                Poll::Ready(true) => {}
                Poll::Ready(false) => return Poll::Ready(Err(Failure::Refused)),
                Poll::Pending => {
                    self.pending.extend_from_slice(rest);
                    (self.withheld, self.end_of_input) = (true, rest.is_empty());
                    return Poll::Pending;
                }
            }
            if rest.is_empty() {
                self.end_of_input = true;
                return Poll::Ready(Ok(()));
            }
            self.full_reads = if rest.len() == SCRATCH_BYTES { self.full_reads + 1 } else { 0 };
            while !rest.is_empty() {
                match Pin::new(&mut *to).poll_write(cx, rest) {
                    Poll::Ready(Ok(written)) => {
                        rest = &rest[written..];
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(Failure::Writing(error))),
                    Poll::Pending => {
                        self.pending.extend_from_slice(rest);
                        break;
                    }
                }
            }
            Poll::Ready(Ok(()))
        })
    }
}

/// Reads. TLS that ends without a `close_notify` has ended all the same: many clients do not send one.
fn poll_read(from: &mut Io, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
    match ready!(Pin::new(from).poll_read(cx, buffer)) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
        read => Poll::Ready(read),
    }
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        // Above the user's soft limit of pipe pages the kernel refuses, and the pipe keeps the size it has.
        let _ = fcntl(&write, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES as i32));
        let size = fcntl(&write, FcntlArg::F_GETPIPE_SZ)? as usize;
        Ok(Self { read, write, filled: 0, size })
    }

    /// One that has `filled` bytes inside, which is verified: else its bytes would be waited for in vain.
    fn of([read, write]: [OwnedFd; 2], filled: usize) -> io::Result<Self> {
        let size = fcntl(&write, FcntlArg::F_GETPIPE_SZ)? as usize;
        if fstat(&read)?.st_ino != fstat(&write)?.st_ino || readable(&read)? != filled {
            return Err(invalid(format!("not a pipe with {filled} bytes inside")));
        }
        for end in [&read, &write] {
            fcntl(end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        Ok(Self { read, write, filled, size })
    }

    /// Reads into an empty pipe; 0 at the end of the input.
    fn poll_fill(&mut self, from: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        loop {
            ready!(from.poll_read_ready(cx))?;
            let moved = from.try_io(Interest::READABLE, || {
                Ok(splice(
                    from,
                    None,
                    &self.write,
                    None,
                    self.size,
                    SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK,
                )?)
            });
            match moved {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(read) => {
                    self.filled = read;
                    return Poll::Ready(Ok(read));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Writes until the pipe is empty.
    fn poll_drain(&mut self, to: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.filled > 0 {
            ready!(to.poll_write_ready(cx))?;
            let moved = to.try_io(Interest::WRITABLE, || {
                Ok(splice(
                    &self.read,
                    None,
                    to,
                    None,
                    self.filled,
                    SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK,
                )?)
            });
            match moved {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(written) => self.filled -= written,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Pipes are between sockets only.
fn no_socket() -> io::Error {
    io::ErrorKind::Unsupported.into()
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// A pipe's end to read, with these bytes inside.
fn buffer(bytes: &[u8]) -> io::Result<OwnedFd> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    // An empty pipe takes at least 64 KiB at once; one that a user with too many of them gets may be smaller.
    File::from(write).write_all(bytes)?;
    Ok(read)
}

/// The bytes of such a pipe.
fn unbuffer(read: OwnedFd, bytes: usize) -> io::Result<Vec<u8>> {
    if bytes > SCRATCH_BYTES || readable(&read)? != bytes {
        return Err(invalid(format!("not a pipe with {bytes} bytes inside, at most {SCRATCH_BYTES}")));
    }
    let mut pending = vec![0; bytes];
    File::from(read).read_exact(&mut pending)?;
    Ok(pending)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_delivered_comes_out_as_it_went_in() {
        let mut pipe = Pipe::new().unwrap();
        File::from(pipe.write.try_clone().unwrap()).write_all(b"in the pipe").unwrap();
        pipe.filled = 11;
        let way = OneWay { pending: b"gone, left".to_vec(), offset: 6, pipe: Some(pipe), ..OneWay::default() };
        let way = OneWay::with(way.undelivered().unwrap()).unwrap();
        assert_eq!((&*way.pending, way.offset, way.holds()), (&b"left"[..], 0, true));
        let pipe = way.pipe.unwrap();
        assert_eq!(pipe.filled, 11);
        let mut inside = [0; 11];
        File::from(pipe.read).read_exact(&mut inside).unwrap();
        assert_eq!(&inside, b"in the pipe");

        let full = OneWay { pending: vec![7; SCRATCH_BYTES], ..OneWay::default() };
        let full = OneWay::with(full.undelivered().unwrap()).unwrap();
        assert_eq!(full.pending, vec![7; SCRATCH_BYTES]);
        assert!(!OneWay::with(OneWay::default().undelivered().unwrap()).unwrap().holds());
    }

    #[test]
    fn pipes_hold_what_is_said_of_them_or_are_refused() {
        let pipe = || {
            let (read, write) = pipe2(OFlag::O_CLOEXEC).unwrap();
            File::from(write.try_clone().unwrap()).write_all(b"four").unwrap();
            (read, write)
        };
        let refused = |undelivered| OneWay::with(undelivered).unwrap_err().to_string();
        for bytes in [3, 5, SCRATCH_BYTES + 1] {
            let buffered = Some((pipe().0, bytes));
            let error = refused(Undelivered { buffered, pipe: None });
            assert_eq!(error, format!("not a pipe with {bytes} bytes inside, at most {SCRATCH_BYTES}"));
        }
        let (read, write) = pipe();
        let other = pipe().1;
        let error = refused(Undelivered { buffered: None, pipe: Some(([read, other], 4)) });
        assert_eq!(error, "not a pipe with 4 bytes inside");
        let error = refused(Undelivered { buffered: None, pipe: Some(([pipe().0, write], 5)) });
        assert_eq!(error, "not a pipe with 5 bytes inside");
    }
}
