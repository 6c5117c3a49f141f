use serde_json::json;

use super::*;

fn dump() -> Value {
    let admin = |name: &str, mut fields: Value| {
        fields["@type"] = format!("type.googleapis.com/envoy.admin.v3.{name}ConfigDump").into();
        fields
    };
    let host = |ip: &str, port: u16, status: &str| json!({ "health_status": status, "endpoint": { "address": { "socket_address": { "address": ip, "port_value": port } } } });
    let rule = json!({ "filter_metadata": { "istio": { "config":
        "/apis/networking.istio.io/v1/namespaces/default/destination-rule/reviews" } } });
    let http = |rest: Value| {
        let mut config = rest;
        config["@type"] =
            "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
                .into();
        json!({ "name": "http", "typed_config": config })
    };
    let tcp = |cluster: &str| {
        json!({ "name": "tcp", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "cluster": cluster } })
    };
    json!({ "configs": [
        admin("Bootstrap", json!({ "bootstrap": { "node": { "id": "n" } } })),
        admin("Clusters", json!({
            "dynamic_active_clusters": [
                { "cluster": { "name": "outbound|9080|v1|reviews.default.svc.cluster.local", "type": "EDS", "metadata": rule } },
                { "cluster": { "name": "outbound|9080||reviews.default.svc.cluster.local", "type": "EDS" } },
                { "cluster": { "name": "inbound|8080||", "type": "ORIGINAL_DST" } },
                { "error_state": { "details": "refused" } },
            ],
            "static_clusters": [
                { "cluster": { "name": "xds" } },
                { "cluster": { "name": "dfp", "cluster_type": { "name": "envoy.clusters.dynamic_forward_proxy" } } },
            ],
        })),
        admin("Endpoints", json!({
            "dynamic_endpoint_configs": [ { "endpoint_config": {
                "cluster_name": "outbound|9080||reviews.default.svc.cluster.local",
                "endpoints": [ { "locality": { "region": "r1", "zone": "z1" }, "lb_endpoints": [
                    host("10.0.0.2", 9080, "HEALTHY"), host("10.0.0.3", 9081, "UNHEALTHY") ] } ] } } ],
            "static_endpoint_configs": [ { "endpoint_config": { "cluster_name": "xds", "endpoints": [ { "lb_endpoints": [
                { "endpoint": { "address": { "envoy_internal_address": { "server_listener_name": "connect_originate",
                    "endpoint_id": "10.0.0.9:80" } } } } ] } ] } } ],
        })),
        admin("Listeners", json!({
            "dynamic_listeners": [
                { "name": "l", "active_state": { "listener": {
                    "name": "l",
                    "address": { "socket_address": { "address": "0.0.0.0", "port_value": 15001 } },
                    "filter_chains": [
                        { "filter_chain_match": { "transport_protocol": "raw_buffer", "application_protocols": ["http/1.0", "http/1.1", "h2c"] },
                          "filters": [ http(json!({ "rds": { "route_config_name": "80" } })) ] },
                        { "filter_chain_match": { "server_names": ["a.test"], "destination_port": 443,
                            "prefix_ranges": [ { "address_prefix": "10.0.0.0", "prefix_len": 8 } ] },
                          "filters": [ tcp("outbound|443||a.test") ] },
                    ],
                    "default_filter_chain": { "filters": [ tcp("PassthroughCluster") ] },
                } } },
                { "name": "w", "warming_state": { "listener": { "name": "w" } } },
            ],
            "static_listeners": [ { "listener": {
                "name": "s",
                "address": { "socket_address": { "address": "127.0.0.1", "port_value": 80 } },
                "additional_addresses": [ { "address": { "socket_address": { "address": "::1", "port_value": 80 } } } ],
                "filter_chains": [
                    { "filters": [ http(json!({ "route_config": { "virtual_hosts": [ { "domains": ["*"],
                        "routes": [ { "match": { "path": "/healthz" }, "route": { "cluster": "x" } } ] } ] } })) ] },
                ],
            } } ],
        })),
        admin("Routes", json!({
            "dynamic_route_configs": [
                { "route_config": { "name": "http.8080", "virtual_hosts": [ { "name": "none", "domains": ["none.test"] } ] } },
                { "route_config": { "name": "80", "virtual_hosts": [ {
                    "name": "reviews", "domains": ["reviews.default.svc.cluster.local", "reviews", "reviews.default.svc", "reviews.default", "10.1.1.1", "reviews:80"],
                    "routes": [
                        { "match": { "safe_regex": { "regex": "/v." } }, "route": { "cluster": "x" }, "metadata": rule },
                        { "match": { "prefix": "/" }, "route": { "cluster": "PassthroughCluster" } },
                    ] } ] } },
            ],
        })),
        admin("Secrets", json!({
            "dynamic_active_secrets": [ { "name": "ROOTCA", "secret": { "validation_context": { "trusted_ca": { "inline_string": "no PEM" } } } } ],
            "dynamic_warming_secrets": [ { "name": "default", "secret": { "name": "default" } } ],
        })),
    ] })
}

/// The table of what a command line asks for.
#[track_caller]
fn shown(what: What, filter: Filter) -> String {
    let rows = Rows::here(resources(what, &dump(), &filter));
    plain(&(what, rows))
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn clusters_are_services_with_port_subset_and_direction() {
    assert_eq!(
        shown(What::Cluster, Filter::default()),
        "SERVICE FQDN                       PORT  SUBSET  DIRECTION  TYPE                                  DESTINATION RULE\n\
         -                                  8080  -       inbound    ORIGINAL_DST                          -\n\
         dfp                                -     -       -          envoy.clusters.dynamic_forward_proxy  -\n\
         reviews.default.svc.cluster.local  9080  -       outbound   EDS                                   -\n\
         reviews.default.svc.cluster.local  9080  v1      outbound   EDS                                   reviews.default\n\
         xds                                -     -       -          STATIC                                -\n"
    );
    let names = |filter| shown(What::Cluster, filter).lines().skip(1).count();
    assert_eq!(names(Filter { fqdn: some("reviews"), ..Filter::default() }), 2);
    assert_eq!(names(Filter { fqdn: some("reviews"), subset: some("v1"), ..Filter::default() }), 1);
    assert_eq!(names(Filter { port: Some(8080), ..Filter::default() }), 1);
    assert_eq!(names(Filter { direction: some("outbound"), port: Some(8080), ..Filter::default() }), 0);
}

#[test]
fn endpoints_have_a_line_each() {
    assert_eq!(
        shown(What::Endpoint, Filter::default()),
        "NAME                                   STATUS     LOCALITY  CLUSTER\n\
         10.0.0.2:9080                          HEALTHY    r1/z1     outbound|9080||reviews.default.svc.cluster.local\n\
         10.0.0.3:9081                          UNHEALTHY  r1/z1     outbound|9080||reviews.default.svc.cluster.local\n\
         envoy://connect_originate/10.0.0.9:80  UNKNOWN    -         xds\n"
    );
    let lines = |filter| shown(What::Endpoint, filter).lines().skip(1).count();
    assert_eq!(lines(Filter { status: some("unhealthy"), ..Filter::default() }), 1);
    assert_eq!(lines(Filter { address: some("10.0.0.2"), ..Filter::default() }), 1);
    assert_eq!(lines(Filter { port: Some(9081), ..Filter::default() }), 1);
    assert_eq!(lines(Filter { fqdn: some("xds"), port: Some(9081), ..Filter::default() }), 0);
}

#[test]
fn listeners_have_a_line_for_each_filter_chain() {
    assert_eq!(
        shown(What::Listener, Filter::default()),
        "ADDRESSES      PORT   MATCH                              DESTINATION\n\
         127.0.0.1,::1  80     ALL                                Inline Route: /healthz\n\
         0.0.0.0        15001  Trans: raw_buffer; App: HTTP       Route: 80\n\
         0.0.0.0        15001  ALL                                PassthroughCluster\n\
         0.0.0.0        15001  SNI: a.test; Addr: 10.0.0.0/8:443  Cluster: outbound|443||a.test\n"
    );
    let lines = |filter| shown(What::Listener, filter).lines().skip(1).count();
    assert_eq!(lines(Filter { kind: some("http+tcp"), ..Filter::default() }), 3);
    assert_eq!(lines(Filter { address: some("::1"), ..Filter::default() }), 1);
    assert_eq!(lines(Filter { port: Some(1), ..Filter::default() }), 0);
}

#[test]
fn routes_have_a_line_each_but_for_those_that_pass_everything_on() {
    assert_eq!(
        shown(What::Route, Filter::default()),
        "NAME       VHOST NAME  DOMAINS                               MATCH      VIRTUAL SERVICE\n\
         80         reviews     reviews, reviews.default + 1 more...  regex /v.  reviews.default\n\
         http.8080  none        none.test                             /*         404\n"
    );
    assert_eq!(shown(What::Route, Filter { name: some("80"), ..Filter::default() }).lines().count(), 2);
}

#[test]
fn secrets_say_whether_they_are_there() {
    assert_eq!(
        shown(What::Secret, Filter::default()),
        "RESOURCE NAME  TYPE  STATUS   VALID CERT  SERIAL NUMBER  NOT AFTER  NOT BEFORE\n\
         ROOTCA         CA    ACTIVE   false       -              -          -\n\
         default        -     WARMING  false       -              -          -\n"
    );
}

#[test]
fn the_rest_is_shown_as_it_is() {
    assert_eq!(shown(What::Bootstrap, Filter::default()), "{\n  \"node\": {\n    \"id\": \"n\"\n  }\n}\n");
    let rows = Rows::here(loggers("active loggers:\n  admin: info\n  upstream: debug\n"));
    assert_eq!(plain(&(What::Log, rows)), "LOGGER    LEVEL\nadmin     info\nupstream  debug\n");
    let none = resources(What::Cluster, &json!({}), &Filter::default());
    assert_eq!(none, Vec::<Value>::new());
}
