//! Request bodies on their way upstream, kept for replays while retries are possible.

use std::{
    cell::RefCell,
    collections::VecDeque,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::{filter::Counting, mirror::Copied, progress::Progress};

/// A body broke off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The client's side.
    #[error("the client's body broke off")]
    Downstream(#[source] hyper::Error),
    /// The upstream's side.
    #[error("the upstream's body broke off")]
    Upstream(#[source] hyper::Error),
    /// Cut here.
    #[error("timed out")]
    TimedOut,
    /// The body goes with a later attempt.
    #[error("another attempt has begun")]
    Superseded,
}

/// Why a whole body could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadFailure {
    /// It is larger than allowed.
    TooLarge,
    /// It broke off.
    Broken,
}

/// The client's body: as it comes, or as a filter has read it.
#[derive(Debug)]
pub(super) struct ClientBody {
    source: Source,
    /// How far it has come; none if there is no body.
    progress: Option<Rc<Progress>>,
    /// Copies that are made of it.
    copies: Vec<Rc<RefCell<Copied>>>,
    /// Counts its messages.
    counting: Option<Box<Counting>>,
}

impl Drop for ClientBody {
    fn drop(&mut self) {
        self.end_copies(false);
    }
}

#[derive(Debug)]
enum Source {
    Coming(Incoming),
    /// `open`: its length is not told to the upstream, as the client did not.
    Read {
        chunks: VecDeque<Bytes>,
        trailers: Option<HeaderMap>,
        open: bool,
    },
}

impl ClientBody {
    /// As it comes.
    pub fn new(incoming: Incoming, progress: Option<Rc<Progress>>) -> Self {
        Self { source: Source::Coming(incoming), progress, copies: Vec::new(), counting: None }
    }

    /// What passes from now on is copied there, too.
    pub fn copy_to(&mut self, copy: Rc<RefCell<Copied>>) {
        self.copies.push(copy);
    }

    /// None.
    pub fn empty() -> Self {
        Self::read(VecDeque::new(), None, false)
    }

    fn read(chunks: VecDeque<Bytes>, trailers: Option<HeaderMap>, open: bool) -> Self {
        Self { source: Source::Read { chunks, trailers, open }, progress: None, copies: Vec::new(), counting: None }
    }

    /// Its length in bytes, if it was read whole and there is one.
    pub fn length(&self) -> Option<u64> {
        match &self.source {
            Source::Read { chunks, .. } if chunks.is_empty() => None,
            Source::Read { chunks, .. } => Some(chunks.iter().map(|chunk| chunk.len() as u64).sum()),
            Source::Coming(_) => None,
        }
    }

    /// The messages of what passes from now on are counted.
    pub fn count(&mut self, counting: Box<Counting>) {
        self.counting = Some(counting);
    }

    fn end_copies(&self, complete: bool) {
        for copy in &self.copies {
            copy.borrow_mut().end(complete);
        }
    }

    /// Reads all of it, if that is no more than `limit` bytes, to be passed on later. Gives its length.
    pub async fn read_whole(&mut self, limit: usize) -> Result<usize, ReadFailure> {
        let (mut chunks, mut trailers, mut length) = (VecDeque::new(), None, 0);
        while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut *self).poll_frame(cx)).await {
            match frame.map_err(|_| ReadFailure::Broken)?.into_data() {
                Ok(data) => {
                    length += data.len();
                    if length > limit {
                        return Err(ReadFailure::TooLarge);
                    }
                    chunks.push_back(data);
                }
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        self.source = Source::Read { chunks, trailers, open: false };
        Ok(length)
    }

    /// Reads it to its end.
    pub async fn discard(&mut self) {
        while let Some(Ok(_)) = std::future::poll_fn(|cx| Pin::new(&mut *self).poll_frame(cx)).await {}
    }

    fn note(&self, frame: Option<&Result<Frame<Bytes>, hyper::Error>>, ended: bool) {
        let Some(progress) = &self.progress else { return };
        if let Some(Ok(frame)) = frame {
            progress.add(frame.data_ref().map_or(0, Bytes::len));
        }
        if ended || frame.is_none() || frame.is_some_and(|frame| frame.as_ref().is_ok_and(Frame::is_trailers)) {
            progress.complete();
        }
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = match &mut self.source {
            Source::Read { chunks, trailers, .. } => match chunks.pop_front() {
                Some(chunk) => Some(Ok(Frame::data(chunk))),
                None => trailers.take().map(|trailers| Ok(Frame::trailers(trailers))),
            },
            Source::Coming(incoming) => {
                let frame = ready!(Pin::new(&mut *incoming).poll_frame(cx));
                let ended = incoming.is_end_stream();
                self.note(frame.as_ref(), ended);
                frame.map(|frame| frame.map_err(BodyError::Downstream))
            }
        };
        if let (Some(counting), Some(Ok(frame))) = (&mut self.counting, &frame)
            && let Some(data) = frame.data_ref()
        {
            counting.passed(data);
        }
        if !self.copies.is_empty() {
            if let Some(Ok(frame)) = &frame {
                for copy in &self.copies {
                    copy.borrow_mut().add(frame);
                }
            }
            if frame.is_none() || self.is_end_stream() {
                self.end_copies(true);
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Read { chunks, trailers, .. } => chunks.is_empty() && trailers.is_none(),
            Source::Coming(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Read { open: true, .. } => SizeHint::default(),
            Source::Read { chunks, .. } => SizeHint::with_exact(chunks.iter().map(|chunk| chunk.len() as u64).sum()),
            Source::Coming(incoming) => incoming.size_hint(),
        }
    }
}

/// A request body on its way upstream.
#[derive(Debug)]
pub(super) enum RequestBody {
    /// There is none.
    Empty,
    /// Passed through.
    Stream(ClientBody),
    /// Passed through and kept.
    Kept(Replay),
    /// A copy of one that passes elsewhere.
    Copy(Rc<RefCell<Copied>>),
}

/// A kept body, from its beginning, for one attempt.
#[derive(Debug)]
pub(super) struct Replay {
    kept: Rc<RefCell<Kept>>,
    /// Which attempt reads it: the latest one is woken, others are told that they are over.
    attempt: u32,
    next: usize,
    trailers_sent: bool,
}

/// What has come of a body that may have to be sent again.
#[derive(Debug)]
pub(super) struct Kept {
    incoming: ClientBody,
    chunks: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    /// What the client says of the body's length.
    length: Option<u64>,
    bytes: usize,
    limit: usize,
    too_large: bool,
    ended: bool,
    attempts: u32,
}

impl Kept {
    pub fn new(incoming: ClientBody, limit: usize) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self {
            length: incoming.size_hint().exact(),
            incoming,
            chunks: Vec::new(),
            trailers: None,
            bytes: 0,
            limit,
            too_large: false,
            ended: false,
            attempts: 0,
        }))
    }

    /// Whether everything that has come is still here.
    pub fn can_replay(&self) -> bool {
        !self.too_large
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
    pub fn replay(kept: &Rc<RefCell<Self>>) -> RequestBody {
        let mut this = kept.borrow_mut();
        this.attempts += 1;
        RequestBody::Kept(Replay { kept: kept.clone(), attempt: this.attempts, next: 0, trailers_sent: false })
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let frame = match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
            None => {
                self.ended = true;
                return Poll::Ready(None);
            }
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            Some(Ok(frame)) => frame,
        };
        if let Some(data) = frame.data_ref() {
            self.keep(data.clone());
        } else if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
            self.ended = true;
        }
        if self.incoming.is_end_stream() {
            self.ended = true;
        }
        Poll::Ready(Some(Ok(frame)))
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
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut kept = self.kept.borrow_mut();
        if kept.attempts != self.attempt {
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

    fn is_end_stream(&self) -> bool {
        let kept = self.kept.borrow();
        kept.ended && self.next >= kept.chunks.len() && (self.trailers_sent || kept.trailers.is_none())
    }

    /// Known if the client said it: a body whose length the client left open goes on as such in each attempt.
    fn size_hint(&self) -> SizeHint {
        let kept = self.kept.borrow();
        let Some(length) = kept.length else { return SizeHint::default() };
        let sent: u64 = kept.chunks.iter().take(self.next).map(|chunk| chunk.len() as u64).sum();
        SizeHint::with_exact(length.saturating_sub(sent))
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
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream(body) => body.is_end_stream(),
            Self::Kept(replay) => replay.is_end_stream(),
            Self::Copy(copied) => copied.borrow().is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Stream(body) => body.size_hint(),
            Self::Kept(replay) => replay.size_hint(),
            Self::Copy(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn next(body: &mut RequestBody) -> Option<Result<Bytes, BodyError>> {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await?;
        Some(frame.map(|frame| frame.into_data().unwrap()))
    }

    #[tokio::test]
    async fn a_later_attempt_gets_the_body_from_its_beginning_and_an_earlier_one_no_more_of_it() {
        let chunks = ["one", "two"].map(Bytes::from).into();
        let source = Source::Read { chunks, trailers: None, open: false };
        let kept = Kept::new(ClientBody { source, progress: None, copies: Vec::new(), counting: None }, 100);
        let mut first = Kept::replay(&kept);
        assert_eq!(next(&mut first).await.unwrap().unwrap(), "one");
        let mut second = Kept::replay(&kept);
        assert!(matches!(next(&mut first).await, Some(Err(BodyError::Superseded))));
        assert_eq!(next(&mut second).await.unwrap().unwrap(), "one");
        assert_eq!(next(&mut second).await.unwrap().unwrap(), "two");
        assert!(next(&mut second).await.is_none() && second.is_end_stream());
    }

    #[tokio::test]
    async fn a_body_that_is_read_whole_has_a_limit() {
        let body = |limit| async move {
            let chunks = ["one", "two"].map(Bytes::from).into();
            let source = Source::Read { chunks, trailers: None, open: false };
            ClientBody { source, progress: None, copies: Vec::new(), counting: None }.read_whole(limit).await
        };
        assert_eq!(body(6).await, Ok(6));
        assert_eq!(body(5).await, Err(ReadFailure::TooLarge));
    }
}
