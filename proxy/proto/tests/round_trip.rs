//! A whole bootstrap through YAML, the Rust types and JSON.

use prost::Message;
use serde_json::json;
use weir_proto::envoy::config::bootstrap::v3::Bootstrap;
use weir_proto::envoy::config::core::v3::Metadata;
use weir_proto::envoy::config::listener::v3::filter::ConfigType;
use weir_proto::envoy::config::route::v3::{Route, route::Action};
use weir_proto::envoy::extensions::filters::http::router::v3::Router;
use weir_proto::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_connection_manager::RouteSpecifier,
};
use weir_proto::{forget, from_json, from_yaml, pool, set_fields, to_json, unpack, validate};

const BOOTSTRAP: &str = include_str!("bootstrap.yaml");

fn connection_manager(bootstrap: &Bootstrap) -> HttpConnectionManager {
    let filter =
        &bootstrap.static_resources.as_ref().expect("static_resources").listeners[0].filter_chains[0].filters[0];
    let Some(ConfigType::TypedConfig(any)) = &filter.config_type else { panic!("no typed_config") };
    unpack(any).expect("an HttpConnectionManager")
}

fn routes(bootstrap: &Bootstrap) -> Vec<Route> {
    let Some(RouteSpecifier::RouteConfig(routes)) = connection_manager(bootstrap).route_specifier else {
        panic!("no route_config")
    };
    routes.virtual_hosts[0].routes.clone()
}

#[test]
fn yaml_becomes_types() {
    let bootstrap: Bootstrap = from_yaml(BOOTSTRAP).unwrap();
    let routes = routes(&bootstrap);
    let Some(Action::Route(route)) = &routes[0].action else { panic!("no route") };
    assert_eq!(route.timeout.as_ref().unwrap().nanos, 500_000_000);
    assert_eq!(route.retry_policy.as_ref().unwrap().num_retries, Some(3));
    // As in Envoy: floats in YAML are strings where no field says otherwise.
    assert_eq!(
        to_json::<Metadata>(routes[0].metadata.as_ref().unwrap()).unwrap(),
        json!({ "filter_metadata": { "weir": { "share": "1.5", "count": 2, "none": null } } })
    );
    validate(&bootstrap).unwrap();
}

#[test]
fn json_comes_back_the_same() {
    let bootstrap: Bootstrap = from_yaml(BOOTSTRAP).unwrap();
    let json = to_json(&bootstrap).unwrap();
    let chain = &json["static_resources"]["listeners"][0]["filter_chains"][0];
    let manager = &chain["filters"][0]["typed_config"];
    assert_eq!(manager["stat_prefix"], "ingress_http");
    assert_eq!(manager["stream_idle_timeout"], "300s");
    // The bytes of an Any that holds maps differ each time: compare what they hold.
    let again: Bootstrap = from_json(&json.to_string()).unwrap();
    assert_eq!(to_json(&again).unwrap(), json);
    assert_eq!(routes(&again), routes(&bootstrap));
}

#[test]
fn any_is_unpacked_by_type_only() {
    let manager = connection_manager(&from_yaml(BOOTSTRAP).unwrap());
    let any = prost_types::Any {
        type_url: "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router".into(),
        value: vec![],
    };
    assert_eq!(unpack::<Router>(&any).unwrap(), Router::default());
    let wrong = unpack::<HttpConnectionManager>(&any).unwrap_err();
    assert!(wrong.to_string().ends_with("not envoy.extensions.filters.http.router.v3.Router"), "{wrong}");
    let broken = prost_types::Any { value: vec![0xff], ..any };
    assert!(unpack::<Router>(&broken).unwrap_err().to_string().starts_with("is not a envoy.extensions"));
    assert!(!manager.encode_to_vec().is_empty());
}

#[test]
fn typed_struct_stays_as_it_is() {
    let text = "
name: x
typed_config:
  '@type': type.googleapis.com/xds.type.v3.TypedStruct
  type_url: type.googleapis.com/unknown.Filter
  value: { a: [1, true, null] }
";
    let config: weir_proto::envoy::config::core::v3::TypedExtensionConfig = from_yaml(text).unwrap();
    let json = to_json(&config).unwrap();
    assert_eq!(json["typed_config"]["type_url"], "type.googleapis.com/unknown.Filter");
    assert_eq!(json["typed_config"]["value"], json!({ "a": [1, true, null] }));
}

#[test]
fn validates_binary_messages() {
    let mut bootstrap: Bootstrap = from_yaml(BOOTSTRAP).unwrap();
    bootstrap.static_resources.as_mut().unwrap().clusters[1].name.clear();
    let error = validate(&bootstrap).unwrap_err();
    assert_eq!(error.in_file("xds"), "xds: static_resources.clusters[1].name: must not be empty");
}

#[test]
fn set_fields_are_named() {
    let bootstrap: Bootstrap = from_yaml(BOOTSTRAP).unwrap();
    assert_eq!(set_fields(&bootstrap), ["static_resources", "admin"]);
    let clusters = &bootstrap.static_resources.as_ref().unwrap().clusters;
    assert_eq!(set_fields(&clusters[1]), ["name", "type", "load_assignment"]);
}

#[test]
fn forgotten_descriptors_are_unpacked_anew_and_live_on_where_they_are_used() {
    let bootstrap: Bootstrap = from_yaml(BOOTSTRAP).unwrap();
    let (held, json) = (pool(), to_json(&bootstrap).unwrap());
    forget();
    let again: Bootstrap = from_yaml(BOOTSTRAP).unwrap();
    assert_eq!(to_json(&again).unwrap(), json);
    validate(&bootstrap).unwrap();
    assert!(held.get_message_by_name("envoy.config.bootstrap.v3.Bootstrap").is_some());
}
