//! An accepted upgrade or tunnel: bytes pass both ways until both sides are done.

use std::{cell::Cell, io, rc::Rc, time::Duration};

use bytes::Bytes;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::oneshot,
    time::Instant,
};

use super::{activity::Active, record::Record};
use crate::{
    access_log::Flag,
    http::pool::{Lease, Switched, tunnel::Counted},
    tcp::copy::{self, Copied, Ended, Side},
    wire::io::Io,
};

/// Bytes that one direction of a stream reads at once.
const PIECE: usize = 16 * 1024;

/// What counts the upstream's connection as long as bytes pass.
#[derive(Debug)]
pub(in crate::http) enum Held {
    /// It came out of the pool.
    Lease(Lease),
    /// It was made for this.
    Tunnel(Counted),
}

impl Held {
    fn passed(&self, sent: u64, received: u64) {
        match self {
            Self::Lease(lease) => lease.passed(sent, received),
            Self::Tunnel(counted) => counted.passed(sent, received),
        }
    }
}

/// An upgrade that the upstream has accepted: what is left to do when hyper has given the client's connection, or its
/// stream, back.
#[derive(Debug)]
pub(in crate::http) struct Accepted {
    pub record: Box<Record>,
    pub upstream: Upstream,
    pub idle: Option<Duration>,
    pub held: Held,
}

/// Where the upstream's bytes come from.
#[derive(Debug)]
pub(in crate::http) enum Upstream {
    /// A connection, once HTTP is over on it.
    Connection(oneshot::Receiver<Switched>),
    /// One that was made for this.
    Tunnel(Io),
    /// A stream of an HTTP/2 connection.
    Stream(OnUpgrade),
}

impl Accepted {
    /// Carries bytes between the client's connection, of which `read` was read already, and the upstream's.
    pub async fn run(self, mut client: Io, read: Bytes) {
        let Self { mut record, upstream, idle, held } = self;
        let upstream = match upstream {
            Upstream::Connection(switched) => switched.await.ok(),
            Upstream::Tunnel(io) => Some((io, Bytes::new())),
            Upstream::Stream(stream) => {
                let Ok(stream) = stream.await else { return };
                return carry(record, idle, held, (client, read), (TokioIo::new(stream), Bytes::new())).await;
            }
        };
        let Some((mut upstream, first)) = upstream else { return };
        let meter = record.tunnel.insert(Rc::default()).clone();
        meter.add(read.len() as u64, first.len() as u64);
        let passing = async {
            upstream.write_all(&read).await?;
            client.write_all(&first).await?;
            let never = std::future::pending();
            let moved = |moved: Copied| meter.add(moved.received, moved.sent);
            let unwatched = None::<&copy::Unwatched>;
            io::Result::Ok(copy::both_ways(&mut client, &mut upstream, idle, never, unwatched, moved).await)
        };
        let ended = record.while_logging(passing).await;
        tracing::debug!(
            connection = record.entry.connection,
            stream = record.name(),
            ?ended,
            "upgraded connection ended"
        );
        match ended {
            Ok(Ended::Idle) => idled(&mut record),
            Ok(Ended::Failed(Side::Downstream, _)) => {
                record.entry.raise(Flag::DownstreamConnectionTermination);
                record.entry.details = "downstream_remote_disconnect".into();
            }
            _ => {}
        }
        held.passed(meter.received.get(), meter.sent.get() - first.len() as u64);
        record.complete();
    }

    /// The same over a stream of the client's HTTP/2 connection, which is not idle meanwhile (`active`).
    pub async fn run_stream(self, client: OnUpgrade, active: Active) {
        let Self { record, upstream, idle, held } = self;
        let Ok(client) = client.await else { return };
        let client = (TokioIo::new(client), Bytes::new());
        match upstream {
            Upstream::Connection(switched) => {
                if let Ok(switched) = switched.await {
                    carry(record, idle, held, client, switched).await;
                }
            }
            Upstream::Tunnel(io) => carry(record, idle, held, client, (io, Bytes::new())).await,
            Upstream::Stream(stream) => {
                if let Ok(stream) = stream.await {
                    carry(record, idle, held, client, (TokioIo::new(stream), Bytes::new())).await;
                }
            }
        }
        drop(active);
    }
}

/// Carries bytes between two sides of which one at least is a stream; with each, what was read of it already.
async fn carry(
    mut record: Box<Record>,
    idle: Option<Duration>,
    held: Held,
    (mut client, read): (impl AsyncRead + AsyncWrite + Unpin, Bytes),
    (mut upstream, first): (impl AsyncRead + AsyncWrite + Unpin, Bytes),
) {
    let meter = record.tunnel.insert(Rc::default()).clone();
    meter.add(read.len() as u64, first.len() as u64);
    let moved = Cell::new(Instant::now());
    let moved_up = |bytes| {
        meter.add(bytes, 0);
        moved.set(Instant::now());
    };
    let moved_down = |bytes| {
        meter.add(0, bytes);
        moved.set(Instant::now());
    };
    let passing = async {
        client.write_all(&first).await?;
        client.flush().await?;
        upstream.write_all(&read).await?;
        upstream.flush().await?;
        let (from_client, to_client) = tokio::io::split(&mut client);
        let (from_upstream, to_upstream) = tokio::io::split(&mut upstream);
        tokio::try_join!(pass(from_client, to_upstream, moved_up), pass(from_upstream, to_client, moved_down))
    };
    let ended = async {
        tokio::select! {
            ended = passing => Some(ended),
            () = idle_for(idle, &moved) => None,
        }
    };
    let ended = record.while_logging(ended).await;
    let (connection, stream) = (record.entry.connection, record.name());
    match &ended {
        Some(ended) => tracing::debug!(connection, stream, ?ended, "upgraded stream ended"),
        None => {
            tracing::debug!(connection, stream, "upgraded stream idle too long");
            idled(&mut record);
        }
    }
    held.passed(meter.received.get(), meter.sent.get() - first.len() as u64);
    if let (Held::Lease(lease), Some(Ok(_))) = (held, ended)
        && lease.is_http2()
    {
        lease.release();
    }
    record.complete();
}

/// Nothing has passed for as long as the route, or else the connection manager, allows.
fn idled(record: &mut Record) {
    record.entry.raise(Flag::StreamIdleTimeout);
    record.entry.details = "stream_idle_timeout".into();
}

/// Passes bytes on until there are no more.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut moved: impl FnMut(u64),
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let read = from.read(&mut piece).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&piece[..read]).await?;
        to.flush().await?;
        moved(read as u64);
    }
}

/// Resolves when nothing has moved for `limit`.
async fn idle_for(limit: Option<Duration>, moved: &Cell<Instant>) {
    let Some(limit) = limit else { return std::future::pending().await };
    loop {
        let deadline = moved.get() + limit;
        if deadline <= Instant::now() {
            return;
        }
        tokio::time::sleep_until(deadline).await;
    }
}
