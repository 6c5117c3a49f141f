//! What a real istiod sent, replayed to the proxy. What is not supported yet is refused by name, and the rest is taken.

use serde_json::Value;
use weir_tests::{
    ads::{Ads, Listen, recorded},
    poll::wait_for,
};

use crate::{
    Protocol,
    proxy::{PATIENCE, Start},
    scenario::Who,
};

/// Why resources of these lists were refused, by name.
fn refused(dump: &Value, lists: &[&str]) -> Vec<(String, String)> {
    let configs = dump["configs"].as_array().into_iter().flatten();
    let items = configs.flat_map(|config| lists.iter().filter_map(|list| config[*list].as_array())).flatten();
    let error = |item: &Value| {
        let state = &item["error_state"];
        let name = state["failed_configuration"]["name"].as_str().unwrap_or_default();
        Some((name.to_owned(), state["details"].as_str()?.to_owned()))
    };
    items.filter_map(error).collect()
}

#[test]
fn what_a_real_istiod_sent_is_taken_but_for_what_is_not_supported() {
    // A waypoint's secrets come from a server of their own, which tests/tests/istiod has.
    for node in ["sidecar-httpbin", "sidecar-sleep", "router"] {
        let ads = Ads::start(Listen::anywhere()).unwrap();
        ads.put_named(recorded::of(node));
        let proxy = Start::new(Who::Weir, &ads, Protocol::Delta).start();
        wait_for("a proxy that is ready", PATIENCE, || {
            let ready = proxy.admin("/ready");
            if ready == "LIVE\n" { Ok(()) } else { Err(ready) }
        });
        let dump: Value = serde_json::from_str(&proxy.admin("/config_dump")).unwrap();
        let lists =
            ["dynamic_active_clusters", "dynamic_warming_clusters", "dynamic_listeners", "dynamic_route_configs"];
        for (name, why) in refused(&dump, &lists) {
            assert!(why.contains(" not supported"), "{node}: {name}: {why}");
        }
    }
}
