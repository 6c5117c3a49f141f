//! The limits of a connection: how long it may idle and exist, which is followed by a drain, and how long its client may
//! keep it waiting.

use tokio::time::Instant;

use crate::http::stream::connection::Connection;

/// Which limit passed that a client overstepped.
#[derive(Clone, Copy, Debug)]
pub(super) enum Limit {
    Head,
    Blocked,
}

/// Resolves when the client has kept an HTTP/1 connection waiting for too long.
pub(super) async fn passed(connection: &Connection) -> Limit {
    tokio::select! {
        () = slow_head(connection) => Limit::Head,
        () = blocked(connection) => Limit::Blocked,
    }
}

/// Resolves when the connection has drained and is to end. HTTP/2 tells the client by itself that it drains, and takes
/// what the client has begun by then.
pub(super) async fn drained(connection: &Connection) {
    let age = async {
        connection.open.too_old().await;
        connection.drain();
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
            tokio::time::sleep(connection.manager.drain_timeout).await;
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
        let deadline = if activity.active() > 0 { Instant::now() + timeout } else { since + timeout };
        tokio::time::sleep_until(deadline).await;
        if activity.active() == 0 && activity.idle_since() == since {
            return;
        }
    }
}

/// Resolves when a request's head has been coming for too long.
async fn slow_head(connection: &Connection) {
    let Some(timeout) = connection.manager.request_headers_timeout else { return std::future::pending().await };
    loop {
        match connection.activity.head_began() {
            None => connection.activity.head_begins().await,
            Some(began) => {
                tokio::time::sleep_until(began + timeout).await;
                if connection.activity.head_began() == Some(began) {
                    return;
                }
            }
        }
    }
}

/// Resolves when the client has taken no bytes for as long as a stream may be idle: its responses are not asked for
/// more meanwhile, so that their own timers stand still.
pub(super) async fn blocked(connection: &Connection) {
    let Some(timeout) = connection.manager.stream_idle_timeout else { return std::future::pending().await };
    loop {
        match connection.activity.blocked_since() {
            None => connection.activity.blocks().await,
            Some(since) => {
                tokio::time::sleep_until(since + timeout).await;
                if connection.activity.blocked_since() == Some(since) {
                    return;
                }
            }
        }
    }
}
