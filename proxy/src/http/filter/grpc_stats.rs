//! Counting gRPC messages and outcomes, below `cluster.<name>.grpc.`.

use std::{rc::Rc, sync::Arc, time::Duration};

use http::{HeaderMap, header};

use super::{Exchange, State};
use crate::{
    config::{cluster::Cluster, filter::grpc_stats::GrpcStats, route::is_grpc},
    http::stream::Stream,
    telemetry::stats::{Counter, Unit},
    worker::state::Worker,
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
struct Place {
    worker: Rc<Worker>,
    cluster: Arc<Cluster>,
    /// `grpc.` and, for some, the service and the method.
    prefix: Box<str>,
    upstream_times: bool,
}

impl Place {
    fn counter(&self, name: &str) -> Counter {
        // Names of methods are known when they are called, as in Envoy.
        self.cluster.stats.scope.counter(&format!("{}{name}", self.prefix))
    }

    fn outcome(&self, headers: &HeaderMap) {
        let Some(status) = headers.get("grpc-status").and_then(|status| status.to_str().ok()) else { return };
        let shard = &self.worker.stats;
        shard.inc(self.counter(status));
        shard.inc(self.counter(if status.parse() == Ok(0_u64) { "success" } else { "failure" }));
        shard.inc(self.counter("total"));
    }
}

/// Counts the messages of one direction, and what ends a response.
#[derive(Debug)]
pub struct Counting {
    place: Rc<Place>,
    messages: Messages,
    /// `request_message_count` or `response_message_count`; none: what passes is not gRPC.
    name: Option<&'static str>,
}

impl Counting {
    /// Bytes of the body have passed.
    pub fn passed(&mut self, data: &[u8]) {
        let Some(name) = self.name else { return };
        match self.messages.begun(data) {
            0 => {}
            begun => self.place.worker.stats.add(self.place.counter(name), begun),
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
            self.place.worker.stats.record(histogram, u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        }
    }
}

/// A call whose response has not come.
#[derive(Debug)]
pub(super) struct Call(Rc<Place>);

impl Call {
    /// Counts what the response's head says. Gives what counts its body.
    pub fn on_response(&self, status: http::StatusCode, headers: &HeaderMap) -> Box<Counting> {
        self.0.outcome(headers);
        let grpc = status == http::StatusCode::OK && headers.contains_key(header::CONTENT_TYPE) && is_grpc(headers);
        let name = grpc.then_some("response_message_count");
        Box::new(Counting { place: self.0.clone(), messages: Messages::default(), name })
    }
}

/// The service and the method that a path names.
fn service_and_method(path: &str) -> Option<(&str, &str)> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    (!service.is_empty() && !method.is_empty() && !method.contains('/')).then_some((service, method))
}

pub(super) fn on_request(config: &GrpcStats, stream: &mut Stream, exchange: &mut Exchange<'_>) {
    if !is_grpc(&exchange.parts.headers) {
        return;
    }
    let Some(cluster) = stream.cluster.clone() else { return };
    let Some((service, method)) = service_and_method(exchange.parts.uri.path()) else { return };
    let prefix = match (config.methods.has(service, method), config.replace_dots) {
        (false, _) => "grpc.".into(),
        (true, false) => format!("grpc.{service}.{method}.").into(),
        (true, true) => format!("grpc.{}.{method}.", service.replace('.', "_")).into(),
    };
    let worker = stream.connection.worker.clone();
    let place = Rc::new(Place { worker, cluster, prefix, upstream_times: config.upstream_times });
    let name = Some("request_message_count");
    exchange.body.count(Box::new(Counting { place: place.clone(), messages: Messages::default(), name }));
    stream.chain.states.push(State::GrpcStats(Call(place)));
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

    #[test]
    fn paths_name_methods() {
        assert_eq!(service_and_method("/a.B/C"), Some(("a.B", "C")));
        for path in ["/a", "/a/", "//b", "/a/b/c", "a/b"] {
            assert_eq!(service_and_method(path), None, "{path}");
        }
    }
}
