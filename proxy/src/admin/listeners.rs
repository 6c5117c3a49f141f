//! `/listeners`.

use serde_json::{Map, Value, json};

use super::{
    query::Query,
    reply::{Reply, Status},
    state::{Admin, View},
};

pub(super) fn answer(admin: &Admin, view: &View, query: &Query) -> Reply {
    if query.get("format") == Some("json") {
        let listeners = admin.listening.addresses(view.id);
        let statuses: Vec<_> = listeners.iter().map(|(name, addresses)| status(name, addresses)).collect();
        let mut all = Map::new();
        if !statuses.is_empty() {
            all.insert("listener_statuses".into(), statuses.into());
        }
        return Reply::pretty(&all.into());
    }
    let mut text = String::new();
    for (name, addresses) in admin.listening.addresses(view.id) {
        for address in addresses {
            text.push_str(&format!("{name}::{address}\n"));
        }
    }
    Reply::text(Status::OK, text)
}

fn status(name: &str, addresses: &[String]) -> Value {
    let mut status = Map::new();
    status.insert("name".into(), name.into());
    let mut addresses = addresses.iter().map(|address| super::clusters::address(address));
    if let Some(first) = addresses.next() {
        status.insert("local_address".into(), first);
    }
    let further: Vec<_> = addresses.collect();
    if !further.is_empty() {
        status.insert("additional_local_addresses".into(), further.into());
    }
    json!(status)
}
