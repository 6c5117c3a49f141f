//! The body of an answer: text in pieces and without a length, as Envoy sends it, or messages of gRPC.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame};

use super::{client_status::Calls, counts::Request};

/// A piece, bytes.
const PIECE: usize = 64 * 1024;

/// What is yet to be sent.
#[derive(Debug)]
pub(super) struct Chunks {
    rest: Bytes,
    /// Counts the request.
    _request: Request,
}

impl Chunks {
    /// `request` lasts until all of it is sent.
    pub(super) fn new(text: String, request: Request) -> Self {
        Self { rest: text.into(), _request: request }
    }
}

impl Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let rest = &mut self.get_mut().rest;
        if rest.is_empty() {
            return Poll::Ready(None);
        }
        let piece = rest.split_to(rest.len().min(PIECE));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

/// Either kind of body.
pub(super) enum Answer {
    /// Text.
    Text(Chunks),
    /// gRPC.
    Calls(Calls),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Text(chunks) => Pin::new(chunks).poll_frame(cx),
            Self::Calls(calls) => Pin::new(calls).poll_frame(cx),
        }
    }
}
