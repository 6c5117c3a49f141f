//! `/runtime` and `/runtime_modify`.

use serde_json::{Map, json};

use super::{
    query::Query,
    reply::{Reply, Status},
    state::Admin,
};
use crate::runtime::Runtime;

pub(super) fn show(runtime: &Runtime) -> Reply {
    let (layers, entries) = runtime.shown();
    let entries: Map<_, _> = entries
        .into_iter()
        .map(|(key, values)| {
            let shown = |value: &Option<crate::runtime::Value>| value.as_ref().map(|value| value.shown());
            let last = values.iter().rev().find_map(shown).unwrap_or_default();
            let values: Vec<_> = values.iter().map(|value| shown(value).unwrap_or_default()).collect();
            (key, json!({"final_value": last, "layer_values": values}))
        })
        .collect();
    Reply::pretty(&json!({"entries": entries, "layers": layers}))
}

pub(super) fn modify(admin: &Admin, query: &Query) -> Reply {
    if query.pairs().is_empty() {
        let usage = "usage: /runtime_modify?key1=value1&key2=value2&keyN=valueN\n       or send the parameters as form \
                     values\nuse an empty value to remove a previously added override";
        return Reply::text(Status::BAD_REQUEST, usage);
    }
    match admin.runtime.modify(query.pairs()) {
        Ok(()) => {
            // Envoy loads all layers again, a directory of overrides included.
            for name in ["runtime.load_success", "runtime.override_dir_not_exists"] {
                admin.stats.shared().inc(admin.stats.root().counter(name));
            }
            // The next flush would say so as well, and later.
            let (_, keys, overrides) = admin.runtime.sizes();
            let set = |name: &str, value: u64| admin.stats.set(admin.stats.root().gauge(name), value);
            set("runtime.num_keys", keys as u64);
            set("runtime.admin_overrides_active", u64::from(overrides > 0));
            Reply::ok()
        }
        Err(error) => Reply::text(Status::SERVICE_UNAVAILABLE, error.to_string()),
    }
}
