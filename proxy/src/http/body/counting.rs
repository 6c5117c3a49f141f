//! Counting the gRPC messages of a body, below `cluster.<name>.grpc.`.

use std::{
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use http::HeaderMap;

use crate::{
    config::cluster::Cluster,
    filter_state::MessageCounts,
    telemetry::stats::{Counter, Shard, Unit},
};

/// Bytes before each message: a flag and the message's length.
const FRAME_HEADER: usize = 5;

/// Finds where messages begin in a stream of bytes.
#[derive(Debug, Default)]
struct Messages {
    header: [u8; FRAME_HEADER],
    have: usize,
    /// Bytes of the message that are still to come.
    left: usize,
}

impl Messages {
    /// How many messages begin in `data`.
    fn begun(&mut self, mut data: &[u8]) -> u64 {
        let mut begun = 0;
        while !data.is_empty() {
            if self.left > 0 {
                let here = self.left.min(data.len());
                self.left -= here;
                data = &data[here..];
                continue;
            }
            begun += u64::from(self.have == 0);
            let here = (FRAME_HEADER - self.have).min(data.len());
            self.header[self.have..self.have + here].copy_from_slice(&data[..here]);
            self.have += here;
            data = &data[here..];
            if self.have == FRAME_HEADER {
                let [_, length @ ..] = self.header;
                self.left = u32::from_be_bytes(length) as usize;
                self.have = 0;
            }
        }
        begun
    }
}

/// Where a call is counted.
#[derive(Debug)]
pub(in crate::http) struct Place {
    pub shard: Shard,
    /// None: what passes names no method.
    pub method: Option<CountedMethod>,
    /// What else is to know how many messages there are.
    pub kept: Option<Arc<MessageCounts>>,
}

/// The statistics of a method.
#[derive(Debug)]
pub(in crate::http) struct CountedMethod {
    pub cluster: Arc<Cluster>,
    /// `grpc.` and, for some, the service and the method.
    pub prefix: Box<str>,
    /// How long upstreams take is counted, too.
    pub upstream_times: bool,
}

/// Which messages are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) enum Side {
    Request,
    Response,
}

impl CountedMethod {
    fn counter(&self, name: &str) -> Counter {
        // Names of methods are known when they are called, as in Envoy.
        self.cluster.stats.scope.counter_seen(format_args!("{}{name}", self.prefix))
    }
}

impl Place {
    /// So many more messages have begun.
    fn begun(&self, side: Side, messages: u64) {
        let (name, kept) = match side {
            Side::Request => ("request_message_count", self.kept.as_ref().map(|counts| &counts.requests)),
            Side::Response => ("response_message_count", self.kept.as_ref().map(|counts| &counts.responses)),
        };
        if let Some(kept) = kept {
            kept.fetch_add(messages, Relaxed);
        }
        if let Some(method) = &self.method {
            self.shard.add(method.counter(name), messages);
        }
    }

    /// Counts the outcome, if these headers or trailers say it.
    pub fn outcome(&self, headers: &HeaderMap) {
        let Some(status) = headers.get("grpc-status").and_then(|status| status.to_str().ok()) else { return };
        let Some(method) = &self.method else { return };
        let shard = &self.shard;
        shard.inc(method.counter(status));
        shard.inc(method.counter(if status.parse() == Ok(0_u64) { "success" } else { "failure" }));
        shard.inc(method.counter("total"));
    }
}

/// Counts the messages of one direction, and what ends a response.
#[derive(Debug)]
pub(in crate::http) struct Counting {
    place: Rc<Place>,
    messages: Messages,
    /// None: what passes is not gRPC.
    side: Option<Side>,
}

impl Counting {
    /// Of a body that begins. `side` says which messages they are.
    pub fn new(place: Rc<Place>, side: Option<Side>) -> Self {
        Self { place, messages: Messages::default(), side }
    }

    /// Bytes of the body have passed.
    pub fn passed(&mut self, data: &[u8]) {
        let Some(side) = self.side else { return };
        match self.messages.begun(data) {
            0 => {}
            begun => self.place.begun(side, begun),
        }
    }

    /// The trailers of the response have come.
    pub fn trailers(&self, trailers: &HeaderMap) {
        self.place.outcome(trailers);
    }

    /// The response has ended, so long after the request.
    pub fn ended(&self, took: Option<Duration>) {
        if let (Some(method), Some(took)) = (self.place.method.as_ref().filter(|method| method.upstream_times), took) {
            let name = format!("{}upstream_rq_time", method.prefix);
            let histogram = method.cluster.stats.scope.histogram(&name, Unit::Milliseconds);
            self.place.shard.record(histogram, u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_wherever_bytes_are_cut() {
        let bytes = [0, 0, 0, 0, 3, b'a', b'b', b'c', 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, b'd'];
        for cut in 0..bytes.len() {
            let mut messages = Messages::default();
            assert_eq!(messages.begun(&bytes[..cut]) + messages.begun(&bytes[cut..]), 3, "{cut}");
        }
    }
}
