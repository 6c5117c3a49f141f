//! `ApiConfigSource`: which server is followed, and how.

use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue};
use weir_proto::envoy::config::{
    cluster::v3::Cluster,
    core::v3::{
        ApiConfigSource, ApiVersion, GrpcService, RateLimitSettings, RetryPolicy, address,
        api_config_source::ApiType,
        grpc_service::{EnvoyGrpc, GoogleGrpc, TargetSpecifier, google_grpc::channel_credentials::CredentialSpecifier},
    },
    endpoint::v3::lb_endpoint::HostIdentifier,
};

use super::{
    backoff::{self, Backoff},
    dial::Address,
    kind::Protocol,
    rate::{self, Bucket},
    transport::LONGEST_RESPONSE,
};
use crate::config::Error;

/// How a server is followed.
#[derive(Clone, Debug)]
pub struct Source {
    /// What is spoken.
    pub protocol: Protocol,
    /// Where.
    pub server: Server,
    /// `:authority`.
    pub authority: String,
    /// Sent with every stream.
    pub metadata: HeaderMap,
    /// No response may be longer, in bytes.
    pub longest: usize,
    /// The node is sent once per stream.
    pub node_once: bool,
    /// How long to wait before a stream is opened again.
    pub backoff: Backoff,
    /// Tokens at most and per second; none: requests are not limited.
    pub rate: Option<(u32, f64)>,
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Server {
    /// A cluster of the bootstrap: its endpoints in turn, with its TLS.
    Cluster(String),
    /// An address without TLS (`google_grpc.target_uri`).
    Address(Address),
}

impl Source {
    /// Reads one. `at` is its path in the configuration.
    pub fn new(message: &ApiConfigSource, at: &str) -> Result<Self, Error> {
        let field = |name: &str| format!("{at}.{name}");
        let protocol = match ApiType::try_from(message.api_type) {
            Ok(ApiType::Grpc | ApiType::AggregatedGrpc) => Protocol::Sotw,
            Ok(ApiType::DeltaGrpc | ApiType::AggregatedDeltaGrpc) => Protocol::Delta,
            other => {
                let name = other.map_or("unknown", |other| other.as_str_name());
                return Err(Error::at(field("api_type"), format!("expected GRPC or DELTA_GRPC, not {name}")));
            }
        };
        if message.transport_api_version != ApiVersion::V3 as i32 {
            return Err(Error::at(field("transport_api_version"), "expected V3"));
        }
        if !message.config_validators.is_empty() {
            return Err(Error::at(field("config_validators"), "is not supported"));
        }
        let [service] = message.grpc_services.as_slice() else {
            let message = "expected one; several servers are the endpoints of one cluster";
            return Err(Error::at(field("grpc_services"), message));
        };
        let at = field("grpc_services[0]");
        let (server, authority, retry, longest) = target(service, &at)?;
        Ok(Self {
            protocol,
            server,
            authority,
            metadata: metadata(service, &at)?,
            longest: longest.map_or(LONGEST_RESPONSE, |longest| (longest as usize).min(LONGEST_RESPONSE)),
            node_once: message.set_node_on_first_message_only,
            backoff: retry.or(service.retry_policy.as_ref()).map_or_else(Backoff::default, waits),
            rate: message.rate_limit_settings.as_ref().map(limit),
        })
    }

    /// A full bucket of its tokens.
    pub fn bucket(&self, now: Instant) -> Option<Bucket> {
        self.rate.map(|(most, per_second)| Bucket::new(most, per_second, now))
    }
}

/// The Unix sockets of a cluster whose endpoints are all such, as that of a server on the same machine: they are dialled
/// [in turn](super::dial::InTurn). None: it is a cluster like others.
pub fn pipes(cluster: &Cluster) -> Option<Vec<Address>> {
    let localities = &cluster.load_assignment.as_ref()?.endpoints;
    let pipes = localities.iter().flat_map(|locality| &locality.lb_endpoints).map(|endpoint| {
        let Some(HostIdentifier::Endpoint(endpoint)) = &endpoint.host_identifier else { return None };
        match endpoint.address.as_ref()?.address.as_ref()? {
            address::Address::Pipe(pipe) => Some(Address::Pipe(pipe.path.clone().into())),
            _ => None,
        }
    });
    pipes.collect::<Option<Vec<_>>>().filter(|pipes| !pipes.is_empty())
}

type Target<'a> = (Server, String, Option<&'a RetryPolicy>, Option<u32>);

fn target<'a>(service: &'a GrpcService, at: &str) -> Result<Target<'a>, Error> {
    match &service.target_specifier {
        Some(TargetSpecifier::EnvoyGrpc(grpc)) => {
            let EnvoyGrpc { cluster_name, authority, retry_policy, max_receive_message_length, .. } = grpc;
            let authority = if authority.is_empty() { cluster_name } else { authority };
            let server = Server::Cluster(cluster_name.clone());
            Ok((server, authority.clone(), retry_policy.as_ref(), *max_receive_message_length))
        }
        Some(TargetSpecifier::GoogleGrpc(grpc)) => google(grpc, &format!("{at}.google_grpc")),
        None => Err(Error::at(at, "expected envoy_grpc or google_grpc")),
    }
}

fn google<'a>(grpc: &'a GoogleGrpc, at: &str) -> Result<Target<'a>, Error> {
    let refused = |field: &str, message: &str| Err(Error::at(format!("{at}.{field}"), message));
    let secured = "is not supported: name a cluster with a transport_socket in envoy_grpc instead";
    let credentials =
        grpc.channel_credentials.as_ref().and_then(|credentials| credentials.credential_specifier.as_ref());
    if !matches!(credentials, None | Some(CredentialSpecifier::LocalCredentials(_))) {
        return refused("channel_credentials", secured);
    }
    if !grpc.channel_credentials_plugin.is_empty() {
        return refused("channel_credentials_plugin", secured);
    }
    if !grpc.call_credentials.is_empty() || !grpc.call_credentials_plugin.is_empty() {
        return refused("call_credentials", "is not supported: say what is to be sent in initial_metadata instead");
    }
    if !grpc.credentials_factory_name.is_empty() || grpc.config.is_some() {
        return refused("credentials_factory_name", "is not supported");
    }
    if grpc.channel_args.is_some() {
        return refused("channel_args", "is not supported");
    }
    let uri = &grpc.target_uri;
    if let Some(path) = uri.strip_prefix("unix:") {
        // `unix:path` or `unix:///absolute/path`.
        let path = path.strip_prefix("//").unwrap_or(path);
        return Ok((Server::Address(Address::Pipe(path.into())), "localhost".to_owned(), None, None));
    }
    let name = uri.strip_prefix("dns:").map_or(uri.as_str(), |name| name.trim_start_matches('/'));
    let address = match (name.parse(), name.rsplit_once(':')) {
        (Ok(address), _) => Address::Socket(address),
        (Err(_), Some((host, port))) if !host.is_empty() && !host.contains('/') => match port.parse() {
            Ok(port) => Address::Name(host.to_owned(), port),
            Err(_) => return refused("target_uri", "expected host:port, dns:///host:port or unix:path"),
        },
        _ => return refused("target_uri", "expected host:port, dns:///host:port or unix:path"),
    };
    Ok((Server::Address(address), name.to_owned(), None, None))
}

fn metadata(service: &GrpcService, at: &str) -> Result<HeaderMap, Error> {
    let mut metadata = HeaderMap::new();
    for (index, header) in service.initial_metadata.iter().enumerate() {
        let at = format!("{at}.initial_metadata[{index}]");
        let name = HeaderName::try_from(header.key.as_str());
        let name = name.map_err(|_| Error::at(format!("{at}.key"), format!("\"{}\" is no name", header.key)))?;
        let value = if header.raw_value.is_empty() { header.value.as_bytes() } else { &header.raw_value };
        // What it is may be a secret.
        let mut value = HeaderValue::from_bytes(value)
            .map_err(|_| Error::at(format!("{at}.value"), "a header can't have this value"))?;
        value.set_sensitive(true);
        metadata.append(name, value);
    }
    Ok(metadata)
}

/// `retry_back_off`; the longest wait is ten times the first, as in Envoy, unless it says otherwise.
fn waits(policy: &RetryPolicy) -> Backoff {
    let Some(waits) = &policy.retry_back_off else { return Backoff::default() };
    let duration = |of: &Option<prost_types::Duration>| of.and_then(|of| Duration::try_from(of).ok());
    let base = duration(&waits.base_interval).unwrap_or(backoff::BASE);
    Backoff::new(base, duration(&waits.max_interval).unwrap_or(10 * base))
}

fn limit(settings: &RateLimitSettings) -> (u32, f64) {
    (settings.max_tokens.unwrap_or(rate::MOST), settings.fill_rate.unwrap_or(rate::PER_SECOND))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xds::backoff::Failure;

    fn read(yaml: &str) -> Result<Source, String> {
        let message: ApiConfigSource = weir_proto::from_yaml_unvalidated(yaml).unwrap();
        Source::new(&message, "ads_config").map_err(|error| error.to_string())
    }

    fn grpc(rest: &str) -> Result<Source, String> {
        read(&format!("{{ api_type: GRPC, transport_api_version: V3, {rest} }}"))
    }

    fn google(rest: &str) -> Result<Source, String> {
        grpc(&format!("grpc_services: [ {{ google_grpc: {{ stat_prefix: xds, {rest} }} }} ]"))
    }

    #[test]
    fn a_cluster_is_followed_as_its_source_says() {
        let source = grpc(
            "grpc_services: [ { envoy_grpc: { cluster_name: xds-grpc, authority: istiod.istio-system.svc, \
             max_receive_message_length: 1000, retry_policy: { retry_back_off: { base_interval: 1s } } }, \
             initial_metadata: [ { key: Authorization, value: Bearer x } ] } ], set_node_on_first_message_only: true, \
             rate_limit_settings: { fill_rate: 3 }",
        );
        let source = source.unwrap();
        assert_eq!((source.protocol, source.node_once, source.longest), (Protocol::Sotw, true, 1000));
        assert_eq!(source.server, Server::Cluster("xds-grpc".into()));
        assert_eq!(source.authority, "istiod.istio-system.svc");
        assert_eq!(source.metadata["authorization"], "Bearer x");
        assert!(!format!("{source:?}").contains("Bearer"));
        assert_eq!(source.rate, Some((100, 3.0)));
        assert!(source.bucket(Instant::now()).is_some());
        let mut backoff = source.backoff;
        let waits: Vec<_> = (0..5).map(|_| backoff.next(Failure::Unreachable, 1.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 10]);
    }

    #[test]
    fn what_is_not_said_is_envoys_default() {
        let source = read(
            "{ api_type: DELTA_GRPC, transport_api_version: V3, grpc_services: [ { envoy_grpc: { cluster_name: xds } } ] }",
        );
        let source = source.unwrap();
        assert_eq!((source.protocol, source.node_once, source.longest), (Protocol::Delta, false, LONGEST_RESPONSE));
        assert_eq!((source.authority.as_str(), source.rate), ("xds", None));
        assert!(source.metadata.is_empty() && source.bucket(Instant::now()).is_none());
    }

    #[test]
    fn a_target_uri_is_an_address() {
        let address =
            |uri: &str| google(&format!("target_uri: '{uri}'")).map(|source| (source.server, source.authority));
        let expect = |address, authority: &str| Ok((Server::Address(address), authority.to_owned()));
        let socket = Address::Socket("127.0.0.1:18000".parse().unwrap());
        assert_eq!(address("127.0.0.1:18000"), expect(socket, "127.0.0.1:18000"));
        let name = Address::Name("istiod.istio-system".into(), 15010);
        assert_eq!(address("dns:///istiod.istio-system:15010"), expect(name, "istiod.istio-system:15010"));
        assert_eq!(address("unix:///run/xds"), expect(Address::Pipe("/run/xds".into()), "localhost"));
        assert_eq!(address("unix:xds"), expect(Address::Pipe("xds".into()), "localhost"));
        for uri in ["xds:///a", "host", "host:port", ""] {
            let at = "ads_config.grpc_services[0].google_grpc.target_uri";
            assert_eq!(address(uri), Err(format!("{at}: expected host:port, dns:///host:port or unix:path")), "{uri}");
        }
    }

    #[test]
    fn a_cluster_of_pipes_is_told_from_others() {
        let pipes = |endpoints: &[&str]| {
            let each = endpoints.iter().map(|address| format!("{{ endpoint: {{ address: {{ {address} }} }} }}"));
            let each = each.collect::<Vec<_>>().join(", ");
            let cluster: Cluster = weir_proto::from_yaml_unvalidated(&format!(
                "{{ name: xds-grpc, load_assignment: {{ cluster_name: x, endpoints: [ {{ lb_endpoints: [ {each} ] }} ] }} }}"
            ))
            .unwrap();
            super::pipes(&cluster)
        };
        let socket = "socket_address: { address: 127.0.0.1, port_value: 1 }";
        let pipe = |path: &str| Address::Pipe(path.into());
        assert_eq!(pipes(&["pipe: { path: ./XDS }", "pipe: { path: /b }"]), Some(vec![pipe("./XDS"), pipe("/b")]));
        assert_eq!(pipes(&["pipe: { path: /b }", socket]), None);
        assert_eq!(pipes(&[]), None);
        assert_eq!(super::pipes(&Cluster::default()), None);
    }

    #[test]
    fn what_is_not_supported_is_named() {
        let refused = |source: Result<Source, String>, why: &str| assert_eq!(source.map(|_| ()), Err(why.to_owned()));
        refused(
            read("{ api_type: REST, transport_api_version: V3 }"),
            "ads_config.api_type: expected GRPC or DELTA_GRPC, not REST",
        );
        refused(read("{ api_type: GRPC }"), "ads_config.transport_api_version: expected V3");
        refused(grpc(""), "ads_config.grpc_services: expected one; several servers are the endpoints of one cluster");
        refused(grpc("config_validators: [ { name: x } ]"), "ads_config.config_validators: is not supported");
        let of_cluster =
            |rest: &str| grpc(&format!("grpc_services: [ {{ envoy_grpc: {{ cluster_name: x }}, {rest} }} ]"));
        refused(
            of_cluster("initial_metadata: [ { key: 'a b' } ]"),
            "ads_config.grpc_services[0].initial_metadata[0].key: \"a b\" is no name",
        );
        refused(
            of_cluster("initial_metadata: [ { key: a, value: \"\\n\" } ]"),
            "ads_config.grpc_services[0].initial_metadata[0].value: a header can't have this value",
        );
        refused(grpc("grpc_services: [ {} ]"), "ads_config.grpc_services[0]: expected envoy_grpc or google_grpc");
        let at = "ads_config.grpc_services[0].google_grpc";
        refused(
            google("target_uri: 'a:1', channel_credentials: { ssl_credentials: {} }"),
            &format!(
                "{at}.channel_credentials: is not supported: name a cluster with a transport_socket in envoy_grpc instead"
            ),
        );
        refused(
            google("target_uri: 'a:1', call_credentials: [ { access_token: x } ]"),
            &format!("{at}.call_credentials: is not supported: say what is to be sent in initial_metadata instead"),
        );
    }
}
