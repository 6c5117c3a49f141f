//! What a listener only names, and comes by itself over the same stream: filters, tables by scope. The same scenario for both
//! proxies.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use prost_types::Any;
use weir_tests::{
    ads::{Ads, Event, Listen, Seen},
    poll::wait_for,
};

use crate::{
    Protocol,
    proxy::Start,
    resources::{managed, one, routes},
    scenario::Who,
    served::{each, verdict},
};

const PATIENCE: Duration = Duration::from_secs(60);
const ADS: &str = "{ ads: {}, resource_api_version: V3 }";

/// A listener on any port: `routes` and `filters` of its connection manager.
fn listener(routes: &str, filters: &str) -> Any {
    managed("l", &[routes], filters)
}

const ANSWERS: &str = "route_config: { name: inline, virtual_hosts: [ { name: all, domains: [\"*\"], routes: [ { match: { \
    prefix: / }, direct_response: { status: 200, body: { inline_string: inline } } } ] } ] }";

/// Status and body of a request with one more header; 0: there is no connection.
fn ask(to: SocketAddr, header: &str) -> (u16, String) {
    // It may not listen yet.
    let Ok(mut stream) = TcpStream::connect(to) else { return (0, String::new()) };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET / HTTP/1.1\r\nhost: test\r\n{header}\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    (status, text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

fn until(to: SocketAddr, header: &str, wanted: (u16, &str)) {
    wait_for(&format!("{wanted:?}"), PATIENCE, || {
        let (status, body) = ask(to, header);
        if (status, body.as_str()) == wanted { Ok(()) } else { Err((status, body)) }
    });
}

/// The filter `fault`, which answers with a status.
fn fault(status: u16) -> Any {
    extension(&format!(
        "{{ \"@type\": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault, abort: {{ http_status: \
         {status}, percentage: {{ numerator: 100 }} }} }}"
    ))
}

fn extension(config: &str) -> Any {
    one(&format!(
        "- \"@type\": type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig\n  name: fault\n  typed_config: {config}\n"
    ))
}

#[test]
fn filters_come_are_replaced_and_go() {
    each(|who, protocol| {
        let ads = Ads::start(Listen::anywhere()).unwrap();
        let filter = format!(
            "- {{ name: fault, config_discovery: {{ config_source: {ADS}, type_urls: [ \
             type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault ] }} }}"
        );
        ads.put([listener(ANSWERS, &filter), fault(418)]);
        let proxy = Start::new(who, &ads, protocol).start();
        let to = proxy.listener("l");
        until(to, "x: y", (418, "fault filter abort"));
        let mark = ads.mark();
        ads.put([fault(419)]);
        assert_eq!(verdict(&ads, mark, "ecds"), Ok(()));
        until(to, "x: y", (419, "fault filter abort"));
        let mark = ads.mark();
        let buffer =
            "{ \"@type\": type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer, max_request_bytes: 1 }";
        ads.put([extension(buffer)]);
        let why = verdict(&ads, mark, "ecds").unwrap_err();
        assert!(why.contains("type URL"), "{who:?}: {why}");
        assert_eq!(ask(to, "x: y").0, 419);
        let mark = ads.mark();
        ads.put([fault(420)]);
        assert_eq!(verdict(&ads, mark, "ecds"), Ok(()));
        until(to, "x: y", (420, "fault filter abort"));
        if protocol == Protocol::Delta {
            ads.remove("ecds", "fault");
            until(to, "x: y", (500, ""));
        }
    });
}

fn scope(name: &str, routes: &str, key: &str) -> Any {
    one(&format!(
        "- \"@type\": type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration\n  name: {name}\n  \
         route_configuration_name: {routes}\n  key: {{ fragments: [ {{ string_key: {key} }} ] }}\n"
    ))
}

#[test]
fn scopes_come_and_go() {
    each(|who, protocol| {
        let ads = Ads::start(Listen::anywhere()).unwrap();
        let scoped = format!(
            "scoped_routes: {{ name: scopes, scope_key_builder: {{ fragments: [ {{ header_value_extractor: {{ name: \
             x-scope, index: 0 }} }} ] }}, rds_config_source: {ADS}, scoped_rds: {{ scoped_rds_config_source: {ADS} }} }}"
        );
        ads.put([listener(&scoped, ""), scope("a", "ra", "a"), scope("b", "rb", "b")]);
        ads.put([routes("ra", "of a"), routes("rb", "of b"), routes("rc", "of c")]);
        let proxy = Start::new(who, &ads, protocol).start();
        let to = proxy.listener("l");
        until(to, "x-scope: a", (200, "of a"));
        until(to, "x-scope: b", (200, "of b"));
        assert_eq!(ask(to, "x-scope: c").0, 404);
        let mark = ads.mark();
        ads.put([scope("c", "rc", "c")]);
        assert_eq!(verdict(&ads, mark, "srds"), Ok(()));
        until(to, "x-scope: c", (200, "of c"));
        let mark = ads.mark();
        ads.put([scope("d", "ra", "c")]);
        let why = verdict(&ads, mark, "srds").unwrap_err();
        assert!(why.contains("scope key conflict found"), "{who:?}: {why}");
        assert_eq!(ask(to, "x-scope: c"), (200, "of c".into()));
        let mark = ads.mark();
        ads.change(|world| {
            for name in ["a", "d"] {
                world.remove("type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration", name);
            }
        });
        assert_eq!(verdict(&ads, mark, "srds"), Ok(()));
        until(to, "x-scope: a", (404, ""));
        assert_eq!(ask(to, "x-scope: b"), (200, "of b".into()));
        ads.put([routes("rb", "another")]);
        until(to, "x-scope: b", (200, "another"));
        if who == Who::Weir {
            assert!(proxy.admin("/config_dump?resource=dynamic_scoped_route_configs").contains("\"rb\""));
        }
    });
}

/// A listener on any port with these filters.
fn plain_listener(name: &str, listener_filters: &str, filters: &str) -> Any {
    one(&format!(
        "- \"@type\": type.googleapis.com/envoy.config.listener.v3.Listener\n  name: {name}\n  address: {{ socket_address: {{ address: \
         127.0.0.1, port_value: 0 }} }}\n  listener_filters: [ {listener_filters} ]\n  filter_chains: [ {{ filters: [ {filters} ] }} ]\n"
    ))
}

const NETWORK: &str = "type.googleapis.com/envoy.extensions.filters.network";

/// A filter whose configuration comes by itself.
fn discovered(name: &str, type_url: &str, more: &str) -> String {
    format!("{{ name: {name}, config_discovery: {{ config_source: {ADS}, type_urls: [ {type_url} ]{more} }} }}")
}

fn response(text: &str) -> String {
    format!("{{ \"@type\": {NETWORK}.direct_response.v3.Config, response: {{ inline_string: {text} }} }}")
}

fn named_extension(name: &str, config: &str) -> Any {
    one(&format!(
        "- \"@type\": type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig\n  name: {name}\n  typed_config: {config}\n"
    ))
}

/// What a server says to a client that says this, until it closes.
fn said(to: SocketAddr, hello: &str) -> String {
    let Ok(mut stream) = TcpStream::connect(to) else { return "refused".to_owned() };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut text = String::new();
    // It may be closed before all is said, or with what was said unread.
    let _ = stream.write_all(hello.as_bytes());
    let _ = stream.read_to_string(&mut text);
    text
}

fn until_said(to: SocketAddr, hello: &str, wanted: &str) {
    wait_for(wanted, PATIENCE, || {
        let text = said(to, hello);
        if text == wanted { Ok(()) } else { Err(text) }
    });
}

#[test]
fn network_filters_come_are_replaced_and_go() {
    each(|who, protocol| {
        let ads = Ads::start(Listen::anywhere()).unwrap();
        let type_url = format!("{NETWORK}.direct_response.v3.Config");
        let limit_type = format!("{NETWORK}.connection_limit.v3.ConnectionLimit");
        let default = format!(", default_config: {}, apply_default_config_without_warming: true", response("default"));
        let last = discovered("last", &type_url, "");
        let first =
            format!("{}, {{ name: fixed, typed_config: {} }}", discovered("first", &limit_type, ""), response("fixed"));
        ads.put([
            plain_listener("last", "", &last),
            plain_listener("default", "", &discovered("absent", &type_url, &default)),
            plain_listener("first", "", &first),
        ]);
        let limit = |most: u32| {
            named_extension(
                "first",
                &format!("{{ \"@type\": {limit_type}, stat_prefix: limit, max_connections: {most} }}"),
            )
        };
        ads.put([named_extension("last", &response("one")), limit(10)]);
        let proxy = Start::new(who, &ads, protocol).start();
        let [with_last, with_default, with_first] = ["last", "default", "first"].map(|name| proxy.listener(name));
        until_said(with_last, "", "one");
        until_said(with_default, "", "default");
        until_said(with_first, "", "fixed");
        let mark = ads.mark();
        ads.put([named_extension("last", &response("two"))]);
        assert_eq!(verdict(&ads, mark, "ecds"), Ok(()));
        until_said(with_last, "", "two");
        for (config, why) in [
            (format!("{{ \"@type\": {limit_type}, stat_prefix: limit, max_connections: 1 }}"), "type URL"),
            (format!("{{ \"@type\": {type_url}, response: {{ filename: /nowhere/at/all }} }}"), "/nowhere/at/all"),
        ] {
            let mark = ads.mark();
            ads.put([named_extension("last", &config)]);
            let refused = verdict(&ads, mark, "ecds").unwrap_err();
            assert!(refused.contains(why), "{who:?}: {refused}");
            assert_eq!(said(with_last, ""), "two", "{who:?}");
        }
        assert!(proxy.stat("extension_config_discovery.network_filter.last.config_reload") >= Some(2), "{who:?}");
        if protocol == Protocol::Delta {
            ads.remove("ecds", "first");
            until_said(with_first, "", "");
            let missing = wait_for("the count", PATIENCE, || {
                let counted = proxy.admin("/stats?filter=network_extension_config_missing");
                let sum: u64 = counted.lines().filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum();
                if sum > 0 { Ok(sum) } else { Err(counted) }
            });
            assert!(missing >= 1);
            ads.put([named_extension("absent", &response("no default"))]);
            until_said(with_default, "", "no default");
            ads.remove("ecds", "absent");
            until_said(with_default, "", "default");
        }
    });
}

#[test]
fn listener_filters_come_are_replaced_and_go() {
    each(|who, protocol| {
        let ads = Ads::start(Listen::anywhere()).unwrap();
        let of = "type.googleapis.com/envoy.extensions.filters.listener";
        let (header, inspector) =
            (format!("{of}.proxy_protocol.v3.ProxyProtocol"), format!("{of}.http_inspector.v3.HttpInspector"));
        let filter = discovered("looks", &format!("{header}, {inspector}"), "");
        ads.put([plain_listener("l", &filter, &format!("{{ name: fixed, typed_config: {} }}", response("fixed")))]);
        ads.put([named_extension("looks", &format!("{{ \"@type\": {header} }}"))]);
        let proxy = Start::new(who, &ads, protocol).start();
        let to = proxy.listener("l");
        until_said(to, "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", "fixed");
        assert_eq!(said(to, "GET / HTTP/1.1\r\n\r\n"), "", "{who:?}");
        let mark = ads.mark();
        ads.put([named_extension("looks", &format!("{{ \"@type\": {inspector} }}"))]);
        assert_eq!(verdict(&ads, mark, "ecds"), Ok(()));
        until_said(to, "GET / HTTP/1.1\r\n\r\n", "fixed");
        let mark = ads.mark();
        ads.put([named_extension("looks", &response("no listener filter"))]);
        assert!(verdict(&ads, mark, "ecds").unwrap_err().contains("type URL"), "{who:?}");
        assert_eq!(said(to, "GET / HTTP/1.1\r\n\r\n"), "fixed", "{who:?}");
        assert_eq!(
            proxy.stat("extension_config_discovery.tcp_listener_filter.looks.config_reload"),
            Some(2),
            "{who:?}"
        );
        if protocol == Protocol::Delta {
            ads.remove("ecds", "looks");
            until_said(to, "GET / HTTP/1.1\r\n\r\n", "");
            let counted = proxy.admin("/stats?filter=listener.*\\.extension_config_missing");
            let sum: u64 = counted.lines().filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum();
            assert!(sum >= 1, "{who:?}: {counted}");
        }
    });
}

/// What a listener names at second hand is waited for, too: the first answer is by it.
#[test]
fn a_listener_waits_for_what_it_names_at_second_hand() {
    each(|who, protocol| {
        let manager =
            "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
        let router = "http_filters: [ { name: router, typed_config: { \"@type\": \
            type.googleapis.com/envoy.extensions.filters.http.router.v3.Router } } ]";
        let config = format!(
            "{{ \"@type\": {manager}, stat_prefix: l, rds: {{ route_config_name: r, config_source: {ADS} }}, {router} }}"
        );
        let scoped = format!(
            "scoped_routes: {{ name: scopes, scope_key_builder: {{ fragments: [ {{ header_value_extractor: {{ name: \
             x-scope, index: 0 }} }} ] }}, rds_config_source: {ADS}, scoped_rds: {{ scoped_rds_config_source: {ADS} }} }}"
        );
        for (resources, kind) in [
            (
                vec![plain_listener("l", "", &discovered("manager", manager, "")), named_extension("manager", &config)],
                "ecds",
            ),
            (vec![listener(&scoped, ""), scope("a", "r", "a")], "srds"),
        ] {
            let ads = Ads::start(Listen::anywhere()).unwrap();
            // Of deltas, an answer that there is none would be one.
            ads.put(resources);
            ads.put([routes("other", "unasked")]);
            let hold = |event: &Event| event.kind == "rds" && matches!(event.seen, Seen::Request { .. });
            ads.withhold("rds", true);
            let proxy = Start::new(who, &ads, protocol).start();
            ads.wait(&format!("a request for routes that {kind} names"), hold);
            assert!(!proxy.admin("/ready").starts_with("LIVE"), "{who:?} {kind}");
            ads.withhold("rds", false);
            ads.put([routes("r", "of r")]);
            wait_for("readiness", PATIENCE, || {
                Some(proxy.admin("/ready")).filter(|ready| ready.starts_with("LIVE")).ok_or(())
            });
            assert_eq!(ask(proxy.listener("l"), "x-scope: a"), (200, "of r".into()), "{who:?} {kind}");
        }
    });
}
