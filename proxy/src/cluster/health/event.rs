//! The event log of health checks, with Envoy's fields in Envoy's order.

use serde_json::{Map, Value, json};

use super::tracker::{Event, Failure};
use crate::{
    config::cluster::{Cluster, Endpoint, health::HealthCheck},
    telemetry::events::timestamp,
    wire::named::Name,
};

/// Writes an event to every log.
pub(super) fn write(check: &HealthCheck, cluster: &Cluster, endpoint: &Endpoint, event: Event) {
    for log in &check.logs {
        log.write(fields(check, cluster, endpoint, event));
    }
}

fn fields(check: &HealthCheck, cluster: &Cluster, endpoint: &Endpoint, event: Event) -> Map<String, Value> {
    let address = || {
        json!({
            "protocol": "TCP",
            "address": endpoint.address.ip().to_string(),
            "port_value": endpoint.address.port(),
            "resolver_name": "",
            "ipv4_compat": false,
            "network_namespace_filepath": "",
        })
    };
    let mut fields = Map::new();
    fields.insert("health_checker_type".into(), check.probe.name().into());
    let host = match endpoint.template.named.as_deref().map(|named| &named.name) {
        Some(Name::Pipe(path)) => json!({ "pipe": { "path": path, "mode": 0 } }),
        _ => json!({ "socket_address": address() }),
    };
    fields.insert("host".into(), host);
    fields.insert("cluster_name".into(), (*cluster.name).into());
    let status = |failure: Failure| match failure {
        Failure::Active { status, .. } => status,
        _ => 0,
    };
    // The fields of a message come by their numbers: some kinds of event before the time, some after it.
    let (early, late) = match event {
        Event::Ejected(failure) => {
            let fields = json!({ "failure_type": failure.name(), "http_status_code": status(failure) });
            (Some(("eject_unhealthy_event", fields)), None)
        }
        Event::AddHealthy { first } => (Some(("add_healthy_event", json!({ "first_check": first }))), None),
        Event::Failed { failure, first } => {
            let fields =
                json!({ "failure_type": failure.name(), "first_check": first, "http_status_code": status(failure) });
            (None, Some(("health_check_failure_event", fields)))
        }
        Event::Degraded => (None, Some(("degraded_healthy_host", json!({})))),
        Event::NoLongerDegraded => (None, Some(("no_longer_degraded_host", json!({})))),
        Event::Succeeded => (None, None),
    };
    if let Some((name, value)) = early {
        fields.insert(name.into(), value);
    }
    fields.insert("timestamp".into(), timestamp());
    if let Some((name, value)) = late {
        fields.insert(name.into(), value);
    }
    let locality = &endpoint.template.locality;
    let locality = json!({ "region": locality.region, "zone": locality.zone, "sub_zone": locality.sub_zone });
    fields.insert("locality".into(), locality);
    if event == Event::Succeeded {
        fields.insert("successful_health_check_event".into(), json!({}));
    }
    fields
}
