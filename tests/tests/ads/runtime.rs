//! Layers of runtime values by the stream that has all else: the same for both proxies.

use serde_json::Value;
use weir_tests::{
    ads::{Ads, Listen, Seen},
    poll::wait_for,
};

use crate::{
    Protocol,
    proxy::{PATIENCE, Proxy, Start, get},
    resources::{cluster, endpoints, one},
    scenario::Who,
    served::each,
    traffic::backend,
};

/// Two layers, the second of which wins where both say something.
const LAYERS: &str = "layered_runtime:
  layers:
  - { name: fixed, static_layer: { share: 100, other: 1 } }
  - { name: discovered, rtds_layer: { name: rt, rtds_config: { ads: {}, resource_api_version: V3 } } }
";

fn runtime(layer: &str) -> prost_types::Any {
    one(&format!(
        "- \"@type\": type.googleapis.com/envoy.service.runtime.v3.Runtime\n  name: rt\n  layer: {{ {layer} }}\n"
    ))
}

/// A listener whose route answers for as many in a hundred as a runtime value says, and else leads to a cluster.
fn listener() -> prost_types::Any {
    one(r#"- "@type": type.googleapis.com/envoy.config.listener.v3.Listener
  name: l
  address: { socket_address: { address: 127.0.0.1, port_value: 0 } }
  filter_chains:
  - filters:
    - name: http
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
        stat_prefix: l
        route_config:
          virtual_hosts:
          - name: all
            domains: ["*"]
            routes:
            - match: { prefix: /, runtime_fraction: { default_value: { numerator: 100 }, runtime_key: share } }
              direct_response: { status: 200, body: { inline_string: value } }
            - { match: { prefix: / }, route: { cluster: a } }
        http_filters:
        - name: router
          typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }
"#)
}

fn until(proxy: &Proxy, key: &str, values: &[&str]) {
    wait_for(&format!("{key} = {values:?}"), PATIENCE, || {
        let runtime: Value = serde_json::from_str(&proxy.admin("/runtime")).unwrap();
        let found = &runtime["entries"][key]["layer_values"];
        if *found == serde_json::json!(values) { Ok(()) } else { Err(runtime) }
    });
}

#[test]
fn runtime_values_come_before_all_else_and_change_what_they_are_for() {
    each(|who, protocol| {
        let ads = Ads::start(Listen::anywhere()).unwrap();
        ads.put([cluster("a"), endpoints("a", backend("cluster")), listener()]);
        let proxy = Start::new(who, &ads, protocol).also(LAYERS).start();
        let asked = ads.wait("a request for runtime values", |event| matches!(event.seen, Seen::Request { .. }));
        assert_eq!(asked.kind, "rtds", "{who:?} {protocol:?}");
        // Of deltas, the answer is that there is none: nothing is waited for then.
        if protocol == Protocol::Sotw {
            assert!(proxy.admin("/ready").starts_with("PRE_INITIALIZING"), "{who:?}");
            assert!(!ads.events().iter().any(|event| event.kind == "cds"), "{who:?}");
        }
        ads.put([runtime("share: 0, nested: { deep: true }")]);
        until(&proxy, "share", &["100", "0"]);
        until(&proxy, "nested.deep", &["", "true"]);
        until(&proxy, "other", &["1", ""]);
        let address = proxy.listener("l");
        assert_eq!(get(address, "/"), (200, "cluster".into()));
        ads.put([runtime("share: 100")]);
        until(&proxy, "share", &["100", "100"]);
        assert_eq!(get(address, "/"), (200, "value".into()));
        assert_eq!(proxy.stat("runtime.update_rejected"), Some(0));
        if who == Who::Weir {
            assert!(proxy.stat("runtime.load_success") >= Some(2));
        }
    });
}

#[test]
fn runtime_values_come_from_a_file_too() {
    each(|who, protocol| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("runtime.yaml");
        let write = |layer: &str| {
            let next = directory.path().join("next");
            let resource = format!("{{ \"@type\": type.googleapis.com/envoy.service.runtime.v3.Runtime, {layer} }}");
            std::fs::write(&next, format!("resources: [ {resource} ]\n")).unwrap();
            std::fs::rename(&next, &path).unwrap();
        };
        write("name: rt, layer: { share: 0 }");
        let layers = LAYERS.replace("ads: {}", &format!("path_config_source: {{ path: {} }}", path.display()));
        let ads = Ads::start(Listen::anywhere()).unwrap();
        ads.put([cluster("a"), endpoints("a", backend("cluster")), listener()]);
        let proxy = Start::new(who, &ads, protocol).also(&layers).start();
        until(&proxy, "share", &["100", "0"]);
        let address = proxy.listener("l");
        assert_eq!(get(address, "/"), (200, "cluster".into()), "{who:?}");
        write("name: rt, layer: { share: 100 }");
        until(&proxy, "share", &["100", "100"]);
        assert_eq!(get(address, "/"), (200, "value".into()), "{who:?}");
        // What is no good leaves what there is.
        write("name: other, layer: { share: 0 }");
        wait_for("the refusal", PATIENCE, || {
            proxy.stat("runtime.update_rejected").filter(|count| *count > 0).ok_or(())
        });
        assert_eq!(get(address, "/"), (200, "value".into()), "{who:?}");
        assert!(!ads.events().iter().any(|event| event.kind == "rtds"), "{who:?}");
    });
}
