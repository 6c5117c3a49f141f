//! Making upstream connections, and the tasks that drive them until they end or idle too long.

use std::{
    future::poll_fn,
    pin::Pin,
    rc::{Rc, Weak},
    task::Poll,
    time::Duration,
};

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{io::AsyncWriteExt, sync::Notify};

use super::{
    error::PoolError,
    host::{Connection, Host, Http1, Http2, Room},
};
use crate::{
    cluster::{
        account::{Counted, Unasked},
        dial::Secured,
    },
    config::{self, cluster::Cluster, heads::HeadLimits, http1::HeaderNames},
    http::{
        body::{
            RequestBody,
            sending::{Beginnings, Executor},
        },
        codec::{http2::broke_protocol, trailers::Trailing},
    },
    telemetry::panics,
    wire::seldom::Seldom,
};

fn http1_builder(settings: &config::http1::Http1, heads: HeadLimits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.max_header_size(heads.http1_bytes());
    if heads.fields != HeadLimits::default().fields {
        // hyper's own default too, for which it has a place without an allocation for each response.
        builder.max_headers(heads.fields as usize);
    }
    builder.title_case_headers(settings.names == HeaderNames::Words).preserve_header_case(settings.names.kept());
    // As Envoy does: passed on in one line.
    builder.allow_obsolete_multiline_headers_in_responses(true);
    builder
}

pub(super) async fn start_http1(
    host: &Rc<Host>,
    cluster: &Cluster,
    secured: Secured,
    room: Room,
) -> Result<Http1, PoolError> {
    let number = secured.made.number;
    let room = Rc::new(room);
    let connection = Connection::new(cluster, &secured, room.clone(), cluster.http1.trailers);
    let io = Counted::new(secured.io, host.account.clone(), room.clone(), None);
    let (sender, driver) = http1_builder(&cluster.http1, cluster.response_heads)
        .handshake(TokioIo::new(Trailing::new(io, connection.trailers.clone()).noting(connection.interim.clone())))
        .await
        .map_err(|_| PoolError::Handshake)?;
    let host = Rc::downgrade(host);
    let shared = Rc::downgrade(&connection);
    let done = connection.done.clone();
    let (idle_timeout, lifetime) = (cluster.idle_timeout, cluster.max_connection_duration);
    panics::spawn_for(number, async move {
        let mut driver = driver;
        let mut ended = None;
        tokio::select! {
            biased;
            outcome = poll_fn(|cx| driver.poll_without_shutdown(cx)) => ended = Some(outcome),
            () = Seldom::new(idle_too_long(&host, &shared, idle_timeout)) => idled(&host),
            () = Seldom::new(retired(&host, &shared, lifetime)) => {
                // In use: its response ends first.
                tokio::select! {
                    biased;
                    outcome = poll_fn(|cx| driver.poll_without_shutdown(cx)) => ended = Some(outcome),
                    () = Seldom::new(left(&shared, &done)) => {}
                }
            }
            // Whatever hyper has still to send.
            () = Seldom::new(left(&shared, &done)) => {}
        }
        if let Some(outcome) = ended {
            if let Err(error) = &outcome {
                tracing::debug!(connection = number, %error, "upstream connection ended");
            }
            end(driver, &shared, &room, outcome.is_ok()).await;
        }
        if let Some(host) = host.upgrade() {
            host.idle.borrow_mut().retain(|one| !one.sender.is_closed());
        }
    });
    Ok(Http1 { sender, connection })
}

/// What is done with a connection that HTTP is over on: another protocol goes on, or it closes. `well`: nothing is wrong
/// with it.
async fn end(
    driver: http1::Connection<TokioIo<Trailing<Counted>>, RequestBody>,
    connection: &Weak<Connection>,
    room: &Room,
    well: bool,
) {
    let parts = driver.into_parts();
    let mut counted = parts.io.into_inner().into_inner();
    if well
        && let Some(switch) = connection.upgrade().and_then(|connection| connection.switch.take())
        && !switch.is_closed()
    {
        let _ = switch.send((counted.io, parts.read_buf));
        return;
    }
    if let Some(opened) = &room.counted {
        opened.remote.set(counted.ended);
        opened.unasked.set(Unasked::of(&parts.read_buf, parts.read_buf.len() == counted.last));
    }
    if well {
        // The other side may be gone: it was only to be told.
        let _ = counted.shutdown().await;
    }
}

/// Resolves when nobody has a connection any more.
async fn left(connection: &Weak<Connection>, done: &Notify) {
    while connection.strong_count() > 0 {
        done.notified().await;
    }
}

/// Resolves when a connection is to take no more requests, because it is old or its host has failed; for HTTP/2 once
/// its streams have ended. An HTTP/1 connection that idles leaves the pool.
async fn retired(host: &Weak<Host>, connection: &Weak<Connection>, lifetime: Option<Duration>) {
    let Some(account) = host.upgrade().and_then(|host| host.account.clone()) else {
        return std::future::pending().await;
    };
    let aged = async {
        match lifetime {
            Some(lifetime) => tokio::time::sleep(lifetime).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = aged => account.shard.inc(account.cluster.stats.upstream_cx_max_duration_reached),
        () = account.endpoint.host.failed.notified() => {}
    }
    let Some(connection) = connection.upgrade() else { return };
    connection.spent.set(true);
    if let Some(host) = host.upgrade() {
        host.idle.borrow_mut().retain(|one| !Rc::ptr_eq(&one.connection, &connection));
    }
    while connection.active.get() > 0 {
        connection.done.notified().await;
    }
}

/// Counts that a connection of the host was closed for having been idle.
fn idled(host: &Weak<Host>) {
    if let Some(account) = host.upgrade().as_ref().and_then(|host| host.account.as_ref()) {
        account.shard.inc(account.cluster.stats.upstream_cx_idle_timeout);
    }
}

/// Resolves when an HTTP/1 connection has been idle for `timeout`, having taken it out of the pool.
async fn idle_too_long(host: &Weak<Host>, connection: &Weak<Connection>, timeout: Option<Duration>) {
    let Some(timeout) = timeout else { return std::future::pending().await };
    let mut wait = timeout;
    loop {
        tokio::time::sleep(wait).await;
        let (Some(host), Some(connection)) = (host.upgrade(), connection.upgrade()) else { return };
        let mut idle = host.idle.borrow_mut();
        match idle.iter().position(|one| Rc::ptr_eq(&one.connection, &connection)) {
            Some(index) => {
                let since = connection.idle_since.get().elapsed();
                if since >= timeout {
                    idle.swap_remove(index);
                    return;
                }
                wait = timeout - since;
            }
            None => wait = timeout,
        }
    }
}

pub(super) async fn start_http2(
    host: &Rc<Host>,
    cluster: &Cluster,
    secured: Secured,
    room: Room,
) -> Result<Http2, PoolError> {
    let number = secured.made.number;
    let room = Rc::new(room);
    let connection = Connection::new(cluster, &secured, room.clone(), false);
    let io = Counted::new(secured.io, host.account.clone(), room, Some(Box::default()));
    let settings = &cluster.http2;
    let beginnings = Rc::new(Beginnings::default());
    let mut builder = http2::Builder::new(Executor { connection: number, beginnings: beginnings.clone() });
    builder
        .timer(TokioTimer::new())
        .max_header_list_size(cluster.response_heads.list_size())
        .initial_stream_window_size(settings.stream_window)
        .initial_connection_window_size(settings.connection_window);
    if let Some(keepalive) = settings.keepalive {
        builder
            .keep_alive_interval(keepalive.interval)
            .keep_alive_timeout(keepalive.timeout)
            .keep_alive_while_idle(true);
    }
    let (sender, mut driver) = builder.handshake(TokioIo::new(io)).await.map_err(|_| PoolError::Handshake)?;
    let limit = settings.max_concurrent_streams as usize;
    connection.max_streams.set(limit.max(1));
    let shared = Rc::downgrade(&connection);
    let host = Rc::downgrade(host);
    let (idle_timeout, lifetime) = (cluster.idle_timeout, cluster.max_connection_duration);
    let begun = beginnings.clone();
    panics::spawn_for(number, async move {
        let driving = poll_fn(|cx| {
            let ended = begun.during(|| Pin::new(&mut driver).poll(cx));
            if let Some(connection) = shared.upgrade() {
                let most = driver.current_max_send_streams().min(limit).max(1);
                if most > connection.max_streams.replace(most)
                    && let Some(host) = host.upgrade()
                {
                    host.streams.wake_one();
                }
            }
            match ended {
                Poll::Ready(ended) => Poll::Ready(ended),
                Poll::Pending => Poll::Pending,
            }
        });
        tokio::select! {
            biased;
            ended = driving => {
                if let Err(error) = &ended {
                    tracing::debug!(connection = number, %error, "upstream connection ended");
                }
                if let Some(connection) = shared.upgrade() {
                    connection.ended_remotely();
                    connection.broke_protocol.set(ended.is_err_and(|error| broke_protocol(&error)));
                }
            }
            why = Seldom::new(shared_is_over(&shared, idle_timeout)) => {
                if why == Over::Idle {
                    idled(&host);
                }
            }
            () = Seldom::new(retired(&host, &shared, lifetime)) => {}
        }
        if let Some(host) = host.upgrade() {
            // Its sender does not know yet, before the driver is gone.
            host.shared.borrow_mut().retain(|two| Rc::as_ptr(&two.connection) != shared.as_ptr());
        }
    });
    Ok(Http2 { sender, beginnings, connection })
}

/// Why an HTTP/2 connection without streams is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    /// It has had none for too long.
    Idle,
    /// It takes no more.
    Spent,
}

/// Resolves when an HTTP/2 connection has had no stream for `timeout`, or is spent and has none.
async fn shared_is_over(connection: &Weak<Connection>, timeout: Option<Duration>) -> Over {
    let mut wait = timeout.unwrap_or(Duration::MAX);
    loop {
        let Some(connection) = connection.upgrade() else { return Over::Spent };
        let is_idle = connection.active.get() == 0;
        if is_idle && connection.spent.get() {
            return Over::Spent;
        }
        if let Some(timeout) = timeout {
            let idle = connection.idle_since.get().elapsed();
            if is_idle && idle >= timeout {
                connection.spent.set(true);
                return Over::Idle;
            }
            wait = if is_idle { timeout - idle } else { timeout };
        }
        // The connection itself is given up before waiting: it lives no longer than the pool and its streams have it.
        let done = connection.done.clone();
        drop(connection);
        let _ = tokio::time::timeout(wait, done.notified()).await;
    }
}
