//! The record of one request: what the access log says of it, written when it is dropped.

use std::{
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, StatusCode};

use crate::{
    config::http::HttpConnectionManager,
    http::{body::progress::Progress, codec::meters},
    telemetry::access_log::{self, Entry, Flag, LogType},
    worker::state::Worker,
};

/// Bytes of the chunk that ends a body.
const LAST_CHUNK: u64 = 5;

/// A request under way. Dropping it ends it: whoever did not say [`Record::complete`] was cut off by the client.
#[derive(Debug)]
pub(in crate::http) struct Record {
    worker: Rc<Worker>,
    pub manager: Arc<HttpConnectionManager>,
    pub entry: Entry,
    /// The request's body, if it has one.
    pub progress: Option<Rc<Progress>>,
    complete: bool,
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
    pub fn new(worker: Rc<Worker>, manager: Arc<HttpConnectionManager>, entry: Entry, multiplexed: bool) -> Self {
        manager.stats.began(&worker.stats, multiplexed);
        Self {
            worker,
            manager,
            entry,
            progress: None,
            complete: false,
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

    /// Writes a line because the request has come.
    pub fn log_start(&self) {
        let (worker, logs) = (&self.worker, &self.manager.access_log);
        access_log::write(&worker.log, &worker.runtime, logs, LogType::DownstreamStart, &self.entry);
    }

    /// The response has ended, one way or another.
    pub fn complete(&mut self) {
        self.complete = true;
    }

    /// Reckons what a response's head is on the wire.
    pub fn meter_response(&mut self, status: StatusCode, headers: &HeaderMap, length: Option<u64>) {
        if self.manager.wanted.meters {
            self.chunked = !self.multiplexed && length.is_none();
            self.entry.meters.downstream_sent += meters::response_written(status, headers, self.multiplexed, length);
        }
    }

    /// Notes a part of the response's body.
    pub fn sent(&mut self, bytes: usize) {
        self.entry.bytes_sent += bytes as u64;
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

    /// What is only known when the stream is over.
    fn sum_up(&mut self, lasted: Duration) {
        self.entry.request_received = self.request_completed();
        if let Some(progress) = &self.progress {
            self.entry.bytes_received = progress.received();
        }
        let entry = &mut self.entry;
        let timing = &mut entry.timing;
        timing.reply_ended = timing.reply_began.map(|_| entry.start + lasted);
        timing.request_sent = timing.request_sent_from.zip(entry.request_received).map(|(from, to)| from.max(to));
        timing.response_received = timing.response_received.or(entry.response_started);
        let meters = &mut entry.meters;
        meters.downstream_received.wire += entry.bytes_received;
        meters.downstream_sent.wire += entry.bytes_sent + if self.chunked { LAST_CHUNK } else { 0 };
        if entry.upstream_local.is_some() {
            meters.upstream_sent.wire += entry.bytes_received;
        }
        if entry.response_started.is_some() {
            meters.upstream_received.wire += entry.bytes_sent;
        }
    }

    pub fn keep_trailers(&mut self, trailers: &HeaderMap) {
        self.entry.kept.trailers(&self.manager.wanted, trailers);
    }

    /// When the request was complete, if it is.
    pub fn request_completed(&self) -> Option<Instant> {
        match &self.progress {
            Some(progress) => progress.completed().map(tokio::time::Instant::into_std),
            None => Some(self.entry.start),
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.complete {
            if self.multiplexed {
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
        self.entry.health_check = self.health_check;
        let entry = &self.entry;
        let lasted = entry.start.elapsed();
        if entry.flags.contains(&Flag::DownstreamProtocolError) {
            self.worker.stats.inc(self.manager.stats.own.downstream_cx_protocol_error);
        }
        self.manager.stats.ended(
            &self.worker.stats,
            entry.response_code,
            &entry.details,
            lasted,
            self.health_check || self.redirected,
        );
        if self.manager.access_log.is_empty() {
            return;
        }
        self.sum_up(lasted);
        let (worker, logs) = (&self.worker, &self.manager.access_log);
        access_log::write(&worker.log, &worker.runtime, logs, LogType::DownstreamEnd, &self.entry);
    }
}
