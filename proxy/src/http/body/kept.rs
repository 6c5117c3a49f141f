//! A request's body, kept as it comes: an attempt that follows another begins it anew.

use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::{client::ClientBody, error::BodyError};

/// A kept body, from its beginning, for one attempt.
#[derive(Debug)]
pub(in crate::http) struct Replay {
    kept: Rc<RefCell<Kept>>,
    /// Which attempt reads it: the latest one is woken, others are told that they are over.
    attempt: u32,
    next: usize,
    trailers_sent: bool,
}

/// What has come of a body that may have to be sent again.
#[derive(Debug)]
pub(in crate::http) struct Kept {
    incoming: ClientBody,
    chunks: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    /// What the client says of the body's length.
    length: Option<u64>,
    bytes: usize,
    limit: usize,
    too_large: bool,
    ended: bool,
    /// Read before any attempt takes it, and no part of what is kept: it would be too large.
    ahead: Option<Result<Frame<Bytes>, BodyError>>,
    attempts: u32,
    /// Attempts go on beside one another, once all of it has come.
    together: bool,
}

impl Kept {
    /// Of `incoming`, up to `limit` bytes. `together`: attempts go on beside one another, once all of it has come.
    pub fn new(incoming: ClientBody, limit: usize, together: bool) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self {
            length: incoming.size_hint().exact(),
            incoming,
            chunks: Vec::new(),
            trailers: None,
            bytes: 0,
            limit,
            too_large: false,
            ended: false,
            ahead: None,
            attempts: 0,
            together,
        }))
    }

    /// Whether everything that has come is still here.
    pub fn can_replay(&self) -> bool {
        !self.too_large && self.ahead.is_none()
    }

    /// Reads what comes before an attempt takes it. Ready: nothing more is to be read ahead.
    pub fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.ended && self.can_replay() {
            let frame = ready!(Pin::new(&mut self.incoming).poll_frame(cx));
            let is_kept = frame.as_ref().is_none_or(|frame| {
                let length = frame.as_ref().map(|frame| frame.data_ref().map_or(0, Bytes::len));
                length.is_ok_and(|length| self.bytes + length <= self.limit)
            });
            if is_kept {
                self.note(frame.as_ref());
            } else {
                self.ahead = frame;
            }
        }
        Poll::Ready(())
    }

    /// Whether all of it has come and is still here.
    pub fn is_whole(&self) -> bool {
        self.ended && !self.too_large
    }

    /// A body that was kept whole, for a request that begins anew.
    pub fn again(kept: &Rc<RefCell<Self>>) -> ClientBody {
        let this = kept.borrow();
        ClientBody::read(this.chunks.iter().cloned().collect(), this.trailers.clone(), this.length.is_none())
    }

    /// The body from its beginning, for one more attempt. Attempts before it get no more of it: there is one place for
    /// who waits for the client, and an old attempt's connection must not take it.
    pub fn replay(kept: &Rc<RefCell<Self>>) -> Replay {
        let mut this = kept.borrow_mut();
        this.attempts += 1;
        Replay { kept: kept.clone(), attempt: this.attempts, next: 0, trailers_sent: false }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let frame = match self.ahead.take() {
            Some(frame) => Some(frame),
            None => ready!(Pin::new(&mut self.incoming).poll_frame(cx)),
        };
        self.note(frame.as_ref());
        Poll::Ready(frame)
    }

    fn note(&mut self, frame: Option<&Result<Frame<Bytes>, BodyError>>) {
        match frame {
            None => self.ended = true,
            Some(Err(_)) => {}
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.keep(data.clone());
                } else if let Some(trailers) = frame.trailers_ref() {
                    self.trailers = Some(trailers.clone());
                    self.ended = true;
                }
                if self.incoming.is_end_stream() {
                    self.ended = true;
                }
            }
        }
    }

    fn keep(&mut self, data: Bytes) {
        self.bytes += data.len();
        if self.bytes > self.limit {
            self.too_large = true;
            self.chunks = Vec::new();
        } else {
            self.chunks.push(data);
        }
    }
}

impl Replay {
    pub(super) fn poll_ahead(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.kept.borrow_mut().poll_ahead(cx)
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut kept = self.kept.borrow_mut();
        if kept.attempts != self.attempt && !(kept.together && kept.ended) {
            return Poll::Ready(Some(Err(BodyError::Superseded)));
        }
        if let Some(chunk) = kept.chunks.get(self.next) {
            self.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(chunk.clone()))));
        }
        if kept.ended {
            let trailers = if self.trailers_sent { None } else { kept.trailers.clone() };
            self.trailers_sent = true;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let frame = ready!(kept.poll(cx));
        match &frame {
            Some(Ok(frame)) if frame.is_data() => self.next += 1,
            Some(Ok(_)) => self.trailers_sent = true,
            _ => {}
        }
        Poll::Ready(frame)
    }

    pub(super) fn is_end_stream(&self) -> bool {
        let kept = self.kept.borrow();
        kept.ended && self.next >= kept.chunks.len() && (self.trailers_sent || kept.trailers.is_none())
    }

    /// Known if the client said it: a body whose length the client left open goes on as such in each attempt.
    pub(super) fn size_hint(&self) -> SizeHint {
        let kept = self.kept.borrow();
        let Some(length) = kept.length else { return SizeHint::default() };
        let sent: u64 = kept.chunks.iter().take(self.next).map(|chunk| chunk.len() as u64).sum();
        SizeHint::with_exact(length.saturating_sub(sent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn next(body: &mut Replay) -> Option<Result<Bytes, BodyError>> {
        let frame = std::future::poll_fn(|cx| body.poll_frame(cx)).await?;
        Some(frame.map(|frame| frame.into_data().unwrap()))
    }

    #[tokio::test]
    async fn a_later_attempt_gets_the_body_from_its_beginning_and_an_earlier_one_no_more_of_it() {
        let chunks = ["one", "two"].map(Bytes::from).into();
        let kept = Kept::new(ClientBody::read(chunks, None, false), 100, false);
        let mut first = Kept::replay(&kept);
        assert_eq!(next(&mut first).await.unwrap().unwrap(), "one");
        let mut second = Kept::replay(&kept);
        assert!(matches!(next(&mut first).await, Some(Err(BodyError::Superseded))));
        assert_eq!(next(&mut second).await.unwrap().unwrap(), "one");
        assert_eq!(next(&mut second).await.unwrap().unwrap(), "two");
        assert!(next(&mut second).await.is_none() && second.is_end_stream());
    }

    #[tokio::test]
    async fn attempts_beside_one_another_share_a_body_that_has_come() {
        let chunks = ["one", "two"].map(Bytes::from).into();
        let kept = Kept::new(ClientBody::read(chunks, None, false), 100, true);
        let mut first = Kept::replay(&kept);
        std::future::poll_fn(|cx| first.poll_ahead(cx)).await;
        let mut second = Kept::replay(&kept);
        for body in [&mut first, &mut second] {
            assert_eq!(next(body).await.unwrap().unwrap(), "one");
        }
        for body in [&mut first, &mut second] {
            assert_eq!(next(body).await.unwrap().unwrap(), "two");
            assert!(next(body).await.is_none() && body.is_end_stream());
        }
    }

    #[tokio::test]
    async fn what_is_read_ahead_is_kept_while_it_fits_and_passed_on_once() {
        for (limit, replayed) in [(6, true), (5, false)] {
            let chunks = ["one", "two"].map(Bytes::from).into();
            let kept = Kept::new(ClientBody::read(chunks, None, false), limit, false);
            let mut body = Kept::replay(&kept);
            std::future::poll_fn(|cx| body.poll_ahead(cx)).await;
            assert_eq!(kept.borrow().can_replay(), replayed, "{limit}");
            assert_eq!(body.size_hint().exact(), Some(6));
            assert_eq!(next(&mut body).await.unwrap().unwrap(), "one");
            assert_eq!(next(&mut body).await.unwrap().unwrap(), "two");
            assert!(next(&mut body).await.is_none() && body.is_end_stream());
        }
    }
}
