//! What was recorded is taken: without a refusal, and in force.

use std::collections::BTreeSet;

use serde_json::Value;
use weir_tests::{ads::recorded, netns::Netns, poll::wait_for};

use crate::{
    identity::Authority,
    scene::{Control, PATIENCE, Place, Protocol, dump, usable, wait_until_ready},
};

/// Nodes of the recording, and who they are.
const NODES: [(&str, &str); 4] = [
    ("sidecar-httpbin", "side/httpbin"),
    ("sidecar-sleep", "side/sleep"),
    ("router", "istio-system/istio-ingressgateway"),
    ("waypoint", "demo/waypoint"),
];

/// Resources of a dump: what is in force by name, and what was refused.
#[derive(Debug, Default)]
struct Taken {
    active: BTreeSet<String>,
    refused: Vec<(String, String)>,
}

fn taken(netns: &Netns, view: &str) -> Taken {
    let mut taken = Taken::default();
    for config in dump(netns, view)["configs"].as_array().into_iter().flatten() {
        for list in config.as_object().into_iter().flat_map(serde_json::Map::values).filter_map(Value::as_array) {
            list.iter().for_each(|item| taken.look(item));
        }
    }
    taken
}

impl Taken {
    fn look(&mut self, item: &Value) {
        let parts = ["cluster", "route_config", "endpoint_config", "ecds_filter", "secret"];
        let name = ["name", "cluster_name"];
        let named = |value: &Value| name.iter().find_map(|name| value[*name].as_str()).map(str::to_owned);
        let inside = parts.iter().find_map(|part| named(&item[*part]));
        let listener = item["active_state"].is_object().then(|| named(item)).flatten();
        self.active.extend(inside.or(listener));
        if let Some(details) = item["error_state"]["details"].as_str() {
            let failed = named(&item["error_state"]["failed_configuration"]).or_else(|| named(item));
            self.refused.push((failed.unwrap_or_default(), details.to_owned()));
        }
    }
}

fn control(protocol: Protocol, node: &str, account: &str, whole: bool) -> Control {
    let authority = Authority::new();
    let identity = authority.workload(account);
    let resources = if whole { recorded::of(node) } else { usable(node) };
    let control = Control::start(protocol, &authority, &identity, resources);
    let certificate = |name: &str| authority.host("web.example.com").secret(name);
    control.ads.put([
        certificate("kubernetes://gw-cert"),
        certificate("kubernetes://gw-mutual"),
        authority.secret("kubernetes://gw-mutual-cacert"),
    ]);
    control
}

fn all_is_taken(protocol: Protocol) {
    for (node, account) in NODES {
        let place = Place::new();
        let control = control(protocol, node, account, false);
        let _proxy = control.proxy(&place.node.netns);
        wait_until_ready(&place.node.netns);
        until_taken(&place.node.netns, "", node);
    }
}

/// Waits until all of a node is in force in a view.
fn until_taken(netns: &Netns, view: &str, node: &str) {
    let wanted: BTreeSet<String> = usable(node).into_iter().map(|(name, _)| name).collect();
    wait_for(&format!("all of {node} in force"), PATIENCE, || {
        let Taken { active, refused } = taken(netns, view);
        let missing: Vec<_> = wanted.difference(&active).collect();
        if missing.is_empty() && refused.is_empty() { Ok(()) } else { Err(format!("{missing:?} {refused:?}")) }
    });
}

/// Both have listeners at the ports that istio redirects connections to.
#[test]
fn two_workloads_of_one_node_are_taken_by_views_of_their_namespaces() {
    let place = Place::new();
    let httpbin = control(Protocol::Delta, "sidecar-httpbin", "side/httpbin", false);
    let sleep = control(Protocol::Delta, "sidecar-sleep", "side/sleep", false);
    let _weir = place.serve_views(&[("side", &httpbin), ("other", &sleep)]);
    until_taken(&place.node.netns, "side", "sidecar-httpbin");
    until_taken(&place.node.netns, "other", "sidecar-sleep");
}

#[test]
fn what_a_real_istiod_sent_is_taken_by_deltas() {
    all_is_taken(Protocol::Delta);
}

#[test]
fn what_a_real_istiod_sent_is_taken_by_the_state_of_the_world() {
    all_is_taken(Protocol::Sotw);
}

/// The listener with the Lua filter, and nothing else.
#[test]
fn what_is_not_taken_of_it_is_refused_by_name() {
    let place = Place::new();
    let control = control(Protocol::Delta, "sidecar-httpbin", "side/httpbin", true);
    let _proxy = control.proxy(&place.node.netns);
    wait_until_ready(&place.node.netns);
    let (name, word) = ("virtualInbound", "envoy.extensions.filters.http.lua.v3.Lua");
    wait_for("the refusal", PATIENCE, || {
        let Taken { refused, .. } = taken(&place.node.netns, "");
        match &*refused {
            [(of, why)] if of.contains(name) && why.contains(word) => Ok(()),
            _ => Err(refused),
        }
    });
}
