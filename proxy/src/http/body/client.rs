//! The client's body: as it comes, or as a filter has read it. What comes before the upstream takes it is read ahead, as in
//! Envoy: it counts as received, and a request that has come whole need not end its connection when the upstream fails.

use std::{
    cell::RefCell,
    collections::VecDeque,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::{copied::Copied, counting::Counting, error::BodyError, filled::poll_filled, progress::Progress};
use crate::http::headers::trailers::TrailerChanges;

/// So many bytes of a body are read ahead.
const MOST_AHEAD: usize = 64 * 1024;

/// Why a whole body could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) enum ReadFailure {
    /// It is larger than allowed.
    TooLarge,
    /// It broke off.
    Broken,
}

/// The client's body: as it comes, or as a filter has read it.
#[derive(Debug)]
pub(in crate::http) struct ClientBody {
    source: Source,
    /// How far it has come; none if there is no body.
    progress: Option<Rc<Progress>>,
    /// Copies that are made of it.
    copies: Vec<Rc<RefCell<Copied>>>,
    /// Counts its messages.
    counting: Option<Box<Counting>>,
    /// Changes its trailers.
    changes: Option<Box<TrailerChanges>>,
    /// What was read before it is taken.
    ahead: Option<Box<Ahead>>,
}

/// What was read of a body before it is taken.
#[derive(Debug, Default)]
struct Ahead {
    frames: VecDeque<Result<Frame<Bytes>, BodyError>>,
    bytes: usize,
    /// Nothing follows it.
    over: bool,
}

impl Drop for ClientBody {
    fn drop(&mut self) {
        self.end_copies(false);
    }
}

#[derive(Debug)]
enum Source {
    /// `http2`: of a stream, which may be reset.
    Coming { incoming: Incoming, http2: bool },
    /// `open`: see [`ClientBody::read`].
    Read { chunks: VecDeque<Bytes>, trailers: Option<HeaderMap>, open: bool },
}

impl ClientBody {
    /// As it comes; `http2`: over HTTP/2.
    pub fn new(incoming: Incoming, http2: bool, progress: Option<Rc<Progress>>) -> Self {
        Self {
            source: Source::Coming { incoming, http2 },
            progress,
            copies: Vec::new(),
            counting: None,
            changes: None,
            ahead: None,
        }
    }

    /// What passes from now on is copied there, too.
    pub fn copy_to(&mut self, copy: Rc<RefCell<Copied>>) {
        self.copies.push(copy);
    }

    /// None.
    pub fn empty() -> Self {
        Self::read(VecDeque::new(), None, false)
    }

    /// Bytes made here. Their length is told in a header, or not at all.
    pub fn whole(bytes: Bytes) -> Self {
        let chunks = if bytes.is_empty() { VecDeque::new() } else { VecDeque::from([bytes]) };
        Self::read(chunks, None, true)
    }

    /// As it was read, to be sent again. `open`: its length is not told to the upstream, as the client did not.
    pub(super) fn read(chunks: VecDeque<Bytes>, trailers: Option<HeaderMap>, open: bool) -> Self {
        let source = Source::Read { chunks, trailers, open };
        Self { source, progress: None, copies: Vec::new(), counting: None, changes: None, ahead: None }
    }

    /// Its length in bytes, if it was read whole and there is one.
    pub fn length(&self) -> Option<u64> {
        match &self.source {
            Source::Read { chunks, .. } if chunks.is_empty() => None,
            Source::Read { chunks, .. } => Some(chunks.iter().map(|chunk| chunk.len() as u64).sum()),
            Source::Coming { .. } => None,
        }
    }

    /// The messages of what passes from now on are counted.
    pub fn count(&mut self, counting: Box<Counting>) {
        self.counting = Some(counting);
    }

    /// Its trailers are changed.
    pub fn change_trailers(&mut self, changes: Box<TrailerChanges>) {
        if let Some(ahead) = &mut self.ahead {
            for frame in ahead.frames.iter_mut().flatten() {
                change(frame, &changes);
            }
        }
        self.changes = Some(changes);
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
        // They are counted, and pass once more.
        self.counting = None;
        Ok(length)
    }

    /// Reads so many bytes of it ahead, if it has as many: gives them, and whether there is more.
    pub async fn peek(&mut self, most: usize) -> Result<(Bytes, bool), ReadFailure> {
        std::future::poll_fn(|cx| self.poll_peek(most, cx)).await?;
        let ahead = self.ahead.get_or_insert_default();
        let mut bytes = BytesMut::new();
        for data in ahead.frames.iter().flatten().filter_map(Frame::data_ref) {
            bytes.extend_from_slice(data);
        }
        let more = bytes.len() > most;
        bytes.truncate(most);
        Ok((bytes.freeze(), more))
    }

    fn poll_peek(&mut self, most: usize, cx: &mut Context<'_>) -> Poll<Result<(), ReadFailure>> {
        while self.ahead.as_ref().is_none_or(|ahead| !ahead.over && ahead.bytes <= most) {
            let frame = ready!(self.poll_source(cx));
            let ahead = self.ahead.get_or_insert_default();
            ahead.over = !matches!(frame, Some(Ok(_)));
            if let Some(Ok(frame)) = &frame {
                ahead.bytes += frame.data_ref().map_or(0, Bytes::len);
            }
            let broken = matches!(frame, Some(Err(_)));
            ahead.frames.extend(frame);
            if broken {
                return Poll::Ready(Err(ReadFailure::Broken));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The bytes of a body that was read whole.
    pub fn contents(&self) -> Bytes {
        let Source::Read { chunks, .. } = &self.source else { return Bytes::new() };
        match chunks.len() {
            1 => chunks[0].clone(),
            _ => chunks.iter().flatten().copied().collect(),
        }
    }

    /// Reads what comes before it is taken. Ready: nothing more is to be read ahead.
    pub(super) fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while matches!(self.source, Source::Coming { .. })
            && self.ahead.as_ref().is_none_or(|ahead| !ahead.over && ahead.bytes < MOST_AHEAD)
        {
            let frame = ready!(self.poll_source(cx));
            let ahead = self.ahead.get_or_insert_default();
            ahead.over = !matches!(frame, Some(Ok(_)));
            if let Some(Ok(frame)) = &frame {
                ahead.bytes += frame.data_ref().map_or(0, Bytes::len);
            }
            ahead.frames.extend(frame);
        }
        Poll::Ready(())
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

    fn source_ended(&self) -> bool {
        match &self.source {
            Source::Read { chunks, trailers, .. } => chunks.is_empty() && trailers.is_none(),
            Source::Coming { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut frame = match &mut self.source {
            Source::Read { chunks, trailers, .. } => match chunks.pop_front() {
                Some(chunk) => Some(Ok(Frame::data(chunk))),
                None => trailers.take().map(|trailers| Ok(Frame::trailers(trailers))),
            },
            Source::Coming { incoming, http2 } => {
                let (frame, ended) = ready!(poll_filled(incoming, cx));
                if *http2 && frame.is_none() && !ended {
                    // hyper takes RST_STREAM with NO_ERROR for an end, and the upstream would take it for a whole request.
                    Some(Err(BodyError::Cut))
                } else {
                    self.note(frame.as_ref(), ended);
                    frame.map(|frame| frame.map_err(BodyError::Downstream))
                }
            }
        };
        if let (Some(counting), Some(Ok(frame))) = (&mut self.counting, &frame)
            && let Some(data) = frame.data_ref()
        {
            counting.passed(data);
        }
        if let (Some(changes), Some(Ok(frame))) = (&self.changes, &mut frame) {
            change(frame, changes);
        }
        if !self.copies.is_empty() {
            if let Some(Ok(frame)) = &frame {
                for copy in &self.copies {
                    copy.borrow_mut().add(frame);
                }
            }
            if frame.is_none() || self.source_ended() {
                self.end_copies(true);
            }
        }
        Poll::Ready(frame)
    }
}

/// Makes trailers what filters want.
fn change(frame: &mut Frame<Bytes>, changes: &TrailerChanges) {
    if let Some(trailers) = frame.trailers_mut() {
        changes.apply(trailers);
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.ahead {
            Some(ahead) if ahead.over || !ahead.frames.is_empty() => Poll::Ready(ahead.frames.pop_front()),
            _ => self.poll_source(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.ahead {
            Some(ahead) if !ahead.frames.is_empty() => false,
            Some(ahead) if ahead.over => true,
            _ => self.source_ended(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Read { open: true, .. } => SizeHint::default(),
            Source::Read { chunks, .. } => SizeHint::with_exact(chunks.iter().map(|chunk| chunk.len() as u64).sum()),
            Source::Coming { incoming, .. } => match (&self.ahead, incoming.size_hint()) {
                (None, hint) => hint,
                // What is left: what was read ahead is no part of what is still to come.
                (Some(ahead), hint) => {
                    let left = ahead.frames.iter().flatten().filter_map(Frame::data_ref).map(Bytes::len).sum::<usize>();
                    hint.exact().map_or_else(SizeHint::default, |coming| SizeHint::with_exact(coming + left as u64))
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_that_is_read_whole_has_a_limit() {
        let body = |limit| async move {
            let chunks = ["one", "two"].map(Bytes::from).into();
            ClientBody::read(chunks, None, false).read_whole(limit).await
        };
        assert_eq!(body(6).await, Ok(6));
        assert_eq!(body(5).await, Err(ReadFailure::TooLarge));
    }
}
