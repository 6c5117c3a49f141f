//! Reading a ClientHello to answer it: rustls is given the bytes, and they are looked at for what it does not tell.

use std::{cell::RefCell, io};

use rustls::server::Acceptor;
use tokio::io::AsyncWriteExt;
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
        bare.readable().await.map_err(|error| Failure::of(&error))?;
        let read: io::Result<Seen> = BYTES.with_borrow_mut(|bytes| {
            let length = bare.try_read(bytes)?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            read_last = length;
            let mut rest = &bytes[..length];
            while !rest.is_empty() {
                if acceptor.read_tls(&mut rest)? == 0 {
                    break;
                }
            }
            Ok(match earlier.is_empty() {
                true => match hello::look(&bytes[..length]) {
                    Seen::NeedsMore => {
                        earlier.extend_from_slice(&bytes[..length]);
                        Seen::NeedsMore
                    }
                    seen => seen,
                },
                false => {
                    earlier.extend_from_slice(&bytes[..length]);
                    hello::look(&earlier)
                }
            })
        });
        let seen = match read {
            Ok(seen) => seen,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(Failure::of(&error)),
        };
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
