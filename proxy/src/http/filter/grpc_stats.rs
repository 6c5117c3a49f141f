//! Counting gRPC messages and outcomes, below `cluster.<name>.grpc.`.

use std::rc::Rc;

use http::{HeaderMap, header};

use super::exchange::Exchange;
use crate::{
    config::{filter::grpc_stats::GrpcStats, request::is_grpc},
    http::{
        body::counting::{Counting, Place},
        stream::Stream,
    },
};

/// A call whose response has not come.
#[derive(Debug)]
pub(super) struct Call(Rc<Place>);

impl Call {
    /// Counts what the response's head says. Gives what counts its body.
    pub fn on_response(&self, status: http::StatusCode, headers: &HeaderMap) -> Box<Counting> {
        self.0.outcome(headers);
        let grpc = status == http::StatusCode::OK && headers.contains_key(header::CONTENT_TYPE) && is_grpc(headers);
        let name = grpc.then_some("response_message_count");
        Box::new(Counting::new(self.0.clone(), name))
    }
}

/// The service and the method that a path names.
fn service_and_method(path: &str) -> Option<(&str, &str)> {
    let (service, method) = path.strip_prefix('/')?.split_once('/')?;
    (!service.is_empty() && !method.is_empty() && !method.contains('/')).then_some((service, method))
}

/// Counts the request's messages from here on. Gives the call, if it is one.
pub(super) fn on_request(config: &GrpcStats, stream: &Stream, exchange: &mut Exchange<'_>) -> Option<Call> {
    if !is_grpc(&exchange.parts.headers) {
        return None;
    }
    let cluster = stream.cluster.clone()?;
    let (service, method) = service_and_method(exchange.parts.uri.path())?;
    let prefix = config.methods.prefix(service, method);
    let shard = stream.connection.worker.stats.clone();
    let place = Rc::new(Place { shard, cluster, prefix, upstream_times: config.upstream_times });
    let name = Some("request_message_count");
    exchange.body.count(Box::new(Counting::new(place.clone(), name)));
    Some(Call(place))
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
