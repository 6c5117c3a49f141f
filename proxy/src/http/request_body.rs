//! Request bodies on their way upstream, kept for replays while retries are possible.

use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::progress::Progress;

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
}

/// A request body on its way upstream.
#[derive(Debug)]
pub(super) enum RequestBody {
    /// There is none.
    Empty,
    /// Passed through.
    Stream(Incoming, Rc<Progress>),
    /// Passed through and kept.
    Kept { kept: Rc<RefCell<Kept>>, next: usize, trailers_sent: bool },
}

/// What has come of a body that may have to be sent again.
#[derive(Debug)]
pub(super) struct Kept {
    incoming: Incoming,
    progress: Rc<Progress>,
    chunks: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    bytes: usize,
    limit: usize,
    too_large: bool,
    ended: bool,
}

impl Kept {
    pub fn new(incoming: Incoming, progress: Rc<Progress>, limit: usize) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self {
            incoming,
            progress,
            chunks: Vec::new(),
            trailers: None,
            bytes: 0,
            limit,
            too_large: false,
            ended: false,
        }))
    }

    /// Whether everything that has come is still here.
    pub fn can_replay(&self) -> bool {
        !self.too_large
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let frame = match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
            None => {
                self.end();
                return Poll::Ready(None);
            }
            Some(Err(error)) => return Poll::Ready(Some(Err(BodyError::Downstream(error)))),
            Some(Ok(frame)) => frame,
        };
        if let Some(data) = frame.data_ref() {
            self.progress.add(data.len());
            self.keep(data.clone());
        } else if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
            self.end();
        }
        if self.incoming.is_end_stream() {
            self.end();
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

    fn end(&mut self) {
        self.ended = true;
        self.progress.complete();
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Stream(incoming, progress) => {
                let frame = ready!(Pin::new(&mut *incoming).poll_frame(cx));
                match &frame {
                    Some(Ok(frame)) => progress.add(frame.data_ref().map_or(0, Bytes::len)),
                    Some(Err(_)) => {}
                    None => progress.complete(),
                }
                if incoming.is_end_stream() {
                    progress.complete();
                }
                Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Downstream)))
            }
            Self::Kept { kept, next, trailers_sent } => {
                let mut kept = kept.borrow_mut();
                if let Some(chunk) = kept.chunks.get(*next) {
                    *next += 1;
                    return Poll::Ready(Some(Ok(Frame::data(chunk.clone()))));
                }
                if kept.ended {
                    let trailers = if *trailers_sent { None } else { kept.trailers.clone() };
                    *trailers_sent = true;
                    return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
                }
                let frame = ready!(kept.poll(cx));
                match &frame {
                    Some(Ok(frame)) if frame.is_data() => *next += 1,
                    Some(Ok(_)) => *trailers_sent = true,
                    _ => {}
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream(incoming, _) => incoming.is_end_stream(),
            Self::Kept { kept, next, trailers_sent } => {
                let kept = kept.borrow();
                kept.ended && *next >= kept.chunks.len() && (*trailers_sent || kept.trailers.is_none())
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Stream(incoming, _) => incoming.size_hint(),
            Self::Kept { kept, next, .. } => {
                let kept = kept.borrow();
                let here: u64 = kept.chunks.iter().skip(*next).map(|chunk| chunk.len() as u64).sum();
                if kept.ended {
                    return SizeHint::with_exact(here);
                }
                let coming = kept.incoming.size_hint();
                let mut hint = SizeHint::new();
                hint.set_lower(here + coming.lower());
                if let Some(upper) = coming.upper() {
                    hint.set_upper(here + upper);
                }
                hint
            }
        }
    }
}
