//! Both protocols as seen by a server: what is requested, in which order, and what is made of responses.

mod delta;
mod recorded;
mod sotw;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use prost::Message;
use prost_types::Any;
use weir_proto::envoy::{
    config::{cluster::v3::Cluster, core::v3::Node},
    service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource as Wrapped},
};

use super::*;
use crate::xds::store::Status;

/// A stream, with the server's end in the test's hands.
struct Stream {
    mux: Mux,
    began: Instant,
    /// What was told in the last judgement.
    told: Option<String>,
}

fn name(name: &str) -> Arc<str> {
    name.into()
}

/// A resource of that name. Every type has its name in field 1; `content` goes where a cluster has its other name.
fn body(kind: Kind, name: &str, content: &str) -> Any {
    let cluster = Cluster { name: name.into(), alt_stat_name: content.into(), ..Cluster::default() };
    Any { type_url: kind.type_url().into(), value: cluster.encode_to_vec() }
}

impl Stream {
    fn new(protocol: Protocol) -> Self {
        let node = Node { id: "node".into(), ..Node::default() };
        let mux = Mux::new(protocol, node, true, Arc::default());
        Self { mux, began: Instant::now(), told: None }
    }

    fn subscribe(&mut self, kind: Kind, names: &[&str]) {
        names.iter().for_each(|wanted| self.mux.subscribe(kind, Some(&name(wanted))));
    }

    fn unsubscribe(&mut self, kind: Kind, names: &[&str]) {
        names.iter().for_each(|over| self.mux.unsubscribe(kind, Some(&name(over))));
    }

    /// All requests that there are to send, in short.
    fn requests(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.mux.next_request()).map(|request| short(&request)).collect()
    }

    fn receive(&mut self, response: impl Into<Response>) -> Received {
        self.mux.received(response.into(), SystemTime::UNIX_EPOCH)
    }

    fn update(&mut self, response: impl Into<Response>) -> Update {
        match self.receive(response) {
            Received::Update(update) => update,
            other => panic!("{other:?}"),
        }
    }

    fn judge(&mut self, update: &Update, verdict: &Result<(), Refused>, after: Duration) {
        self.told = self.mux.judged(update, verdict, self.began + after, SystemTime::UNIX_EPOCH + after);
    }

    /// A response that is taken, in short.
    fn accept(&mut self, response: impl Into<Response>) -> String {
        let update = self.update(response);
        self.judge(&update, &Ok(()), Duration::ZERO);
        changes(&update)
    }

    fn refuse(&mut self, response: impl Into<Response>, refused: Refused) {
        let update = self.update(response);
        self.judge(&update, &Err(refused), Duration::ZERO);
    }

    fn status(&self, kind: Kind, name: &str) -> Option<Status> {
        self.mux.store().of(kind).entries.get(name).map(|entry| entry.status())
    }

    fn version(&self, kind: Kind, name: &str) -> Option<String> {
        self.mux.store().accepted(kind, name).map(|accepted| accepted.version.to_string())
    }
}

impl From<DiscoveryResponse> for Response {
    fn from(response: DiscoveryResponse) -> Self {
        Self::Sotw(response)
    }
}

impl From<DeltaDiscoveryResponse> for Response {
    fn from(response: DeltaDiscoveryResponse) -> Self {
        Self::Delta(response)
    }
}

/// `+added =unchanged -removed`
fn changes(update: &Update) -> String {
    let added = update.added.iter().map(|resource| format!("+{}", resource.name));
    let unchanged = update.unchanged.iter().map(|resource| format!("={}", resource.name));
    let removed = update.removed.iter().map(|name| format!("-{name}"));
    added.chain(unchanged).chain(removed).collect::<Vec<_>>().join(" ")
}

/// A request, in short: the type, then what is set.
fn short(request: &Request) -> String {
    let list = |sign: &str, names: &[String]| match names {
        [] => String::new(),
        names => format!(" {sign}{}", names.join(",")),
    };
    let text = |sign: &str, text: &str| if text.is_empty() { String::new() } else { format!(" {sign}{text}") };
    let sent;
    let (type_url, node, rest, nonce, error) = match request {
        Request::Sotw(request) => {
            // As the server reads it.
            sent = DiscoveryRequest::decode(&*request.encode_to_vec()).unwrap();
            let request = &sent;
            let rest = list("", &request.resource_names) + &text("v", &request.version_info);
            (&request.type_url, &request.node, rest, &request.response_nonce, &request.error_detail)
        }
        Request::Delta(request) => {
            let mut subscribe = request.resource_names_subscribe.clone();
            let mut unsubscribe = request.resource_names_unsubscribe.clone();
            subscribe.sort();
            unsubscribe.sort();
            let mut held: Vec<_> =
                request.initial_resource_versions.iter().map(|(name, version)| format!("{name}@{version}")).collect();
            held.sort();
            let rest = list("+", &subscribe) + &list("-", &unsubscribe) + &list("has ", &held);
            (&request.type_url, &request.node, rest, &request.response_nonce, &request.error_detail)
        }
    };
    let kind = Kind::of(type_url).unwrap().short();
    let node = if node.is_some() { " node" } else { "" };
    let error = error.as_ref().map_or(String::new(), |error| {
        assert_eq!(error.code, 13);
        format!(" error: {}", error.message)
    });
    format!("{kind}{node}{rest}{}{error}", text("n", nonce))
}
