//! One client connection that speaks HTTP: hyper drives it, and this watches over it (idleness, age, draining).
//!
//! The top floor: its requests go to `dispatch`; what their streams share of it is in `stream/connection.rs`.

mod limits;
mod rest;
mod streams;
mod watched;

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    rc::Rc,
    task::{Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Response, StatusCode, Version};
use http_body_util::{BodyExt, Collected};
use hyper::{
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use self::{
    limits::{Limit, SlowHead},
    streams::Streams,
    watched::Watched,
};
pub use super::stream::open::Open;
use super::{
    codec::{http2::broke_protocol, trailers::Trailing},
    dispatch,
    filter::local_reply,
    stream::{
        Stream, connection::Connection, record::Record, reply::Reply, response_body::ResponseBody, running::Running,
    },
};
use crate::{
    access_log::{self, Entry, Flag, LogType},
    config::{http::Codec, http1::HeaderNames},
    downstream::Downstream,
    drain::DrainWatch,
    wire::{in_place::in_place, io::Io, seldom::Seldom},
};

/// How long a connection that drains is open for one more request, so that a client that is just sending one does not
/// lose it.
pub const LAST_REQUEST: Duration = Duration::from_millis(500);

/// How long the last bytes of a connection may take where `delayed_close_timeout` is off: a client that does not read must
/// not hold it.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What Envoy calls the end of a connection that is not waited for.
const ENDED: &str = "deferred_close_on_drained_connection";

/// Streams that a client may cancel before anything was done for them, at once: as many as Envoy looks at before it takes them for an
/// attack (CVE-2023-44487).
const CANCELLED: usize = 500;

/// Serves a connection to its end. `codec` says which HTTP it speaks.
pub async fn serve(open: Open, downstream: Box<Downstream>, codec: Codec) {
    let connection = Connection::new(open, &downstream, codec == Codec::Http2);
    let (stream, drain) = stream_and_drain(downstream);
    let watched = Box::new(Watched::new(stream, connection.clone()));
    // In a place of its own: handed on as it is, it would have one in each of the futures that it passes through.
    let drained = Box::pin(async {
        tokio::select! {
            () = drain.draining() => last_request(&connection).await,
            () = limits::drained(&connection) => {}
        }
    });
    // A connection is as large as the largest that may become of it. What few become stands apart.
    if connection.multiplexed {
        in_place(|| serve_http2(&connection, watched, drained)).await;
    } else {
        serve_http1(&connection, watched, drained).await;
    }
}

/// A client that does not know yet that this connection drains may be sending its next request, or its first: it gets
/// an answer, and with it that the connection ends. HTTP/2 says so in time by itself, but for the first request.
async fn last_request(connection: &Connection) {
    connection.is_drained();
    if !connection.multiplexed || connection.activity.requests() == 0 {
        tokio::time::sleep(LAST_REQUEST).await;
    }
}

/// What serves it. The rest of what was known of it is not kept for as long as it lasts.
fn stream_and_drain(downstream: Box<Downstream>) -> (Io, DrainWatch) {
    let Downstream { stream, drain, .. } = *downstream;
    (stream, drain)
}

async fn serve_http1(connection: &Rc<Connection>, mut watched: Box<Watched>, drain: impl Future<Output = ()>) {
    let mut drain = std::pin::pin!(Seldom::new(drain));
    let mut limits = std::pin::pin!(Seldom::new(limits::passed(connection)));
    let (ended, watched, unread) = loop {
        let (ended, unread);
        (ended, watched, unread) = serve_requests(connection, watched, drain.as_mut(), limits.as_mut()).await;
        if let Some(ended) = ended {
            break (ended, watched, unread);
        }
        watched.take_back(unread);
        connection.worker.rested.notify_one();
        let ended = tokio::select! {
            biased;
            // An error is read like what else comes.
            _ = watched.stream.readable() => None,
            () = &mut drain => Some(Ok(Ok(()))),
            limit = &mut limits => Some(Err(limit)),
        };
        if let Some(ended) = ended {
            break (ended, watched, Bytes::new());
        }
    };
    end_http1(connection, ended, watched, unread).await;
}

/// How an HTTP/1 connection ended: as hyper says, or by a limit.
type Ended = Result<hyper::Result<()>, Limit>;

/// Serves requests until the connection ends, or rests: then it has not ended. What was read and not used comes back.
///
/// All that this needs is gone while a connection rests.
async fn serve_requests(
    connection: &Rc<Connection>,
    watched: Box<Watched>,
    mut drain: Pin<&mut impl Future<Output = ()>>,
    mut limits: Pin<&mut impl Future<Output = Limit>>,
) -> (Option<Ended>, Box<Watched>, Bytes) {
    let manager = &connection.manager;
    let running = Rc::new(Running::default());
    let service = {
        let (connection, running) = (connection.clone(), running.clone());
        // hyper gives the connection back (for upgrades) only from services whose futures are not pinned in it.
        service_fn(move |request| {
            // It is handled when hyper has read on: the client's end is not to be seen before.
            connection.activity.comes();
            in_place(|| dispatch::handle(connection.clone(), running.clone(), request))
        })
    };
    let io = TokioIo::new(Trailing::new(watched, connection.trailers()));
    // Apart: here it would have its place also while the connection rests.
    let mut serving = Box::new(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(None)
            .max_headers(manager.max_headers)
            .max_header_size(manager.max_head_bytes)
            .title_case_headers(manager.http1.names == HeaderNames::Words)
            .preserve_header_case(manager.http1.names.kept())
            .serve_connection(io, service),
    );
    let mut rests = std::pin::pin!(Seldom::new(rest::begins(connection)));
    // Not looked for before there has been a moment without a request: a connection of one request has ended then, and
    // has needed no timer.
    let mut may_rest = false;
    let mut draining = false;
    let ended = loop {
        tokio::select! {
            biased;
            ended = poll_fn(|cx| {
                connection.activity.driven();
                // With its end, which flushes: a drain ends it also where the last response is not on its way yet.
                running.poll_beside(cx, |cx| Pin::new(&mut *serving).poll(cx))
            }) => {
                break Some(ended.ok_or(Limit::Response));
            }
            () = &mut drain, if !draining => {
                draining = true;
                Pin::new(&mut *serving).graceful_shutdown();
            }
            limit = &mut limits => break Some(Err(limit)),
            () = poll_fn(|cx| {
                may_rest |= connection.activity.active() == 0;
                if may_rest { rests.as_mut().poll(cx) } else { Poll::Pending }
            }), if !draining => break None,
        }
    };
    let parts = serving.into_parts();
    (ended, parts.io.into_inner().into_inner(), parts.read_buf)
}

/// Ends a connection, or hands it on to what it is upgraded to.
async fn end_http1(connection: &Rc<Connection>, ended: Ended, watched: Box<Watched>, unread: Bytes) {
    match ended {
        Ok(Ok(())) => match connection.take_upgrade() {
            Some(upgrade) => {
                let early = [&unread, watched.after_upgrade()].concat();
                let counts = |received, sent| {
                    connection.count_read(received);
                    connection.count_written(sent);
                };
                if let Err(error) = Box::pin(upgrade.run(watched.stream, early.into(), counts)).await {
                    connection.failed(&error);
                }
            }
            None if !watched.saw_end && connection.ends_at_once() && watched.awaits_no_body() => {
                close(connection, watched.stream).await;
            }
            None if !watched.saw_end => {
                if connection.manager.delayed_close_timeout.is_none() && watched.is_between_requests() {
                    connection.closes(ENDED);
                }
                linger(connection, watched.stream).await;
            }
            None => {
                if watched.in_head() {
                    log_unfinished_head(connection);
                }
                answer_end(watched.stream);
            }
        },
        Ok(Err(error)) => {
            tracing::debug!(connection = connection.id, peer = %connection.peer, %error, "connection ended");
            if error.is_parse() {
                log_protocol_error(connection, &error);
            }
            if !watched.saw_end && (error.is_parse() || error.is_user()) {
                // The client has done something wrong, or the upstream: it gets what there is for it, and an end in order, as
                // in Envoy.
                linger(connection, watched.stream).await;
            } else {
                answer_end(watched.stream);
            }
        }
        Err(Limit::Response) => {
            tracing::debug!(connection = connection.id, peer = %connection.peer, "response took too long");
        }
        Err(Limit::Blocked) => {
            tracing::debug!(connection = connection.id, peer = %connection.peer, "client does not read");
        }
        Err(Limit::Head(slow)) => {
            tracing::debug!(connection = connection.id, peer = %connection.peer, "request headers took too long");
            Box::pin(answer_slow_head(connection, slow, watched.stream)).await;
        }
    }
}

async fn serve_http2(connection: &Rc<Connection>, mut watched: Box<Watched>, drain: impl Future<Output = ()>) {
    let manager = &connection.manager;
    let mut drain = std::pin::pin!(Seldom::new(drain));
    let begins = tokio::select! {
        begins = watched.begins() => begins,
        () = &mut drain => None,
    };
    match begins {
        Some(true) => {}
        Some(false) => {
            tracing::debug!(connection = connection.id, peer = %connection.peer, "the client does not speak HTTP/2");
            protocol_broken(connection);
            linger(connection, watched.stream).await;
            return;
        }
        None => return,
    }
    let streams = Streams::new(connection.id);
    let service = {
        let (connection, streams) = (connection.clone(), streams.clone());
        // hyper moves the future about, and into a task of its own.
        service_fn(move |request| in_place(|| dispatch::handle(connection.clone(), streams.begin(), request)))
    };
    let mut builder = http2::Builder::new(streams);
    if manager.http2.allow_connect {
        builder.enable_connect_protocol();
    }
    let mut serving = std::pin::pin!(
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(manager.http2.max_concurrent_streams)
            .initial_stream_window_size(manager.http2.stream_window)
            .initial_connection_window_size(manager.http2.connection_window)
            .keep_alive_interval(manager.http2.keepalive.map(|keepalive| keepalive.interval))
            .keep_alive_timeout(manager.http2.keepalive.map(|keepalive| keepalive.timeout).unwrap_or_default())
            .max_pending_accept_reset_streams(CANCELLED)
            .max_header_list_size(u32::try_from(manager.max_head_bytes).unwrap_or(u32::MAX))
            .serve_connection(TokioIo::new(watched), service)
    );
    let mut blocked = std::pin::pin!(Seldom::new(limits::blocked(connection)));
    let mut slow_head = std::pin::pin!(Seldom::new(limits::slow_head(connection)));
    let mut drained_in_vain = std::pin::pin!(Seldom::new(limits::drained_in_vain(connection)));
    let (mut draining, mut overdue) = (false, false);
    loop {
        tokio::select! {
            biased;
            ended = serving.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(connection = connection.id, peer = %connection.peer, %error, "connection ended");
                    if broke_protocol(&error) {
                        protocol_broken(connection);
                    }
                }
                return;
            }
            () = &mut drain, if !draining => {
                draining = true;
                serving.as_mut().graceful_shutdown();
            }
            () = &mut drained_in_vain, if draining => {
                tracing::debug!(connection = connection.id, peer = %connection.peer, "client does not acknowledge the drain");
                return;
            }
            () = &mut blocked => {
                tracing::debug!(connection = connection.id, peer = %connection.peer, "client does not read");
                return;
            }
            slow = &mut slow_head, if !overdue => {
                tracing::debug!(connection = connection.id, peer = %connection.peer, "request headers took too long");
                // hyper knows of no stream that the answer could go to.
                let _ = slow_head_answer(connection, slow).into_body().collect().await;
                (draining, overdue) = (true, true);
                serving.as_mut().graceful_shutdown();
            }
            // A client in the midst of a head can say nothing else: it has had all that it asked for.
            () = limits::at_rest(connection), if overdue => return,
        }
    }
}

/// Says the end under TLS to a client that has ended its side, one way or another.
fn answer_end(mut stream: Io) {
    if matches!(stream, Io::Tls(_)) {
        // It is not waited for: what its socket does not take at once is lost.
        let _ = stream.shutdown().now_or_never();
    }
}

/// Closes a connection whose client has nothing to send.
async fn close(connection: &Connection, mut stream: Io) {
    connection.closes(ENDED);
    let closed = poll_fn(|cx| {
        ready!(Pin::new(&mut stream).poll_shutdown(cx))?;
        // The kernel resets what is closed with something unread, which may cost the client the response. What is known to
        // have come is read; not more in one turn than tokio lets a task do.
        let mut sink = [0; 1024];
        loop {
            let mut sink = ReadBuf::new(&mut sink);
            match Pin::new(&mut stream).poll_read(cx, &mut sink) {
                Poll::Ready(Ok(())) if !sink.filled().is_empty() => {}
                _ => return Poll::Ready(io::Result::Ok(())),
            }
        }
    });
    let limit = connection.manager.delayed_close_timeout;
    if tokio::time::timeout(limit.unwrap_or(LAST_WORDS), closed).await.is_err() && limit.is_some() {
        connection.close_is_delayed();
    }
}

/// Closes a connection whose client may still be sending: it must not lose the last response to a reset. Whether the client
/// has closed its side meanwhile.
async fn linger(connection: &Connection, mut stream: Io) -> bool {
    let delay = connection.manager.delayed_close_timeout;
    let closed = async {
        if stream.shutdown().await.is_err() || delay.is_none() {
            return false;
        }
        // Not an array: it would be part of every connection, in all its life.
        let mut sink = vec![0; 4096];
        loop {
            match stream.read(&mut sink).await {
                Ok(0) => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    };
    let closed = tokio::time::timeout(delay.unwrap_or(LAST_WORDS), closed).await;
    // Whoever still sends after this long does not read either.
    if closed.is_err() && delay.is_some() {
        connection.close_is_delayed();
    }
    closed.unwrap_or(false)
}

/// A request's head has been coming for too long. hyper answers nothing that it has not seen whole.
async fn answer_slow_head(connection: &Rc<Connection>, slow: SlowHead, mut stream: Io) {
    let answer = written(slow_head_answer(connection, slow)).await;
    connection.count_written(answer.len() as u64);
    let limit = connection.manager.delayed_close_timeout.unwrap_or(LAST_WORDS);
    if let Ok(Ok(())) = tokio::time::timeout(limit, stream.write_all(&answer)).await
        && linger(connection, stream).await
    {
        // In Envoy such a connection is the client's to end.
        connection.closes(ENDED);
        connection.open.client_ended();
    }
}

/// What such a request is answered. It is counted and logged when the answer has been read.
fn slow_head_answer(connection: &Rc<Connection>, slow: SlowHead) -> Response<ResponseBody> {
    let mut parts = http::Request::new(()).into_parts().0;
    if connection.multiplexed {
        parts.version = Version::HTTP_2;
    }
    let mut stream_of_head = Stream::new(connection.clone(), Rc::default(), &parts, true);
    begins_with_head(connection, &mut stream_of_head.record.entry);
    let reply = match slow {
        SlowHead::Itself => {
            Reply::new(StatusCode::REQUEST_TIMEOUT, "request header timeout", None, "request_header_timeout")
        }
        SlowHead::Stream(expired) => stream_of_head.expired(expired),
    };
    local_reply::refuse(stream_of_head, reply)
}

/// A response as HTTP/1 writes it.
async fn written(response: Response<ResponseBody>) -> Vec<u8> {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.map(Collected::to_bytes).unwrap_or_default();
    let reason = parts.status.canonical_reason().unwrap_or_default();
    let date = jiff::Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT");
    let status = parts.status.as_u16();
    let head = format!("HTTP/1.1 {status} {reason}\r\ndate: {date}\r\ncontent-length: {}\r\n", body.len());
    let mut out = head.into_bytes();
    for (name, value) in &parts.headers {
        out.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    out.extend([b"\r\n", &*body].concat());
    out
}

/// The client has gone in the middle of a request's head: that counts as a request.
fn log_unfinished_head(connection: &Connection) {
    let mut entry = connection.entry();
    begins_with_head(connection, &mut entry);
    entry.protocol = Some("HTTP/1.1");
    drop(Record::new(&connection.open, entry, false, Rc::default()));
}

/// A request whose head has not come as a whole began with the head's first byte.
fn begins_with_head(connection: &Connection, entry: &mut Entry) {
    if let Some(began) = connection.activity.head_began() {
        entry.start_time -= began.elapsed();
        entry.start = began.into_std();
    }
}

/// The client has broken the protocol.
fn protocol_broken(connection: &Connection) {
    connection.protocol_error();
    connection.worker.stats.inc(connection.manager.stats.own.downstream_cx_protocol_error);
}

fn log_protocol_error(connection: &Connection, error: &hyper::Error) {
    let mut entry = connection.entry();
    entry.protocol = Some("HTTP/1.1");
    entry.response_code = if error.is_parse_too_large() { 431 } else { 400 };
    entry.raise(Flag::DownstreamProtocolError);
    protocol_broken(connection);
    entry.details = "http1.codec_error".into();
    let worker = &connection.worker;
    access_log::write(&worker.log, &worker.runtime, &connection.manager.access_log, LogType::DownstreamEnd, &entry);
}
