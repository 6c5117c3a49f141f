//! Counting the gRPC messages of a body, below `cluster.<name>.grpc.`.

use std::{rc::Rc, sync::Arc, time::Duration};

use http::HeaderMap;

use crate::{
    config::cluster::Cluster,
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
    pub cluster: Arc<Cluster>,
    /// `grpc.` and, for some, the service and the method.
    pub prefix: Box<str>,
    /// How long upstreams take is counted, too.
    pub upstream_times: bool,
}

impl Place {
    fn counter(&self, name: &str) -> Counter {
        // Names of methods are known when they are called, as in Envoy.
        self.cluster.stats.scope.counter(&format!("{}{name}", self.prefix))
    }

    /// Counts the outcome, if these headers or trailers say it.
    pub fn outcome(&self, headers: &HeaderMap) {
        let Some(status) = headers.get("grpc-status").and_then(|status| status.to_str().ok()) else { return };
        let shard = &self.shard;
        shard.inc(self.counter(status));
        shard.inc(self.counter(if status.parse() == Ok(0_u64) { "success" } else { "failure" }));
        shard.inc(self.counter("total"));
    }
}

/// Counts the messages of one direction, and what ends a response.
#[derive(Debug)]
pub(in crate::http) struct Counting {
    place: Rc<Place>,
    messages: Messages,
    /// `request_message_count` or `response_message_count`; none: what passes is not gRPC.
    name: Option<&'static str>,
}

impl Counting {
    /// Of a body that begins. `name` says which messages they are.
    pub fn new(place: Rc<Place>, name: Option<&'static str>) -> Self {
        Self { place, messages: Messages::default(), name }
    }

    /// Bytes of the body have passed.
    pub fn passed(&mut self, data: &[u8]) {
        let Some(name) = self.name else { return };
        match self.messages.begun(data) {
            0 => {}
            begun => self.place.shard.add(self.place.counter(name), begun),
        }
    }

    /// The trailers of the response have come.
    pub fn trailers(&self, trailers: &HeaderMap) {
        self.place.outcome(trailers);
    }

    /// The response has ended, so long after the request.
    pub fn ended(&self, took: Option<Duration>) {
        if let (true, Some(took)) = (self.place.upstream_times, took) {
            let name = format!("{}upstream_rq_time", self.place.prefix);
            let histogram = self.place.cluster.stats.scope.histogram(&name, Unit::Milliseconds);
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
