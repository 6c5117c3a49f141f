//! Request bodies on their way upstream: as they come from the client (`client`), kept for attempts that follow
//! (`kept`), copied for mirrors (`copied`), what looks on (`progress`, `counting`) or slows a body down (`throttle`), and what
//! ends the sending of one (`sending`).
//!
//! Below the pool, whose connections send them: nothing here knows of streams or of filters.

pub(in crate::http) mod client;
pub(in crate::http) mod copied;
pub(in crate::http) mod counting;
pub(in crate::http) mod error;
pub(in crate::http) mod filled;
pub(in crate::http) mod kept;
pub(in crate::http) mod progress;
pub(in crate::http) mod sending;
pub(in crate::http) mod throttle;

use std::{
    cell::RefCell,
    future::poll_fn,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use self::{
    client::ClientBody,
    copied::Copied,
    error::BodyError,
    kept::{Kept, Replay},
    sending::Sending,
};
use super::codec::trailers::Sent;

/// The client's connection, which reads the body, runs in turn with who waits for it: what has come is there after fewer
/// turns than these.
const ARRIVED_WITHIN: usize = 4;

/// A request body on its way upstream.
#[derive(Debug)]
pub(in crate::http) enum RequestBody {
    /// There is none.
    Empty,
    /// Passed through.
    Stream(ClientBody),
    /// Passed through and kept.
    Kept(Replay),
    /// A copy of one that passes elsewhere.
    Copy(Rc<RefCell<Copied>>),
    /// One over HTTP/1, which has its way with trailers.
    Trailed(Box<RequestBody>, Sent),
    /// One over HTTP/2, which may be ended.
    Sending(Box<RequestBody>, Rc<Sending>),
}

impl RequestBody {
    /// With its trailers sent this way.
    pub fn trailed(self, sent: Sent) -> Self {
        match self {
            Self::Empty => Self::Empty,
            Self::Trailed(body, _) => Self::Trailed(body, sent),
            body => Self::Trailed(Box::new(body), sent),
        }
    }

    /// May be ended.
    pub fn sent(self, sending: &Rc<Sending>) -> Self {
        Self::Sending(Box::new(self), sending.clone())
    }

    /// As it was before a connection was to send it.
    pub fn unsent(self) -> Self {
        match self {
            Self::Trailed(body, _) | Self::Sending(body, _) => *body,
            body => body,
        }
    }
}

/// A body of which what comes can be read before it is taken.
pub(in crate::http) trait ReadAhead {
    /// Reads what comes, up to a limit. Ready: nothing more is to be read ahead.
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Waits for `future`; what comes meanwhile is read.
    async fn ahead_while<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|cx| {
            let polled = future.as_mut().poll(cx);
            if polled.is_pending() {
                // Of no consequence to who waits.
                let _ = self.poll_ahead(cx);
            }
            polled
        })
        .await
    }

    /// Reads what has come by now, such as what came together with the request's head.
    async fn read_arrived(&mut self) {
        for _ in 0..ARRIVED_WITHIN {
            if poll_fn(|cx| Poll::Ready(self.poll_ahead(cx))).await.is_ready() {
                return;
            }
            tokio::task::yield_now().await;
        }
    }
}

impl ReadAhead for ClientBody {
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        ClientBody::poll_ahead(self, cx)
    }
}

impl ReadAhead for RequestBody {
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Empty | Self::Copy(_) => Poll::Ready(()),
            Self::Stream(body) => body.poll_ahead(cx),
            Self::Kept(replay) => replay.poll_ahead(cx),
            Self::Trailed(body, _) | Self::Sending(body, _) => body.poll_ahead(cx),
        }
    }
}

impl ReadAhead for BodySource {
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::None | Self::Once(None) => Poll::Ready(()),
            Self::Once(Some(body)) => body.poll_ahead(cx),
            Self::Kept(kept) => kept.borrow_mut().poll_ahead(cx),
            Self::After(body) => body.poll_ahead(cx),
        }
    }
}

/// Where the body of each attempt comes from.
pub(in crate::http) enum BodySource {
    /// There is none.
    None,
    /// Cannot be sent twice.
    Once(Option<ClientBody>),
    /// Can be, as long as all of it is there.
    Kept(Rc<RefCell<Kept>>),
    /// Comes after what is asked for: no attempt sends it.
    After(ClientBody),
}

impl BodySource {
    /// The body of the next attempt.
    pub fn next(&mut self) -> RequestBody {
        match self {
            Self::None | Self::After(_) => RequestBody::Empty,
            Self::Once(body) => body.take().map_or(RequestBody::Empty, RequestBody::Stream),
            Self::Kept(kept) => RequestBody::Kept(Kept::replay(kept)),
        }
    }

    /// Whether it was to be kept, and more has come than is kept.
    pub fn is_abandoned(&self) -> bool {
        matches!(self, Self::Kept(_)) && !self.can_replay()
    }

    /// Whether another attempt may follow.
    pub fn can_replay(&self) -> bool {
        match self {
            Self::None | Self::After(_) => true,
            Self::Once(_) => false,
            Self::Kept(kept) => kept.borrow().can_replay(),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Stream(body) => Pin::new(body).poll_frame(cx),
            Self::Kept(replay) => replay.poll_frame(cx),
            Self::Copy(copied) => copied.borrow_mut().poll_frame(cx),
            Self::Trailed(body, sent) => Pin::new(&mut **body).poll_frame(cx).map(|frame| match frame? {
                Ok(frame) => match frame.into_trailers() {
                    Ok(trailers) => sent.last(trailers).map(Ok),
                    Err(frame) => Some(Ok(frame)),
                },
                Err(error) => Some(Err(error)),
            }),
            Self::Sending(_, sending) if sending.is_over() => Poll::Ready(Some(Err(BodyError::Unwanted))),
            Self::Sending(body, sending) => {
                sending.begins();
                Pin::new(&mut **body).poll_frame(cx)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream(body) => body.is_end_stream(),
            Self::Kept(replay) => replay.is_end_stream(),
            Self::Copy(copied) => copied.borrow().is_end_stream(),
            Self::Trailed(body, _) => body.is_end_stream(),
            Self::Sending(body, sending) => {
                sending.begins();
                body.is_end_stream()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Stream(body) => body.size_hint(),
            Self::Kept(replay) => replay.size_hint(),
            Self::Copy(_) => SizeHint::default(),
            Self::Trailed(body, _) | Self::Sending(body, _) => body.size_hint(),
        }
    }
}
