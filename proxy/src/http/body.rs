//! Bodies: towards upstream, kept for replays while retries are possible; and towards the client, which ends the
//! request's record when it ends.

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

use super::{
    pool::{InUse, Lease},
    progress::Progress,
    record::Record,
    timers::{Expired, Timers},
};
use crate::telemetry::access_log::Flag;

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

/// A response body on its way to the client. When it is dropped, the request is over.
#[derive(Debug)]
pub struct ResponseBody {
    source: Source,
    record: Option<Box<Record>>,
}

#[derive(Debug)]
enum Source {
    Empty,
    Full(Option<Bytes>),
    Upstream(Box<FromUpstream>),
}

/// A response body from upstream, with the connection it comes over and the limits that still run.
#[derive(Debug)]
pub(super) struct FromUpstream {
    pub incoming: Incoming,
    pub lease: Option<Lease>,
    pub timers: Timers,
    /// Trailers are passed on.
    pub trailers: bool,
    pub _in_use: InUse,
}

impl ResponseBody {
    /// Made here. `head`: the answer to a HEAD request, whose body is only announced.
    pub(super) fn local(body: Bytes, head: bool, mut record: Box<Record>) -> Self {
        if head {
            record.complete();
        }
        let source = if head || body.is_empty() { Source::Empty } else { Source::Full(Some(body)) };
        Self { source, record: Some(record) }
    }

    /// None, and the record is kept elsewhere.
    pub(super) fn detached() -> Self {
        Self { source: Source::Empty, record: None }
    }

    /// From upstream.
    pub(super) fn upstream(from: FromUpstream, record: Box<Record>) -> Self {
        if from.incoming.is_end_stream() {
            if let Some(lease) = from.lease.filter(|_| record.request_completed().is_some()) {
                lease.release();
            }
            return Self { source: Source::Empty, record: Some(record) };
        }
        Self { source: Source::Upstream(Box::new(from)), record: Some(record) }
    }

    fn ended(&mut self) {
        if let Source::Upstream(from) = &mut self.source
            && let Some(lease) = from.lease.take()
            // A request that is still being sent keeps its connection busy: no use to others.
            && self.record.as_ref().is_some_and(|record| record.request_completed().is_some())
        {
            lease.release();
        }
        if let Some(record) = &mut self.record {
            record.complete();
        }
    }

    fn broke(&mut self, flag: Flag, details: &'static str) {
        if let Source::Upstream(from) = &mut self.source {
            // The connection is of no use any more.
            from.lease = None;
        }
        if let Some(record) = &mut self.record {
            record.entry.raise(flag);
            record.entry.details = details.into();
            record.complete();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let from = match &mut this.source {
            Source::Empty => {
                this.ended();
                return Poll::Ready(None);
            }
            Source::Full(body) => {
                let body = body.take();
                if let (Some(body), Some(record)) = (&body, &mut this.record) {
                    record.entry.bytes_sent += body.len() as u64;
                }
                this.ended();
                return Poll::Ready(body.map(|body| Ok(Frame::data(body))));
            }
            Source::Upstream(from) => from,
        };
        let Poll::Ready(frame) = Pin::new(&mut from.incoming).poll_frame(cx) else {
            let expired = ready!(from.timers.poll(cx));
            let (flag, details) = match expired {
                Expired::Global | Expired::PerTry => (Flag::UpstreamRequestTimeout, "response_timeout"),
                Expired::Idle | Expired::Request => (Flag::StreamIdleTimeout, "stream_idle_timeout"),
                Expired::MaxDuration => (Flag::UpstreamMaxStreamDurationReached, "max_duration_timeout"),
            };
            this.broke(flag, details);
            return Poll::Ready(Some(Err(BodyError::TimedOut)));
        };
        from.timers.moved();
        match frame {
            None => {
                this.ended();
                Poll::Ready(None)
            }
            Some(Err(error)) => {
                let (flag, details) = after_headers(&error);
                this.broke(flag, details);
                Poll::Ready(Some(Err(BodyError::Upstream(error))))
            }
            Some(Ok(frame)) if frame.is_trailers() && !from.trailers => {
                this.ended();
                Poll::Ready(None)
            }
            Some(Ok(frame)) => {
                // Nothing comes after trailers, and nobody may ask.
                let last = from.incoming.is_end_stream() || frame.is_trailers();
                if let Some(record) = &mut this.record {
                    if let Some(data) = frame.data_ref() {
                        record.entry.bytes_sent += data.len() as u64;
                    } else if let Some(trailers) = frame.trailers_ref() {
                        record.keep_trailers(trailers);
                    }
                }
                if last {
                    this.ended();
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Empty | Source::Full(None) => true,
            Source::Full(Some(_)) => false,
            Source::Upstream(from) => from.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Empty | Source::Full(None) => SizeHint::with_exact(0),
            Source::Full(Some(body)) => SizeHint::with_exact(body.len() as u64),
            Source::Upstream(from) => from.incoming.size_hint(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        // A body without frames is never polled; one that was read to its end is complete already.
        if self.is_end_stream() {
            self.ended();
        }
    }
}

/// The flag and details of a response that broke off after its headers.
fn after_headers(error: &hyper::Error) -> (Flag, &'static str) {
    match h2_reset(error) {
        Some(_) => (Flag::UpstreamRemoteReset, "upstream_reset_after_response_started{remote_reset}"),
        None => (Flag::UpstreamProtocolError, "upstream_reset_after_response_started{protocol_error}"),
    }
}

/// The reason of an HTTP/2 stream error, if that is what happened.
pub(super) fn h2_reset(error: &hyper::Error) -> Option<h2::Reason> {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return if error.is_reset() { error.reason() } else { None };
        }
        source = error.source();
    }
    None
}
