//! The first bytes of a connection, without taking them off the socket.

use std::{cell::RefCell, io};

use tokio::{io::Interest, net::TcpStream};

use crate::tls::hello::MAX_HELLO;

thread_local! {
    /// What is looked at never outlives the look: one buffer per worker.
    static BYTES: RefCell<Vec<u8>> = RefCell::new(vec![0; MAX_HELLO]);
}

/// Waits until `decide` can tell from the first bytes, of which it sees up to 16 KiB. None: it cannot, and no more will
/// come.
pub(super) async fn until<T>(stream: &TcpStream, mut decide: impl FnMut(&[u8]) -> Option<T>) -> Option<T> {
    loop {
        let ready = stream.ready(Interest::READABLE).await.ok()?;
        let looked = BYTES.with_borrow_mut(|bytes| {
            let length = stream.try_io(Interest::READABLE, || peek(stream, bytes))?;
            Ok::<_, io::Error>((decide(&bytes[..length]), length, length == bytes.len()))
        });
        match looked {
            Ok((Some(decided), ..)) => return Some(decided),
            Ok((None, 0, _) | (None, _, true)) => return None,
            Ok((None, ..)) if ready.is_read_closed() => return None,
            Ok((None, ..)) => {
                // The bytes stay where they are: forget that the socket is readable, and wait for more to arrive.
                let _ = stream.try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return None,
        }
    }
}

fn peek(stream: &TcpStream, bytes: &mut [u8]) -> io::Result<usize> {
    use nix::sys::socket::{MsgFlags, recv};
    use std::os::fd::AsRawFd;
    recv(stream.as_raw_fd(), bytes, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT).map_err(io::Error::from)
}
