//! The limits of a connection: how long it may idle and exist, which is followed by a drain, and how long its client may
//! keep it waiting.
//!
//! Each connection has these futures for as long as it lasts. The sleeps that few ever come to are boxed.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    config::http::HttpConnectionManager,
    http::stream::{connection::Connection, timers::Expired},
};

/// Between two looks at what ends without telling.
const LOOKS: Duration = Duration::from_millis(100);

/// Which limit passed that a client overstepped.
#[derive(Clone, Copy, Debug)]
pub(super) enum Limit {
    Head(SlowHead),
    /// One of a response, of which nothing is asked for.
    Response,
    Blocked,
}

/// For which limit a request's head has been coming for too long.
#[derive(Clone, Copy, Debug)]
pub(super) enum SlowHead {
    /// Its own.
    Itself,
    /// One that is its stream's.
    Stream(Expired),
}

/// Resolves when the client has kept an HTTP/1 connection waiting for too long.
pub(super) async fn passed(connection: &Connection) -> Limit {
    tokio::select! {
        slow = slow_head(connection) => Limit::Head(slow),
        () = blocked(connection) => Limit::Blocked,
    }
}

/// Resolves when the connection has drained and is to end. HTTP/2 tells the client by itself that it drains, and takes
/// what the client has begun by then.
pub(super) async fn drained(connection: &Connection) {
    let age = async {
        connection.open.too_old().await;
        connection.is_too_old();
        std::future::pending().await
    };
    let idleness = async {
        idle(connection).await;
        connection.worker.stats.inc(connection.manager.stats.own.downstream_cx_idle_timeout);
        tracing::debug!(connection = connection.id, peer = %connection.peer, "connection idle too long");
        connection.drain();
        std::future::pending().await
    };
    let drained = async {
        connection.drains().await;
        if !connection.multiplexed {
            Box::pin(tokio::time::sleep(connection.manager.drain_timeout)).await;
        }
    };
    tokio::select! {
        () = age => {}
        () = idleness => {}
        () = drained => {}
    }
}

/// Resolves when there has been no request for the idle timeout.
async fn idle(connection: &Connection) {
    let Some(timeout) = connection.manager.idle_timeout else { return std::future::pending().await };
    loop {
        let activity = &connection.activity;
        let since = activity.idle_since();
        // A request begins with the first byte of its head.
        let rests = || activity.active() == 0 && activity.head_began().is_none();
        let deadline = if rests() { since + timeout } else { Instant::now() + timeout };
        tokio::time::sleep_until(deadline).await;
        if rests() && activity.idle_since() == since {
            return;
        }
    }
}

/// How long a request's head may be coming: a stream begins with its first byte, and the limits of streams with that.
fn head_limit(manager: &HttpConnectionManager) -> Option<(Duration, SlowHead)> {
    let limits = [
        (manager.request_headers_timeout, SlowHead::Itself),
        (manager.request_timeout, SlowHead::Stream(Expired::Request)),
        (manager.stream_idle_timeout, SlowHead::Stream(Expired::Idle)),
        (manager.max_stream_duration, SlowHead::Stream(Expired::MaxDuration)),
    ];
    limits.into_iter().filter_map(|(limit, slow)| Some((limit?, slow))).min_by_key(|(limit, _)| *limit)
}

/// Resolves when a request's head has been coming for too long.
pub(super) async fn slow_head(connection: &Connection) -> SlowHead {
    let Some((timeout, slow)) = head_limit(&connection.manager) else { return std::future::pending().await };
    loop {
        match connection.activity.head_began() {
            None => connection.activity.head_begins().await,
            Some(began) => {
                Box::pin(tokio::time::sleep_until(began + timeout)).await;
                if connection.activity.head_began() == Some(began) {
                    return slow;
                }
            }
        }
    }
}

/// Resolves when no request is under way, or soon after.
pub(super) async fn at_rest(connection: &Connection) {
    while connection.activity.active() > 0 {
        tokio::time::sleep(LOOKS).await;
    }
}

/// Resolves when a connection of HTTP/2 that began to drain has no requests any more, and is still there: before its last GOAWAY
/// hyper waits for a PING to come back, which a client may never send.
pub(super) async fn drained_in_vain(connection: &Connection) {
    Box::pin(tokio::time::sleep(connection.manager.drain_timeout)).await;
    at_rest(connection).await;
}

/// Resolves when the client has taken no bytes for as long as a stream may be idle, and no response is under way that has
/// limits of its own; or, of the rest of the last response, for `delayed_close_timeout`.
pub(super) async fn blocked(connection: &Connection) {
    let HttpConnectionManager { stream_idle_timeout: idle, delayed_close_timeout: delay, .. } = *connection.manager;
    let Some(look) = [idle, delay].into_iter().flatten().min() else { return std::future::pending().await };
    // Since when it had taken nothing when only the rest of the last response was seen to be left.
    let mut left = None;
    loop {
        let Some(since) = connection.activity.blocked_since() else {
            connection.activity.blocks().await;
            continue;
        };
        let last = connection.writes_last();
        match (delay, idle) {
            (Some(_), _) if last && left == Some(since) => return connection.close_is_delayed(),
            (Some(delay), _) if last => {
                left = Some(since);
                Box::pin(tokio::time::sleep(delay)).await;
            }
            (_, Some(idle)) if connection.activity.active() == 0 && since.elapsed() >= idle => return,
            _ => Box::pin(tokio::time::sleep(look)).await,
        }
    }
}
