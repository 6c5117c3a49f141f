//! What is served while a management server changes things, or does wrong: the same scenario for both proxies.

use std::{net::TcpStream, time::Duration};

use prost::Message;
use prost_types::Any;
use tonic::Code;
use weir_proto::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse, Resource};
use weir_tests::{
    ads::{Ads, Event, Listen, Seen},
    poll::wait_for,
};

use crate::{
    Protocol,
    proxy::{Proxy, Start, get, wait_saved},
    resources::{
        bad_cluster, badly_routed, cluster, cluster_from, endpoints, listener, listener_at, one, patient_cluster,
        routed, routes, twice_routed,
    },
    scenario::Who,
    traffic::{Load, backend},
};

const PATIENCE: Duration = Duration::from_secs(60);
const CLUSTERS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const LISTENERS: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";

pub fn each(test: impl Fn(Who, Protocol)) {
    for who in [Who::Envoy, Who::Weir] {
        for protocol in [Protocol::Sotw, Protocol::Delta] {
            eprintln!("{who:?}, {protocol:?}");
            test(who, protocol);
        }
    }
}

/// A server with a cluster `a` whose endpoint is `port`, and a listener `l` with routes to it.
fn small(port: u16) -> Ads {
    let ads = Ads::start(Listen::anywhere()).unwrap();
    ads.put([cluster("a"), endpoints("a", port), routed("l", "a", "")]);
    ads
}

fn until_answered(proxy: &Proxy, listener: &str, text: &str) {
    wait_for(&format!("an answer of {text}"), PATIENCE, || {
        let got = get(proxy.listener(listener), "/");
        if got == (200, text.into()) { Ok(()) } else { Err(got) }
    });
}

fn until_stat(proxy: &Proxy, name: &str, wanted: u64) {
    wait_for(&format!("{name} = {wanted}"), PATIENCE, || {
        let value = proxy.stat(name);
        if value == Some(wanted) { Ok(()) } else { Err(value) }
    });
}

/// Waits until every client was answered so.
fn until_all(loads: &[Load; 2], text: &str) {
    wait_for(&format!("answers of {text}"), PATIENCE, || {
        let last = loads.each_ref().map(Load::last);
        if last == [text; 2] { Ok(()) } else { Err(last) }
    });
}

#[test]
fn no_request_fails_while_clusters_endpoints_and_listeners_change() {
    each(|who, protocol| {
        let [one, two, three] = ["one", "two", "three"].map(backend);
        let ads = small(one);
        // Connections that drain are told so at once, and not one after the other over ten minutes.
        let proxy = Start::new(who, &ads, protocol).arguments(&["--drain-strategy", "immediate"]).start();
        until_answered(&proxy, "l", "one");
        let loads = [0; 2].map(|_| Load::start(proxy.listener("l")));
        until_all(&loads, "one");
        ads.put([endpoints("a", two)]);
        until_answered(&proxy, "l", "two");
        // A busy machine may let neither client run meanwhile.
        until_all(&loads, "two");
        // A cluster is modified. Envoy waits for endpoints to come again.
        ads.change(|world| {
            world.put("a", patient_cluster("a", 6));
            world.put("a", endpoints("a", two));
        });
        until_stat(&proxy, "cluster_manager.cluster_modified", 1);
        until_stat(&proxy, "cluster_manager.warming_clusters", 0);
        until_answered(&proxy, "l", "two");
        // A cluster comes, and the listener leads there.
        ads.put([endpoints("b", three)]);
        ads.put([cluster("b")]);
        ads.wait_ack("cds");
        ads.put([routed("l", "b", "")]);
        until_answered(&proxy, "l", "three");
        until_all(&loads, "three");
        // The other is gone.
        ads.remove("cds", "a");
        until_stat(&proxy, "cluster_manager.cluster_removed", 1);
        until_answered(&proxy, "l", "three");
        for load in loads {
            let outcome = load.stop();
            assert!(outcome.failures.is_empty(), "{who:?} {protocol:?}: {outcome:?}");
            assert!(["one", "two", "three"].iter().all(|name| outcome.answers.contains_key(*name)), "{outcome:?}");
        }
        assert_eq!(proxy.stat("cluster_manager.active_clusters"), Some(2));
    });
}

#[test]
fn listeners_come_and_go() {
    each(|who, protocol| {
        let ads = small(backend("one"));
        let proxy = Start::new(who, &ads, protocol).start();
        until_answered(&proxy, "l", "one");
        ads.put([routed("m", "a", "")]);
        until_answered(&proxy, "m", "one");
        until_stat(&proxy, "listener_manager.listener_added", 2);
        let address = proxy.listener("m");
        ads.remove("lds", "m");
        until_stat(&proxy, "listener_manager.listener_removed", 1);
        wait_for("refused connections", PATIENCE, || TcpStream::connect(address).err().ok_or("connected"));
        assert!(!proxy.admin("/listeners").contains("m::"));
        until_answered(&proxy, "l", "one");
        assert_eq!(proxy.stat("listener_manager.total_listeners_active"), Some(1));
        assert_eq!(proxy.stat("listener_manager.total_listeners_draining"), Some(1));
    });
}

#[test]
fn connections_go_on_where_only_other_filter_chains_change() {
    each(|who, protocol| {
        let ads = small(backend("one"));
        let proxy = Start::new(who, &ads, protocol).start();
        until_answered(&proxy, "l", "one");
        let other = |name: &str| {
            format!(
                "  - name: {name}\n    filter_chain_match: {{ source_ports: [ 1 ] }}\n    filters: [ {{ name: echo, \
                typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo }} }} ]\n"
            )
        };
        ads.put([routed("l", "a", &other("first"))]);
        until_stat(&proxy, "listener_manager.listener_in_place_updated", 1);
        ads.put([routed("l", "a", &other("second"))]);
        until_stat(&proxy, "listener_manager.listener_in_place_updated", 2);
        assert_eq!(proxy.stat("listener_manager.total_filter_chains_draining"), Some(1));
        assert_eq!(proxy.stat("listener_manager.total_listeners_draining"), Some(0));
        assert_eq!(proxy.stat("listener_manager.listener_modified"), Some(2));
    });
}

/// Waits until the server is told of a rejection, or of an acknowledgement.
pub fn verdict(ads: &Ads, mark: usize, kind: &str) -> Result<(), String> {
    let said = |event: &Event| event.kind == kind && matches!(event.seen, Seen::Ack { .. } | Seen::Nack { .. });
    match ads.wait_after(mark, &format!("an answer to {kind}"), said).seen {
        Seen::Nack { error, .. } => Err(error),
        _ => Ok(()),
    }
}

#[test]
fn what_is_wrong_is_refused_and_what_was_in_force_is_served() {
    each(|who, protocol| {
        let ads = small(backend("one"));
        let chain = "filter_chains: [ { filters: [ { name: echo, typed_config: { \"@type\": \
            type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo } } ] } ]";
        let fixed = format!(
            "  listeners:\n  - name: fixed\n    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}\n    {chain}\n"
        );
        let proxy = Start::new(who, &ads, protocol).with(&fixed).start();
        until_answered(&proxy, "l", "one");
        let taken = proxy.listener("l");
        let tell = |kind: &str, resources: Vec<(&str, Any)>| {
            let mark = ads.mark();
            ads.change(|world| resources.iter().for_each(|(name, resource)| world.put(name, resource.clone())));
            let told = verdict(&ads, mark, kind);
            let mark = ads.mark();
            ads.change(|world| {
                let type_url = if kind == "cds" { CLUSTERS } else { LISTENERS };
                resources.iter().for_each(|(name, _)| _ = world.remove(type_url, name));
            });
            assert_eq!(verdict(&ads, mark, kind), Ok(()));
            assert_eq!(get(taken, "/"), (200, "one".into()));
            told
        };
        // What breaks the rules of its type has all refused that came with it.
        let zero = one(&format!("- \"@type\": {CLUSTERS}\n  name: zero\n  connect_timeout: 0s\n"));
        let none = one(&format!("- \"@type\": {CLUSTERS}\n  name: none\n  type: STATIC\n"));
        let mark = ads.mark();
        ads.change(|world| {
            world.put("zero", zero.clone());
            world.put("none", none.clone());
        });
        let told = verdict(&ads, mark, "cds").unwrap_err();
        assert!(told.contains("must be greater than 0s"), "{told}");
        assert!(!proxy.admin("/clusters").contains("none::"), "{who:?}");
        let mark = ads.mark();
        ads.change(|world| {
            world.remove(CLUSTERS, "zero");
            world.remove(CLUSTERS, "none");
        });
        assert_eq!(verdict(&ads, mark, "cds"), Ok(()));
        // Two listeners of one address.
        let told =
            tell("lds", vec![("m", listener_at("m", taken, "a")), ("k", listener_at("k", taken, "a"))]).unwrap_err();
        let twin = |name: &str| {
            format!(
                "{name}: error adding listener: '{name}' has duplicate address '{taken}' as existing listener, to check if \
                 the listener has duplicated addresses with other listeners or 'enable_reuse_port' is set to 'false' for \
                 the listener\n"
            )
        };
        // The one that is there was bound to any port.
        let begin = "Error adding/updating listener(s) ";
        let bound = format!("cannot bind '{taken}': Address already in use\n");
        assert!(told.starts_with(begin), "{told}");
        assert!(told.contains(&twin("k")) || told.contains(&twin("m")) || told.contains(&bound), "{told}");
        // Two virtual hosts of one domain.
        let told = tell("lds", vec![("m", twice_routed("m"))]).unwrap_err();
        assert!(told.starts_with(&format!("{begin}m: ")) && told.contains("nly unique values for domains"), "{told}");
        // A regular expression that is none.
        let told = tell("lds", vec![("m", badly_routed("m"))]).unwrap_err();
        assert!(told.starts_with(&format!("{begin}m: ")), "{told}");
        // Routes of a listener lead to clusters that there are.
        let told = tell("lds", vec![("m", routed("m", "nowhere", ""))]).unwrap_err();
        assert!(told.starts_with(&format!("{begin}m: ")) && told.contains("nowhere"), "{told}");
        // What the bootstrap has stays, and is not complained of.
        assert_eq!(
            tell("cds", vec![("xds", one(&format!("- \"@type\": {CLUSTERS}\n  name: xds\n  type: STATIC\n")))]),
            Ok(())
        );
        assert_eq!(tell("lds", vec![("fixed", routed("fixed", "a", ""))]), Ok(()));
        assert_eq!(proxy.stat("listener_manager.total_listeners_active"), Some(2), "{who:?} {protocol:?}");
        assert_eq!(proxy.stat("cluster_manager.active_clusters"), Some(2));
    });
}

#[test]
fn a_server_that_goes_is_done_without_and_followed_again_when_it_comes() {
    each(|who, protocol| {
        let [one, two, three] = ["one", "two", "three"].map(backend);
        let mut ads = small(one);
        let proxy = Start::new(who, &ads, protocol).start();
        until_answered(&proxy, "l", "one");
        let load = Load::start(proxy.listener("l"));
        ads.drop_streams(Code::Unavailable, "dropped");
        ads.put([endpoints("a", two)]);
        until_answered(&proxy, "l", "two");
        ads.stop();
        assert_eq!(get(proxy.listener("l"), "/"), (200, "two".into()));
        ads.put([endpoints("a", three)]);
        ads.restart("later-").unwrap();
        until_answered(&proxy, "l", "three");
        let outcome = load.stop();
        assert!(outcome.failures.is_empty(), "{who:?} {protocol:?}: {outcome:?}");
        assert_eq!(proxy.stat("control_plane.connected_state"), Some(1));
        assert_eq!(proxy.stat("listener_manager.listener_modified"), Some(0));
    });
}

#[test]
fn what_comes_unchanged_changes_nothing() {
    each(|who, protocol| {
        let port = backend("one");
        let ads = small(port);
        let proxy = Start::new(who, &ads, protocol).start();
        until_answered(&proxy, "l", "one");
        for (kind, resource) in [("cds", cluster("a")), ("eds", endpoints("a", port)), ("lds", routed("l", "a", ""))] {
            let mark = ads.mark();
            ads.put([resource]);
            assert_eq!(verdict(&ads, mark, kind), Ok(()));
        }
        for (name, wanted) in [
            ("cluster_manager.cluster_added", 2),
            ("cluster_manager.cluster_modified", 0),
            ("cluster_manager.cds.config_reload", 1),
            ("cluster.a.membership_change", 1),
            ("listener_manager.listener_added", 1),
            ("listener_manager.listener_modified", 0),
        ] {
            assert_eq!(proxy.stat(name), Some(wanted), "{who:?} {protocol:?}: {name}");
        }
        until_answered(&proxy, "l", "one");
    });
}

#[test]
fn a_proxy_is_ready_once_it_has_what_it_starts_with() {
    each(|who, protocol| {
        let ads = small(backend("one"));
        ads.mute(true);
        let proxy = Start::new(who, &ads, protocol).start();
        ads.wait("a request for clusters", |event| event.kind == "cds");
        let ready = proxy.admin("/ready");
        assert!(ready.starts_with("PRE_INITIALIZING"), "{who:?} {ready}");
        if who == Who::Weir {
            assert_eq!(ready, "PRE_INITIALIZING\nwaits for cds *\n");
        }
        ads.mute(false);
        ads.drop_streams(Code::Unavailable, "again");
        wait_for("a proxy that is ready", PATIENCE, || {
            let ready = proxy.admin("/ready");
            if ready == "LIVE\n" { Ok(()) } else { Err(ready) }
        });
        until_answered(&proxy, "l", "one");
    });
}

#[test]
fn a_first_answer_that_cannot_be_read_is_not_waited_out() {
    each(|who, protocol| {
        let ads = Ads::start(Listen::anywhere()).unwrap();
        ads.put([listener("l", "r"), routes("r", "one")]);
        ads.withhold("cds", true);
        let patient = "ads: {}, initial_fetch_timeout: 0s";
        let proxy = Start::new(who, &ads, protocol).from(patient, patient).start();
        ads.wait("a request for clusters", |event| event.kind == "cds");
        let (type_url, version, nonce) = (CLUSTERS.to_owned(), "1".to_owned(), "x".to_owned());
        let no_cluster = endpoints("a", 1);
        let resource = Resource {
            name: "a".to_owned(),
            version: version.clone(),
            resource: Some(no_cluster.clone()),
            ..Resource::default()
        };
        let sotw = DiscoveryResponse {
            version_info: version.clone(),
            resources: vec![no_cluster],
            type_url: type_url.clone(),
            nonce: nonce.clone(),
            ..DiscoveryResponse::default()
        };
        let delta = DeltaDiscoveryResponse {
            system_version_info: version,
            resources: vec![resource],
            type_url,
            nonce,
            ..DeltaDiscoveryResponse::default()
        };
        ads.send(&sotw, &delta);
        ads.wait_nack_after(0, "cds");
        proxy.until_live();
        until_answered(&proxy, "l", "one");
    });
}

#[test]
fn what_was_accepted_is_served_by_the_next_process_before_its_server_is_there() {
    for protocol in [Protocol::Sotw, Protocol::Delta] {
        let directory = tempfile::tempdir().unwrap();
        // The proxy's own user writes there.
        let state = directory.path().to_str().unwrap();
        let arguments = ["--state-dir", state, "--user", "65532"];
        std::os::unix::fs::chown(directory.path(), Some(65532), Some(65532)).unwrap();
        let mut ads = small(backend("one"));
        let proxy = Start::new(Who::Weir, &ads, protocol).arguments(&arguments).start();
        until_answered(&proxy, "l", "one");
        wait_saved(directory.path());
        drop(proxy);
        ads.stop();
        let proxy = Start::new(Who::Weir, &ads, protocol).arguments(&arguments).start();
        until_answered(&proxy, "l", "one");
        assert_eq!(proxy.admin("/ready"), "LIVE\n");
        ads.put([endpoints("a", backend("two"))]);
        ads.listen().unwrap();
        until_answered(&proxy, "l", "two");
    }
}

#[test]
fn that_there_are_no_clusters_is_kept_as_well() {
    for protocol in [Protocol::Sotw, Protocol::Delta] {
        let directory = tempfile::tempdir().unwrap();
        let arguments = ["--state-dir", directory.path().to_str().unwrap(), "--user", "65532"];
        std::os::unix::fs::chown(directory.path(), Some(65532), Some(65532)).unwrap();
        let mut ads = Ads::start(Listen::anywhere()).unwrap();
        ads.put([listener("l", "r"), routes("r", "one")]);
        let proxy = Start::new(Who::Weir, &ads, protocol).arguments(&arguments).start();
        until_answered(&proxy, "l", "one");
        wait_for("what is saved", PATIENCE, || {
            let saved = ["cds", "lds", "rds"].map(|kind| directory.path().join(format!("ads/{kind}.xds")).exists());
            if saved == [true; 3] { Ok(()) } else { Err(saved) }
        });
        drop(proxy);
        ads.stop();
        // Who waits for clusters waits for ever.
        let patient = "ads: {}, initial_fetch_timeout: 0s";
        let proxy = Start::new(Who::Weir, &ads, protocol).from(patient, patient).arguments(&arguments).start();
        proxy.until_live();
        until_answered(&proxy, "l", "one");
    }
}

const SERVER: &str = "api_config_source: { api_type: GRPC, transport_api_version: V3, grpc_services: [ { envoy_grpc: { \
    cluster_name: xds } } ] }";

#[test]
fn types_have_streams_of_their_own_where_that_is_wanted() {
    for who in [Who::Envoy, Who::Weir] {
        let [one, two] = ["one", "two"].map(backend);
        let ads = Ads::start(Listen::anywhere()).unwrap();
        ads.put([cluster_from("a", SERVER), endpoints("a", one), routed("l", "a", "")]);
        let proxy = Start::new(who, &ads, Protocol::Sotw).from(SERVER, SERVER).start();
        until_answered(&proxy, "l", "one");
        ads.put([endpoints("a", two)]);
        until_answered(&proxy, "l", "two");
        let opened = |event: &Event| match &event.seen {
            Seen::Opened { method, .. } => Some(method.rsplit('/').next().unwrap_or_default().to_owned()),
            _ => None,
        };
        // Envoy opens the aggregated stream though nothing is asked for there.
        let mut methods: Vec<_> = ads.events().iter().filter_map(opened).collect();
        methods.retain(|method| who == Who::Weir || method != "StreamAggregatedResources");
        methods.sort();
        assert_eq!(methods, ["StreamClusters", "StreamEndpoints", "StreamListeners"], "{who:?}");
    }
}

#[test]
fn files_are_followed_as_servers_are() {
    for who in [Who::Envoy, Who::Weir] {
        let [one, two] = ["one", "two"].map(backend);
        let ads = Ads::start(Listen::anywhere()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = |kind: &str| directory.path().join(format!("{kind}.pb"));
        let write = |kind: &str, resources: Vec<Any>| {
            let response = DiscoveryResponse { resources, ..DiscoveryResponse::default() };
            let beside = directory.path().join("beside");
            std::fs::write(&beside, response.encode_to_vec()).unwrap();
            std::fs::rename(beside, path(kind)).unwrap();
        };
        let file = |kind: &str| format!("path_config_source: {{ path: {} }}", path(kind).display());
        write("eds", vec![endpoints("a", one)]);
        write("cds", vec![cluster_from("a", &file("eds"))]);
        write("lds", vec![routed("l", "a", "")]);
        // The proxy's own user reads there.
        for path in [directory.path().to_owned(), path("eds"), path("cds"), path("lds")] {
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        }
        let proxy = Start::new(who, &ads, Protocol::Sotw).from(&file("cds"), &file("lds")).start();
        until_answered(&proxy, "l", "one");
        write("eds", vec![endpoints("a", two)]);
        until_answered(&proxy, "l", "two");
        // What is wrong is refused, and what there was stays.
        write("cds", vec![cluster_from("a", &file("eds")), bad_cluster("bad")]);
        until_stat(&proxy, "cluster_manager.cds.update_rejected", 1);
        write("lds", vec![routed("l", "a", ""), routed("m", "a", "")]);
        until_answered(&proxy, "m", "two");
        until_answered(&proxy, "l", "two");
        assert!(!ads.events().iter().any(|event| matches!(event.seen, Seen::Request { .. })));
    }
}

#[test]
fn a_proxy_serves_without_what_does_not_come_in_time() {
    each(|who, protocol| {
        let ads = small(backend("one"));
        ads.mute(true);
        let patient = "ads: {}, initial_fetch_timeout: 0.2s";
        let proxy = Start::new(who, &ads, protocol).from(patient, patient).start();
        wait_for("a proxy that is ready", PATIENCE, || {
            let ready = proxy.admin("/ready");
            if ready == "LIVE\n" { Ok(()) } else { Err(ready) }
        });
        assert_eq!(proxy.stat("cluster_manager.cds.init_fetch_timeout"), Some(1));
        assert_eq!(proxy.stat("listener_manager.lds.init_fetch_timeout"), Some(1));
        ads.mute(false);
        ads.drop_streams(Code::Unavailable, "again");
        until_answered(&proxy, "l", "one");
    });
}

/// The row of docs/envoy-differences.md that `a_cluster_that_is_modified_keeps_its_endpoints` meets.
pub const KNOWN_ENDPOINTS: &str = "xds-known-endpoints";

#[test]
fn a_cluster_that_is_modified_keeps_its_endpoints() {
    each(|who, protocol| {
        let ads = small(backend("one"));
        // What did not change is not sent again, as most servers do.
        ads.change(|world| world.partial = true);
        let proxy = Start::new(who, &ads, protocol).start();
        until_answered(&proxy, "l", "one");
        ads.put([patient_cluster("a", 6)]);
        until_stat(&proxy, "cluster_manager.cluster_modified", 1);
        match who {
            // For 15 s, and then it has none.
            Who::Envoy => until_stat(&proxy, "cluster_manager.warming_clusters", 1),
            Who::Weir => {
                ads.wait_ack("cds");
                assert_eq!(proxy.stat("cluster_manager.warming_clusters"), Some(0));
                assert!(proxy.admin("/config_dump?resource=dynamic_active_clusters").contains("\"6s\""));
                assert_eq!(proxy.stat("cluster.a.membership_total"), Some(1));
            }
        }
        until_answered(&proxy, "l", "one");
    });
}
