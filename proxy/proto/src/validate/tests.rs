use super::*;

#[test]
fn every_rule_of_the_api_is_implemented() {
    let mut with_rules = 0;
    let pool = crate::pool();
    let all = Rules::of(&pool);
    for descriptor in pool.all_messages() {
        let rules = all.of_message(&descriptor).unwrap_or_else(|error| panic!("{error}"));
        with_rules += usize::from(!rules.fields.is_empty());
        // A rule for another type than the field's would only show when it is checked.
        for (field, rule) in &rules.fields {
            if let Err(error) = rule.check_field(&Value::default_value_for_field(field), true, true) {
                assert!(!error.problem().contains("another type"), "{}: {error}", field.full_name());
            }
        }
    }
    assert!(with_rules > 400, "{with_rules} messages with rules: the options got lost");
}

#[test]
fn fields_that_a_type_lacks_are_told_with_their_place() {
    use prost::Message;

    use crate::envoy::config::{cluster::v3::Cluster, endpoint::v3::ClusterLoadAssignment};

    let unknown = |number: u32| {
        let mut bytes = Vec::new();
        prost::encoding::uint32::encode(number, &1, &mut bytes);
        bytes
    };
    let assignment = ClusterLoadAssignment { cluster_name: "a".into(), ..ClusterLoadAssignment::default() };
    let inner = [assignment.encode_to_vec(), unknown(2000)].concat();
    let mut bytes =
        [Cluster { name: "a".into(), ..Cluster::default() }.encode_to_vec(), unknown(1001), unknown(1000)].concat();
    let found = |bytes: &[u8]| {
        let found = crate::validate_encoded::<Cluster>(bytes).unwrap();
        found.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let own = "type envoy.config.cluster.v3.Cluster(root) with unknown field set {1000, 1001}";
    assert_eq!(found(&bytes), [own]);
    prost::encoding::bytes::encode(33, &inner, &mut bytes);
    let of_inner =
        "type envoy.config.endpoint.v3.ClusterLoadAssignment(root.load_assignment) with unknown field set {2000}";
    assert_eq!(found(&bytes), [own, of_inner]);
}

#[test]
fn messages_within_any_after_any_are_refused_beyond_a_limit() {
    use prost::Message;

    use crate::envoy::config::{
        cluster::v3::Cluster,
        core::v3::{TransportSocket, transport_socket::ConfigType},
    };
    use crate::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport as Proxied;

    let nested = |times: usize| {
        let mut socket = TransportSocket { name: "innermost".into(), config_type: None };
        for _ in 0..times {
            let value = Proxied { transport_socket: Some(socket), ..Proxied::default() }.encode_to_vec();
            let name = "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport";
            let config = prost_types::Any { type_url: format!("type.googleapis.com/{name}"), value };
            socket = TransportSocket { name: "t".into(), config_type: Some(ConfigType::TypedConfig(config)) };
        }
        let cluster = Cluster { name: "a".into(), transport_socket: Some(socket), ..Cluster::default() };
        // Nor is one shown that was refused.
        assert_eq!(crate::to_json(&cluster).is_ok(), times < 45);
        crate::validate_encoded::<Cluster>(&cluster.encode_to_vec())
    };
    assert!(nested(40).is_ok());
    for times in [45, 1000] {
        let error = nested(times).unwrap_err().to_string();
        assert!(error.ends_with("nested deeper than 128 messages"), "{error}");
    }
}
