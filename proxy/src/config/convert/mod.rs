//! Protobuf to model. What cannot be honoured and would change routing or security is refused, with the path of the
//! field; what can be left out without changing where requests go is listed in [`Built::ignored`].

mod access_log;
mod admin;
mod balancing;
mod cluster;
#[cfg(test)]
mod cluster_tests;
mod connect;
mod discovery;
mod dns;
mod endpoints;
mod filter;
mod filter_chain;
mod headers;
mod health;
mod http;
mod listener;
mod listener_filter;
mod local_reply;
mod matcher;
mod metadata;
mod network;
mod outlier;
mod overload;
mod rbac;
mod retry;
mod route;
mod stats;
mod tcp;
#[cfg(test)]
mod tests;
mod tls;

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use prost::{Message, Name};
use weir_proto::envoy::config::{bootstrap::v3::Bootstrap, core::v3 as core};

pub use self::{
    admin::{AdminAddress, AdminSettings},
    stats::StatsSettings,
};
use crate::{
    config::{
        Error, Snapshot,
        cluster::{LocalZones, Locality},
        filter::local_ratelimit::Bucket,
        listener::Ceiling,
    },
    telemetry::{events::EventLog, stats::Scope},
};

/// Fields of the bootstrap that mean something; some are read elsewhere.
const BOOTSTRAP: [&str; 9] = [
    "node",
    "static_resources",
    "cluster_manager",
    "stats_config",
    "stats_flush_interval",
    "layered_runtime",
    "admin",
    "enable_dispatcher_stats",
    "overload_manager",
];

/// They tune what Envoy is made of, or watch over it.
const BOOTSTRAP_HARMLESS: [&str; 13] = [
    "node_context_params",
    "flags_path",
    "watchdog",
    "watchdogs",
    "deferred_stat_options",
    "stats_server_version_override",
    "use_tcp_for_dns_lookups",
    "default_socket_interface",
    "default_regex_engine",
    "perf_tracing_file_path",
    "memory_allocator_manager",
    "enable_worker_cpu_affinity",
    "grpc_async_client_manager_config",
];

/// A configuration that was accepted.
#[derive(Debug)]
pub struct Built {
    /// The model.
    pub snapshot: Snapshot,
    /// Fields that were set and have no effect, by path.
    pub ignored: Vec<String>,
}

/// Makes the model of a bootstrap's `static_resources`, whose objects register their statistics under `stats`. The
/// message has passed its protoc-gen-validate rules.
pub fn from_bootstrap(bootstrap: &Bootstrap, stats: &Scope) -> Result<Built, Error> {
    let local_cluster = bootstrap.cluster_manager.as_ref().map_or("", |manager| &manager.local_cluster_name);
    let mut cx = Context {
        stats: stats.clone(),
        local: bootstrap.node.as_ref().and_then(|node| node.locality.as_ref()).map(endpoints::locality),
        local_cluster: Some(local_cluster).filter(|name| !name.is_empty()).map(Into::into),
        service_cluster: bootstrap.node.as_ref().map(|node| node.cluster.clone()).unwrap_or_default(),
        ..Context::default()
    };
    cx.only(bootstrap, "", &BOOTSTRAP, &BOOTSTRAP_HARMLESS)?;
    if let Some(manager) = &bootstrap.overload_manager {
        cx.ceiling = Arc::new(overload::ceiling(&mut cx, manager, "overload_manager")?);
    }
    if let Some(path) = bootstrap
        .cluster_manager
        .as_ref()
        .and_then(|manager| manager.outlier_detection.as_ref())
        .map(|detection| detection.event_log_path.as_str())
        .filter(|path| !path.is_empty())
    {
        let at = "cluster_manager.outlier_detection.event_log_path";
        cx.outlier_log = Some(outlier::event_log(path, at)?);
    }
    let Some(resources) = &bootstrap.static_resources else {
        return Ok(Built { snapshot: Snapshot::default(), ignored: Vec::new() });
    };
    let at = "static_resources";
    cx.secrets = Arc::new(tls::Secrets::new(&resources.secrets, at)?);
    let mut clusters = Vec::new();
    for (index, message) in resources.clusters.iter().enumerate() {
        let at = item(at, "clusters", index);
        let cluster = cluster::cluster(&mut cx, message, &at)?;
        if !cx.clusters.insert(cluster.name.to_string()) {
            return Err(Error::at(sub(&at, "name"), format!("there are several clusters \"{}\"", cluster.name)));
        }
        clusters.push(Arc::new(cluster));
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
                return Err(Error::at(sub(&at, "address"), format!("another listener has the address {address}")));
            }
        }
        listeners.push(Arc::new(listener));
    }
    Ok(Built { snapshot: Snapshot::new(listeners, clusters), ignored: cx.ignored })
}

pub(crate) use self::endpoints::{Endpoints, load_assignment};
#[cfg(test)]
pub(crate) use self::outlier::defaults as outlier_defaults;

/// What conversions share.
#[derive(Debug, Default)]
struct Context {
    ignored: Vec<String>,
    /// The scope below which objects register their statistics: `cx.stats.scope("cluster.backend")`.
    stats: Scope,
    /// The connection manager's own, `http.<stat_prefix>.`, for its filters.
    http: Scope,
    /// The proxy's own locality.
    local: Option<Arc<Locality>>,
    /// The cluster that this proxy is part of (`local_cluster_name`), and where its hosts are.
    local_cluster: Option<Box<str>>,
    zones: Arc<LocalZones>,
    /// Secrets of the bootstrap.
    secrets: Arc<tls::Secrets>,
    /// Where outlier detection writes its events.
    outlier_log: Option<Arc<EventLog>>,
    /// Connections that the process may have open.
    ceiling: Arc<Ceiling>,
    /// Token buckets that several filters share, by key and configuration.
    buckets: HashMap<(String, Vec<u8>), Bucket>,
    /// Clusters that static routes may name.
    clusters: HashSet<String>,
    /// The cluster that this process belongs to: `node.cluster`.
    service_cluster: String,
}

impl Context {
    /// Accepts `message` if the fields that are set are all in `supported` or `harmless`; notes the harmless ones.
    fn only<M: Message + Name>(
        &mut self,
        message: &M,
        at: &str,
        supported: &[&str],
        harmless: &[&str],
    ) -> Result<(), Error> {
        for field in weir_proto::set_fields(message) {
            if harmless.contains(&&*field) {
                self.ignored.push(sub(at, &field));
            } else if !supported.contains(&&*field) {
                return Err(Error::at(sub(at, &field), "not supported yet"));
            }
        }
        Ok(())
    }

    /// A cluster that a static route names must exist.
    fn known_cluster(&self, name: &str, at: &str) -> Result<Arc<str>, Error> {
        if self.clusters.contains(name) {
            Ok(name.into())
        } else {
            Err(Error::at(at, format!("unknown cluster \"{name}\"")))
        }
    }
}

fn sub(at: &str, field: &str) -> String {
    if at.is_empty() { field.to_owned() } else { format!("{at}.{field}") }
}

fn item(at: &str, field: &str, index: usize) -> String {
    format!("{at}.{field}[{index}]")
}

/// Decodes an `Any` of type `M`.
fn unpack<M: Message + Name + Default>(any: &prost_types::Any, at: &str) -> Result<M, Error> {
    M::decode(&*any.value).map_err(|error| Error::at(at, format!("not a {}: {error}", M::full_name())))
}

/// The message name in an `Any`'s type URL.
fn type_name(any: &prost_types::Any) -> &str {
    any.type_url.rsplit('/').next().unwrap_or_default()
}

/// A duration that is not negative.
fn duration(message: &prost_types::Duration, at: &str) -> Result<Duration, Error> {
    Duration::try_from(*message).map_err(|_| Error::at(at, "expected a duration of at least 0"))
}

/// A duration of which 0 means "never", and an absent one `default`.
fn limit(
    message: Option<&prost_types::Duration>,
    default: Option<Duration>,
    at: &str,
) -> Result<Option<Duration>, Error> {
    match message {
        None => Ok(default),
        Some(message) => Ok(Some(duration(message, at)?).filter(|duration| !duration.is_zero())),
    }
}

fn cidrs(messages: &[core::CidrRange], at: &str, field: &str) -> Result<Vec<IpNet>, Error> {
    messages.iter().enumerate().map(|(index, message)| cidr(message, &item(at, field, index))).collect()
}

fn cidr(message: &core::CidrRange, at: &str) -> Result<IpNet, Error> {
    let ip: std::net::IpAddr = message.address_prefix.parse().map_err(|_| {
        Error::at(sub(at, "address_prefix"), format!("\"{}\" is not an IP address", message.address_prefix))
    })?;
    let length = message.prefix_len.unwrap_or(0);
    u8::try_from(length)
        .ok()
        .and_then(|length| IpNet::new(ip, length).ok())
        .map(|net| net.trunc())
        .ok_or_else(|| Error::at(sub(at, "prefix_len"), format!("{length} is too long for {ip}")))
}

/// An IP address and port.
fn socket_address(message: Option<&core::Address>, at: &str) -> Result<SocketAddr, Error> {
    let (host, port, at) = host_and_port(message, at)?;
    let ip = host.parse().map_err(|_| Error::at(sub(&at, "address"), format!("\"{host}\" is not an IP address")))?;
    Ok(SocketAddr::new(ip, port))
}

/// A host and port, and the path of the socket address.
fn host_and_port<'a>(message: Option<&'a core::Address>, at: &str) -> Result<(&'a str, u16, String), Error> {
    use core::{address::Address, socket_address::PortSpecifier};
    let socket = match message.and_then(|message| message.address.as_ref()) {
        Some(Address::SocketAddress(socket)) => socket,
        Some(Address::Pipe(_)) => return Err(Error::at(sub(at, "pipe"), "not supported yet")),
        Some(Address::EnvoyInternalAddress(_)) => {
            return Err(Error::at(sub(at, "envoy_internal_address"), "not supported yet"));
        }
        None => return Err(Error::at(at, "an address is required")),
    };
    let at = sub(at, "socket_address");
    if socket.protocol() != core::socket_address::Protocol::Tcp {
        return Err(Error::at(sub(&at, "protocol"), "expected TCP: UDP is not supported yet"));
    }
    if !socket.network_namespace_filepath.is_empty() {
        return Err(Error::at(sub(&at, "network_namespace_filepath"), "not supported yet"));
    }
    let port = match &socket.port_specifier {
        Some(PortSpecifier::PortValue(port)) => {
            u16::try_from(*port).map_err(|_| Error::at(sub(&at, "port_value"), format!("{port} is not a port")))?
        }
        Some(PortSpecifier::NamedPort(_)) => return Err(Error::at(sub(&at, "named_port"), "not supported yet")),
        None => return Err(Error::at(sub(&at, "port_value"), "a port is required")),
    };
    Ok((&socket.address, port, at))
}

/// The bytes of a data source.
fn data_source(message: &core::DataSource, at: &str) -> Result<Vec<u8>, Error> {
    use core::data_source::Specifier;
    match &message.specifier {
        None => Ok(Vec::new()),
        Some(Specifier::InlineString(text)) => Ok(text.as_bytes().to_vec()),
        Some(Specifier::InlineBytes(bytes)) => Ok(bytes.to_vec()),
        Some(Specifier::Filename(path)) => {
            std::fs::read(path).map_err(|error| Error::at(sub(at, "filename"), format!("{path}: {error}")))
        }
        Some(Specifier::EnvironmentVariable(name)) => std::env::var(name)
            .map(String::into_bytes)
            .map_err(|_| Error::at(sub(at, "environment_variable"), format!("{name} is not set"))),
    }
}
