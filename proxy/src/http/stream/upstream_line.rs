//! What the router logs of single requests to upstreams (`upstream_log`): of a request that is tried again, one line each.
//!
//! The line of the attempt under way belongs to the request's record, which writes it when the attempt ends.

use std::{task::Context, time::Duration};

use http::{HeaderMap, StatusCode};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use crate::access_log::{Entry, Wanted};

/// One request to an upstream.
#[derive(Debug)]
pub(in crate::http) struct UpstreamLine {
    /// What its line says.
    pub entry: Entry,
    ticks: Option<Interval>,
}

impl UpstreamLine {
    /// Of a request of which `entry` tells; a line is also due every `interval`.
    pub fn new(entry: Entry, interval: Option<Duration>) -> Self {
        let ticks = interval.map(|interval| {
            let mut ticks = tokio::time::interval_at(Instant::now() + interval, interval);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            ticks
        });
        Self { entry, ticks }
    }

    /// It has a connection, as the request's own entry says.
    pub fn ready(&mut self, known: &Entry) {
        let entry = &mut self.entry;
        entry.protocol = known.upstream_protocol;
        entry.upstream_protocol = known.upstream_protocol;
        entry.upstream_local = known.upstream_local;
        entry.upstream_connection = known.upstream_connection;
        entry.upstream_tls.clone_from(&known.upstream_tls);
    }

    /// Its response begins.
    pub fn responded(&mut self, wanted: &Wanted, status: StatusCode, headers: &HeaderMap) {
        self.entry.response_code = status.as_u16();
        self.entry.response_started = Some(std::time::Instant::now());
        self.entry.kept.received_response(wanted, headers);
    }

    /// Whether a line is due while it lasts; has the task woken for the next.
    pub fn is_due(&mut self, cx: &mut Context<'_>) -> bool {
        self.ticks.as_mut().is_some_and(|ticks| ticks.poll_tick(cx).is_ready())
    }
}
