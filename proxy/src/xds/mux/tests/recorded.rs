//! What a real istiod sent to each kind of node, and what it sends while objects change.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

use super::*;

/// Nodes, with how many clusters, load assignments, listeners, routes and filter configurations each was sent.
const NODES: [(&str, [usize; 5]); 4] = [
    ("sidecar-httpbin", [48, 32, 29, 11, 1]),
    ("sidecar-sleep", [20, 15, 14, 6, 0]),
    ("router", [80, 68, 6, 4, 0]),
    ("waypoint", [19, 12, 5, 0, 0]),
];
const KINDS: [Kind; 5] = [Kind::Cluster, Kind::LoadAssignment, Kind::Listener, Kind::Routes, Kind::Extension];

fn recordings() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/data/istiod")
}

/// Each type's response to a node.
fn responses(node: &str) -> Vec<(Kind, DeltaDiscoveryResponse)> {
    let read = |kind: Kind| {
        let bytes = fs::read(recordings().join(node).join(format!("{}.pb", kind.short()))).ok()?;
        Some((kind, DeltaDiscoveryResponse::decode(&*bytes).unwrap()))
    };
    KINDS.into_iter().filter_map(read).collect()
}

/// The same as the state of the world.
fn sotw(response: &DeltaDiscoveryResponse) -> DiscoveryResponse {
    DiscoveryResponse {
        version_info: response.system_version_info.clone(),
        resources: response.resources.iter().filter_map(|resource| resource.resource.clone()).collect(),
        type_url: response.type_url.clone(),
        nonce: response.nonce.clone(),
        ..DiscoveryResponse::default()
    }
}

fn subscribe(stream: &mut Stream, kind: Kind, response: &DeltaDiscoveryResponse) {
    if kind.is_whole() {
        return stream.mux.subscribe(kind, None);
    }
    for resource in &response.resources {
        stream.mux.subscribe(kind, Some(&name(&resource.name)));
    }
}

fn take(stream: &mut Stream, response: Response) -> Update {
    let update = stream.update(response);
    stream.judge(&update, &Ok(()), Duration::ZERO);
    update
}

#[test]
fn every_recorded_node_is_read_in_both_protocols_and_what_comes_again_changes_nothing() {
    for (node, counts) in NODES {
        for protocol in [Protocol::Sotw, Protocol::Delta] {
            let mut stream = Stream::new(protocol);
            stream.mux.opened();
            let wrapped = |response: &DeltaDiscoveryResponse| match protocol {
                Protocol::Sotw => Response::Sotw(sotw(response)),
                Protocol::Delta => Response::Delta(response.clone()),
            };
            let responses = responses(node);
            for (kind, response) in &responses {
                subscribe(&mut stream, *kind, response);
                let update = take(&mut stream, wrapped(response));
                let names: BTreeSet<_> = update.added.iter().map(|resource| resource.name.to_string()).collect();
                // The name inside of a resource is the one that it goes by.
                let expected: BTreeSet<_> = response.resources.iter().map(|resource| resource.name.clone()).collect();
                assert_eq!(names, expected);
                assert_eq!(
                    names.len(),
                    counts[KINDS.iter().position(|other| other == kind).unwrap()],
                    "{node} {kind:?}"
                );
            }
            assert_eq!(responses.len(), counts.iter().filter(|count| **count > 0).count());
            // Again, in another order.
            for (kind, mut response) in responses {
                response.resources.reverse();
                let update = take(&mut stream, wrapped(&response));
                assert_eq!(
                    (update.added.len(), update.unchanged.len()),
                    (0, response.resources.len()),
                    "{node} {kind:?}"
                );
                assert!(update.removed.is_empty());
            }
            assert!(stream.requests().iter().all(|request| !request.contains("error")));
        }
    }
}

#[test]
fn a_new_stream_claims_what_istiod_gave_no_version() {
    let mut stream = Stream::new(Protocol::Delta);
    stream.mux.opened();
    for (kind, response) in responses("sidecar-sleep") {
        subscribe(&mut stream, kind, &response);
        take(&mut stream, Response::Delta(response));
    }
    stream.mux.lost();
    stream.mux.opened();
    let requests = stream.requests();
    assert_eq!(requests.len(), 4);
    assert!(requests[0].starts_with("cds node has BlackHoleCluster@,InboundPassthroughCluster@,"), "{}", requests[0]);
}

/// What is in force of each type once a recorded sequence is over.
fn replayed(protocol: Protocol, file: &str) -> BTreeMap<Kind, BTreeSet<String>> {
    let mut stream = Stream::new(protocol);
    stream.mux.opened();
    let text = fs::read_to_string(recordings().join(file)).unwrap();
    let list = |value: &serde_json::Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|name| Some(name.as_str()?.to_owned())).collect()
    };
    let kinds = [KINDS.as_slice(), &[Kind::Secret]].concat();
    for event in text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()) {
        let text = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
        let kind = *kinds.iter().find(|kind| kind.short() == text("type")).unwrap();
        let names = match (event["dir"] == "req", protocol) {
            (true, Protocol::Delta) => list(&event["sub"]),
            _ => list(&event["names"]),
        };
        if event["dir"] == "req" {
            // Only the first request of a type says what is wanted.
            if text("response_nonce").is_empty() {
                if kind.is_whole() {
                    stream.mux.subscribe(kind, None);
                }
                names.iter().for_each(|wanted| stream.mux.subscribe(kind, Some(&name(wanted))));
            }
            continue;
        }
        // Each push is another content.
        let version = if protocol == Protocol::Sotw { text("version_info") } else { text("system_version_info") };
        let bodies = names.iter().map(|name| body(kind, name, &version));
        let (type_url, nonce) = (kind.type_url().to_owned(), text("nonce"));
        let update = match protocol {
            Protocol::Sotw => take(
                &mut stream,
                Response::Sotw(DiscoveryResponse {
                    version_info: version.clone(),
                    resources: bodies.collect(),
                    type_url,
                    nonce,
                    ..DiscoveryResponse::default()
                }),
            ),
            Protocol::Delta => {
                let resources = names.iter().zip(bodies).map(|(name, body)| Wrapped {
                    name: name.clone(),
                    resource: Some(body),
                    ..Wrapped::default()
                });
                let response = DeltaDiscoveryResponse {
                    system_version_info: version.clone(),
                    resources: resources.collect(),
                    type_url,
                    removed_resources: list(&event["removed"]),
                    nonce,
                    ..DeltaDiscoveryResponse::default()
                };
                take(&mut stream, Response::Delta(response))
            }
        };
        assert_eq!(update.added.len(), names.len(), "{event}");
        assert!(stream.requests().iter().any(|request| request.contains(&text("nonce"))), "{event}");
    }
    let store = stream.mux.store();
    let in_force = |kind| {
        let of = store.of(kind);
        let entries = of.entries.iter().filter(|(_, entry)| entry.accepted.is_some());
        entries.map(|(name, _)| name.to_string()).collect()
    };
    store.kinds().into_iter().map(|kind| (kind, in_force(kind))).collect()
}

#[test]
fn after_a_row_of_changes_both_protocols_have_come_to_the_same() {
    let sotw = replayed(Protocol::Sotw, "updates-sotw.jsonl");
    let delta = replayed(Protocol::Delta, "updates-delta.jsonl");
    assert_eq!(sotw, delta);
    // A service with two ports was deleted: its clusters and listeners are gone, and nothing else.
    let counts = KINDS.map(|kind| sotw.get(&kind).map_or(0, BTreeSet::len));
    assert_eq!(counts, [46, 32, 27, 11, 1]);
}
