//! What goes both ways between a request's and a response's body and an upstream that gets the payload as it is
//! (`connect_config.allow_post`).

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{connection::Connection, running::Running};
use crate::{
    http::{
        body::{client::ClientBody, error::BodyError},
        codec::framing::Refusal,
        pool::tunnel::Counted,
    },
    wire::io::Io,
};

/// Bytes read at once.
const PIECE: usize = 16 * 1024;

thread_local! {
    /// Where they are read.
    static READ: RefCell<Box<[u8]>> = RefCell::new(vec![0; PIECE].into());
}

/// Why a payload breaks off.
#[derive(Debug)]
pub(super) enum Broken {
    /// The request's body broke off, and why, if it is the client's fault: what came is not all, which neither side must
    /// take for an orderly end.
    Request(BodyError, Option<Refusal>),
    /// The connection to the upstream failed.
    Upstream(io::Error),
}

/// The payload of a request on its way to the upstream, and of the response on its way back. Both move while the
/// response's body is asked for.
#[derive(Debug)]
pub(in crate::http) struct Payload {
    io: Io,
    client: Rc<Connection>,
    /// The request's, until it has ended.
    body: Option<ClientBody>,
    /// The upstream was told of that end.
    told: bool,
    /// Of it, what the upstream has not taken.
    waiting: Bytes,
    running: Rc<Running>,
    counted: Counted,
    sent: u64,
    received: u64,
}

impl Payload {
    /// `io` belongs to the payload from now on, and the limits of the response run.
    pub fn new(io: Io, (client, body): (Rc<Connection>, ClientBody), running: Rc<Running>, counted: Counted) -> Self {
        let waiting = Bytes::new();
        Self { io, client, body: Some(body), told: false, waiting, running, counted, sent: 0, received: 0 }
    }

    /// The next piece of the response; none: the upstream has ended it.
    pub(super) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        if let Poll::Ready(Err(broken)) = self.poll_up(cx) {
            return Poll::Ready(Some(Err(broken)));
        }
        let read = READ.with_borrow_mut(|piece| {
            let mut buffer = ReadBuf::new(piece);
            let read = Pin::new(&mut self.io).poll_read(cx, &mut buffer);
            read.map_ok(|()| Bytes::copy_from_slice(buffer.filled()))
        });
        match ready!(read) {
            Err(error) => Poll::Ready(Some(Err(Broken::Upstream(error)))),
            Ok(piece) if piece.is_empty() => Poll::Ready(None),
            Ok(piece) => {
                self.running.moved();
                self.received += piece.len() as u64;
                Poll::Ready(Some(Ok(piece)))
            }
        }
    }

    /// Moves the request's payload as far as it goes. Ready: its end, too, has been passed on.
    fn poll_up(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        loop {
            while !self.waiting.is_empty() {
                let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.waiting)).map_err(Broken::Upstream)?;
                self.waiting.advance(written);
                self.sent += written as u64;
                self.running.moved();
            }
            let Some(body) = &mut self.body else {
                if !self.told {
                    ready!(Pin::new(&mut self.io).poll_shutdown(cx)).map_err(Broken::Upstream)?;
                    self.told = true;
                }
                return Poll::Ready(Ok(()));
            };
            match Pin::new(body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => self.waiting = frame.into_data().unwrap_or_default(),
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Err(Broken::Request(error, self.client.broken_body())));
                }
                Poll::Ready(None) => self.body = None,
                Poll::Pending => {
                    ready!(Pin::new(&mut self.io).poll_flush(cx)).map_err(Broken::Upstream)?;
                    return Poll::Pending;
                }
            }
        }
    }
}

impl Drop for Payload {
    fn drop(&mut self) {
        self.counted.passed(self.sent, self.received);
    }
}
