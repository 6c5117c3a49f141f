use super::*;

/// A response with resources as `name@version` or `name@version=content`, and names that are gone.
fn response(kind: Kind, nonce: &str, resources: &[&str], removed: &[&str]) -> DeltaDiscoveryResponse {
    let resources = resources.iter().map(|resource| {
        let (name, rest) = resource.split_once('@').unwrap();
        let (version, content) = rest.split_once('=').unwrap_or((rest, ""));
        Wrapped {
            name: name.into(),
            version: version.into(),
            resource: Some(body(kind, name, content)),
            ..Wrapped::default()
        }
    });
    DeltaDiscoveryResponse {
        system_version_info: "s".into(),
        resources: resources.collect(),
        type_url: kind.type_url().into(),
        removed_resources: removed.iter().map(|name| (*name).to_owned()).collect(),
        nonce: nonce.into(),
        ..DeltaDiscoveryResponse::default()
    }
}

fn stream() -> Stream {
    let mut stream = Stream::new(Protocol::Delta);
    stream.mux.subscribe(Kind::Cluster, None);
    stream.mux.opened();
    stream
}

#[test]
fn what_is_wanted_is_said_once_and_each_response_is_answered() {
    let mut stream = stream();
    assert_eq!(stream.requests(), ["cds node"]);
    let update = stream.update(response(Kind::Cluster, "a", &["x@1", "y@1"], &[]));
    assert_eq!((changes(&update).as_str(), update.whole, &*update.version), ("+x +y", false, "s"));
    stream.subscribe(Kind::LoadAssignment, &["x", "y"]);
    stream.judge(&update, &Ok(()), Duration::ZERO);
    assert_eq!(stream.requests(), ["eds +x,y", "cds na"]);
    assert_eq!(stream.version(Kind::Cluster, "x"), Some("1".into()));
    // Two responses come before there is time to answer: both are.
    stream.accept(response(Kind::LoadAssignment, "b", &["x@1"], &[]));
    stream.accept(response(Kind::LoadAssignment, "c", &["y@1"], &[]));
    stream.subscribe(Kind::LoadAssignment, &["z"]);
    stream.unsubscribe(Kind::LoadAssignment, &["x"]);
    assert_eq!(stream.requests(), ["eds +z -x nb", "eds nc"]);
    assert!(!stream.mux.ready());
}

#[test]
fn a_new_stream_is_told_what_is_wanted_and_what_is_held() {
    let mut stream = stream();
    stream.subscribe(Kind::LoadAssignment, &["x", "y"]);
    stream.requests();
    stream.accept(response(Kind::Cluster, "a", &["x@1", "y@2"], &[]));
    stream.accept(response(Kind::LoadAssignment, "b", &["x@5"], &[]));
    stream.mux.lost();
    stream.subscribe(Kind::LoadAssignment, &["z"]);
    stream.mux.opened();
    assert_eq!(stream.requests(), ["cds node has x@1,y@2", "eds +x,y,z has x@5"]);
    // Answers to what came over the last stream are not for this one.
    assert!(stream.requests().is_empty());
    assert_eq!(stream.accept(response(Kind::Cluster, "c", &["x@3=new"], &["y"])), "+x -y");
    stream.mux.lost();
    stream.mux.opened();
    assert_eq!(stream.requests(), ["cds node has x@3", "eds +x,y,z has x@5"]);
}

#[test]
fn what_is_rejected_is_not_held_and_stays_visible() {
    let mut stream = stream();
    stream.requests();
    stream.accept(response(Kind::Cluster, "a", &["x@1", "y@1"], &[]));
    stream.requests();
    let bad = Refused::Some(vec![(name("x"), "is bad".into())]);
    stream.refuse(response(Kind::Cluster, "b", &["x@2=bad", "y@2=new"], &[]), bad);
    assert_eq!(stream.requests(), ["cds nb error: Error adding/updating cluster(s) x: is bad"]);
    // What else comes changes nothing about it: the server thinks that it has done with it.
    stream.accept(response(Kind::Cluster, "c", &["z@1"], &[]));
    assert_eq!(stream.status(Kind::Cluster, "x"), Some(Status::Nacked));
    assert_eq!(stream.version(Kind::Cluster, "x"), Some("1".into()));
    stream.mux.lost();
    stream.mux.opened();
    assert_eq!(stream.requests(), ["cds node has x@1,y@2,z@1"]);
    stream.accept(response(Kind::Cluster, "d", &["x@3=good"], &[]));
    assert_eq!(stream.status(Kind::Cluster, "x"), Some(Status::Acked));
}

#[test]
fn what_never_was_acceptable_is_not_held_at_all() {
    let mut stream = stream();
    stream.requests();
    stream.refuse(response(Kind::Cluster, "a", &["x@1"], &[]), Refused::All("no".into()));
    assert_eq!(stream.requests(), ["cds na error: no"]);
    stream.mux.lost();
    stream.mux.opened();
    assert_eq!(stream.requests(), ["cds node"]);
    assert_eq!(stream.status(Kind::Cluster, "x"), Some(Status::Nacked));
    assert_eq!(stream.accept(response(Kind::Cluster, "b", &[], &["x"])), "-x");
    assert_eq!(stream.status(Kind::Cluster, "x"), None);
}

#[test]
fn an_unchanged_resource_is_told_apart_and_has_its_new_version() {
    let mut stream = stream();
    stream.requests();
    stream.accept(response(Kind::Cluster, "a", &["x@1", "y@1"], &[]));
    assert_eq!(stream.accept(response(Kind::Cluster, "b", &["x@2", "y@2=new"], &[])), "+y =x");
    stream.mux.opened();
    assert_eq!(stream.requests(), ["cds node has x@2,y@2"]);
}

#[test]
fn a_name_that_is_given_up_and_wanted_again_is_asked_for_again() {
    let mut stream = stream();
    stream.subscribe(Kind::LoadAssignment, &["x"]);
    stream.requests();
    stream.accept(response(Kind::LoadAssignment, "a", &["x@1"], &[]));
    stream.requests();
    stream.unsubscribe(Kind::LoadAssignment, &["x"]);
    stream.subscribe(Kind::LoadAssignment, &["x"]);
    assert_eq!(stream.requests(), ["eds +x"]);
    // The other way round, nobody need know.
    stream.subscribe(Kind::LoadAssignment, &["y"]);
    stream.unsubscribe(Kind::LoadAssignment, &["y"]);
    assert_eq!(stream.requests(), ["eds"]);
}

#[test]
fn without_any_names_there_is_nothing_to_ask() {
    let mut stream = stream();
    stream.subscribe(Kind::LoadAssignment, &["x"]);
    stream.requests();
    stream.unsubscribe(Kind::LoadAssignment, &["x"]);
    assert_eq!(stream.requests(), ["eds -x"]);
    assert_eq!(stream.accept(response(Kind::LoadAssignment, "a", &["x@1"], &["x2"])), "");
    assert_eq!(stream.requests(), ["eds na"]);
    stream.mux.lost();
    stream.mux.opened();
    assert_eq!(stream.requests(), ["cds node"]);
}

#[test]
fn everything_and_names_are_told_apart() {
    let mut stream = stream();
    assert_eq!(stream.requests(), ["cds node"]);
    stream.subscribe(Kind::Cluster, &["x"]);
    assert_eq!(stream.requests(), ["cds +x"]);
    stream.accept(response(Kind::Cluster, "a", &["x@1", "y@1"], &[]));
    stream.requests();
    stream.mux.lost();
    stream.mux.opened();
    assert_eq!(stream.requests(), ["cds node +*,x has x@1,y@1"]);
    // Not by name any more, but it may be of everything: the server says.
    stream.unsubscribe(Kind::Cluster, &["x"]);
    assert_eq!(stream.requests(), ["cds -x"]);
    assert_eq!(stream.version(Kind::Cluster, "x"), Some("1".into()));
    stream.subscribe(Kind::Cluster, &["y"]);
    stream.mux.unsubscribe(Kind::Cluster, None);
    assert_eq!(stream.requests(), ["cds +y -*"]);
    assert_eq!(stream.version(Kind::Cluster, "x"), None);
    assert_eq!(stream.version(Kind::Cluster, "y"), Some("1".into()));
    stream.mux.subscribe(Kind::Cluster, None);
    assert_eq!(stream.requests(), ["cds +*"]);
}

#[test]
fn of_what_nobody_names_any_more_and_there_is_none_of_nothing_is_left() {
    let mut stream = stream();
    stream.requests();
    stream.subscribe(Kind::Cluster, &["x", "y", "z"]);
    stream.requests();
    stream.accept(response(Kind::Cluster, "a", &["y@1"], &["x"]));
    stream.requests();
    stream.unsubscribe(Kind::Cluster, &["x", "y", "z"]);
    assert_eq!(stream.requests(), ["cds -x,y,z"]);
    assert_eq!(["x", "z"].map(|name| stream.status(Kind::Cluster, name)), [None; 2]);
    assert_eq!(stream.status(Kind::Cluster, "y"), Some(Status::Acked));
    stream.mux.lost();
    stream.mux.opened();
    assert_eq!(stream.requests(), ["cds node has y@1"]);
}

#[test]
fn responses_that_contradict_themselves_are_rejected_whole() {
    let mut stream = stream();
    stream.requests();
    let mut reject = |response: DeltaDiscoveryResponse, why: &str| {
        let nonce = response.nonce.clone();
        assert_eq!(stream.receive(response), Received::Malformed(Kind::Cluster, why.into()));
        assert_eq!(stream.requests(), [format!("cds n{nonce} error: {why}")]);
    };
    let twice = response(Kind::Cluster, "a", &["x@1", "x@1"], &[]);
    reject(twice, "duplicate name x found among added/updated resources");
    let both = response(Kind::Cluster, "b", &["x@1"], &["x"]);
    reject(both, "duplicate name x found in the union of added+removed resources");
    let mut other = response(Kind::Cluster, "c", &["x@1"], &[]);
    other.resources[0].resource = Some(body(Kind::Secret, "x", ""));
    reject(
        other,
        "type URL type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret embedded in an individual Any \
         does not match the message-wide type URL type.googleapis.com/envoy.config.cluster.v3.Cluster in \
         DeltaDiscoveryResponse",
    );
    assert_eq!(stream.status(Kind::Cluster, "x"), None);
}

#[test]
fn heartbeats_keep_what_is_held_alive() {
    let second = Duration::from_secs(1);
    let mut stream = stream();
    stream.requests();
    let mut living = response(Kind::Cluster, "a", &["x@1"], &[]);
    living.resources[0].ttl = Some(prost_types::Duration { seconds: 2, nanos: 0 });
    stream.accept(living.clone());
    let mut heartbeat = living.clone();
    heartbeat.resources[0].resource = None;
    let update = stream.update(heartbeat.clone());
    assert_eq!(changes(&update), "");
    stream.judge(&update, &Ok(()), second);
    assert_eq!(stream.mux.next_expiry(), Some(stream.began + 3 * second));
    // Of another version there is nothing to keep.
    heartbeat.resources[0].version = "2".into();
    assert!(matches!(stream.receive(heartbeat), Received::Malformed(..)));
    let over = stream.mux.expired(stream.began + 3 * second, SystemTime::UNIX_EPOCH);
    assert_eq!(over.iter().map(changes).collect::<Vec<_>>(), ["-x"]);
    stream.mux.opened();
    assert_eq!(stream.requests(), ["cds node"]);
}

#[test]
fn an_alias_that_leads_nowhere_is_told() {
    let mut stream = Stream::new(Protocol::Delta);
    stream.subscribe(Kind::VirtualHost, &["r/a.example"]);
    stream.mux.opened();
    stream.requests();
    let nowhere = Wrapped { name: "r/a.example".into(), aliases: vec!["r/a.example".into()], ..Wrapped::default() };
    let response = DeltaDiscoveryResponse { resources: vec![nowhere], ..response(Kind::VirtualHost, "a", &[], &[]) };
    let update = stream.update(response);
    assert!(update.added[0].is_absent());
    stream.judge(&update, &Ok(()), Duration::ZERO);
    assert_eq!(stream.status(Kind::VirtualHost, "r/a.example"), Some(Status::DoesNotExist));
}

#[test]
fn a_virtual_host_is_known_by_the_alias_that_was_asked_for() {
    let mut stream = Stream::new(Protocol::Delta);
    stream.subscribe(Kind::VirtualHost, &["r/a.example"]);
    stream.mux.opened();
    stream.requests();
    let mut found = response(Kind::VirtualHost, "a", &["r/hosts@1", "r/others@1"], &[]);
    found.resources[0].aliases = vec!["r/a.example".into(), "r/b.example".into()];
    assert_eq!(stream.accept(found.clone()), "+r/hosts");
    assert!(stream.mux.store().missing().is_empty());
    assert_eq!(stream.version(Kind::VirtualHost, "r/hosts"), Some("1".into()));
    // It goes with the last of its names.
    stream.subscribe(Kind::VirtualHost, &["r/b.example"]);
    found.resources[0].version = "2".into();
    assert_eq!(stream.accept(found), "=r/hosts");
    stream.unsubscribe(Kind::VirtualHost, &["r/a.example"]);
    assert_eq!(stream.version(Kind::VirtualHost, "r/hosts"), Some("2".into()));
    stream.unsubscribe(Kind::VirtualHost, &["r/b.example"]);
    assert_eq!(stream.version(Kind::VirtualHost, "r/hosts"), None);
    stream.mux.lost();
    stream.subscribe(Kind::VirtualHost, &["r/c.example"]);
    stream.mux.opened();
    assert_eq!(stream.requests(), ["vhds node +r/c.example"]);
}

#[test]
fn what_was_saved_is_in_force_and_the_server_is_asked_for_all_of_it() {
    let mut stream = Stream::new(Protocol::Delta);
    let resource = |of: &str| Resource {
        name: name(of),
        version: "9".into(),
        body: body(Kind::Cluster, of, "").value.into(),
        ttl: None,
        aliases: Vec::new(),
    };
    let content = Content { version: "8".into(), resources: vec![resource("x"), resource("y")], ..Content::default() };
    let update = stream.mux.store().changes(Kind::Cluster, content, Origin::Saved).unwrap();
    assert_eq!(changes(&update), "+x +y");
    stream.mux.restored(&update, &Ok(()), SystemTime::UNIX_EPOCH);
    stream.mux.subscribe(Kind::Cluster, None);
    stream.mux.opened();
    // No version of them is claimed, but that they are there: those that are gone will be named.
    assert_eq!(stream.requests(), ["cds node has x@,y@"]);
    let saved = stream.mux.store().accepted(Kind::Cluster, "x").unwrap();
    assert_eq!((&*saved.version, saved.origin), ("9", Origin::Saved));
    assert_eq!(stream.accept(response(Kind::Cluster, "a", &["x@1"], &["y"])), "=x -y");
    let saved = stream.mux.store().accepted(Kind::Cluster, "x").unwrap();
    assert_eq!((&*saved.version, saved.origin), ("1", Origin::Server));
}
