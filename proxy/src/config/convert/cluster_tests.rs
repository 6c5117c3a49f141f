//! What is refused of a cluster, and how it is said; and what it becomes.

use weir_proto::envoy::config::bootstrap::v3::Bootstrap;

use super::from_bootstrap;
use crate::{
    config::{
        cluster::{
            Discovery, DnsFamily,
            balancing::{HashFunction, Localities, Policy},
        },
        error::Error,
        snapshot::Snapshot,
    },
    telemetry::stats::Scope,
};

fn build(cluster: &str) -> Result<Snapshot, Error> {
    let text = format!("static_resources:\n  clusters:\n  - name: c\n    {}", cluster.replace('\n', "\n    "));
    let bootstrap: Bootstrap = weir_proto::from_yaml(&text).unwrap();
    from_bootstrap(&bootstrap, &Scope::default()).map(|built| built.snapshot)
}

#[test]
fn refusals_name_the_field() {
    for (cluster, field, message) in [
        (
            "lb_policy: MAGLEV\nmaglev_lb_config: { table_size: 100 }",
            "maglev_lb_config.table_size",
            "must be a prime number of at most 5000011, not 100",
        ),
        (
            "lb_policy: RING_HASH\nring_hash_lb_config: { minimum_ring_size: 10, maximum_ring_size: 9 }",
            "ring_hash_lb_config.minimum_ring_size",
            "must not be more than maximum_ring_size (10 > 9)",
        ),
        (
            "lb_policy: LOAD_BALANCING_POLICY_CONFIG",
            "load_balancing_policy",
            "is required with the lb_policy LOAD_BALANCING_POLICY_CONFIG",
        ),
        (
            "load_balancing_policy: { policies: [{ typed_extension_config: { name: x, typed_config: { \"@type\": type.googleapis.com/envoy.config.core.v3.Node } } }] }",
            "load_balancing_policy.policies",
            "none of these is supported: envoy.config.core.v3.Node",
        ),
        (
            "track_cluster_stats: { per_endpoint_stats: true }",
            "track_cluster_stats.per_endpoint_stats",
            "not supported yet",
        ),
        (
            "outlier_detection: { base_ejection_time: 10s, max_ejection_time: 5s }",
            "outlier_detection.max_ejection_time",
            "must not be smaller than base_ejection_time",
        ),
        (
            "health_checks: [{ timeout: 1s, interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1, tcp_health_check: { send: { text: abc } } }]",
            "health_checks[0].tcp_health_check.send.text",
            "\"abc\" is not hexadecimal",
        ),
        (
            "type: EDS\neds_cluster_config: { eds_config: { path_config_source: { path: /nonexistent.yaml } } }",
            "eds_cluster_config.eds_config.path_config_source.path",
            "paths must refer to an existing path in the system: '/nonexistent.yaml' does not exist",
        ),
        ("type: EDS", "eds_cluster_config", "cannot create an EDS cluster without an EDS config"),
        ("type: ORIGINAL_DST", "lb_policy", "clusters of type ORIGINAL_DST need CLUSTER_PROVIDED"),
        (
            "lb_policy: CLUSTER_PROVIDED",
            "lb_policy",
            "cluster provided LB specified but cluster 'c' did not provide one",
        ),
        (
            "cluster_type: { name: x, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.clusters.aggregate.v3.ClusterConfig, clusters: [a] } }",
            "lb_policy",
            "cluster provided LB not specified but cluster 'c' provided one",
        ),
        (
            "lb_policy: CLUSTER_PROVIDED\ncluster_type: { name: envoy.clusters.aggregate }",
            "cluster_type.typed_config.clusters",
            "value must contain at least 1 item(s)",
        ),
        (
            "load_assignment: { cluster_name: c, policy: { drop_overloads: [{ category: a }, { category: b }] } }",
            "load_assignment.policy.drop_overloads",
            "Cluster drop_overloads config has 2 categories. Envoy only support one.",
        ),
        (
            "load_assignment: { cluster_name: c, policy: { drop_overloads: [{ category: a, drop_percentage: { numerator: 150 } }] } }",
            "load_assignment.policy.drop_overloads",
            "Cluster drop_overloads config is invalid. drop_ratio=1.5(Numerator 150 / Denominator 100). The valid range is 0~1.",
        ),
        (
            "health_checks: [{ timeout: 1s, interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1, grpc_health_check: {} }]",
            "health_checks[0].grpc_health_check",
            "c cluster must support HTTP/2 for gRPC healthchecking",
        ),
        (
            "load_balancing_policy: { policies: [{ typed_extension_config: { name: x, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.load_balancing_policies.wrr_locality.v3.WrrLocality, endpoint_picking_policy: { policies: [{ typed_extension_config: { name: x, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.load_balancing_policies.random.v3.Random } } }] } } } }] }",
            "load_balancing_policy.policies[0].typed_extension_config.typed_config",
            "Currently WrrLocalityLoadBalancer only supports ClientSideWeightedRoundRobinLoadBalancer as its endpoint picking policy.",
        ),
        (
            "upstream_bind_config: { source_address: { address: localhost, port_value: 0 } }",
            "upstream_bind_config.source_address.address",
            "malformed IP address: localhost",
        ),
        (
            "upstream_bind_config: { extra_source_addresses: [{ address: { address: \"::1\", port_value: 0 } }] }",
            "upstream_bind_config.extra_source_addresses[0]",
            "an extra source address with no source_address",
        ),
        (
            "upstream_bind_config: { socket_options: [{ level: 1, name: 9, int_value: 5000000000 }] }",
            "upstream_bind_config.socket_options[0].int_value",
            "expected a number of 32 bits",
        ),
        (
            "upstream_bind_config: { socket_options: [{ level: 1, name: 9, int_value: 1, state: STATE_LISTENING }] }",
            "upstream_bind_config.socket_options[0].state",
            "STATE_LISTENING is for listeners",
        ),
        (
            "circuit_breakers: { per_host_thresholds: [{ max_requests: 1 }] }",
            "circuit_breakers.per_host_thresholds[0].max_requests",
            "not supported yet",
        ),
        ("cluster_type: { name: nothing }", "cluster_type.name", "nothing is not supported yet"),
    ] {
        let error = build(cluster).expect_err(cluster);
        let at = format!("static_resources.clusters[0].{field}");
        assert_eq!((error.path, error.message.as_str()), (at, message), "{cluster}");
    }
}

#[test]
fn names_are_resolved_as_either_kind_of_cluster_says() {
    let dns = |text: &str| {
        let at = "{ socket_address: { address: a.test, port_value: 1 } }";
        let endpoints = format!("[{{ lb_endpoints: [{{ endpoint: {{ address: {at} }} }}] }}]");
        let cluster = format!("{text}\nload_assignment: {{ cluster_name: c, endpoints: {endpoints} }}");
        match &build(&cluster).unwrap().cluster("c").unwrap().discovery {
            Discovery::Dns(dns) => dns.clone(),
            other => panic!("{other:?}"),
        }
    };
    let extension = dns(
        "cluster_type: { name: envoy.clusters.dns, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.clusters.dns.v3.DnsCluster, dns_refresh_rate: 7s, dns_lookup_family: V4_ONLY, all_addresses_in_single_endpoint: true } }",
    );
    assert_eq!((extension.strict, extension.refresh.as_secs(), extension.family), (false, 7, DnsFamily::V4Only));
    let named = dns(
        "cluster_type: { name: envoy.cluster.strict_dns }\ntyped_dns_resolver_config: { name: x, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig, resolvers: [{ socket_address: { address: 127.0.0.9, port_value: 54 } }], dns_resolver_options: { use_tcp_for_dns_lookups: true } } }",
    );
    assert!(named.strict && named.servers.tcp && !named.servers.no_search);
    assert_eq!(named.servers.addresses, ["127.0.0.9:54".parse().unwrap()]);
}

#[test]
fn load_balancing_comes_from_fields_or_extensions() {
    let balancing = |cluster| build(cluster).unwrap().cluster("c").unwrap().balancing.clone();
    let old = balancing("lb_policy: RING_HASH\nring_hash_lb_config: { hash_function: MURMUR_HASH_2 }");
    assert!(
        matches!(old.policy, Policy::RingHash(ring) if ring.function == HashFunction::Murmur2 && ring.minimum == 1024)
    );
    let new = balancing(
        "load_balancing_policy: { policies: [{ typed_extension_config: { name: x, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest, choice_count: 5, locality_lb_config: { locality_weighted_lb_config: {} } } } }] }",
    );
    assert_eq!(new.localities, Localities::Weighted);
    assert!(matches!(new.policy, Policy::LeastRequest(least) if least.choices == 5));
}
