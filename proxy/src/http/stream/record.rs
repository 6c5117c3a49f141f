//! The record of one request: what the access log says of it, written when it is dropped, and before that as often as
//! the connection manager says.
//!
//! Whoever has a request in hand and waits for something does so through its record ([`Record::while_logging`],
//! [`Record::poll_log`]): lines that are due meanwhile are written then.

use std::{
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::Context,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::time::{Interval, MissedTickBehavior};

use super::{
    activity::Activity,
    open::Open,
    running::Running,
    timers::{Expired, Timers},
    tracking::Tracking,
    upstream_line::UpstreamLine,
};
use crate::{
    access_log::{self, Entry, Flag, LogType},
    config::http::HttpConnectionManager,
    downstream::Meter,
    http::{body::progress::Progress, codec::meters},
    telemetry::stats::Shard,
    worker::state::Worker,
};

/// Bytes of the chunk that ends a body.
const LAST_CHUNK: u64 = 5;

/// A request under way. Dropping it ends it: whoever did not say [`Record::complete`] was cut off by the client.
#[derive(Debug)]
pub(in crate::http) struct Record {
    worker: Rc<Worker>,
    /// Of its connection.
    activity: Rc<Activity>,
    pub manager: Arc<HttpConnectionManager>,
    pub entry: Entry,
    /// What component logs call it; none: nobody asks.
    pub id: Option<HeaderValue>,
    /// The request's body, if it has one.
    pub progress: Option<Rc<Progress>>,
    /// What limits its response, once that is under way.
    pub running: Rc<Running>,
    /// The bytes of the tunnel that the request became, if it did.
    pub tunnel: Option<Rc<Meter>>,
    /// The request to an upstream that is under way, where the router logs them.
    pub upstream: Option<Box<UpstreamLine>>,
    /// The same, where its cluster tracks them.
    pub tracking: Option<Box<Tracking>>,
    /// When the next line is due, if lines are written while the request lasts.
    ticks: Option<Box<Interval>>,
    complete: bool,
    /// Its response broke off.
    broken: bool,
    /// The client speaks HTTP/2.
    pub multiplexed: bool,
    /// The response's body goes out in chunks.
    chunked: bool,
    /// It is a health check, which statistics leave out.
    pub health_check: bool,
    /// Its response was a redirect that was followed here: no client got it.
    pub redirected: bool,
    /// It switches protocols, if the upstream agrees.
    upgrade: bool,
}

impl Record {
    /// Of a request on a connection, whose response `running` limits.
    pub fn new(open: &Open, entry: Entry, multiplexed: bool, running: Rc<Running>) -> Self {
        let (worker, manager) = (open.worker.clone(), open.manager.clone());
        manager.stats.began(&worker.stats, multiplexed);
        let ticks = manager.log.interval.filter(|_| !manager.access_log.is_empty()).map(|interval| {
            let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + interval, interval);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            Box::new(ticks)
        });
        Self {
            worker,
            activity: open.activity.clone(),
            manager,
            entry,
            id: None,
            progress: None,
            running,
            tunnel: None,
            upstream: None,
            tracking: None,
            ticks,
            complete: false,
            broken: false,
            multiplexed,
            health_check: false,
            redirected: false,
            upgrade: false,
            chunked: false,
        }
    }

    /// It may switch protocols.
    pub fn upgraded(&mut self) {
        if !std::mem::replace(&mut self.upgrade, true) {
            let own = &self.manager.stats.own;
            self.worker.stats.inc(own.downstream_cx_upgrades_total);
            self.worker.stats.gauge_add(own.downstream_cx_upgrades_active, 1);
        }
    }

    /// Where it counts.
    pub fn shard(&self) -> &Shard {
        &self.worker.stats
    }

    /// Whether lines are written before the request ends.
    pub fn logs_early(&self) -> bool {
        self.manager.log.on_start || self.ticks.is_some()
    }

    /// Writes a line while the request lasts.
    pub fn log_now(&self, log_type: LogType) {
        let (worker, logs) = (&self.worker, &self.manager.access_log);
        if logs.is_empty() {
            return;
        }
        let mut entry = self.entry.clone();
        self.totals().add_to(&mut entry);
        access_log::write(&worker.log, &worker.runtime, logs, log_type, &entry);
    }

    /// Writes a line if one is due, and has the task woken for the next.
    pub fn poll_log(&mut self, cx: &mut Context<'_>) {
        while self.ticks.as_mut().is_some_and(|ticks| ticks.poll_tick(cx).is_ready()) {
            self.log_now(LogType::DownstreamPeriodic);
        }
        while self.upstream.as_mut().is_some_and(|line| line.is_due(cx)) {
            self.log_upstream(LogType::UpstreamPeriodic);
        }
    }

    /// The request to an upstream has its connection.
    pub fn upstream_ready(&mut self) {
        if let Some(tracking) = &mut self.tracking {
            tracking.ready();
        }
        if let Some(line) = &mut self.upstream {
            line.ready(&self.entry);
            if self.manager.router.log.on_established {
                self.log_upstream(LogType::UpstreamPoolReady);
            }
        }
    }

    /// The upstream's response begins.
    pub fn upstream_responded(&mut self, status: StatusCode, headers: &HeaderMap) {
        if let Some(tracking) = &mut self.tracking {
            tracking.responded(status, headers);
        }
        if let Some(line) = &mut self.upstream {
            line.responded(&self.manager.router.wanted, status, headers);
        }
    }

    /// The whole request has taken too long, and its latest attempt was not answered.
    pub fn overtaken(&mut self) {
        if let Some(tracking) = &mut self.tracking {
            tracking.overtaken();
        }
    }

    /// The upstream's response has come to its end, or takes too long.
    pub fn upstream_complete(&mut self) {
        if let (Some(completed), Some(tracking)) = (self.request_completed(), &mut self.tracking) {
            tracking.complete(completed.elapsed());
        }
    }

    /// The request to an upstream ends.
    pub fn upstream_ended(&mut self, flag: Option<Flag>) {
        if let Some(mut tracking) = self.tracking.take() {
            let totals = self.totals();
            tracking.sent = totals.received.unwrap_or(self.entry.bytes_received) + totals.tunnel.0;
            tracking.received += totals.tunnel.1;
        }
        if let (Some(line), Some(flag)) = (&mut self.upstream, flag) {
            line.entry.raise(flag);
        }
        self.log_upstream(LogType::UpstreamEnd);
        self.upstream = None;
    }

    /// Writes the line of the request to an upstream as it is now.
    fn log_upstream(&self, log_type: LogType) {
        let Some(line) = &self.upstream else { return };
        let (mut whole, mut entry) = (self.entry.clone(), line.entry.clone());
        let totals = self.totals();
        totals.add_to(&mut whole);
        if entry.protocol.is_some() {
            entry.meters = whole.meters;
        }
        entry.bytes_sent = match log_type {
            // Whatever has come of the body, nothing has gone yet.
            LogType::UpstreamPoolReady => 0,
            _ => whole.bytes_received,
        };
        entry.bytes_received += totals.tunnel.1;
        let worker = &self.worker;
        access_log::write(&worker.log, &worker.runtime, &self.manager.router.upstream_log, log_type, &entry);
    }

    /// Waits for `future`; lines are written meanwhile.
    pub async fn while_logging<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = pin!(future);
        std::future::poll_fn(|cx| {
            let polled = future.as_mut().poll(cx);
            if polled.is_pending() {
                self.poll_log(cx);
            }
            polled
        })
        .await
    }

    /// Waits for `future`, or until a limit passes; lines are written meanwhile.
    pub async fn within<F: Future>(&mut self, timers: &mut Timers, future: F) -> Result<F::Output, Expired> {
        timers.during(self.while_logging(future)).await
    }

    /// What component logs call it: what `%STREAM_ID%` is.
    pub fn name(&self) -> Option<&str> {
        self.id.as_ref().and_then(|id| id.to_str().ok())
    }

    /// The response has ended, one way or another.
    pub fn complete(&mut self) {
        self.complete = true;
    }

    /// The response breaks off here.
    pub fn resets(&mut self) {
        self.broken = true;
        self.request_breaks_off();
        self.worker.stats.inc(self.manager.stats.own.downstream_rq_tx_reset);
    }

    /// Nothing more of the request is read.
    pub fn request_breaks_off(&self) {
        self.worker.stats.inc(self.manager.stats.own.downstream_rq_rx_reset);
    }

    /// What the request became ends before its client has ended it.
    pub fn response_ends_first(&self) {
        self.worker.stats.inc(self.manager.stats.own.downstream_rq_response_before_rq_complete);
    }

    /// The client has ended the connection that switched protocols.
    pub fn left(&mut self) {
        self.activity.client_ended_during(1);
        self.broken = true;
        self.entry.raise(Flag::DownstreamConnectionTermination);
        self.entry.details = "downstream_remote_disconnect".into();
        self.complete();
    }

    /// Reckons what a response's head is on the wire.
    pub fn meter_response(&mut self, status: StatusCode, headers: &HeaderMap, body: meters::Body) {
        if self.manager.wanted.meters {
            self.chunked = !self.multiplexed && body == meters::Body::Chunked;
            self.entry.meters.downstream_sent += meters::response_written(status, headers, self.multiplexed, body);
        }
    }

    /// Notes a part of the response's body.
    pub fn sent(&mut self, bytes: usize) {
        self.entry.bytes_sent += bytes as u64;
        if let Some(tracking) = &mut self.tracking {
            tracking.received += bytes as u64;
        }
        if let Some(line) = &mut self.upstream {
            line.entry.bytes_received += bytes as u64;
        }
        if self.chunked && bytes > 0 {
            // Its length in hexadecimal, and two ends of line.
            let digits = u64::from((usize::BITS - bytes.leading_zeros()).div_ceil(4));
            self.entry.meters.downstream_sent.wire += digits + 4;
        }
        if self.manager.wanted.times && self.entry.response_started.is_some() {
            let now = Instant::now();
            self.entry.timing.body_started.get_or_insert(now);
            self.entry.timing.response_received = Some(now);
        }
    }

    /// What has come and gone by now.
    fn totals(&self) -> Totals {
        let tunnel = self.tunnel.as_deref().map_or((0, 0), |tunnel| (tunnel.received.get(), tunnel.sent.get()));
        Totals {
            request_received: self.request_completed(),
            received: self.progress.as_ref().map(|progress| progress.received()),
            tunnel,
        }
    }

    pub fn keep_trailers(&mut self, trailers: &HeaderMap) {
        self.entry.kept.trailers(&self.manager.wanted, trailers);
        if let Some(line) = &mut self.upstream {
            line.entry.kept.trailers(&self.manager.router.wanted, trailers);
        }
    }

    /// When the request was complete, if it is: one that may switch protocols never is.
    pub fn request_completed(&self) -> Option<Instant> {
        if self.upgrade {
            return None;
        }
        match &self.progress {
            Some(progress) => progress.completed().map(tokio::time::Instant::into_std),
            None => Some(self.entry.start),
        }
    }
}

/// What a record's entry learns only when a line is written.
struct Totals {
    request_received: Option<Instant>,
    /// Of the request's body, if it has one.
    received: Option<u64>,
    /// Received and sent.
    tunnel: (u64, u64),
}

impl Totals {
    fn add_to(&self, entry: &mut Entry) {
        entry.request_received = self.request_received;
        entry.bytes_received = self.received.unwrap_or(entry.bytes_received) + self.tunnel.0;
        entry.bytes_sent += self.tunnel.1;
        let timing = &mut entry.timing;
        timing.request_sent = timing.request_sent_from.zip(entry.request_received).map(|(from, to)| from.max(to));
        let meters = &mut entry.meters;
        meters.downstream_received.wire += entry.bytes_received;
        meters.downstream_sent.wire += entry.bytes_sent;
        if entry.upstream_local.is_some() {
            meters.upstream_sent.wire += entry.bytes_received;
        }
        if entry.response_started.is_some() {
            meters.upstream_received.wire += entry.bytes_sent;
        }
    }
}

/// What is only known when the stream is over.
fn sum_up(entry: &mut Entry, totals: &Totals, chunked: bool, lasted: Duration) {
    totals.add_to(entry);
    let timing = &mut entry.timing;
    timing.reply_ended = timing.reply_began.map(|_| entry.start + lasted);
    timing.response_received = timing.response_received.or(entry.response_started);
    if chunked {
        entry.meters.downstream_sent.wire += LAST_CHUNK;
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // What panicked here is not the client's doing.
        if !self.complete && !std::thread::panicking() {
            self.broken = true;
            if self.multiplexed && self.activity.left().is_none() {
                self.entry.raise(Flag::DownstreamRemoteReset);
                self.entry.details = "http2.remote_reset".into();
            } else {
                self.entry.raise(Flag::DownstreamConnectionTermination);
                self.entry.details = "downstream_remote_disconnect".into();
            }
        }
        if self.upgrade {
            self.worker.stats.gauge_add(self.manager.stats.own.downstream_cx_upgrades_active, -1);
        }
        self.upstream_ended(None);
        self.entry.health_check = self.health_check;
        let entry = &self.entry;
        tracing::debug!(connection = entry.connection, stream = self.name(), code = entry.response_code, details = %entry.details, "stream ended");
        let lasted = entry.start.elapsed();
        if entry.flags.contains(&Flag::DownstreamProtocolError) {
            self.worker.stats.inc(self.manager.stats.own.downstream_cx_protocol_error);
        }
        self.manager.stats.ended(
            &self.worker.stats,
            (entry.response_code, &entry.details),
            (!self.broken).then_some(lasted),
            self.multiplexed,
            self.health_check || self.redirected,
        );
        if self.manager.access_log.is_empty() {
            return;
        }
        let totals = self.totals();
        sum_up(&mut self.entry, &totals, self.chunked, lasted);
        let (worker, logs) = (&self.worker, &self.manager.access_log);
        access_log::write(&worker.log, &worker.runtime, logs, LogType::DownstreamEnd, &self.entry);
    }
}
