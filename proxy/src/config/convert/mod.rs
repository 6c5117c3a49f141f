//! Protobuf to model. What cannot be honoured and would change routing or security is refused, with the path of the
//! field; what can be left out without changing where requests go is listed in [`Built::ignored`].

mod access_log;
mod admin;
mod balancing;
mod client_certificate;
mod cluster;
#[cfg(test)]
mod cluster_tests;
mod connect;
mod context;
mod converter;
mod decoded;
mod discovered;
mod discovery;
mod dns;
mod endpoints;
mod expression;
mod fields;
mod filter;
mod filter_chain;
mod filter_state;
mod forward;
mod headers;
mod health;
mod hosts;
mod http;
mod http1;
mod http_filters;
mod identity;
mod istio;
mod listener;
mod listener_filter;
mod local_reply;
mod matcher;
mod metadata;
mod network;
mod node;
mod outlier;
mod overload;
mod protocol;
mod rbac;
mod retry;
mod route;
mod runtime;
mod scopes;
mod secrets;
mod socket;
mod source;
mod stats;
mod tcp;
#[cfg(test)]
mod tests;
mod tls;
mod tree;

use std::{collections::HashSet, sync::Arc};

use weir_proto::envoy::config::{
    bootstrap::v3::{Bootstrap, ClusterManager},
    core::v3::api_config_source::ApiType,
};

#[cfg(test)]
pub(crate) use self::outlier::defaults as outlier_defaults;
pub use self::{
    admin::{AdminAddress, AdminSettings},
    context::{Clusters, Kept},
    converter::Converter,
    runtime::{Discovered as DiscoveredLayer, layers as runtime_layers},
    stats::StatsSettings,
};
use self::{
    context::Context,
    fields::{item, sub, type_name, typed},
    secrets::Secrets,
};
pub(crate) use self::{endpoints::load_assignment, source::source as config_source};
use super::{
    cell::{Registry, Sources},
    cluster::DnsCaches,
    error::Error,
    overload::Settings,
    snapshot::Snapshot,
};
use crate::{telemetry::stats::Scope, view::ViewId, wire::named::NamedAddress};

/// Fields of the bootstrap that mean something; some are read elsewhere.
const BOOTSTRAP: [&str; 15] = [
    "bootstrap_extensions",
    "node",
    "dynamic_resources",
    "static_resources",
    "cluster_manager",
    "stats_config",
    "stats_flush_interval",
    "stats_flush_on_admin",
    "layered_runtime",
    "admin",
    "enable_dispatcher_stats",
    "overload_manager",
    "typed_dns_resolver_config",
    "dns_resolution_config",
    "use_tcp_for_dns_lookups",
];

/// Those of them that a view has of its own. The others are the process's.
const OF_VIEWS: [&str; 4] = ["node", "dynamic_resources", "static_resources", "cluster_manager"];

/// They tune what Envoy is made of, or watch over it.
const BOOTSTRAP_HARMLESS: [&str; 14] = [
    "inline_headers",
    "application_log_config",
    "node_context_params",
    "flags_path",
    "watchdog",
    "watchdogs",
    "deferred_stat_options",
    "stats_server_version_override",
    "default_socket_interface",
    "default_regex_engine",
    "perf_tracing_file_path",
    "memory_allocator_manager",
    "enable_worker_cpu_affinity",
    "grpc_async_client_manager_config",
];

/// `bootstrap_extensions`: what there is, is there without them.
fn bootstrap_extensions(cx: &mut Context, bootstrap: &Bootstrap) -> Result<(), Error> {
    const INTERNAL: &str = "envoy.extensions.bootstrap.internal_listener.v3.InternalListener";
    for (index, extension) in bootstrap.bootstrap_extensions.iter().enumerate() {
        let at = sub(&item("", "bootstrap_extensions", index), "typed_config");
        let any = extension.typed_config.as_ref().ok_or_else(|| Error::at(&at, "a configuration is required"))?;
        let any = typed(any, &at)?;
        match type_name(&any) {
            INTERNAL if any.value.is_empty() => {}
            // Its only field: how much an internal connection holds.
            INTERNAL => cx.ignored.push(sub(&at, "buffer_size_kb")),
            other => return Err(Error::at(at, format!("extension {other} is not supported yet"))),
        }
    }
    Ok(())
}

/// A configuration that was accepted.
#[derive(Debug)]
pub struct Built {
    /// The model.
    pub snapshot: Snapshot,
    /// Fields that were set and have no effect, by path.
    pub ignored: Vec<String>,
    /// What it names and comes by itself.
    pub cells: Arc<Registry>,
    /// Converts what comes later.
    pub converter: Converter,
    /// Caches of names: somebody is to resolve them.
    pub dns_caches: DnsCaches,
    /// What the overload manager is to do.
    pub overload: Settings,
}

/// What is said for all clusters.
fn cluster_manager(cx: &mut Context, message: &ClusterManager, at: &str) -> Result<(), Error> {
    let supported = ["local_cluster_name", "outlier_detection", "upstream_bind_config"];
    // Reports to a management server; and when Envoy makes its clusters.
    cx.only(message, at, &supported, &["load_stats_config", "enable_deferred_cluster_creation"])?;
    if let Some(detection) = &message.outlier_detection {
        let at = sub(at, "outlier_detection");
        cx.only(detection, &at, &["event_log_path"], &["event_service"])?;
        if !detection.event_log_path.is_empty() {
            cx.outlier_log = Some(outlier::event_log(&detection.event_log_path, &sub(&at, "event_log_path"))?);
        }
    }
    if let Some(bind) = &message.upstream_bind_config {
        cx.bind = connect::bind(cx, bind, &sub(at, "upstream_bind_config"))?;
    }
    Ok(())
}

/// Makes the model of a bootstrap's `static_resources`, whose objects register their statistics under `stats`. The
/// message has passed its protoc-gen-validate rules.
pub fn from_bootstrap(bootstrap: &Bootstrap, stats: &Scope) -> Result<Built, Error> {
    let mut cx = context(bootstrap, stats, ViewId::OWN, Context::default());
    cx.only(bootstrap, "", &BOOTSTRAP, &BOOTSTRAP_HARMLESS)?;
    bootstrap_extensions(&mut cx, bootstrap)?;
    let mut overload = Settings::default();
    if let Some(manager) = &bootstrap.overload_manager {
        let (ceiling, settings) = overload::manager(&mut cx, manager, "overload_manager")?;
        cx.ceiling = ceiling;
        overload = settings;
    }
    cx.name_servers = dns::of_process(&mut cx, bootstrap)?;
    Ok(Built { overload, ..build(cx, bootstrap)? })
}

/// The same of the bootstrap of another view than the process's own, which is `own`. Its listeners are bound unless they are
/// for connections of pods only.
pub fn of_view(
    bootstrap: &Bootstrap,
    stats: &Scope,
    view: ViewId,
    own: &Converter,
    for_pods: bool,
) -> Result<Built, Error> {
    if let Some(field) = weir_proto::set_fields(bootstrap).into_iter().find(|field| !OF_VIEWS.contains(&&**field)) {
        let message = format!("a view has no such field of its own: expected {}", OF_VIEWS.join(", "));
        return Err(Error::at(&*field, message));
    }
    let of_process = Context { ceiling: own.ceiling(), name_servers: own.name_servers(), ..Context::default() };
    build(Context { for_pods, ..context(bootstrap, stats, view, of_process) }, bootstrap)
}

/// What conversions begin with, besides what holds in the process.
fn context(bootstrap: &Bootstrap, stats: &Scope, view: ViewId, of_process: Context) -> Context {
    let local_cluster = bootstrap.cluster_manager.as_ref().map_or("", |manager| &manager.local_cluster_name);
    Context {
        view,
        stats: stats.clone(),
        local: bootstrap.node.as_ref().and_then(|node| node.locality.as_ref()).map(endpoints::locality),
        local_cluster: Some(local_cluster).filter(|name| !name.is_empty()).map(Into::into),
        service_node: bootstrap.node.as_ref().map(|node| node.id.clone()).unwrap_or_default(),
        service_cluster: bootstrap.node.as_ref().map(|node| node.cluster.clone()).unwrap_or_default(),
        ..of_process
    }
}

fn build(mut cx: Context, bootstrap: &Bootstrap) -> Result<Built, Error> {
    let ads = bootstrap.dynamic_resources.as_ref().and_then(|dynamic| dynamic.ads_config.as_ref());
    let ads_sends_deltas = ads.is_some_and(|ads| ads.api_type() == ApiType::DeltaGrpc);
    cx.cells.follows(Sources { ads: ads.is_some(), ads_sends_deltas, servers: true });
    if let Some(manager) = &bootstrap.cluster_manager {
        cluster_manager(&mut cx, manager, "cluster_manager")?;
    }
    let Some(resources) = &bootstrap.static_resources else {
        let (cells, dns_caches) = (cx.cells.clone(), cx.dns_caches.clone());
        let (snapshot, ignored) = (Snapshot::default(), Vec::new());
        return Ok(Built {
            snapshot,
            ignored,
            cells,
            converter: Converter::new(cx),
            dns_caches,
            overload: Settings::default(),
        });
    };
    let at = "static_resources";
    cx.secrets = Arc::new(Secrets::new(&resources.secrets, at)?);
    let mut clusters = Vec::new();
    for (index, message) in resources.clusters.iter().enumerate() {
        let at = item(at, "clusters", index);
        let cluster = cluster::cluster(&mut cx, message, &at)?;
        if !cx.clusters.add(&cluster.name) {
            return Err(Error::at(sub(&at, "name"), format!("there are several clusters \"{}\"", cluster.name)));
        }
        clusters.push(Arc::new(cluster));
    }
    if let Some(name) = cx.local_cluster.as_deref().filter(|name| !cx.clusters.contains(name)) {
        let message = format!("local cluster '{name}' must be defined");
        return Err(Error::at("cluster_manager.local_cluster_name", message));
    }
    let mut listeners = Vec::new();
    let mut names = HashSet::new();
    let mut bound = HashSet::new();
    for (index, message) in resources.listeners.iter().enumerate() {
        let at = item(at, "listeners", index);
        let listener = listener::listener(&mut cx, message, index, &at)?;
        if !names.insert(listener.name.clone()) {
            return Err(Error::at(sub(&at, "name"), format!("there are several listeners \"{}\"", listener.name)));
        }
        for address in listener.addresses.iter().filter(|address| listener.bind && address.port() != 0) {
            if !bound.insert(*address) {
                return Err(Error::at(
                    sub(&at, "address"),
                    format!("another listener has the address {}", NamedAddress::text(address)),
                ));
            }
        }
        listeners.push(Arc::new(listener));
    }
    let (ignored, cells, dns_caches) = (std::mem::take(&mut cx.ignored), cx.cells.clone(), cx.dns_caches.clone());
    let snapshot = Snapshot::new(listeners, clusters);
    Ok(Built { snapshot, ignored, cells, converter: Converter::new(cx), dns_caches, overload: Settings::default() })
}
