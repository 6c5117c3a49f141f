//! Counting gRPC messages and outcomes, below `cluster.<name>.grpc.` and in filter state.

use std::{rc::Rc, sync::Arc};

use http::{HeaderMap, header};

use super::exchange::Exchange;
use crate::{
    config::{filter::grpc_stats::GrpcStats, filter_state, request::is_grpc},
    filter_state::{FilterState, MessageCounts, Object, Shared, Span, Value},
    http::{
        body::counting::{CountedMethod, Counting, Place, Side},
        stream::Stream,
    },
};

/// What filter state calls its counts.
const KEY: &str = "envoy.filters.http.grpc_stats";

/// A call whose response has not come.
#[derive(Debug)]
pub(super) struct Call(Rc<Place>);

impl Call {
    /// Counts what the response's head says. Gives what counts its body.
    pub fn on_response(&self, status: http::StatusCode, headers: &HeaderMap) -> Box<Counting> {
        self.0.outcome(headers);
        let grpc = status == http::StatusCode::OK && headers.contains_key(header::CONTENT_TYPE) && is_grpc(headers);
        Box::new(Counting::new(self.0.clone(), grpc.then_some(Side::Response)))
    }
}

/// The service and the method that a path names.
fn service_and_method(path: &str) -> Option<(&str, &str)> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    (!service.is_empty() && !method.is_empty() && !method.contains('/')).then_some((service, method))
}

/// Counts the request's messages from here on. Gives the call, if it is one, or its response may be one's.
pub(super) fn on_request(config: &GrpcStats, stream: &mut Stream, exchange: &mut Exchange<'_>) -> Option<Call> {
    let is_call = is_grpc(&exchange.parts.headers);
    let method = if is_call { counted(config, stream, exchange.parts.uri.path()) } else { None };
    let kept = config.keeps.then(|| keep(&mut stream.record.entry.filter_state));
    if method.is_none() && kept.is_none() {
        return None;
    }
    let place = Rc::new(Place { shard: stream.connection.worker.stats.clone(), method, kept });
    if is_call {
        exchange.body.count(Box::new(Counting::new(place.clone(), Some(Side::Request))));
    }
    Some(Call(place))
}

/// Where the method that a path names is counted.
fn counted(config: &GrpcStats, stream: &Stream, path: &str) -> Option<CountedMethod> {
    let cluster = stream.cluster.clone()?;
    let (service, method) = service_and_method(path)?;
    Some(CountedMethod {
        cluster,
        prefix: config.methods.prefix(service, method),
        upstream_times: config.upstream_times,
    })
}

/// Counts that filter state has.
fn keep(state: &mut Option<Box<FilterState>>) -> Arc<MessageCounts> {
    let counts = Arc::new(MessageCounts::default());
    let value = Value::Messages(counts.clone());
    filter_state::add(state, Object { key: KEY.into(), value, shared: Shared::No, span: Span::Request });
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_methods() {
        assert_eq!(service_and_method("/a.B/C"), Some(("a.B", "C")));
        for path in ["/a", "/a/", "//b", "/a/b/c", "a/b"] {
            assert_eq!(service_and_method(path), None, "{path}");
        }
    }
}
