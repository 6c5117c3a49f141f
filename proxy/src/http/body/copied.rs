//! A body that is copied while it passes.

use std::{
    cell::RefCell,
    collections::VecDeque,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;

use super::error::BodyError;

/// A body that is copied while it passes.
#[derive(Debug)]
pub(in crate::http) struct Copied {
    waiting: VecDeque<Piece>,
    bytes: usize,
    /// More than this may not wait: a mirror that is slower than the request is given up.
    limit: usize,
    state: State,
    waker: Option<Waker>,
}

#[derive(Debug)]
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Coming,
    Ended,
    Broken,
}

impl Copied {
    /// Of a body that begins; no more than `limit` bytes wait.
    pub fn new(limit: usize) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self { waiting: VecDeque::new(), bytes: 0, limit, state: State::Coming, waker: None }))
    }

    /// A frame has passed.
    pub fn add(&mut self, frame: &Frame<Bytes>) {
        if self.state != State::Coming {
            return;
        }
        if let Some(data) = frame.data_ref() {
            self.bytes += data.len();
            self.waiting.push_back(Piece::Data(data.clone()));
        } else if let Some(trailers) = frame.trailers_ref() {
            self.waiting.push_back(Piece::Trailers(trailers.clone()));
        }
        if self.bytes > self.limit {
            self.waiting.clear();
            self.state = State::Broken;
        }
        self.wake();
    }

    /// The body has ended, or broken off.
    pub fn end(&mut self, complete: bool) {
        if self.state == State::Coming {
            self.state = if complete { State::Ended } else { State::Broken };
            self.wake();
        }
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// The next frame of the copy.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match (self.waiting.pop_front(), self.state) {
            (Some(Piece::Data(data)), _) => {
                self.bytes -= data.len();
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            (Some(Piece::Trailers(trailers)), _) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            (None, State::Ended) => Poll::Ready(None),
            (None, State::Broken) => Poll::Ready(Some(Err(BodyError::Superseded))),
            (None, State::Coming) => {
                self.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Whether nothing more comes.
    pub fn is_end_stream(&self) -> bool {
        self.waiting.is_empty() && self.state == State::Ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_copy_that_falls_behind_breaks_off() {
        let copied = Copied::new(3);
        copied.borrow_mut().add(&Frame::data(Bytes::from_static(b"abc")));
        let frame = std::future::poll_fn(|cx| copied.borrow_mut().poll_frame(cx)).await;
        assert_eq!(frame.unwrap().unwrap().into_data().unwrap(), "abc");
        copied.borrow_mut().add(&Frame::data(Bytes::from_static(b"abcd")));
        let frame = std::future::poll_fn(|cx| copied.borrow_mut().poll_frame(cx)).await;
        assert!(matches!(frame, Some(Err(BodyError::Superseded))));
    }
}
