//! What comes when a request needs it: virtual hosts, routes of scopes, clusters. The same scenarios for both proxies, in
//! deltas, which is how such things come.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
};

use prost_types::Any;
use serde_json::Value;
use weir_tests::{
    ads::{Ads, Event, Listen, Seen},
    poll::wait_for,
};

use crate::{
    Protocol,
    proxy::{PATIENCE, Proxy, Start},
    resources::{managed, one},
    scenario::Who,
    served::verdict,
    traffic::backend,
};

const ADS: &str = "{ ads: {}, resource_api_version: V3 }";
const FILTER: &str = "- { name: on_demand, typed_config: { \"@type\": \
    type.googleapis.com/envoy.extensions.filters.http.on_demand.v3.OnDemand } }";
const RDS: &str = "rds: { route_config_name: r, config_source: { ads: {}, resource_api_version: V3 } }";

/// Both proxies.
fn both(run: impl Fn(Who)) {
    [Who::Envoy, Who::Weir].into_iter().for_each(run);
}

/// A listener on any port: `routes`, `filters` and further `settings` of its connection manager.
fn listener(routes: &str, filters: &str, settings: &str) -> Any {
    managed("l", &[routes, settings], filters)
}

/// A virtual host that answers by itself.
fn host(name: &str, domain: &str, text: &str) -> Any {
    let host = virtual_host(name, domain, text);
    one(&format!("- \"@type\": type.googleapis.com/envoy.config.route.v3.VirtualHost\n  {}\n", fields(&host)))
}

fn virtual_host(name: &str, domain: &str, text: &str) -> String {
    format!(
        "{{ name: {name}, domains: [ \"{domain}\" ], routes: [ {{ match: {{ prefix: / }}, direct_response: {{ status: 200, body: \
         {{ inline_string: {text} }} }} }} ] }}"
    )
}

/// The fields of a mapping in braces, one a line.
fn fields(mapping: &str) -> String {
    let fields = mapping.trim_start_matches("{ ").trim_end_matches(" }");
    fields.replacen(", domains", "\n  domains", 1).replacen(", routes", "\n  routes", 1)
}

/// A route configuration with one virtual host, and further ones from the server.
fn routes(name: &str, text: &str) -> Any {
    let host = virtual_host(&format!("{name}/fixed"), "fixed.test", text);
    one(&format!(
        "- \"@type\": type.googleapis.com/envoy.config.route.v3.RouteConfiguration\n  name: {name}\n  virtual_hosts: [ {host} ]\n  \
         vhds: {{ config_source: {ADS} }}\n"
    ))
}

/// Status and body of a request.
fn ask(to: SocketAddr, host: &str, more: &str) -> (u16, String) {
    // It may not listen yet.
    let Ok(mut stream) = TcpStream::connect(to) else { return (0, String::new()) };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET / HTTP/1.1\r\nhost: {host}\r\n{more}connection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    (status, text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

fn answered(status: u16, body: &str) -> (u16, String) {
    (status, body.to_owned())
}

/// A request on a thread of its own.
fn asking(to: SocketAddr, host: &'static str, more: &'static str) -> thread::JoinHandle<(u16, String)> {
    thread::spawn(move || ask(to, host, more))
}

/// Waits until a name is asked for.
fn wait_asked(ads: &Ads, mark: usize, kind: &str, name: &str) -> Event {
    ads.wait_after(mark, &format!("a request for {name}"), |event| asks(event, kind, name))
}

fn asks(event: &Event, kind: &str, name: &str) -> bool {
    event.kind == kind && matches!(&event.seen, Seen::Request { names, .. } if names.iter().any(|asked| asked == name))
}

fn requests(ads: &Ads, kind: &str) -> usize {
    ads.events().iter().filter(|event| event.kind == kind && matches!(event.seen, Seen::Request { .. })).count()
}

/// Virtual hosts by name, and the version, of `/config_dump`.
fn dumped(proxy: &Proxy) -> (BTreeSet<String>, String) {
    let dump: Value = serde_json::from_str(&proxy.admin("/config_dump?resource=dynamic_route_configs")).unwrap();
    let routes = &dump["configs"][0];
    let hosts = routes["route_config"]["virtual_hosts"].as_array().unwrap();
    let names = hosts.iter().map(|host| host["name"].as_str().unwrap().to_owned());
    (names.collect(), routes["version_info"].as_str().unwrap().to_owned())
}

fn names<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

fn until(to: SocketAddr, host: &str, wanted: (u16, &str)) {
    wait_for(&format!("{wanted:?} of {host}"), PATIENCE, || {
        let (status, body) = ask(to, host, "");
        if (status, body.as_str()) == wanted { Ok(()) } else { Err((status, body)) }
    });
}

#[test]
fn names_that_lead_nowhere_make_room_for_others() {
    const MOST: usize = 10_000;
    let ads = Ads::start(Listen::anywhere()).unwrap();
    ads.put([listener(RDS, FILTER, ""), routes("r", "fixed"), host("r/one", "one.test", "one")]);
    let proxy = Start::new(Who::Weir, &ads, Protocol::Delta).start();
    let to = proxy.listener("l");
    until(to, "one.test", (200, "one"));
    let mark = ads.mark();
    // One more than there may be.
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut asking = stream.try_clone().unwrap();
    let asking = thread::spawn(move || {
        for number in 0..=MOST {
            let close = if number == MOST { "connection: close\r\n" } else { "" };
            write!(asking, "GET / HTTP/1.1\r\nhost: n{number}.test\r\n{close}\r\n").unwrap();
        }
    });
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    asking.join().unwrap();
    assert_eq!(text.matches("HTTP/1.1 404").count(), MOST + 1);
    // In one request or in several.
    let unsubscribed = || {
        let events = ads.events();
        let of = |event: &Event| match &event.seen {
            Seen::Request { unsubscribed, .. } => unsubscribed.len(),
            _ => 0,
        };
        events[mark..].iter().map(of).sum::<usize>()
    };
    wait_for("that nothing is wanted of them any more", PATIENCE, || match unsubscribed() {
        MOST.. => Ok(()),
        so_many => Err(so_many),
    });
    // Nothing of them is left, and they can be asked for again.
    let known = || proxy.admin("/v3/discovery:client_status").matches("\"r/n").count();
    assert_eq!(known(), 1);
    let mark = ads.mark();
    // Before there is one: the server would send it unasked.
    assert_eq!(ask(to, "n0.test", ""), answered(404, ""));
    wait_asked(&ads, mark, "vhds", "r/n0.test");
    ads.put([host("r/n0.test", "n0.test", "new")]);
    until(to, "n0.test", (200, "new"));
    assert_eq!(ask(to, "one.test", ""), answered(200, "one"));
}

#[test]
fn virtual_hosts_come_when_a_request_names_them() {
    both(|who| {
        let ads = Ads::start(Listen::anywhere()).unwrap();
        ads.put([listener(RDS, FILTER, ""), routes("r", "fixed"), host("r/one", "one.test", "one")]);
        let proxy = Start::new(who, &ads, Protocol::Delta).start();
        let to = proxy.listener("l");
        until(to, "one.test", (200, "one"));
        assert_eq!(ask(to, "fixed.test", ""), answered(200, "fixed"));
        // All requests for a host wait for the one answer, in which it may be called otherwise.
        ads.change(|world| world.aliases.insert("r/two.test:80".to_owned(), "r/two".to_owned()));
        let mark = ads.mark();
        let waiting = [asking(to, "two.test:80", ""), asking(to, "Two.test:80", "")];
        wait_asked(&ads, mark, "vhds", "r/two.test:80");
        ads.put([host("r/two", "two.test:80", "two")]);
        for waiting in waiting {
            assert_eq!(waiting.join().unwrap(), answered(200, "two"), "{who:?}");
        }
        assert_eq!(ask(to, "two.test:80", ""), answered(200, "two"));
        assert_eq!(ads.events().iter().filter(|event| asks(event, "vhds", "r/two.test:80")).count(), 1, "{who:?}");
        // Nor is a host asked for again that there is none of.
        assert_eq!(ask(to, "none.test", ""), answered(404, ""), "{who:?}");
        wait_asked(&ads, mark, "vhds", "r/none.test");
        let asked = requests(&ads, "vhds");
        assert_eq!(ask(to, "none.test", ""), answered(404, ""), "{who:?}");
        assert_eq!(dumped(&proxy).0, names(["r/fixed", "r/one", "r/two"]), "{who:?}");
        assert_eq!(proxy.stat("http.l.no_route"), Some(2), "{who:?}");
        assert!(proxy.stat("http.l.rds.vhds.r.config_reload") >= Some(2), "{who:?}");
        assert_eq!(proxy.stat("http.l.rds.vhds.r.update_rejected"), Some(0), "{who:?}");
        // What goes is gone, and what the route configuration says of its own does not touch what came.
        ads.remove("vhds", "r/two");
        until(to, "two.test:80", (404, ""));
        let mark = ads.mark();
        ads.put([routes("r", "other")]);
        assert_eq!(verdict(&ads, mark, "rds"), Ok(()), "{who:?}");
        until(to, "fixed.test", (200, "other"));
        assert_eq!(ask(to, "one.test", ""), answered(200, "one"), "{who:?}");
        let unanswered = requests(&ads, "vhds") - asked;
        assert!(unanswered <= 2, "{who:?}: {:?}", ads.events());
    });
}

#[test]
fn a_request_waits_for_its_virtual_host_as_long_as_its_limits_allow() {
    both(|who| {
        let ads = Ads::start(Listen::anywhere()).unwrap();
        let settings = "stream_idle_timeout: 1s";
        ads.put([listener(RDS, FILTER, settings), routes("r", "fixed"), host("r/one", "one.test", "one")]);
        // The server knows of it and never says so.
        ads.change(|world| world.aliases.insert("r/late.test".to_owned(), "r/late".to_owned()));
        let proxy = Start::new(who, &ads, Protocol::Delta).start();
        let to = proxy.listener("l");
        until(to, "one.test", (200, "one"));
        assert_eq!(ask(to, "late.test", ""), answered(504, "stream timeout"), "{who:?}");
        assert_eq!(proxy.stat("http.l.downstream_rq_idle_timeout"), Some(1), "{who:?}");
        // What comes later serves those that ask later.
        ads.put([host("r/late", "late.test", "late")]);
        until(to, "late.test", (200, "late"));
    });
}

#[test]
fn a_virtual_host_that_is_refused_leaves_the_others_and_the_requests_waiting() {
    both(|who| {
        let ads = Ads::start(Listen::anywhere()).unwrap();
        ads.put([listener(RDS, FILTER, ""), routes("r", "fixed"), host("r/one", "one.test", "one")]);
        ads.change(|world| world.aliases.insert("r/two.test".to_owned(), "r/two".to_owned()));
        let proxy = Start::new(who, &ads, Protocol::Delta).start();
        let to = proxy.listener("l");
        until(to, "one.test", (200, "one"));
        let mark = ads.mark();
        let waiting = asking(to, "two.test", "");
        wait_asked(&ads, mark, "vhds", "r/two.test");
        let mark = ads.mark();
        ads.put([host("r/two", "one.test", "two")]);
        let why = verdict(&ads, mark, "vhds").unwrap_err();
        assert!(why.contains("nique values for domains are permitted") && why.contains("one.test"), "{who:?}: {why}");
        assert_eq!(ask(to, "one.test", ""), answered(200, "one"), "{who:?}");
        ads.put([host("r/two", "two.test", "two")]);
        assert_eq!(waiting.join().unwrap(), answered(200, "two"), "{who:?}");
        assert_eq!(proxy.stat("http.l.rds.vhds.r.update_rejected"), Some(1), "{who:?}");
    });
}

#[test]
fn virtual_hosts_come_unasked_too_and_without_the_filter_nobody_asks() {
    both(|who| {
        let ads = Ads::start(Listen::anywhere()).unwrap();
        ads.put([listener(RDS, "", ""), routes("r", "fixed"), host("r/one", "one.test", "one")]);
        ads.put([host("other/one", "else.test", "another's")]);
        let proxy = Start::new(who, &ads, Protocol::Delta).start();
        let to = proxy.listener("l");
        until(to, "one.test", (200, "one"));
        assert_eq!(ask(to, "two.test", ""), answered(404, ""), "{who:?}");
        assert_eq!(ask(to, "else.test", ""), answered(404, ""), "{who:?}");
        ads.put([host("r/two", "two.test", "two")]);
        until(to, "two.test", (200, "two"));
        ads.put([host("r/two", "two.test", "two again")]);
        until(to, "two.test", (200, "two again"));
        let asked = |event: &Event| match &event.seen {
            Seen::Request { names, .. } if event.kind == "vhds" => names.clone(),
            _ => Vec::new(),
        };
        assert_eq!(ads.events().iter().flat_map(asked).collect::<Vec<_>>(), [""; 0], "{who:?}");
        // Without them, all but those of the configuration itself are gone.
        let fixed = one(&format!(
            "- \"@type\": type.googleapis.com/envoy.config.route.v3.RouteConfiguration\n  name: r\n  virtual_hosts: [ {} ]\n",
            virtual_host("r/fixed", "fixed.test", "alone")
        ));
        ads.put([fixed]);
        until(to, "fixed.test", (200, "alone"));
        assert_eq!(ask(to, "one.test", ""), answered(404, ""), "{who:?}");
    });
}

#[test]
fn routes_of_a_listener_have_virtual_hosts_that_come_too() {
    both(|who| {
        let ads = Ads::start(Listen::anywhere()).unwrap();
        let routes = format!(
            "route_config: {{ name: r, virtual_hosts: [ {} ], vhds: {{ config_source: {ADS} }} }}",
            virtual_host("r/fixed", "fixed.test", "fixed")
        );
        ads.put([listener(&routes, FILTER, ""), host("r/one", "one.test", "one")]);
        ads.change(|world| world.aliases.insert("r/two.test".to_owned(), "r/two".to_owned()));
        let proxy = Start::new(who, &ads, Protocol::Delta).start();
        let to = proxy.listener("l");
        until(to, "one.test", (200, "one"));
        assert_eq!(ask(to, "fixed.test", ""), answered(200, "fixed"), "{who:?}");
        let mark = ads.mark();
        let waiting = asking(to, "two.test", "");
        wait_asked(&ads, mark, "vhds", "r/two.test");
        ads.put([host("r/two", "two.test", "two")]);
        assert_eq!(waiting.join().unwrap(), answered(200, "two"), "{who:?}");
        let dump: Value = serde_json::from_str(&proxy.admin("/config_dump?resource=static_route_configs")).unwrap();
        let hosts = dump["configs"][0]["route_config"]["virtual_hosts"].as_array().unwrap();
        let shown: BTreeSet<_> = hosts.iter().map(|host| host["name"].as_str().unwrap().to_owned()).collect();
        assert_eq!(shown, names(["r/fixed", "r/one", "r/two"]), "{who:?}");
        assert_eq!(proxy.stat("vhds.r.update_rejected"), Some(0), "{who:?}");
        assert!(proxy.stat("vhds.r.config_reload") >= Some(2), "{who:?}");
    });
}

#[test]
fn a_stream_that_begins_anew_asks_again_for_what_requests_wait_for() {
    both(|who| {
        let ads = Ads::start(Listen::anywhere()).unwrap();
        ads.put([listener(RDS, FILTER, ""), routes("r", "fixed"), host("r/one", "one.test", "one")]);
        ads.change(|world| world.aliases.insert("r/two.test".to_owned(), "r/two".to_owned()));
        let proxy = Start::new(who, &ads, Protocol::Delta).start();
        let to = proxy.listener("l");
        until(to, "one.test", (200, "one"));
        let mark = ads.mark();
        let waiting = asking(to, "two.test", "");
        wait_asked(&ads, mark, "vhds", "r/two.test");
        let mark = ads.mark();
        ads.drop_streams(tonic::Code::Unavailable, "dropped");
        let asked = wait_asked(&ads, mark, "vhds", "r/two.test");
        let Seen::Request { mut names, initial, .. } = asked.seen else { panic!() };
        names.sort();
        assert_eq!(names, ["*", "r/two.test"], "{who:?}");
        assert_eq!(initial.keys().collect::<Vec<_>>(), ["r/one"], "{who:?}");
        ads.put([host("r/two", "two.test", "two")]);
        assert_eq!(waiting.join().unwrap(), answered(200, "two"), "{who:?}");
    });
}

#[test]
fn virtual_hosts_come_by_deltas_only() {
    both(|who| {
        let ads = Ads::start(Listen::anywhere()).unwrap();
        ads.put([listener(RDS, FILTER, ""), routes("r", "fixed")]);
        let proxy = Start::new(who, &ads, Protocol::Sotw).start();
        let why = verdict(&ads, 0, "rds").unwrap_err();
        assert!(why.ends_with("ADS must use DELTA_GRPC api_type when used as VHDS config source."), "{who:?}: {why}");
        assert_eq!(ask(proxy.listener("l"), "fixed.test", ""), answered(404, ""), "{who:?}");
    });
}

/// A scope whose routes come when a request needs them.
fn scope(key: &str) -> Any {
    one(&format!(
        "- \"@type\": type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration\n  name: {key}\n  on_demand: {}\n  \
         route_configuration_name: r{key}\n  key: {{ fragments: [ {{ string_key: {key} }} ] }}\n",
        key != "a"
    ))
}

fn scoped() -> String {
    format!(
        "scoped_routes: {{ name: scopes, scope_key_builder: {{ fragments: [ {{ header_value_extractor: {{ name: x-scope, index: \
         0 }} }} ] }}, rds_config_source: {ADS}, scoped_rds: {{ scoped_rds_config_source: {ADS} }} }}"
    )
}

fn plain_routes(name: &str) -> Any {
    one(&format!(
        "- \"@type\": type.googleapis.com/envoy.config.route.v3.RouteConfiguration\n  name: {name}\n  virtual_hosts: [ {} ]\n",
        virtual_host(name, "test", name)
    ))
}

#[test]
fn routes_of_scopes_come_when_a_request_needs_them() {
    both(|who| {
        let ads = Ads::start(Listen::anywhere()).unwrap();
        ads.put([listener(&scoped(), FILTER, ""), scope("a"), scope("b"), plain_routes("ra")]);
        let proxy = Start::new(who, &ads, Protocol::Delta).start();
        let to = proxy.listener("l");
        wait_for("routes of a", PATIENCE, || {
            Some(ask(to, "test", "x-scope: a\r\n")).filter(|got| got.0 == 200).ok_or(())
        });
        assert!(!ads.events().iter().any(|event| asks(event, "rds", "rb")), "{who:?}");
        assert_eq!(proxy.stat("http.l.scoped_rds.scopes.on_demand_scopes"), Some(1), "{who:?}");
        assert_eq!(proxy.stat("http.l.scoped_rds.scopes.all_scopes"), Some(2), "{who:?}");
        ads.mute(true);
        let waiting = [asking(to, "test", "x-scope: b\r\n"), asking(to, "test", "x-scope: b\r\n")];
        wait_asked(&ads, 0, "rds", "rb");
        ads.mute(false);
        ads.put([plain_routes("rb")]);
        for waiting in waiting {
            assert_eq!(waiting.join().unwrap(), answered(200, "rb"), "{who:?}");
        }
        assert_eq!(ask(to, "test", "x-scope: b\r\n"), answered(200, "rb"), "{who:?}");
        assert_eq!(ask(to, "other", "x-scope: b\r\n"), answered(404, ""), "{who:?}");
        assert_eq!(ask(to, "test", "x-scope: nowhere\r\n"), answered(404, ""), "{who:?}");
        ads.remove("srds", "b");
        wait_for("the scope to go", PATIENCE, || {
            Some(ask(to, "test", "x-scope: b\r\n")).filter(|got| got.0 == 404).ok_or(())
        });
    });
}

/// The rows of docs/envoy-differences.md that are met here.
pub const NO_HOSTS: &str = "xds-no-hosts-yet";
pub const NO_ROUTES: &str = "xds-no-routes-of-scope";

/// See [`NO_HOSTS`].
#[test]
fn a_server_without_virtual_hosts_holds_up_nobody() {
    both(|who| {
        let ads = Ads::start(Listen::anywhere()).unwrap();
        ads.put([listener(RDS, FILTER, ""), routes("r", "fixed")]);
        let proxy = Start::new(who, &ads, Protocol::Delta).start();
        ads.wait("the answer taken", |event| event.kind == "vhds" && matches!(event.seen, Seen::Ack { .. }));
        match who {
            Who::Envoy => assert!(!proxy.admin("/ready").starts_with("LIVE")),
            Who::Weir => until(proxy.listener("l"), "fixed.test", (200, "fixed")),
        }
    });
}

/// See [`NO_ROUTES`].
#[test]
fn a_scope_without_routes_is_answered_as_soon_as_that_is_known() {
    both(|who| {
        let ads = Ads::start(Listen::anywhere()).unwrap();
        ads.put([listener(&scoped(), FILTER, "stream_idle_timeout: 1s"), scope("a"), scope("b"), plain_routes("ra")]);
        let proxy = Start::new(who, &ads, Protocol::Delta).start();
        let to = proxy.listener("l");
        wait_for("routes of a", PATIENCE, || {
            Some(ask(to, "test", "x-scope: a\r\n")).filter(|got| got.0 == 200).ok_or(())
        });
        let expected = match who {
            Who::Envoy => answered(504, "stream timeout"),
            Who::Weir => answered(404, ""),
        };
        assert_eq!(ask(to, "test", "x-scope: b\r\n"), expected);
    });
}

/// A cluster with one endpoint.
fn cluster(name: &str, port: u16) -> Any {
    one(&format!(
        "- \"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster\n  name: {name}\n  type: STATIC\n  connect_timeout: 60s\n  \
         load_assignment: {{ cluster_name: {name}, endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ socket_address: {{ \
         address: 127.0.0.1, port_value: {port} }} }} }} }} ] }} ] }}\n"
    ))
}

const BY_HEADER: &str = "route_config: { name: inline, virtual_hosts: [ { name: all, domains: [\"*\"], routes: [ { match: { prefix: / }, \
    route: { cluster_header: x-cluster } } ] } ] }";

fn clusters_on_demand(source: &str, timeout: &str) -> String {
    FILTER.replace("OnDemand }", &format!("OnDemand, odcds: {{ source: {source}, timeout: {timeout} }} }}"))
}

/// A cluster comes when a request names it; so many streams there are then.
fn a_cluster_comes(source: &str, streams: usize) {
    both(|who| {
        let ads = Ads::start(Listen::anywhere()).unwrap();
        ads.put([listener(BY_HEADER, &clusters_on_demand(source, "60s"), "")]);
        let proxy = Start::new(who, &ads, Protocol::Delta).start();
        let to = proxy.listener("l");
        wait_for("an answer", PATIENCE, || Some(ask(to, "test", "")).filter(|got| got.0 == 503).ok_or(()));
        // The server says at first that there is none: nobody waits for the time to pass.
        assert_eq!(ask(to, "test", "x-cluster: a\r\n"), answered(503, ""), "{who:?}");
        wait_asked(&ads, 0, "cds", "a");
        let opened = ads.events().iter().filter(|event| matches!(event.seen, Seen::Opened { .. })).count();
        assert_eq!(opened, streams, "{who:?}");
        ads.put([cluster("a", backend("a"))]);
        wait_for("the cluster", PATIENCE, || {
            let got = ask(to, "test", "x-cluster: a\r\n");
            if got == answered(200, "a") { Ok(()) } else { Err(got) }
        });
        ads.put([cluster("b", backend("b"))]);
        assert_eq!(ask(to, "test", "x-cluster: b\r\n"), answered(200, "b"), "{who:?}");
        assert!(proxy.stat("cluster_manager.odcds.update_success") >= Some(1), "{who:?}");
    });
}

#[test]
fn clusters_come_when_a_request_names_them() {
    a_cluster_comes("{ ads: {}, resource_api_version: V3 }", 1);
}

#[test]
fn clusters_come_from_a_server_of_their_own_when_a_request_names_them() {
    let server = "{ resource_api_version: V3, api_config_source: { api_type: DELTA_GRPC, transport_api_version: V3, \
        grpc_services: [ { envoy_grpc: { cluster_name: xds } } ] } }";
    a_cluster_comes(server, 2);
}

#[test]
fn routes_say_where_their_clusters_come_from() {
    both(|who| {
        let ads = Ads::start(Listen::anywhere()).unwrap();
        let said = format!(
            "domains: [\"*\"], typed_per_filter_config: {{ on_demand: {{ \"@type\": \
             type.googleapis.com/envoy.extensions.filters.http.on_demand.v3.PerRouteConfig, odcds: {{ source: {ADS}, timeout: 60s }} }} }}"
        );
        let routes = BY_HEADER.replace("domains: [\"*\"]", &said);
        ads.put([listener(&routes, FILTER, "")]);
        let proxy = Start::new(who, &ads, Protocol::Delta).start();
        let to = proxy.listener("l");
        wait_for("an answer", PATIENCE, || Some(ask(to, "test", "")).filter(|got| got.0 == 503).ok_or(()));
        ads.mute(true);
        let waiting = asking(to, "test", "x-cluster: a\r\n");
        wait_asked(&ads, 0, "cds", "a");
        ads.mute(false);
        ads.put([cluster("a", backend("a"))]);
        assert_eq!(waiting.join().unwrap(), answered(200, "a"), "{who:?}");
    });
}

#[test]
fn a_request_waits_for_its_cluster_as_long_as_the_filter_says() {
    both(|who| {
        let ads = Ads::start(Listen::anywhere()).unwrap();
        ads.put([listener(BY_HEADER, &clusters_on_demand(ADS, "1s"), "")]);
        let proxy = Start::new(who, &ads, Protocol::Delta).start();
        let to = proxy.listener("l");
        wait_for("an answer", PATIENCE, || Some(ask(to, "test", "")).filter(|got| got.0 == 503).ok_or(()));
        ads.mute(true);
        assert_eq!(ask(to, "test", "x-cluster: a\r\n"), answered(503, ""), "{who:?}");
        assert_eq!(proxy.stat("http.l.no_cluster"), proxy.stat("http.l.downstream_rq_5xx"), "{who:?}");
    });
}
