use super::*;

/// A response with resources as `name` or `name=content`.
fn response(kind: Kind, version: &str, nonce: &str, resources: &[&str]) -> DiscoveryResponse {
    let resources = resources.iter().map(|resource| {
        let (name, content) = resource.split_once('=').unwrap_or((resource, ""));
        body(kind, name, content)
    });
    DiscoveryResponse {
        version_info: version.into(),
        resources: resources.collect(),
        type_url: kind.type_url().into(),
        nonce: nonce.into(),
        ..DiscoveryResponse::default()
    }
}

fn stream() -> Stream {
    let mut stream = Stream::new(Protocol::Sotw);
    stream.mux.subscribe(Kind::Cluster, None);
    stream.mux.opened();
    stream
}

#[test]
fn the_first_request_has_the_node_and_an_answer_has_version_and_nonce() {
    let mut stream = stream();
    stream.mux.subscribe(Kind::Listener, None);
    assert_eq!(stream.requests(), ["cds node", "lds"]);
    assert_eq!(stream.accept(response(Kind::Cluster, "1", "a", &["x", "y"])), "+x +y");
    assert_eq!(stream.requests(), ["cds v1 na"]);
    assert_eq!(stream.version(Kind::Cluster, "x"), Some("1".into()));
    // Each response is answered, also one that changes nothing.
    assert_eq!(stream.accept(response(Kind::Cluster, "2", "b", &["y", "x"])), "=y =x");
    assert_eq!(stream.requests(), ["cds v2 nb"]);
    assert_eq!(stream.version(Kind::Cluster, "x"), Some("2".into()));
    assert!(stream.requests().is_empty() && !stream.mux.ready());
}

#[test]
fn the_node_goes_with_every_request_unless_told_otherwise() {
    let mut stream = Stream::new(Protocol::Sotw);
    stream.mux.node_once = false;
    stream.mux.subscribe(Kind::Cluster, None);
    stream.mux.subscribe(Kind::Listener, None);
    stream.mux.opened();
    assert_eq!(stream.requests(), ["cds node", "lds node"]);
}

#[test]
fn what_an_update_refers_to_is_asked_for_once_and_before_it_is_acknowledged() {
    let mut stream = stream();
    stream.requests();
    let update = stream.update(response(Kind::Cluster, "1", "a", &["x", "y"]));
    stream.subscribe(Kind::LoadAssignment, &["x"]);
    assert!(stream.requests().is_empty());
    stream.subscribe(Kind::LoadAssignment, &["y"]);
    stream.judge(&update, &Ok(()), Duration::ZERO);
    assert_eq!(stream.requests(), ["eds x,y", "cds v1 na"]);
}

#[test]
fn a_response_that_nobody_judged_holds_nothing_and_comes_again() {
    let mut stream = stream();
    stream.requests();
    let update = stream.update(response(Kind::Cluster, "1", "a", &["x"]));
    stream.subscribe(Kind::LoadAssignment, &["x"]);
    stream.mux.lost();
    stream.mux.opened();
    assert_eq!(stream.requests(), ["cds node", "eds x"]);
    // Whoever was at it comes too late.
    stream.judge(&update, &Ok(()), Duration::ZERO);
    assert!(stream.requests().is_empty());
    assert_eq!(stream.accept(response(Kind::Cluster, "1", "b", &["x"])), "+x");
    assert_eq!(stream.requests(), ["cds v1 nb"]);
}

#[test]
fn an_acknowledgement_can_be_held_until_what_came_is_warm() {
    let mut stream = stream();
    stream.requests();
    let update = stream.update(response(Kind::Cluster, "1", "a", &["x"]));
    stream.mux.hold(Kind::Cluster);
    stream.subscribe(Kind::LoadAssignment, &["x"]);
    stream.judge(&update, &Ok(()), Duration::ZERO);
    assert_eq!(stream.requests(), ["eds x"]);
    stream.accept(response(Kind::LoadAssignment, "1", "b", &["x"]));
    assert_eq!(stream.requests(), ["eds x v1 nb"]);
    // The server goes on meanwhile: only its last response is acknowledged.
    stream.accept(response(Kind::Cluster, "2", "c", &["x"]));
    assert!(stream.requests().is_empty());
    assert_eq!(stream.mux.pending(), 1);
    stream.mux.release(Kind::Cluster);
    assert_eq!(stream.requests(), ["cds v2 nc"]);
}

#[test]
fn a_rejection_has_the_old_version_and_the_reason_and_the_old_stays() {
    let mut stream = stream();
    stream.requests();
    stream.accept(response(Kind::Cluster, "1", "a", &["x=old", "y=old"]));
    stream.requests();
    let bad = Refused::Some(vec![(name("x"), "is bad".into())]);
    stream.refuse(response(Kind::Cluster, "2", "b", &["x=bad", "y=new"]), bad);
    assert_eq!(stream.requests(), ["cds v1 nb error: Error adding/updating cluster(s) x: is bad"]);
    assert_eq!(stream.told.as_deref(), Some("Error adding/updating cluster(s) x: is bad"));
    // The good one of the same response is in force.
    assert_eq!(stream.version(Kind::Cluster, "x"), Some("1".into()));
    assert_eq!(stream.version(Kind::Cluster, "y"), Some("2".into()));
    assert_eq!(stream.status(Kind::Cluster, "x"), Some(Status::Nacked));
    let of = stream.mux.store().of(Kind::Cluster);
    let refused = of.entries["x"].refused.clone().unwrap();
    assert_eq!((&*refused.version, refused.why.as_str()), ("2", "is bad"));
    // It is tried again when it comes again, and forgotten once something good comes.
    let again = stream.update(response(Kind::Cluster, "2", "c", &["x=bad", "y=new"]));
    assert_eq!(changes(&again), "+x =y");
    stream.judge(&again, &Err(Refused::Some(vec![(name("x"), "is bad".into())])), Duration::ZERO);
    assert_eq!(stream.accept(response(Kind::Cluster, "3", "d", &["x=old", "y=new"])), "=x =y");
    assert_eq!(stream.status(Kind::Cluster, "x"), Some(Status::Acked));
    assert_eq!(stream.mux.store().of(Kind::Cluster).refused, None);
    assert_eq!(stream.requests(), ["cds v3 nd"]);
}

#[test]
fn an_update_can_be_refused_whole() {
    let mut stream = stream();
    stream.requests();
    stream.accept(response(Kind::Cluster, "1", "a", &["x"]));
    stream.requests();
    stream.refuse(response(Kind::Cluster, "2", "b", &["y"]), Refused::All("no".into()));
    assert_eq!(stream.requests(), ["cds v1 nb error: no"]);
    assert_eq!(stream.status(Kind::Cluster, "x"), Some(Status::Acked));
    assert_eq!(stream.status(Kind::Cluster, "y"), Some(Status::Nacked));
    assert_eq!(&*stream.mux.store().of(Kind::Cluster).version.unwrap(), "1");
}

#[test]
fn a_new_stream_is_told_versions_but_no_nonces() {
    let mut stream = stream();
    stream.requests();
    stream.subscribe(Kind::LoadAssignment, &["x"]);
    stream.mux.subscribe(Kind::Listener, None);
    stream.subscribe(Kind::Routes, &["r"]);
    stream.requests();
    stream.accept(response(Kind::Cluster, "1", "a", &["x"]));
    stream.accept(response(Kind::LoadAssignment, "7", "b", &["x"]));
    stream.unsubscribe(Kind::Routes, &["r"]);
    stream.mux.lost();
    assert!(stream.requests().is_empty());
    stream.mux.opened();
    // Nobody wants routes any more: they are not asked for.
    assert_eq!(stream.requests(), ["cds node v1", "eds x v7", "lds"]);
}

#[test]
fn of_clusters_and_listeners_what_is_absent_is_gone_and_of_nothing_else() {
    let mut stream = stream();
    stream.subscribe(Kind::LoadAssignment, &["x", "y"]);
    stream.requests();
    stream.accept(response(Kind::Cluster, "1", "a", &["x", "y"]));
    assert_eq!(stream.accept(response(Kind::Cluster, "2", "b", &["y", "z"])), "+z =y -x");
    // Nobody asked for it by name.
    assert_eq!(stream.status(Kind::Cluster, "x"), None);
    // Told once.
    assert_eq!(stream.accept(response(Kind::Cluster, "3", "c", &["y", "z"])), "=y =z");
    stream.accept(response(Kind::LoadAssignment, "1", "d", &["x", "y"]));
    let update = stream.update(response(Kind::LoadAssignment, "2", "e", &["y=new"]));
    assert_eq!((changes(&update).as_str(), update.whole), ("+y", false));
    stream.judge(&update, &Ok(()), Duration::ZERO);
    assert_eq!(stream.status(Kind::LoadAssignment, "x"), Some(Status::Acked));
    assert_eq!(stream.accept(response(Kind::Cluster, "4", "f", &[])), "-y -z");
}

#[test]
fn what_was_refused_and_is_absent_is_gone_too() {
    let mut stream = stream();
    stream.requests();
    let bad = Refused::Some(vec![(name("x"), "is bad".into())]);
    stream.refuse(response(Kind::Cluster, "1", "a", &["x"]), bad);
    assert_eq!(stream.accept(response(Kind::Cluster, "2", "b", &[])), "-x");
    assert_eq!(stream.status(Kind::Cluster, "x"), None);
}

#[test]
fn names_come_and_go_and_without_any_there_is_nothing_to_ask() {
    let mut stream = stream();
    stream.requests();
    stream.subscribe(Kind::LoadAssignment, &["x", "y", "y"]);
    assert_eq!(stream.requests(), ["eds x,y"]);
    assert_eq!(stream.status(Kind::LoadAssignment, "x"), Some(Status::Requested));
    // What nobody asked for is left out.
    assert_eq!(stream.accept(response(Kind::LoadAssignment, "1", "a", &["x", "other"])), "+x");
    assert_eq!(stream.requests(), ["eds x,y v1 na"]);
    stream.unsubscribe(Kind::LoadAssignment, &["x", "y"]);
    assert_eq!(stream.requests(), ["eds y v1 na"]);
    assert_eq!(stream.status(Kind::LoadAssignment, "x"), None);
    stream.unsubscribe(Kind::LoadAssignment, &["y"]);
    // A server that compares versions would answer without end, were its own not claimed.
    assert_eq!(stream.requests(), ["eds v1 na"]);
    assert_eq!(stream.accept(response(Kind::LoadAssignment, "2", "b", &["x"])), "");
    assert_eq!(stream.requests(), ["eds v2 nb"]);
    stream.subscribe(Kind::LoadAssignment, &["z"]);
    assert_eq!(stream.requests(), ["eds z v2 nb"]);
    // To another stream's server nothing is claimed of nothing, or what is wanted next might not come.
    stream.unsubscribe(Kind::LoadAssignment, &["z"]);
    stream.requests();
    stream.mux.lost();
    stream.mux.opened();
    stream.requests();
    stream.subscribe(Kind::LoadAssignment, &["z"]);
    assert_eq!(stream.requests(), ["eds z"]);
}

#[test]
fn everything_and_names_are_told_apart() {
    let mut stream = stream();
    assert_eq!(stream.requests(), ["cds node"]);
    stream.subscribe(Kind::Cluster, &["x"]);
    assert_eq!(stream.requests(), ["cds *,x"]);
    stream.unsubscribe(Kind::Cluster, &["x"]);
    // A request without names would now mean nothing.
    assert_eq!(stream.requests(), ["cds *"]);
    stream.mux.lost();
    stream.mux.opened();
    assert_eq!(stream.requests(), ["cds node"]);
}

#[test]
fn responses_that_cannot_be_read_are_rejected_whole() {
    let mut stream = stream();
    stream.requests();
    let mut bad = response(Kind::Cluster, "1", "a", &["x", "y"]);
    bad.resources[1].type_url = Kind::Listener.type_url().into();
    let why = "type.googleapis.com/envoy.config.listener.v3.Listener does not match the message-wide type URL \
               type.googleapis.com/envoy.config.cluster.v3.Cluster in DiscoveryResponse";
    assert_eq!(stream.receive(bad), Received::Malformed(Kind::Cluster, why.into()));
    assert_eq!(stream.requests(), [format!("cds na error: {why}")]);
    let mut bad = response(Kind::Cluster, "1", "b", &["x"]);
    bad.resources[0].value = vec![0x0a, 9];
    let why = "malformed envoy.config.cluster.v3.Cluster: it ends within its name";
    assert_eq!(stream.receive(bad), Received::Malformed(Kind::Cluster, why.into()));
    assert_eq!(stream.requests(), [format!("cds nb error: {why}")]);
    assert_eq!(stream.mux.store().of(Kind::Cluster).refused.unwrap().0, why);
    // After that, all is well.
    stream.accept(response(Kind::Cluster, "1", "c", &["x"]));
    assert_eq!(stream.requests(), ["cds v1 nc"]);
}

#[test]
fn types_that_nobody_asked_for_are_not_answered() {
    let mut stream = stream();
    stream.requests();
    let unasked = Received::Unasked(Kind::Secret.type_url().into());
    assert_eq!(stream.receive(response(Kind::Secret, "1", "a", &["x"])), unasked);
    let mut unknown = response(Kind::Cluster, "1", "a", &[]);
    unknown.type_url = "type.googleapis.com/istio.workload.Address".into();
    assert_eq!(stream.receive(unknown.clone()), Received::Unasked(unknown.type_url));
    assert!(stream.requests().is_empty());
}

#[test]
fn of_two_clusters_of_one_name_the_first_counts_and_the_response_is_rejected() {
    let mut stream = stream();
    stream.subscribe(Kind::LoadAssignment, &["x"]);
    stream.requests();
    assert_eq!(stream.accept(response(Kind::Cluster, "1", "a", &["x=1", "x=2", "y"])), "+x +y");
    assert_eq!(stream.requests(), ["cds na error: Error adding/updating cluster(s) x: duplicate cluster x found"]);
    assert_eq!(stream.status(Kind::Cluster, "x"), Some(Status::Acked));
    assert_eq!(stream.accept(response(Kind::LoadAssignment, "1", "a", &["x=1", "x=2"])), "+x");
    assert_eq!(stream.requests(), ["eds x v1 na"]);
}

/// A response with one wrapped resource.
fn wrapped(nonce: &str, resource: Option<Any>, ttl: Option<i64>) -> DiscoveryResponse {
    let wrapped = Wrapped {
        name: "x".into(),
        resource,
        ttl: ttl.map(|seconds| prost_types::Duration { seconds, nanos: 0 }),
        ..Wrapped::default()
    };
    let any = Any {
        type_url: "type.googleapis.com/envoy.service.discovery.v3.Resource".into(),
        value: wrapped.encode_to_vec(),
    };
    DiscoveryResponse { resources: vec![any], ..response(Kind::LoadAssignment, "1", nonce, &[]) }
}

#[test]
fn a_resource_with_a_time_to_live_is_over_unless_it_comes_again() {
    let kind = Kind::LoadAssignment;
    let second = Duration::from_secs(1);
    let mut stream = stream();
    stream.subscribe(kind, &["x"]);
    stream.requests();
    assert_eq!(stream.accept(wrapped("a", Some(body(kind, "x", "")), Some(2))), "+x");
    assert_eq!(stream.mux.next_expiry(), Some(stream.began + 2 * second));
    // A heartbeat: nothing changes but the time.
    let heartbeat = stream.update(wrapped("b", None, Some(2)));
    assert_eq!(changes(&heartbeat), "");
    stream.judge(&heartbeat, &Ok(()), second);
    assert_eq!(stream.requests(), ["eds x v1 nb"]);
    assert!(stream.mux.expired(stream.began + 2 * second, SystemTime::UNIX_EPOCH).is_empty());
    let over = stream.mux.expired(stream.began + 3 * second, SystemTime::UNIX_EPOCH);
    assert_eq!(over.iter().map(changes).collect::<Vec<_>>(), ["-x"]);
    assert_eq!(over[0].origin, Origin::Expiry);
    assert_eq!(stream.status(kind, "x"), Some(Status::DoesNotExist));
    assert_eq!(stream.mux.next_expiry(), None);
    assert!(stream.requests().is_empty());
}

#[test]
fn before_a_stream_is_there_nothing_is_sent_and_then_all_of_it() {
    let mut stream = Stream::new(Protocol::Sotw);
    stream.subscribe(Kind::LoadAssignment, &["x"]);
    assert!(!stream.mux.ready() && stream.requests().is_empty());
    stream.subscribe(Kind::LoadAssignment, &["y"]);
    stream.mux.opened();
    assert!(stream.mux.ready());
    assert_eq!(stream.requests(), ["eds node x,y"]);
}
