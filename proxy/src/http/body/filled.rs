//! Bodies as hyper hands them out, without empty frames.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame};
use hyper::body::Incoming;

/// What a body says when it is asked for its next frame; none: it has ended.
type Polled = Option<Result<Frame<Bytes>, hyper::Error>>;

/// The next frame of a body, and whether it was the last: an empty one between others is not passed on, as peers take but
/// so many of them on a connection.
pub(in crate::http) fn poll_filled(body: &mut Incoming, cx: &mut Context<'_>) -> Poll<(Polled, bool)> {
    loop {
        let frame = ready!(Pin::new(&mut *body).poll_frame(cx));
        let ended = body.is_end_stream();
        let is_empty = matches!(&frame, Some(Ok(frame)) if frame.data_ref().is_some_and(Bytes::is_empty));
        if ended || !is_empty {
            return Poll::Ready((frame, ended));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use hyper_util::rt::{TokioExecutor, TokioIo};

    use super::*;

    #[tokio::test]
    async fn empty_frames_between_others_are_not_passed_on() {
        let (client, server) = tokio::io::duplex(64 * 1024);
        tokio::spawn(async move {
            let mut connection = h2::server::handshake(server).await.unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let mut body = respond.send_response(http::Response::new(()), false).unwrap();
                for (data, last) in [("", false), ("one", false), ("", false), ("two", false), ("", true)] {
                    body.send_data(Bytes::from(data), last).unwrap();
                }
            }
        });
        let io = TokioIo::new(client);
        let (mut sender, driver) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(driver);
        let request = http::Request::get("http://h/").body(http_body_util::Empty::<Bytes>::new()).unwrap();
        let mut body = sender.send_request(request).await.unwrap().into_body();
        let mut passed = Vec::new();
        loop {
            let (frame, ended) = poll_fn(|cx| poll_filled(&mut body, cx)).await;
            passed.push(frame.unwrap().unwrap().into_data().unwrap());
            if ended {
                break;
            }
        }
        assert_eq!(passed, ["one", "two", ""]);
    }
}
