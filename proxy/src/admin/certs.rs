//! `/certs`: the certificates in use, and those that peers' must lead to.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::reply::Reply;
use crate::{
    config::{
        snapshot::Snapshot,
        tls::{Shown, ShownCertificate, Transport},
    },
    tls::certificate::Name,
};

const DAY: i64 = 86_400;

pub(super) fn answer(snapshot: &Snapshot) -> Reply {
    let now = now();
    let certificates: Vec<_> = contexts(snapshot)
        .iter()
        .map(|context| {
            let mut shown = Map::new();
            for (name, certificates) in [("ca_cert", &context.roots), ("cert_chain", &context.certificates)] {
                if !certificates.is_empty() {
                    let certificates: Vec<_> = certificates.iter().map(|one| certificate(one, now)).collect();
                    shown.insert(name.into(), certificates.into());
                }
            }
            shown.entry("ca_cert").or_insert_with(|| json!([]));
            shown.entry("cert_chain").or_insert_with(|| json!([]));
            Value::from(shown)
        })
        .collect();
    Reply::pretty(&json!({"certificates": certificates}))
}

/// Days until the first certificate of a configuration expires, 0 if one has; none without certificates.
pub fn days_until_first_expires(snapshot: &Snapshot) -> Option<u64> {
    let now = now();
    let all = contexts(snapshot);
    let certificates = all.iter().flat_map(|context| context.roots.iter().chain(&context.certificates));
    let days = certificates.map(|one| (one.certificate.content().not_after - now) / DAY);
    days.min().map(|days| u64::try_from(days).unwrap_or(0))
}

/// What every TLS context shows: of clusters, by name, then of listeners.
fn contexts(snapshot: &Snapshot) -> Vec<Shown> {
    let mut clusters: Vec<&Arc<_>> = snapshot.clusters().collect();
    clusters.sort_by(|one, other| one.name.cmp(&other.name));
    let transports = clusters.into_iter().flat_map(|cluster| cluster.transports.iter());
    let of_clusters =
        transports.filter_map(Transport::tls).filter_map(|tls| tls.current()).map(|loaded| loaded.shown.clone());
    let chains = snapshot.listeners().iter().flat_map(|listener| listener.chains());
    let of_listeners = chains.filter_map(|chain| chain.tls.as_ref()?.current()).map(|loaded| loaded.shown.clone());
    of_clusters.chain(of_listeners).collect()
}

fn certificate(shown: &ShownCertificate, now: i64) -> Value {
    let content = shown.certificate.content();
    let order = |name: &Name| match name {
        Name::Dns(_) => 0,
        Name::Uri(_) => 1,
        Name::Ip(_) => 2,
        Name::Email(_) => 3,
    };
    let mut names: Vec<_> = content.names.iter().filter(|name| !matches!(name, Name::Email(_))).collect();
    names.sort_by_key(|name| order(name));
    let names: Vec<_> = names
        .into_iter()
        .map(|name| match name {
            Name::Uri(uri) => json!({"uri": uri}),
            Name::Ip(ip) => json!({"ip_address": ip.to_string()}),
            Name::Dns(text) | Name::Email(text) => json!({"dns": text}),
        })
        .collect();
    json!({
        "path": &*shown.path,
        "serial_number": content.serial,
        "subject_alt_names": names,
        "days_until_expiration": ((content.not_after - now) / DAY).max(0).to_string(),
        "valid_from": time(content.not_before),
        "expiration_time": time(content.not_after),
    })
}

fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

fn time(seconds: i64) -> String {
    Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
