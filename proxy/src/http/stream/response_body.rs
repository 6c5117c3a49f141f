//! Response bodies: the client's end of a request, which ends its record when it ends.

use std::{
    borrow::Cow,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::{
    activity::Active,
    failure::Failure,
    late::Late,
    payload::{Broken, Payload},
    record::Record,
    reply::Reply,
    running::Running,
    timers::{Expired, Timers},
};
use crate::{
    access_log::Flag,
    http::{
        body::{counting::Counting, error::BodyError, filled::poll_filled, throttle::Throttle},
        codec::trailers::Sent,
        headers::trailers::TrailerChanges,
        pool::Lease,
    },
};

/// A response body on its way to the client. When it is dropped, the request is over.
#[derive(Debug)]
pub struct ResponseBody {
    source: Source,
    record: Option<Box<Record>>,
    active: Option<Active>,
    /// Its limits, while they run.
    running: Option<Rc<Running>>,
}

#[derive(Debug)]
enum Source {
    Empty,
    /// As long as the head says, but not sent.
    Announced,
    Full(Option<Bytes>),
    Upstream(Box<FromUpstream>),
    Payload(Box<Payload>),
}

/// A response body from upstream, with the connection it comes over.
#[derive(Debug)]
pub(in crate::http) struct FromUpstream {
    pub incoming: Incoming,
    pub lease: Option<Lease>,
    /// Who hears of it if it takes too long.
    pub late: Option<Late>,
    /// Trailers are taken from the upstream.
    pub trailers: bool,
    /// How they go on.
    pub sent: Sent,
    /// Slows it down.
    pub throttle: Option<Throttle>,
    /// Counts its messages.
    pub counting: Option<Box<Counting>>,
    /// Changes its trailers.
    pub changes: Option<Box<TrailerChanges>>,
    /// It has broken off, which is told next.
    pub broken: Option<(Failure, BodyError)>,
}

impl FromUpstream {
    /// Whether as many bytes have been passed on as were announced, though its end has not come by itself: HTTP/2 may
    /// send that later, and a client of HTTP/1 does not wait for it.
    fn came_whole(&self) -> bool {
        !self.is_throttled() && self.incoming.size_hint().exact() == Some(0)
    }

    /// Whether something has come that has not been passed on.
    fn is_throttled(&self) -> bool {
        self.throttle.as_ref().is_some_and(Throttle::is_waiting)
    }

    /// It breaks off. What came before goes out first: hyper forgets it when it hears of the error.
    fn breaks(&mut self, failure: Failure, error: BodyError, cx: &Context<'_>) {
        self.broken = Some((failure, error));
        cx.waker().wake_by_ref();
    }

    /// A frame as it goes on: filters may want other trailers.
    fn changed(&self, frame: Frame<Bytes>) -> Frame<Bytes> {
        let Some(changes) = &self.changes else { return frame };
        match frame.into_trailers() {
            Ok(mut trailers) => {
                changes.apply(&mut trailers);
                Frame::trailers(trailers)
            }
            Err(frame) => frame,
        }
    }

    /// Counts gRPC messages and outcomes: for the host, and where a filter wants that.
    fn count(&mut self, frame: &Frame<Bytes>, record: Option<&Record>) {
        if let (Some(late), Some(trailers)) = (&mut self.late, frame.trailers_ref()) {
            late.ended(Some(trailers));
        }
        let Some(counting) = &mut self.counting else { return };
        if let Some(data) = frame.data_ref() {
            counting.passed(data);
        } else if let Some(trailers) = frame.trailers_ref() {
            counting.trailers(trailers);
            counting.ended(record.and_then(Record::request_completed).map(|at| at.elapsed()));
        }
    }
}

impl ResponseBody {
    /// Made here. `head`: the answer to a HEAD request, whose body is only announced.
    pub(in crate::http) fn local(body: Bytes, head: bool, mut record: Box<Record>) -> Self {
        if head {
            record.complete();
        }
        let source = if head || body.is_empty() { Source::Empty } else { Source::Full(Some(body)) };
        Self { source, record: Some(record), active: None, running: None }
    }

    /// None, and the record is kept elsewhere.
    pub(in crate::http) fn detached() -> Self {
        Self { source: Source::Empty, record: None, active: None, running: None }
    }

    /// From upstream, within the limits that still run.
    pub(in crate::http) fn upstream(from: FromUpstream, timers: Timers, record: Box<Record>) -> Self {
        if from.incoming.is_end_stream() {
            if let Some(lease) = from.lease.filter(|_| record.request_completed().is_some()) {
                lease.release();
            }
            return Self { source: Source::Empty, record: Some(record), active: None, running: None };
        }
        let running = Some(record.running.clone());
        record.running.begin(timers);
        Self { source: Source::Upstream(Box::new(from)), record: Some(record), active: None, running }
    }

    /// What the upstream sends, as it is.
    pub(in crate::http) fn payload(payload: Payload, record: Box<Record>) -> Self {
        let running = Some(record.running.clone());
        Self { source: Source::Payload(Box::new(payload)), record: Some(record), active: None, running }
    }

    /// Of what is empty the head says a length. hyper would not pass that on.
    pub(in crate::http) fn announce(&mut self) {
        if matches!(self.source, Source::Empty) {
            self.source = Source::Announced;
        }
    }

    /// The client's connection is not idle until this body is dropped.
    pub(in crate::http) fn keep_active(&mut self, active: Active) {
        self.active = Some(active);
    }

    fn ended(&mut self) {
        self.stop();
        if let Source::Upstream(from) = &mut self.source {
            if let Some(late) = &mut from.late {
                late.ended(None);
            }
            // A request that is still being sent keeps its connection busy: no use to others.
            if let Some(lease) = from.lease.take()
                && self.record.as_ref().is_some_and(|record| record.request_completed().is_some())
            {
                lease.release();
            }
        }
        if let Some(record) = &mut self.record {
            record.upstream_complete();
            record.complete();
        }
    }

    /// Its limits run no more.
    fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.end();
        }
    }

    /// The limit that has passed, if one has: the response breaks off.
    fn take_expired(&mut self) -> Option<BodyError> {
        let expired = self.running.as_ref()?.expired()?;
        if let (Source::Upstream(from), Some(record)) = (&self.source, &self.record)
            && let Some(late) = &from.late
        {
            late.charge(record.shard(), expired);
        }
        if let Some(record) = self.record.as_mut().filter(|_| expired.is_of_upstream()) {
            record.upstream_complete();
        }
        if matches!(expired, Expired::PerTry | Expired::PerTryIdle) {
            self.upstream_broke();
        }
        let (flag, details) = after_expiry(expired);
        self.broke(flag, details);
        Some(BodyError::TimedOut)
    }

    /// It is the upstream that breaks it off, which may be what comes of a call of gRPC.
    fn upstream_broke(&mut self) {
        if let (Source::Upstream(from), Some(record)) = (&mut self.source, &self.record)
            && from.late.as_mut().is_some_and(|late| late.ended(None))
        {
            record.shard().inc(record.manager.stats.own.rq_reset_after_downstream_response_started);
        }
    }

    fn broke(&mut self, flag: impl Into<Option<Flag>>, details: impl Into<Cow<'static, str>>) {
        self.stop();
        let flag = flag.into();
        if let Source::Upstream(from) = &mut self.source {
            // The connection is of no use any more.
            from.lease = None;
        }
        if let Some(record) = &mut self.record {
            if flag != Some(Flag::DownstreamProtocolError) {
                record.resets();
            }
            if let Some(flag) = flag {
                record.entry.raise(flag);
            }
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
        if let Some(error) = this.take_expired() {
            return Poll::Ready(Some(Err(error)));
        }
        let from = match &mut this.source {
            Source::Empty | Source::Announced => {
                this.ended();
                return Poll::Ready(None);
            }
            Source::Full(body) => {
                let body = body.take();
                if let (Some(body), Some(record)) = (&body, &mut this.record) {
                    record.sent(body.len());
                }
                this.ended();
                return Poll::Ready(body.map(|body| Ok(Frame::data(body))));
            }
            Source::Payload(payload) => {
                let Poll::Ready(piece) = payload.poll_piece(cx) else {
                    if let Some(record) = &mut this.record {
                        record.poll_log(cx);
                    }
                    return Poll::Pending;
                };
                return Poll::Ready(match piece {
                    None => {
                        this.ended();
                        None
                    }
                    Some(Ok(piece)) => {
                        if let Some(record) = &mut this.record {
                            record.sent(piece.len());
                        }
                        Some(Ok(Frame::data(piece)))
                    }
                    Some(Err(Broken::Request(error, refusal))) => {
                        // Else the record tells that the client is gone.
                        if let Some(refusal) = refusal {
                            this.broke(Flag::DownstreamProtocolError, Reply::refused(refusal).details);
                        }
                        Some(Err(error))
                    }
                    Some(Err(Broken::Upstream(error))) => {
                        let details = "upstream_reset_after_response_started{connection_termination}";
                        this.broke(Flag::UpstreamConnectionTermination, details);
                        Some(Err(BodyError::Tunnel(error)))
                    }
                });
            }
            Source::Upstream(from) => from,
        };
        if let Some((failure, error)) = from.broken.take() {
            if let Some(lease) = &mut from.lease {
                failure.end(lease);
            }
            this.upstream_broke();
            this.broke(failure.flag(), failure.details_after_headers());
            return Poll::Ready(Some(Err(error)));
        }
        if let Some(throttle) = from.throttle.as_mut().filter(|throttle| throttle.is_waiting()) {
            let Poll::Ready(piece) = throttle.poll_piece(cx) else {
                if let Some(record) = &mut this.record {
                    record.poll_log(cx);
                }
                return Poll::Pending;
            };
            if let Some(running) = &this.running {
                running.moved();
            }
            if let Some(record) = &mut this.record {
                record.sent(piece.len());
            }
            if this.is_end_stream() {
                this.ended();
            }
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        let Poll::Ready((frame, ended)) = poll_filled(&mut from.incoming, cx) else {
            if let Some(record) = &mut this.record {
                record.poll_log(cx);
            }
            return Poll::Pending;
        };
        if let Some(running) = &this.running {
            running.moved();
        }
        let http2 = from.lease.as_ref().is_some_and(Lease::is_http2);
        match frame {
            None if http2 && !ended => {
                // hyper takes RST_STREAM with NO_ERROR for an end.
                from.breaks(Failure::Reset, BodyError::Cut, cx);
                Poll::Pending
            }
            None => {
                this.ended();
                Poll::Ready(None)
            }
            Some(Err(error)) => {
                if let Some(lease) = &from.lease {
                    lease.count_broken();
                }
                from.breaks(Failure::of_body(&error, http2), BodyError::Upstream(error), cx);
                Poll::Pending
            }
            Some(Ok(frame)) if frame.is_trailers() && !from.trailers => {
                from.count(&frame, this.record.as_deref());
                this.ended();
                Poll::Ready(None)
            }
            Some(Ok(frame)) if frame.is_data() && from.throttle.is_some() => {
                from.count(&frame, None);
                if let (Some(throttle), Ok(data)) = (&mut from.throttle, frame.into_data()) {
                    throttle.offer(data);
                }
                self.poll_frame(cx)
            }
            Some(Ok(frame)) => {
                from.count(&frame, this.record.as_deref());
                let frame = from.changed(frame);
                if let Some(record) = &mut this.record {
                    if let Some(data) = frame.data_ref() {
                        record.sent(data.len());
                    } else if let Some(trailers) = frame.trailers_ref() {
                        record.keep_trailers(trailers);
                    }
                }
                match frame.into_trailers() {
                    // Nothing comes after trailers, and nobody may ask.
                    Ok(trailers) => {
                        let piece = from.sent.last(trailers);
                        this.ended();
                        this.source = Source::Empty;
                        Poll::Ready(piece.map(Ok))
                    }
                    Err(frame) => {
                        if ended {
                            this.ended();
                        }
                        Poll::Ready(Some(Ok(frame)))
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Empty | Source::Full(None) => true,
            Source::Full(Some(_)) | Source::Payload(_) | Source::Announced => false,
            Source::Upstream(from) => from.incoming.is_end_stream() && !from.is_throttled(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Empty | Source::Full(None) => SizeHint::with_exact(0),
            Source::Full(Some(body)) => SizeHint::with_exact(body.len() as u64),
            Source::Upstream(from) => from.incoming.size_hint(),
            Source::Payload(_) | Source::Announced => SizeHint::default(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if self.take_expired().is_some() {
            return;
        }
        // A body without frames is never polled; one that was read to its end is complete already.
        let whole = match &self.source {
            Source::Upstream(from) => from.came_whole(),
            Source::Announced => true,
            _ => false,
        };
        if whole || self.is_end_stream() {
            self.ended();
        }
        self.stop();
    }
}

/// The flag and details of a response that took too long after its headers.
fn after_expiry(expired: Expired) -> (Option<Flag>, &'static str) {
    match expired {
        Expired::Global => (Some(Flag::UpstreamRequestTimeout), "response_timeout"),
        // An attempt's other limit ends with the response's headers.
        Expired::PerTry | Expired::PerTryIdle => (Some(Flag::UpstreamRequestTimeout), "upstream_per_try_idle_timeout"),
        Expired::Idle => (Some(Flag::StreamIdleTimeout), "stream_idle_timeout"),
        Expired::Request => (None, "request_overall_timeout"),
        Expired::StreamDuration => {
            (Some(Flag::UpstreamMaxStreamDurationReached), "upstream_max_stream_duration_reached")
        }
        Expired::MaxDuration => (None, "max_duration_timeout"),
    }
}
