//! Trailers of messages of HTTP/1 that hyper writes.
//!
//! hyper writes only those that the head has named in `trailer`, but what they are called is not known when the head is
//! written. So a body ends with a piece of its own instead ([`Trailers::announce`]), which hyper makes a chunk of, the
//! last but the empty one; and where the bytes go out ([`Trailing`]) the two become the empty chunk and the trailers.
//!
//! Invariant: the piece is not to be guessed, and is looked for only after it has been made, so that nothing else is
//! taken for it.

use std::{
    cell::RefCell,
    hash::{BuildHasher, RandomState},
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use memchr::memmem;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::interim::Interim;

/// Length of the piece that stands for trailers.
const LENGTH: usize = 16;

/// The trailers of the message that a connection is writing, if they are known already.
#[derive(Debug, Default)]
pub(in crate::http) struct Trailers(RefCell<Option<Announced>>);

#[derive(Debug)]
struct Announced {
    /// What hyper makes of the piece and of the body's end.
    stand_in: Vec<u8>,
    /// What is written instead.
    end: Vec<u8>,
}

impl Trailers {
    /// The message that is being written has these trailers; returns the last piece of its body.
    pub fn announce(&self, trailers: &HeaderMap) -> Bytes {
        let random = RandomState::new();
        let mut piece = [0; LENGTH];
        piece[..8].copy_from_slice(&random.hash_one(1).to_le_bytes());
        piece[8..].copy_from_slice(&random.hash_one(2).to_le_bytes());
        let stand_in = [&b"10\r\n"[..], &piece, b"\r\n0\r\n\r\n"].concat();
        let mut end = b"0\r\n".to_vec();
        for (name, value) in trailers {
            end.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
        end.extend(b"\r\n");
        *self.0.borrow_mut() = Some(Announced { stand_in, end });
        Bytes::copy_from_slice(&piece)
    }
}

/// How the trailers of a message are sent.
#[derive(Clone, Debug)]
pub(in crate::http) enum Sent {
    /// In a frame of HTTP/2.
    Frame,
    /// At the end of a body in chunks.
    Announced(Rc<Trailers>),
    /// They are not.
    Never,
}

impl Sent {
    /// The last piece of a body with these trailers.
    pub fn last(&self, trailers: HeaderMap) -> Option<Frame<Bytes>> {
        match self {
            Self::Frame => Some(Frame::trailers(trailers)),
            Self::Announced(slot) => Some(Frame::data(slot.announce(&trailers))),
            Self::Never => None,
        }
    }
}

/// A stream to which hyper writes HTTP/1, with trailers; what it reads may be looked at.
#[derive(Debug)]
pub(in crate::http) struct Trailing<S> {
    inner: S,
    /// None: there never are any.
    trailers: Option<Rc<Trailers>>,
    /// What came last since trailers were announced, and may be the beginning of the end of their message.
    held: Vec<u8>,
    /// What is to be written before anything else.
    out: Bytes,
    interim: Option<Rc<Interim>>,
}

impl<S> Trailing<S> {
    /// `trailers`: where they are announced; none: they are not sent.
    pub fn new(inner: S, trailers: Option<Rc<Trailers>>) -> Self {
        Self { inner, trailers, held: Vec::new(), out: Bytes::new(), interim: None }
    }

    /// With notes of interim responses in `interim`.
    pub fn noting(self, interim: Rc<Interim>) -> Self {
        Self { interim: Some(interim), ..self }
    }

    pub fn into_inner(self) -> S {
        self.inner
    }

    /// Whether bytes are held for the end of a message with trailers.
    fn awaits_end(&self) -> bool {
        self.trailers.as_ref().is_some_and(|trailers| trailers.0.borrow().is_some())
    }

    /// Takes bytes in. Those before the end of the message are ready to go out, and, once that is among them, all are.
    fn hold(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
        let Some(trailers) = &self.trailers else { return };
        let mut announced = trailers.0.borrow_mut();
        let Some(Announced { stand_in, end }) = &*announced else { return };
        let Some(at) = memmem::find(&self.held, stand_in) else {
            // Its beginning may have come: no more than that is held.
            let rest = self.held.split_off(self.held.len().saturating_sub(stand_in.len() - 1));
            self.out = std::mem::replace(&mut self.held, rest).into();
            return;
        };
        let rest = self.held.split_off(at + stand_in.len());
        self.held.truncate(at);
        self.held.extend_from_slice(end);
        self.held.extend_from_slice(&rest);
        self.out = std::mem::take(&mut self.held).into();
        *announced = None;
    }
}

impl<S: AsyncWrite + Unpin> Trailing<S> {
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.out))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let _ = self.out.split_to(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Trailing<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buffer))?;
        if let (Some(interim), Some(new)) = (&self.interim, buffer.filled().get(before..)) {
            interim.pass(new);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Trailing<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_out(cx))?;
        if !self.awaits_end() {
            return Pin::new(&mut self.inner).poll_write(cx, bytes);
        }
        self.hold(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_out(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_out(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_out(cx))?;
        if !self.awaits_end() {
            return Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        }
        let bytes = slices.iter().fold(Vec::new(), |mut all, slice| {
            all.extend_from_slice(slice);
            all
        });
        self.hold(&bytes);
        Poll::Ready(Ok(bytes.len()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn trailers_take_the_place_of_their_stand_in() {
        let trailers = Rc::new(Trailers::default());
        let mut stream = Trailing::new(Vec::new(), Some(trailers.clone()));
        stream.write_all(b"5\r\nhello\r\n").await.unwrap();
        let mut map = HeaderMap::new();
        map.insert("x-a", "1".parse().unwrap());
        map.append("x-a", "2".parse().unwrap());
        let piece = trailers.announce(&map);
        let written = [&b"2\r\n..\r\n10\r\n"[..], &piece, b"\r\n0\r\n\r\nHTTP/1.1 200 OK"].concat();
        for bytes in written.chunks(3) {
            stream.write_all(bytes).await.unwrap();
        }
        stream.flush().await.unwrap();
        assert_eq!((stream.held.len(), stream.out.len()), (0, 0));
        let text = String::from_utf8(stream.into_inner()).unwrap();
        assert_eq!(text, "5\r\nhello\r\n2\r\n..\r\n0\r\nx-a: 1\r\nx-a: 2\r\n\r\nHTTP/1.1 200 OK");
    }

    #[tokio::test]
    async fn what_comes_before_the_end_goes_out() {
        let trailers = Rc::new(Trailers::default());
        let mut stream = Trailing::new(Vec::new(), Some(trailers.clone()));
        let piece = trailers.announce(&HeaderMap::new());
        let body = [b'x'; 100_000];
        for bytes in body.chunks(10_000) {
            stream.write_all(bytes).await.unwrap();
            assert!(stream.held.len() < 2 * LENGTH, "{}", stream.held.len());
        }
        stream.write_all(&[&b"\r\n10\r\n"[..], &piece, b"\r\n0\r\n\r\n"].concat()).await.unwrap();
        stream.flush().await.unwrap();
        assert_eq!(stream.into_inner(), [&body[..], b"\r\n0\r\n\r\n"].concat());
    }
}
