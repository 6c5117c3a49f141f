//! A client's stream as hyper reads and writes it: watched for what limits need to know, and, if it is HTTP/1, judged
//! (`framing`) before hyper sees what comes.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

use crate::{
    http::{
        codec::{
            framing::{Framing, Passed},
            http2::Heads,
        },
        stream::connection::Connection,
    },
    linger::{unacknowledged, write_with_the_end},
    wire::{
        frames::{Frames, PREFACE},
        io::Io,
    },
};

/// How many bytes are taken after an upgrade's head before the upgrade is accepted.
const EARLY: usize = 64 * 1024;

/// Frames of HTTP/2.
#[derive(Debug)]
struct BothWays {
    /// Those that come.
    heads: Heads,
    sent: Frames,
}

/// A client's stream.
#[derive(Debug)]
pub(super) struct Watched {
    pub stream: Io,
    connection: Rc<Connection>,
    /// None: it is not HTTP/1.
    framing: Option<Framing>,
    /// None: it is not HTTP/2.
    frames: Option<Box<BothWays>>,
    /// What framing let pass in other words and hyper has not taken.
    passed: Bytes,
    /// How reading failed when something had just come, which is handled first.
    failed: Option<io::Error>,
    /// The client closed its side, or is gone.
    pub saw_end: bool,
    /// What is written waits for the end.
    corked: bool,
    /// How many bytes of the last response the socket held when it last took no more.
    held: Option<usize>,
    /// Over HTTP/2: until when the client may close its side, which this side has done.
    closing: Option<Pin<Box<Sleep>>>,
}

impl Watched {
    pub fn new(stream: Io, connection: Rc<Connection>) -> Self {
        let framing = connection.framing();
        let frames =
            connection.multiplexed.then(|| Box::new(BothWays { heads: Heads::new(), sent: Frames::default() }));
        Self {
            stream,
            connection,
            framing,
            frames,
            passed: Bytes::new(),
            failed: None,
            saw_end: false,
            corked: false,
            held: None,
            closing: None,
        }
    }

    /// Whether part of a request's head has come.
    pub fn in_head(&self) -> bool {
        self.framing.as_ref().is_some_and(Framing::in_head)
    }

    /// Whether the last request has come as a whole.
    pub fn awaits_no_body(&self) -> bool {
        self.framing.as_ref().is_some_and(Framing::awaits_no_body)
    }

    /// Whether that is all that has come.
    pub fn is_between_requests(&self) -> bool {
        self.framing.as_ref().is_some_and(Framing::between_requests)
    }

    /// What came after an upgrade's head and was not for hyper.
    pub fn after_upgrade(&self) -> &[u8] {
        self.framing.as_ref().map_or(&[], Framing::after_upgrade)
    }

    /// Takes back what passed and hyper has not used.
    pub fn take_back(&mut self, unread: Bytes) {
        if !unread.is_empty() {
            self.passed = [unread, std::mem::take(&mut self.passed)].concat().into();
        }
    }

    /// Whether a connection of HTTP/2 begins as one does. hyper sees what was read of it; none: the client has gone.
    pub async fn begins(&mut self) -> Option<bool> {
        let mut first = [0; PREFACE.len()];
        let mut length = 0;
        while length < first.len() && PREFACE.starts_with(&first[..length]) {
            let mut buffer = ReadBuf::new(&mut first[length..]);
            length += poll_fn(|cx| self.poll_stream(cx, &mut buffer)).await.ok().filter(|read| *read > 0)?;
        }
        self.passed = Bytes::copy_from_slice(&first[..length]);
        Some(PREFACE.starts_with(&first[..length]))
    }

    /// Over HTTP/1: whether part of a head has come, and no request is under way.
    fn begins_request(&self) -> bool {
        self.in_head() && self.connection.activity.active() == 0
    }

    /// Over HTTP/1: notes that part of a head has come. While the last response is still on its way hyper reads no head.
    fn look_for_head(&self) {
        if self.begins_request() && !self.connection.unflushed.get() {
            self.connection.activity.head_comes();
        }
    }

    /// Over HTTP/2: notes when a request's head is coming, and when it has come.
    fn look_for_heads(&self) {
        let Some(BothWays { heads, .. }) = self.frames.as_deref() else { return };
        if heads.begins_another() || !heads.in_head() {
            self.connection.activity.head_came();
        }
        if heads.in_head() {
            self.connection.activity.head_comes();
        }
    }

    /// Gives hyper what passed in other words.
    fn give(&mut self, buffer: &mut ReadBuf<'_>) {
        let length = self.passed.len().min(buffer.remaining());
        buffer.put_slice(&self.passed[..length]);
        self.passed.advance(length);
    }

    fn poll_stream(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<usize>> {
        let before = buffer.filled().len();
        let read = match self.failed.take() {
            Some(error) => Err(error),
            None => ready!(Pin::new(&mut self.stream).poll_read(cx, buffer)),
        };
        let length = buffer.filled().len() - before;
        let ended = read.is_err() || (length == 0 && buffer.remaining() > 0);
        if ended && self.framing.is_some() && self.connection.activity.has_come() {
            // hyper would drop, unseen, the request that has come with it. It sees the end in its next turn.
            self.failed = read.err();
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if ended {
            // Also TLS that ends without a `close_notify`.
            self.client_ended();
            self.saw_end = true;
        }
        if let Err(error) = read {
            self.connection.failed(&error);
            return Poll::Ready(Err(error));
        }
        let connection = &self.connection;
        if length > 0 {
            connection.count_read(length as u64);
            connection.activity.comes();
        }
        if let Some(frames) = &mut self.frames {
            let resets = frames.heads.feed(&buffer.filled()[before..]);
            connection.manager.stats.codecs.got_resets(&connection.worker.stats, resets);
        }
        Poll::Ready(Ok(length))
    }

    /// The client has ended the connection, or had it end: in a request, also where only part of its head has come.
    fn client_ended(&self) {
        let activity = &self.connection.activity;
        activity.client_ended_during(activity.active() + usize::from(self.begins_request()));
    }

    /// The connection ends with what is written now, and that goes in the packet that says so.
    fn before_write(&mut self) {
        if !self.corked && self.connection.writes_last() {
            self.corked = true;
            if let Some(socket) = self.stream.tcp() {
                write_with_the_end(socket);
            }
        }
    }

    /// The client takes nothing just now. Of the rest of the last response, it may be taking what the socket holds, which asks
    /// for more only when a third of it has gone.
    fn blocked(&mut self) {
        let held = self.stream.tcp().filter(|_| self.connection.writes_last()).and_then(unacknowledged);
        if std::mem::replace(&mut self.held, held) != held {
            self.connection.activity.written();
        }
        self.connection.activity.write_blocked();
    }

    fn note(&mut self, slices: &[io::IoSlice<'_>], written: &Poll<io::Result<usize>>) {
        match written {
            Poll::Pending => {
                self.connection.unflushed.set(true);
                self.blocked();
            }
            Poll::Ready(written) => {
                self.connection.activity.written();
                let bytes = written.as_ref().map_or(0, |bytes| *bytes);
                self.connection.count_written(bytes as u64);
                if let Some(frames) = &mut self.frames {
                    let resets = frames.sent.resets_in(slices, bytes);
                    self.connection.manager.stats.codecs.sent_resets(&self.connection.worker.stats, resets);
                }
            }
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.connection.between_requests.set(false);
        loop {
            if !this.passed.is_empty() {
                this.give(buffer);
                return Poll::Ready(Ok(()));
            }
            if let Some(framing) = &this.framing {
                if framing.broken().is_some() {
                    return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                }
                // Nothing is read for hyper any more. It must not see that the client has closed its side either: it
                // would not answer the last request.
                if framing.is_over() || framing.after_upgrade().len() >= EARLY {
                    return Poll::Pending;
                }
            }
            let before = buffer.filled().len();
            let Poll::Ready(length) = this.poll_stream(cx, buffer) else {
                let between = this.framing.as_ref().is_some_and(Framing::between_requests);
                this.connection.between_requests.set(between);
                this.look_for_head();
                return Poll::Pending;
            };
            let length = length?;
            this.look_for_heads();
            let Some(framing) = this.framing.as_mut().filter(|_| length > 0) else { return Poll::Ready(Ok(())) };
            match framing.feed(&buffer.filled()[before..]) {
                Passed::Unchanged => return Poll::Ready(Ok(())),
                Passed::Edited(bytes) => {
                    buffer.set_filled(before);
                    this.passed = bytes.into();
                    this.connection.framed(framing);
                }
            }
        }
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.before_write();
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note(&[io::IoSlice::new(bytes)], &written);
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.connection.unflushed.set(flushed.is_pending());
        match flushed {
            Poll::Ready(_) => self.connection.activity.written(),
            // TLS has taken more than its socket.
            Poll::Pending => self.blocked(),
        }
        self.look_for_head();
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.framing.is_some() {
            // What closes a connection of HTTP/1 gets it back from hyper.
            return Poll::Ready(Ok(()));
        }
        if this.closing.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        }
        let Some(delay) = this.connection.manager.delayed_close_timeout else { return Poll::Ready(Ok(())) };
        let until = this.closing.get_or_insert_with(|| Box::pin(tokio::time::sleep(delay)));
        if until.as_mut().poll(cx).is_ready() {
            this.connection.close_is_delayed();
            return Poll::Ready(Ok(()));
        }
        let mut sink = [0; 4096];
        while !this.saw_end {
            ready!(this.poll_stream(cx, &mut ReadBuf::new(&mut sink)))?;
        }
        Poll::Ready(Ok(()))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.before_write();
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.note(slices, &written);
        written
    }
}
