//! The many resources of a large mesh.

use std::net::Ipv4Addr;

use prost::{Message, Name};
use prost_types::{Any, Duration};
use weir_proto::envoy::{
    config::{
        cluster::v3::{Cluster, cluster},
        core::v3::{
            Address, AggregatedConfigSource, ApiVersion, ConfigSource, SocketAddress, address,
            config_source::ConfigSourceSpecifier, socket_address::PortSpecifier,
        },
        endpoint::v3::{ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier},
        listener::v3::{Filter, FilterChain, Listener, filter},
        route::v3::{
            Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route, route_action, route_match,
        },
    },
    extensions::filters::{
        http::router::v3::Router,
        network::http_connection_manager::v3::{
            HttpConnectionManager, HttpFilter, Rds, http_connection_manager::RouteSpecifier, http_filter,
        },
    },
};

/// The cluster whose one endpoint is moved, and the path of its route.
pub(super) const PROBE: &str = "probe";

/// How much there is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Clusters, beside the one that is probed.
    pub clusters: usize,
    /// Endpoints of all of them.
    pub endpoints: usize,
    /// Virtual hosts with a route each.
    pub routes: usize,
}

impl Size {
    /// Nothing but what is probed.
    pub(super) const NONE: Self = Self { clusters: 0, endpoints: 0, routes: 0 };
}

/// All of it, the listener at `port`; endpoints are addresses of this machine with the port of a server.
pub(super) fn world(size: Size, port: u16, server: u16) -> Vec<Any> {
    let mut all = vec![any(&cluster(PROBE)), probe(server), any(&listener(port)), any(&routes(size))];
    for number in 0..size.clusters {
        let name = format!("cluster{number}");
        all.push(any(&cluster(&name)));
        let endpoints = (number..size.endpoints).step_by(size.clusters).map(|number| {
            let bits = u32::from(Ipv4Addr::new(127, 1, 0, 0)) + u32::try_from(number).unwrap_or_default();
            (Ipv4Addr::from(bits), server)
        });
        all.push(any(&assignment(&name, endpoints)));
    }
    all
}

/// The endpoint of the cluster that is probed.
pub(super) fn probe(server: u16) -> Any {
    any(&assignment(PROBE, [(Ipv4Addr::LOCALHOST, server)].into_iter()))
}

fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: format!("type.googleapis.com/{}", M::full_name()), value: message.encode_to_vec() }
}

fn ads() -> Option<ConfigSource> {
    Some(ConfigSource {
        resource_api_version: ApiVersion::V3 as i32,
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..ConfigSource::default()
    })
}

fn address(ip: Ipv4Addr, port: u16) -> Option<Address> {
    let socket = SocketAddress {
        address: ip.to_string(),
        port_specifier: Some(PortSpecifier::PortValue(port.into())),
        ..SocketAddress::default()
    };
    Some(Address { address: Some(address::Address::SocketAddress(socket)) })
}

fn cluster(name: &str) -> Cluster {
    Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(cluster::EdsClusterConfig { eds_config: ads(), ..Default::default() }),
        connect_timeout: Some(Duration { seconds: 5, nanos: 0 }),
        ..Cluster::default()
    }
}

fn assignment(name: &str, endpoints: impl Iterator<Item = (Ipv4Addr, u16)>) -> ClusterLoadAssignment {
    let endpoint = |(ip, port)| LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint { address: address(ip, port), ..Endpoint::default() })),
        ..LbEndpoint::default()
    };
    let locality =
        LocalityLbEndpoints { lb_endpoints: endpoints.map(endpoint).collect(), ..LocalityLbEndpoints::default() };
    ClusterLoadAssignment { cluster_name: name.to_owned(), endpoints: vec![locality], ..Default::default() }
}

fn listener(port: u16) -> Listener {
    let rds = Rds { route_config_name: "routes".to_owned(), config_source: ads() };
    let router = HttpFilter {
        name: "router".to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(any(&Router::default()))),
        ..HttpFilter::default()
    };
    let manager = HttpConnectionManager {
        stat_prefix: "scale".to_owned(),
        route_specifier: Some(RouteSpecifier::Rds(rds)),
        http_filters: vec![router],
        ..HttpConnectionManager::default()
    };
    let filter = Filter { name: "http".to_owned(), config_type: Some(filter::ConfigType::TypedConfig(any(&manager))) };
    Listener {
        name: "scale".to_owned(),
        address: address(Ipv4Addr::LOCALHOST, port),
        filter_chains: vec![FilterChain { filters: vec![filter], ..FilterChain::default() }],
        ..Listener::default()
    }
}

fn routes(size: Size) -> RouteConfiguration {
    let host = |name: String, cluster: String| {
        let action = RouteAction {
            cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(cluster)),
            ..RouteAction::default()
        };
        let path = route_match::PathSpecifier::Prefix("/".to_owned());
        let route = Route {
            r#match: Some(RouteMatch { path_specifier: Some(path), ..RouteMatch::default() }),
            action: Some(route::Action::Route(action)),
            ..Route::default()
        };
        VirtualHost { domains: vec![name.clone()], name, routes: vec![route], ..VirtualHost::default() }
    };
    let several =
        (0..size.routes).map(|number| host(format!("host{number}"), format!("cluster{}", number % size.clusters)));
    let virtual_hosts = several.chain([host(PROBE.to_owned(), PROBE.to_owned())]).collect();
    RouteConfiguration { name: "routes".to_owned(), virtual_hosts, ..RouteConfiguration::default() }
}
