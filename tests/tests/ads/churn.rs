//! A server that pushes random valid changes without a pause: no request fails, and in the end what is in force is what the
//! server has.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use weir_tests::{
    ads::{Ads, Listen, Seen, world::type_url},
    poll::wait_for,
};

use crate::{
    Protocol,
    proxy::{PATIENCE, Proxy, Start, get},
    resources::{assignment, listener, patient_cluster, weighted},
    scenario::Who,
    stress,
    traffic::backend,
};

/// Clusters that requests are routed to.
const CLUSTERS: usize = 8;
/// Clusters that come and go beside them.
const SPARE: usize = 4;
/// Between two changes: 20 a second.
const PACE: Duration = Duration::from_millis(50);
/// Requests a second.
const RATE: u32 = 500;

#[test]
fn random_changes_of_the_state_of_the_world_cost_no_request() {
    churn(Protocol::Sotw);
}

#[test]
fn random_deltas_cost_no_request() {
    churn(Protocol::Delta);
}

fn churn(protocol: Protocol) {
    let backends = ["one", "two", "three"].map(backend);
    let mut chance = stress::chance();
    let ads = Ads::start(Listen::anywhere()).unwrap();
    ads.put((0..CLUSTERS).map(|number| patient_cluster(&name(number), 5)));
    ads.put((0..CLUSTERS).map(|number| assignment(&name(number), &backends)));
    ads.put([routes(&mut chance), listener("l", "r")]);
    let proxy = Start::new(Who::Weir, &ads, protocol).arguments(&["--drain-strategy", "immediate"]).start();
    let address = proxy.listener("l");
    wait_for("an answer", PATIENCE, || Some(get(address, "/").0).filter(|status| *status == 200).ok_or("none"));
    let load = stress::load(address, RATE);
    let end = Instant::now() + stress::duration();
    let mut next = Instant::now();
    let mut changes = 0;
    while next < end {
        change(&ads, &mut chance, &backends);
        changes += 1;
        next += PACE;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    wait_for("what the server has to be in force", PATIENCE, || {
        let drift = drift(&ads, &proxy);
        if drift.is_empty() { Ok(()) } else { Err(drift) }
    });
    let requests = stress::judged(load);
    let events = ads.events();
    let refused = events.iter().find(|event| matches!(event.seen, Seen::Nack { .. }));
    assert_eq!(refused, None);
    let acknowledged = events.iter().filter(|event| matches!(event.seen, Seen::Ack { .. })).count();
    eprintln!("{protocol:?}: {changes} changes, {acknowledged} acknowledgements, {requests} requests");
    assert!(acknowledged > changes / 4, "the proxy did not keep up: {acknowledged} acknowledgements");
}

fn name(number: usize) -> String {
    format!("c{number}")
}

fn routes(chance: &mut fastrand::Rng) -> prost_types::Any {
    let clusters: Vec<_> = (0..CLUSTERS).map(|number| (name(number), chance.u32(1..10))).collect();
    weighted("r", &clusters)
}

/// One change, which any proxy takes.
fn change(ads: &Ads, chance: &mut fastrand::Rng, backends: &[u16]) {
    let some = |chance: &mut fastrand::Rng| {
        let mut some = backends.to_vec();
        chance.shuffle(&mut some);
        some.truncate(chance.usize(1..=backends.len()));
        some
    };
    let one = name(chance.usize(..CLUSTERS));
    let spare = format!("spare{}", chance.usize(..SPARE));
    match chance.u8(..12) {
        0..=5 => ads.put([assignment(&one, &some(chance))]),
        6 => ads.put([patient_cluster(&one, chance.u32(1..60))]),
        7 => ads.put([patient_cluster(&spare, chance.u32(1..60)), assignment(&spare, &some(chance))]),
        8 => ads.change(|world| {
            world.remove(type_url("cds"), &spare);
            world.remove(type_url("eds"), &spare);
        }),
        9 => ads.put([routes(chance)]),
        10 => ads.put([listener("m", "r")]),
        _ => ads.remove("lds", "m"),
    }
}

/// Messages by name, as JSON.
type Messages = BTreeMap<String, Value>;

/// What the server has and what is in force, of types of which they differ.
fn drift(ads: &Ads, proxy: &Proxy) -> Vec<String> {
    let dump: Value = serde_json::from_str(&proxy.admin("/config_dump?include_eds")).unwrap();
    let lists = [
        ("cds", "dynamic_active_clusters", "/cluster", "name"),
        ("eds", "dynamic_endpoint_configs", "/endpoint_config", "cluster_name"),
        ("lds", "dynamic_listeners", "/active_state/listener", "name"),
        ("rds", "dynamic_route_configs", "/route_config", "name"),
    ];
    let mut drift = Vec::new();
    for (kind, list, message, name) in lists {
        let mut served = in_dump(&dump, list, message, name);
        let mut has: Messages = ads.change(|world| {
            let each = world.of(type_url(kind));
            each.map(|(name, any)| (name.to_owned(), weir_proto::to_json(any).unwrap())).collect()
        });
        if kind == "eds" {
            // What is shown of endpoints is more than what came: their addresses are compared.
            for messages in [&mut served, &mut has] {
                messages.values_mut().for_each(|message| *message = ports(message));
            }
        }
        let names: BTreeSet<_> = served.keys().chain(has.keys()).collect();
        let differ = names.into_iter().filter(|name| served.get(*name) != has.get(*name));
        drift.extend(differ.map(|name| format!("{kind} {name}: {:?} and not {:?}", served.get(name), has.get(name))));
    }
    drift
}

fn in_dump(dump: &Value, list: &str, message: &str, name: &str) -> Messages {
    let parts = dump["configs"].as_array().unwrap().iter();
    let items = parts.filter_map(|part| part[list].as_array()).flatten().filter_map(|item| item.pointer(message));
    items.map(|item| (item[name].as_str().unwrap_or_default().to_owned(), item.clone())).collect()
}

/// All port numbers below a value, sorted.
fn ports(value: &Value) -> Value {
    fn below(value: &Value, ports: &mut Vec<u64>) {
        match value {
            Value::Object(fields) => {
                ports.extend(fields.get("port_value").and_then(Value::as_u64));
                fields.values().for_each(|field| below(field, ports));
            }
            Value::Array(items) => items.iter().for_each(|item| below(item, ports)),
            _ => {}
        }
    }
    let mut all = Vec::new();
    below(value, &mut all);
    all.sort_unstable();
    all.into()
}
