//! An accepted upgrade or tunnel: bytes pass both ways until both sides are done.

use std::{cell::Cell, io, rc::Rc, time::Duration};

use bytes::Bytes;
use futures_util::TryFutureExt;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::oneshot,
    time::Instant,
};
use tokio_util::either::Either;

use super::{activity::Active, failure::Failure, record::Record};
use crate::{
    access_log::Flag,
    drain::DrainWatch,
    http::pool::{Lease, Switched, tunnel::Counted},
    tcp::{
        CUT,
        copy::{self, Copied, Ended, Side, Ways},
        way::Unwatched,
    },
    wire::{io::Io, seldom::Seldom},
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

    /// The upstream has ended it, `failure` says how.
    fn broke(&mut self, failure: &Failure) {
        match self {
            Self::Lease(lease) => {
                lease.ended_remotely();
                failure.end(lease);
            }
            Self::Tunnel(counted) => counted.ended_remotely(true),
        }
    }

    /// Both sides have ended it in order, the upstream last.
    fn finished(&self) {
        if let Self::Tunnel(counted) = self {
            counted.ended_remotely(false);
        }
    }

    /// Both sides have ended it in order: a stream need not be reset.
    fn release(self) {
        if let Self::Lease(lease) = self
            && lease.is_http2()
        {
            lease.release();
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
    /// It may last until then.
    pub until: Option<Instant>,
    pub held: Held,
    /// Of the client's connection.
    pub drain: DrainWatch,
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

impl Upstream {
    /// Its bytes, and what was read of them already.
    async fn end(self) -> Option<(End, Bytes)> {
        Some(match self {
            Self::Connection(switched) => {
                let (io, first) = switched.await.ok()?;
                (End::Left(io), first)
            }
            Self::Tunnel(io) => (End::Left(io), Bytes::new()),
            Self::Stream(stream) => (End::Right(TokioIo::new(stream.await.ok()?)), Bytes::new()),
        })
    }
}

/// One end of the tunnel: a connection, or a stream of HTTP/2.
type End = Either<Io, TokioIo<Upgraded>>;

impl Accepted {
    /// Carries bytes between the client's connection, of which `read` was read already, and the upstream. `counts` what else
    /// comes from the client, and what goes there. An error is the client's connection's.
    pub async fn run(self, client: Io, read: Bytes, counts: impl Fn(u64, u64)) -> io::Result<()> {
        self.carry(End::Left(client), read, counts).await
    }

    /// The same over a stream of the client's HTTP/2 connection, which is not idle meanwhile (`active`).
    pub async fn run_stream(self, client: OnUpgrade, active: Active) {
        let Ok(client) = client.await else { return };
        // What passes over its connection is counted there.
        let _ = self.carry(End::Right(TokioIo::new(client)), Bytes::new(), |_, _| ()).await;
        drop(active);
    }

    async fn carry(self, mut client: End, read: Bytes, counts: impl Fn(u64, u64)) -> io::Result<()> {
        let Self { mut record, upstream, idle, until, held, drain } = self;
        let ends_http = matches!(upstream, Upstream::Connection(_));
        let Some((mut upstream, first)) = upstream.end().await else { return Ok(()) };
        let meter = record.tunnel.insert(Rc::default()).clone();
        meter.add(read.len() as u64, first.len() as u64);
        let last = Cell::new(Instant::now());
        let moved = |received, sent| {
            counts(received, sent);
            meter.add(received, sent);
            last.set(Instant::now());
        };
        // The upstream has ended its half, whatever became of the client's.
        let upstream_done = Cell::new(false);
        counts(0, first.len() as u64);
        let passing = async {
            tokio::select! {
                ended = pass(&mut client, &mut upstream, (&read, &first), moved, &upstream_done) => ended,
                () = idle_for(idle, &last) => Ended::Idle,
                () = Seldom::new(drain.forced_within(CUT)) => Ended::Cut,
            }
        };
        let ended = tokio::select! {
            ended = record.while_logging(passing) => Some(ended),
            () = Seldom::new(too_old(until)) => None,
        };
        held.passed(meter.received.get(), meter.sent.get() - first.len() as u64);
        if matches!(ended, Some(Ended::Failed(..) | Ended::Cut)) {
            // Neither end may take what it has for the whole.
            for end in [&client, &upstream] {
                if let End::Left(connection) = end {
                    copy::reset_on_close(connection);
                }
            }
        }
        let (connection, stream) = (record.entry.connection, record.name());
        tracing::debug!(connection, stream, ?ended, "upgraded connection ended");
        let in_order = matches!(ended, Some(Ended::Finished { .. }));
        if !in_order {
            // What was passed on before has a turn to go out.
            tokio::task::yield_now().await;
            record.running.cut();
        }
        conclude(record, held, ended.as_ref(), ends_http, upstream_done.get());
        match ended {
            Some(Ended::Failed(Side::Downstream, error)) => Err(error),
            _ => Ok(()),
        }
    }
}

/// Tells the record, and what counts the upstream's connection, how it `ended` (none: it was too old). `ends_http`: so ended
/// the upstream's HTTP/1. `upstream_done`: the upstream has ended its half, and the client has all of that.
fn conclude(mut record: Box<Record>, mut held: Held, ended: Option<&Ended>, ends_http: bool, upstream_done: bool) {
    let in_order = matches!(ended, Some(Ended::Finished { .. }));
    let request_ended = record.multiplexed && in_order;
    if !request_ended {
        record.response_ends_first();
    }
    match ended {
        None => {
            record.entry.details = "max_duration_timeout".into();
            record.resets();
        }
        Some(Ended::Idle) => {
            record.entry.raise(Flag::StreamIdleTimeout);
            record.entry.details = "stream_idle_timeout".into();
            record.resets();
        }
        Some(Ended::Failed(Side::Upstream, error)) => {
            upstream_broke(&mut record, &mut held, &Failure::of_tunnel(error));
        }
        Some(Ended::Finished { last: Side::Downstream } | Ended::Failed(Side::Downstream, _)) if upstream_done => {
            if ends_http {
                // The end of HTTP's connection is none that was asked for.
                upstream_broke(&mut record, &mut held, &Failure::Terminated);
            } else if !request_ended {
                record.request_breaks_off();
            }
        }
        Some(Ended::Finished { .. }) if record.multiplexed => held.finished(),
        Some(Ended::Finished { .. } | Ended::Failed(Side::Downstream, _)) if !record.multiplexed => record.left(),
        // Dropped, the record tells what became of the stream.
        Some(Ended::Failed(Side::Downstream, _)) => return,
        Some(_) => record.resets(),
    }
    if in_order {
        held.release();
    }
    record.complete();
}

/// The upstream has ended what passed.
fn upstream_broke(record: &mut Record, held: &mut Held, failure: &Failure) {
    held.broke(failure);
    record.entry.raise(failure.flag());
    record.entry.details = failure.details_after_headers();
    record.resets();
}

/// Passes bytes both ways, after those that were read already, of the client (`read`) and of the upstream (`first`).
async fn pass(
    client: &mut End,
    upstream: &mut End,
    (read, first): (&[u8], &[u8]),
    moved: impl Fn(u64, u64),
    upstream_done: &Cell<bool>,
) -> Ended {
    let early = async {
        tokio::try_join!(write((Side::Downstream, &mut *client), first), write((Side::Upstream, &mut *upstream), read))
    };
    if let Err((side, error)) = early.await {
        return Ended::Failed(side, error);
    }
    if let (End::Left(client), End::Left(upstream)) = (&mut *client, &mut *upstream) {
        let never = std::future::pending();
        let moved = |copied: Copied| moved(copied.received, copied.sent);
        let (mut ways, ends) = (Ways::default(), (client, upstream));
        let ended = copy::both_ways(&mut ways, ends, None, never, None::<&Unwatched>, moved).await;
        upstream_done.set(ways.upstream_is_done());
        return ended;
    }
    let (from_client, to_client) = tokio::io::split(client);
    let (from_upstream, to_upstream) = tokio::io::split(upstream);
    let last = Cell::new(Side::Upstream);
    let up = pass_on((Side::Downstream, from_client), (Side::Upstream, to_upstream), |bytes| moved(bytes, 0));
    let down = pass_on((Side::Upstream, from_upstream), (Side::Downstream, to_client), |bytes| moved(0, bytes));
    let up = up.inspect_ok(|()| last.set(Side::Downstream));
    let down = down.inspect_ok(|()| {
        last.set(Side::Upstream);
        upstream_done.set(true);
    });
    match tokio::try_join!(up, down) {
        Ok(_) => Ended::Finished { last: last.get() },
        Err((side, error)) => Ended::Failed(side, error),
    }
}

/// Why a direction ends, and on which side.
type Failed = (Side, io::Error);

/// Passes bytes on until there are no more.
async fn pass_on(
    (source, mut from): (Side, impl AsyncRead + Unpin),
    (sink, mut to): (Side, impl AsyncWrite + Unpin),
    moved: impl Fn(u64),
) -> Result<(), Failed> {
    let mut piece = vec![0; PIECE];
    loop {
        let read = from.read(&mut piece).await.map_err(|error| (source, error))?;
        if read == 0 {
            return to.shutdown().await.map_err(|error| (sink, error));
        }
        write((sink, &mut to), &piece[..read]).await?;
        moved(read as u64);
    }
}

async fn write((side, to): (Side, &mut (impl AsyncWrite + Unpin)), bytes: &[u8]) -> Result<(), Failed> {
    let written = async {
        to.write_all(bytes).await?;
        to.flush().await
    };
    written.await.map_err(|error| (side, error))
}

/// Resolves when it is time.
async fn too_old(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
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
