//! The record of one request: what the access log says of it, written when it is dropped.

use std::{rc::Rc, sync::Arc, time::Instant};

use http::HeaderMap;

use super::progress::Progress;
use crate::{
    config::http::HttpConnectionManager,
    telemetry::access_log::{self, Entry, Flag},
    worker::state::Worker,
};

/// A request under way. Dropping it ends it: whoever did not say [`Record::complete`] was cut off by the client.
#[derive(Debug)]
pub(super) struct Record {
    worker: Rc<Worker>,
    pub manager: Arc<HttpConnectionManager>,
    pub entry: Entry,
    /// The request's body, if it has one.
    pub progress: Option<Rc<Progress>>,
    complete: bool,
    /// The client speaks HTTP/2.
    pub multiplexed: bool,
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

    /// The response has ended, one way or another.
    pub fn complete(&mut self) {
        self.complete = true;
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
        self.entry.request_received = self.request_completed();
        if let Some(progress) = &self.progress {
            self.entry.bytes_received = progress.received();
        }
        access_log::write(&self.worker.log, &self.manager.access_log, &self.entry);
    }
}
