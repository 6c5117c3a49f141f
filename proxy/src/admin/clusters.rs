//! `/clusters`, and the endpoints in `/config_dump`. [`views`] is where a cluster is read; the rest formats.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use serde_json::{Map, Value, json};

use super::{
    query::Query,
    reply::{Reply, Status},
    state::{Admin, View},
    stats::number::general,
};
use crate::{
    config::cluster::{
        AssignmentPolicy, Discovery, Endpoint, Health, HealthFlags, Locality, RoutingPriority, outlier::Detector,
    },
    matcher::{Regex, metadata::EndpointMetadata},
    wire::named::NamedAddress,
};

/// What is shown of a cluster.
pub(super) struct ClusterView {
    pub(super) name: String,
    /// Success rates, with outlier detection.
    outlier: Option<[(&'static str, f64); 4]>,
    /// Of the default and of the high priority.
    thresholds: [Limits; 2],
    hosts: Vec<HostView>,
    policy: AssignmentPolicy,
    /// What statistics call it.
    observability: Arc<str>,
    /// What its assignment is called, where that is configured.
    service: Option<Arc<str>>,
    /// It did not come from the bootstrap.
    pub(super) added: bool,
}

#[derive(Clone, Copy)]
struct Limits {
    connections: u32,
    pending: u32,
    requests: u32,
    retries: u32,
}

/// What is shown of an endpoint.
struct HostView {
    address: String,
    hostname: String,
    /// Counters by name, in order.
    counters: Vec<(&'static str, u64)>,
    gauges: Vec<(&'static str, u64)>,
    /// `healthy`, or what is wrong: `/failed_active_hc/failed_outlier_check`.
    health_flags: String,
    flags: HealthFlags,
    weight: u32,
    locality: Arc<Locality>,
    canary: bool,
    priority: u32,
    metadata: Option<Arc<EndpointMetadata>>,
    /// Percent, if there were enough requests.
    success_rate: Option<f64>,
    local_origin_success_rate: Option<f64>,
}

/// Brings the gauges up to date that are computed when somebody reads them.
pub(super) fn publish(admin: &Admin) {
    for view in &admin.views {
        for cluster in view.snapshot.load().clusters() {
            cluster.publish_breakers();
        }
    }
}

/// Every cluster, by name.
pub(super) fn views(view: &View) -> Vec<ClusterView> {
    let added = view.dynamic.as_ref().map(|dynamic| dynamic.clusters()).unwrap_or_default();
    let snapshot = view.snapshot.load();
    let mut views: Vec<_> = snapshot
        .clusters()
        .map(|cluster| {
            let limits = Limits {
                connections: cluster.breakers.max_connections,
                pending: cluster.breakers.max_pending,
                requests: cluster.breakers.max_requests,
                retries: cluster.retry_limit(RoutingPriority::Default),
            };
            let endpoints = cluster.endpoints.load();
            let hosts = endpoints.iter().map(|endpoint| {
                let mut shown = host(endpoint);
                // Of these Envoy shows it even if there is none.
                if matches!(cluster.discovery, Discovery::Dns(_)) {
                    shown.metadata.get_or_insert_default();
                }
                shown
            });
            let high = &cluster.high.limits;
            let high = Limits {
                connections: high.max_connections,
                pending: high.max_pending,
                requests: high.max_requests,
                retries: cluster.retry_limit(RoutingPriority::High),
            };
            ClusterView {
                name: cluster.name.to_string(),
                outlier: cluster.outlier.as_ref().map(outlier),
                thresholds: [limits, high],
                hosts: hosts.collect(),
                policy: endpoints.policy.clone(),
                observability: cluster.logged.observability.clone(),
                service: match &cluster.discovery {
                    Discovery::Eds(assignments) => assignments.named.then(|| assignments.service.clone()),
                    _ => None,
                },
                added: added.contains_key(&cluster.name),
            }
        })
        .collect();
    views.sort_by(|one, other| one.name.cmp(&other.name));
    views
}

/// Success rates of the last interval, as `/clusters` names them; -1: none.
fn outlier(detector: &Detector) -> [(&'static str, f64); 4] {
    let [external, local] = &detector.rates;
    let rate = |rate: &AtomicU64| f64::from_bits(rate.load(Relaxed));
    [
        ("success_rate_average", rate(&external[0])),
        ("success_rate_ejection_threshold", rate(&external[1])),
        ("local_origin_success_rate_average", rate(&local[0])),
        ("local_origin_success_rate_ejection_threshold", rate(&local[1])),
    ]
}

fn host(endpoint: &Endpoint) -> HostView {
    let (host, template) = (&endpoint.host, &endpoint.template);
    let stats = &host.stats;
    let number = |value: &AtomicU64| value.load(Relaxed);
    let flags = host.flags();
    let set = HealthFlags::NAMES.iter().filter(|(flag, _)| flags.any(*flag));
    let health_flags: String = set.map(|(_, name)| format!("/{name}")).collect();
    HostView {
        address: NamedAddress::text(&endpoint.address),
        hostname: endpoint.hostname.to_string(),
        counters: vec![
            ("cx_connect_fail", number(&stats.cx_connect_fail)),
            ("cx_total", number(&stats.cx_total)),
            ("rq_error", number(&stats.rq_error)),
            ("rq_success", number(&stats.rq_success)),
            ("rq_timeout", number(&stats.rq_timeout)),
            ("rq_total", number(&stats.rq_total)),
        ],
        gauges: vec![
            ("cx_active", number(&stats.cx_active)),
            ("rq_active", number(&stats.rq_active)),
            // Requests wait for a connection per cluster, not per endpoint.
            ("rq_pending_active", 0),
        ],
        health_flags: if health_flags.is_empty() { "healthy".to_owned() } else { health_flags },
        flags,
        weight: template.weight,
        locality: template.locality.clone(),
        canary: template.canary,
        priority: template.priority,
        metadata: template.metadata.clone(),
        success_rate: host.outlier.external.last(),
        local_origin_success_rate: host.outlier.local.last(),
    }
}

pub(super) fn answer(view: &View, query: &Query) -> Reply {
    let filter = match query.get("filter").filter(|filter| !filter.is_empty()).map(Regex::search).transpose() {
        Ok(filter) => filter,
        Err(error) => return Reply::text(Status::BAD_REQUEST, format!("Invalid re2 regex: {error}")),
    };
    let wanted = |view: &ClusterView| filter.as_ref().is_none_or(|filter| filter.is_match(view.name.as_bytes()));
    let views = views(view).into_iter().filter(wanted);
    if query.get("format") != Some("json") {
        return Reply::text(Status::OK, views.map(|view| view.text()).collect::<String>());
    }
    let statuses: Vec<_> = views.map(|view| view.json()).collect();
    let mut all = Map::new();
    if !statuses.is_empty() {
        all.insert("cluster_statuses".into(), statuses.into());
    }
    Reply::pretty(&all.into())
}

impl ClusterView {
    fn text(&self) -> String {
        let name = &self.name;
        let mut out = format!("{name}::observability_name::{}\n", self.observability);
        for (what, value) in self.outlier.iter().flatten() {
            out.push_str(&format!("{name}::outlier::{what}::{}\n", general(*value)));
        }
        for (limits, priority) in self.thresholds.iter().zip(["default", "high"]) {
            for (limit, value) in [
                ("max_connections", limits.connections),
                ("max_pending_requests", limits.pending),
                ("max_requests", limits.requests),
                ("max_retries", limits.retries),
            ] {
                out.push_str(&format!("{name}::{priority}_priority::{limit}::{value}\n"));
            }
        }
        out.push_str(&format!("{name}::added_via_api::{}\n", self.added));
        if let Some(service) = &self.service {
            out.push_str(&format!("{name}::eds_service_name::{service}\n"));
        }
        for host in &self.hosts {
            let mut numbers: Vec<_> = host.counters.iter().chain(&host.gauges).collect();
            numbers.sort();
            let mut line = |what: &str, value: &dyn std::fmt::Display| {
                out.push_str(&format!("{name}::{}::{what}::{value}\n", host.address));
            };
            for (what, value) in numbers {
                line(what, value);
            }
            line("hostname", &host.hostname);
            line("health_flags", &host.health_flags);
            line("weight", &host.weight);
            line("region", &host.locality.region);
            line("zone", &host.locality.zone);
            line("sub_zone", &host.locality.sub_zone);
            line("canary", &host.canary);
            line("priority", &host.priority);
            line("success_rate", &general(host.success_rate.unwrap_or(-1.0)));
            line("local_origin_success_rate", &general(host.local_origin_success_rate.unwrap_or(-1.0)));
        }
        out
    }

    fn json(&self) -> Value {
        let mut status = Map::new();
        status.insert("name".into(), self.name.clone().into());
        if self.added {
            status.insert("added_via_api".into(), true.into());
        }
        if !self.hosts.is_empty() {
            status.insert("host_statuses".into(), self.hosts.iter().map(HostView::json).collect());
        }
        let thresholds = self.thresholds.iter().zip([None, Some("HIGH")]);
        let thresholds: Vec<_> = thresholds
            .map(|(limits, priority)| {
                let mut shown = Map::new();
                shown.extend(priority.map(|priority| ("priority".to_owned(), Value::from(priority))));
                for (name, value) in [
                    ("max_connections", limits.connections),
                    ("max_pending_requests", limits.pending),
                    ("max_requests", limits.requests),
                    ("max_retries", limits.retries),
                ] {
                    shown.insert(name.into(), value.into());
                }
                Value::from(shown)
            })
            .collect();
        status.insert("circuit_breakers".into(), json!({"thresholds": thresholds}));
        status.insert("observability_name".into(), (*self.observability).into());
        if let Some(service) = &self.service {
            status.insert("eds_service_name".into(), (**service).into());
        }
        status.into()
    }

    /// As `EndpointsConfigDump` has it.
    pub(super) fn load_assignment(&self) -> Value {
        let mut endpoints: Vec<Value> = Vec::new();
        let group = |host: &HostView| (host.priority, host.locality.clone());
        let mut groups: Vec<_> = self.hosts.iter().map(group).collect();
        groups.dedup();
        for (priority, locality) in groups {
            let hosts: Vec<_> =
                self.hosts.iter().filter(|host| host.priority == priority && host.locality == locality).collect();
            let locality = hosts[0].locality();
            let hosts: Vec<_> = hosts.into_iter().map(HostView::lb_endpoint).collect();
            let mut group = json!({"locality": locality, "lb_endpoints": hosts, "load_balancing_weight": 0});
            if priority > 0 {
                group["priority"] = priority.into();
            }
            endpoints.push(group);
        }
        let mut all = json!({
            "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            "cluster_name": self.name,
        });
        if !endpoints.is_empty() {
            all["endpoints"] = endpoints.into();
        }
        let mut policy = Map::new();
        if let Some(drops) = &self.policy.drops {
            let drop = json!({
                "category": &*drops.category,
                "drop_percentage": {"numerator": drops.share, "denominator": "MILLION"},
            });
            policy.insert("drop_overloads".into(), json!([drop]));
        }
        policy.insert("overprovisioning_factor".into(), self.policy.overprovisioning.into());
        all["policy"] = policy.into();
        all
    }
}

impl HostView {
    fn health(&self) -> &'static str {
        match () {
            () if self.flags.any(HealthFlags::DRAINING_EDS) => "DRAINING",
            () if self.flags.any(HealthFlags::FAILED_EDS) => "UNHEALTHY",
            () if self.flags.any(HealthFlags::DEGRADED_EDS) => "DEGRADED",
            () => "HEALTHY",
        }
    }

    /// Whatever its reasons are.
    fn coarse_health(&self) -> &'static str {
        match self.flags.health() {
            Health::Unhealthy => "UNHEALTHY",
            Health::Degraded => "DEGRADED",
            Health::Healthy => "HEALTHY",
        }
    }

    /// As `envoy.admin.v3.HostHealthStatus`, whose fields are Envoy's flags.
    fn health_status(&self) -> Value {
        let mut status = Map::new();
        // In the order of the fields' numbers.
        for (flag, name) in [
            (HealthFlags::FAILED_ACTIVE, "failed_active_health_check"),
            (HealthFlags::FAILED_OUTLIER, "failed_outlier_check"),
            (HealthFlags::OF_EDS, "eds_health_status"),
            (HealthFlags::DEGRADED_ACTIVE, "failed_active_degraded_check"),
            (HealthFlags::PENDING_REMOVAL, "pending_dynamic_removal"),
            (HealthFlags::PENDING_ACTIVE, "pending_active_hc"),
            (HealthFlags::EXCLUDED_IMMEDIATE, "excluded_via_immediate_hc_fail"),
            (HealthFlags::ACTIVE_TIMEOUT, "active_hc_timeout"),
            (HealthFlags::DEGRADED_OUTLIER, "failed_degraded_outlier_detection"),
        ] {
            if flag == HealthFlags::OF_EDS {
                status.insert(name.into(), self.health().into());
            } else if self.flags.any(flag) {
                status.insert(name.into(), true.into());
            }
        }
        status.into()
    }

    fn locality(&self) -> Value {
        let mut shown = Map::new();
        for (name, value) in
            [("region", &self.locality.region), ("zone", &self.locality.zone), ("sub_zone", &self.locality.sub_zone)]
        {
            if !value.is_empty() {
                shown.insert(name.into(), value.to_string().into());
            }
        }
        shown.into()
    }

    fn json(&self) -> Value {
        let numbers = |kind: Option<&str>, numbers: &[(&'static str, u64)]| -> Vec<Value> {
            let shown = numbers.iter().map(|(name, value)| {
                let mut shown = Map::new();
                shown.extend(kind.map(|kind| ("type".to_owned(), Value::from(kind))));
                // proto3 JSON leaves zeroes out and writes 64-bit numbers as strings.
                shown.extend((*value > 0).then(|| ("value".to_owned(), Value::from(value.to_string()))));
                shown.insert("name".into(), (*name).into());
                shown.into()
            });
            shown.collect()
        };
        let mut stats = numbers(None, &self.counters);
        stats.extend(numbers(Some("GAUGE"), &self.gauges));
        let mut status = Map::new();
        status.insert("address".into(), address(&self.address));
        status.insert("stats".into(), stats.into());
        status.insert("health_status".into(), self.health_status());
        for (name, rate) in
            [("success_rate", self.success_rate), ("local_origin_success_rate", self.local_origin_success_rate)]
        {
            if let Some(rate) = rate {
                status.insert(name.into(), json!({"value": rate}));
            }
        }
        status.insert("weight".into(), self.weight.into());
        if !self.hostname.is_empty() {
            status.insert("hostname".into(), self.hostname.clone().into());
        }
        if self.priority > 0 {
            status.insert("priority".into(), self.priority.into());
        }
        status.insert("locality".into(), self.locality());
        status.into()
    }

    fn lb_endpoint(&self) -> Value {
        let mut endpoint = Map::new();
        endpoint.insert("address".into(), address(&self.address));
        endpoint.insert("health_check_config".into(), json!({}));
        if !self.hostname.is_empty() {
            endpoint.insert("hostname".into(), self.hostname.clone().into());
        }
        let mut shown = json!({"endpoint": endpoint, "health_status": self.coarse_health()});
        if let Some(metadata) = &self.metadata {
            shown["metadata"] = match metadata.is_empty() {
                true => json!({}),
                false => json!({"filter_metadata": metadata.iter().map(whole).collect::<Map<_, _>>()}),
            };
        }
        shown["load_balancing_weight"] = self.weight.into();
        shown
    }
}

/// Whole numbers as proto3 JSON writes them.
fn whole((name, value): (&String, &Value)) -> (String, Value) {
    fn shown(value: &Value) -> Value {
        match value {
            Value::Number(number) => match number.as_f64() {
                Some(float) if float.fract() == 0.0 && float.abs() < 1e15 => Value::from(float as i64),
                _ => value.clone(),
            },
            Value::Array(values) => values.iter().map(shown).collect(),
            Value::Object(fields) => Value::Object(fields.iter().map(whole).collect()),
            _ => value.clone(),
        }
    }
    (name.clone(), shown(value))
}

/// An address as proto3 JSON: an IP address and port, or else a path.
pub(super) fn address(text: &str) -> Value {
    match text.parse::<SocketAddr>() {
        Ok(socket) => {
            let mut address = Map::new();
            address.insert("address".into(), socket.ip().to_string().into());
            if socket.port() > 0 {
                address.insert("port_value".into(), socket.port().into());
            }
            json!({"socket_address": address})
        }
        Err(_) => json!({"pipe": {"path": text}}),
    }
}
