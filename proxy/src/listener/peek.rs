//! The first bytes of a connection, without taking them off the socket.

use std::{cell::RefCell, io};

use tokio::{io::Interest, net::TcpStream};

use super::proxy_protocol;
use crate::wire::{io::Io, within::Within};

/// The most that anybody looks at.
const MOST: usize = proxy_protocol::LONGEST;

thread_local! {
    /// What is looked at never outlives the look: one buffer per worker.
    static BYTES: RefCell<Vec<u8>> = RefCell::new(vec![0; MOST]);
}

/// Why nothing can be decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stuck {
    /// No more will come.
    Closed,
    /// More would not be looked at.
    Full,
    /// The socket failed.
    Failed,
}

/// Waits until `decide` can tell from the first bytes, of which it sees up to `most`.
pub(super) async fn until<T>(stream: &Io, most: usize, mut decide: impl FnMut(&[u8]) -> Option<T>) -> Result<T, Stuck> {
    let stream = match (stream.plain(), stream.within()) {
        (Some(stream), _) => stream,
        (None, Some(within)) => return until_within(within, most, decide).await,
        (None, None) => return Err(Stuck::Failed),
    };
    loop {
        let ready = stream.ready(Interest::READABLE).await.map_err(|_| Stuck::Failed)?;
        let looked = BYTES.with_borrow_mut(|bytes| {
            let bytes = &mut bytes[..most.min(MOST)];
            let length = stream.try_io(Interest::READABLE, || peek(stream, bytes))?;
            Ok::<_, io::Error>((decide(&bytes[..length]), length, length == bytes.len()))
        });
        match looked {
            Ok((Some(decided), ..)) => return Ok(decided),
            Ok((None, 0, _)) => return Err(Stuck::Closed),
            Ok((None, _, true)) => return Err(Stuck::Full),
            Ok((None, ..)) if ready.is_read_closed() => return Err(Stuck::Closed),
            Ok((None, ..)) => {
                // The bytes stay where they are: forget that the socket is readable, and wait for more to arrive.
                let _ = stream.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return Err(Stuck::Failed),
        }
    }
}

/// The same of a connection inside of this process.
async fn until_within<T>(within: &Within, most: usize, mut decide: impl FnMut(&[u8]) -> Option<T>) -> Result<T, Stuck> {
    loop {
        let (decided, length, full, ended) = BYTES.with_borrow_mut(|bytes| {
            let bytes = &mut bytes[..most.min(MOST)];
            let (length, ended) = within.look(bytes);
            (decide(&bytes[..length]), length, length == bytes.len(), ended)
        });
        match decided {
            Some(decided) => return Ok(decided),
            None if full => return Err(Stuck::Full),
            None if ended => return Err(Stuck::Closed),
            None => within.longer(length).await.map_err(|_| Stuck::Failed)?,
        }
    }
}

fn peek(stream: &TcpStream, bytes: &mut [u8]) -> io::Result<usize> {
    use nix::sys::socket::{MsgFlags, recv};
    use std::os::fd::AsRawFd;
    recv(stream.as_raw_fd(), bytes, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT).map_err(io::Error::from)
}
