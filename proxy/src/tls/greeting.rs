//! Reading a ClientHello to answer it: rustls is given the bytes, and they are looked at for what it does not tell.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Poll, ready},
};

use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio_rustls::StartHandshake;

use super::{
    failure::Failure,
    hello::{self, Hello, MAX_HELLO, Seen},
};
use crate::wire::{bare::Bare, deferring::Deferring};

thread_local! {
    static BYTES: RefCell<Vec<u8>> = RefCell::new(vec![0; MAX_HELLO]);
}

/// A handshake that a client has begun, and how.
pub(super) async fn read(mut bare: Bare) -> Result<(StartHandshake<Deferring>, Hello), Failure> {
    let mut acceptor = Acceptor::default();
    // Kept only when one read does not bring all of it.
    let mut earlier = Vec::new();
    let mut read_last = 0;
    loop {
        // Polled, as a short read notes then that nothing more is there: the handshake does not ask once more in vain.
        let read = poll_fn(|cx| {
            BYTES.with_borrow_mut(|bytes| {
                let mut buffer = ReadBuf::new(bytes);
                ready!(Pin::new(&mut bare).poll_read(cx, &mut buffer))?;
                let bytes = buffer.filled();
                read_last = bytes.len();
                Poll::Ready(take(bytes, &mut acceptor, &mut earlier))
            })
        });
        let seen = read.await.map_err(|error| Failure::of(&error))?;
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let hello = if let Seen::Hello(hello) = seen { hello } else { Hello::default() };
                return Ok((StartHandshake::from_parts(accepted, Deferring::new(bare)), hello));
            }
            Ok(None) => {}
            Err((error, mut alert)) => {
                let failure = BYTES.with_borrow(|bytes| Failure::of_greeting(&error, &bytes[..read_last]));
                let mut bytes = Vec::new();
                if alert.write_all(&mut bytes).is_ok() {
                    // Whoever is gone does not hear it.
                    let _ = bare.write_all(&bytes).await;
                }
                return Err(failure);
            }
        }
    }
}

/// Gives what came to rustls, and looks at all that has come.
fn take(bytes: &[u8], acceptor: &mut Acceptor, earlier: &mut Vec<u8>) -> io::Result<Seen> {
    if bytes.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut rest = bytes;
    while !rest.is_empty() {
        if acceptor.read_tls(&mut rest)? == 0 {
            break;
        }
    }
    if !earlier.is_empty() {
        earlier.extend_from_slice(bytes);
        return Ok(hello::look(earlier));
    }
    let seen = hello::look(bytes);
    if matches!(seen, Seen::NeedsMore) {
        earlier.extend_from_slice(bytes);
    }
    Ok(seen)
}
