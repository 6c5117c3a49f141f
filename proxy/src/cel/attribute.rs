//! What expressions may ask, by Envoy's names.

use http::HeaderName;

use super::value::Value;

/// Something that is known of a request or a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// `request.path`, with its query.
    Path,
    /// `request.url_path`, without it.
    UrlPath,
    /// `request.query`.
    Query,
    /// `request.host`.
    Host,
    /// `request.scheme`.
    Scheme,
    /// `request.method`.
    Method,
    /// `request.headers['..']`, and the headers that have names of their own: all values, joined by commas.
    Header(HeaderName),
    /// `request.protocol`.
    Protocol,
    /// `request.size`: bytes of the body.
    Size,
    /// `request.time`.
    Time,
    /// `request.duration`.
    Duration,
    /// `response.code`.
    ResponseCode,
    /// `response.code_details`.
    ResponseDetails,
    /// `response.grpc_status`.
    GrpcStatus,
    /// `response.headers['..']`.
    ResponseHeader(HeaderName),
    /// `response.trailers['..']`.
    ResponseTrailer(HeaderName),
    /// `response.size`: bytes of the body.
    ResponseSize,
    /// `connection.id`.
    ConnectionId,
    /// `connection.mtls`: the peer has shown a certificate.
    Mtls,
    /// `connection.requested_server_name`.
    ServerName,
    /// `connection.tls_version`.
    TlsVersion,
    /// Something of a certificate of the client's connection.
    Certificate(Side, Part),
    /// `connection.termination_details`.
    TerminationDetails,
    /// `source.address`.
    SourceAddress,
    /// `source.port`.
    SourcePort,
    /// `destination.address`.
    DestinationAddress,
    /// `destination.port`.
    DestinationPort,
    /// `upstream.address`.
    UpstreamAddress,
    /// `upstream.port`.
    UpstreamPort,
    /// `upstream.local_address`.
    UpstreamLocalAddress,
    /// `upstream.transport_failure_reason`.
    UpstreamTransportFailure,
    /// `upstream.request_attempt_count`.
    UpstreamAttempts,
    /// `metadata.filter_metadata['namespace']['key']..`: dynamic metadata.
    Metadata(Box<str>, Vec<Box<str>>),
    /// `xds.route_name`.
    RouteName,
    /// `xds.cluster_name`.
    ClusterName,
    /// `xds.filter_chain_name`.
    FilterChainName,
}

/// Whose certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// That of this side.
    Local,
    /// The peer's.
    Peer,
}

/// What of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The subject.
    Subject,
    /// The first URI.
    Uri,
    /// The first DNS name.
    Dns,
}

/// Who knows attributes.
pub trait Attributes {
    /// What there is of one.
    fn get(&self, attribute: &Attribute) -> Option<Value<'_>>;
}

impl Attribute {
    /// By the names and keys that lead to it: `["request", "headers", "x-a"]`.
    pub fn named(path: &[&str]) -> Option<Self> {
        let header = |name: &str| HeaderName::from_bytes(name.as_bytes()).ok();
        Some(match path {
            ["request", "headers", name] => return Self::request_header(name),
            ["request", name] => return Self::of_request(name),
            ["response", "headers", name] => Self::ResponseHeader(header(name)?),
            ["response", "trailers", name] => Self::ResponseTrailer(header(name)?),
            ["response", "code"] => Self::ResponseCode,
            ["response", "code_details"] => Self::ResponseDetails,
            ["response", "grpc_status"] => Self::GrpcStatus,
            ["response", "size"] => Self::ResponseSize,
            ["connection", name] => return Self::of_connection(name),
            ["source", "address"] => Self::SourceAddress,
            ["source", "port"] => Self::SourcePort,
            ["destination", "address"] => Self::DestinationAddress,
            ["destination", "port"] => Self::DestinationPort,
            ["upstream", "address"] => Self::UpstreamAddress,
            ["upstream", "port"] => Self::UpstreamPort,
            ["upstream", "local_address"] => Self::UpstreamLocalAddress,
            ["upstream", "transport_failure_reason"] => Self::UpstreamTransportFailure,
            ["upstream", "request_attempt_count"] => Self::UpstreamAttempts,
            ["metadata", "filter_metadata", namespace, path @ ..] if !path.is_empty() => {
                Self::Metadata((*namespace).into(), path.iter().map(|key| (*key).into()).collect())
            }
            ["xds", "route_name"] => Self::RouteName,
            ["xds", "cluster_name"] => Self::ClusterName,
            ["xds", "filter_chain_name"] => Self::FilterChainName,
            _ => return None,
        })
    }

    fn of_request(name: &str) -> Option<Self> {
        Some(match name {
            "path" => Self::Path,
            "url_path" => Self::UrlPath,
            "query" => Self::Query,
            "host" => Self::Host,
            "scheme" => Self::Scheme,
            "method" => Self::Method,
            "referer" => Self::Header(http::header::REFERER),
            "useragent" => Self::Header(http::header::USER_AGENT),
            "id" => Self::Header(HeaderName::from_static("x-request-id")),
            "protocol" => Self::Protocol,
            "size" => Self::Size,
            "time" => Self::Time,
            "duration" => Self::Duration,
            _ => return None,
        })
    }

    fn of_connection(name: &str) -> Option<Self> {
        Some(match name {
            "id" => Self::ConnectionId,
            "mtls" => Self::Mtls,
            "requested_server_name" => Self::ServerName,
            "tls_version" => Self::TlsVersion,
            "subject_local_certificate" => Self::Certificate(Side::Local, Part::Subject),
            "subject_peer_certificate" => Self::Certificate(Side::Peer, Part::Subject),
            "uri_san_local_certificate" => Self::Certificate(Side::Local, Part::Uri),
            "uri_san_peer_certificate" => Self::Certificate(Side::Peer, Part::Uri),
            "dns_san_local_certificate" => Self::Certificate(Side::Local, Part::Dns),
            "dns_san_peer_certificate" => Self::Certificate(Side::Peer, Part::Dns),
            "termination_details" => Self::TerminationDetails,
            _ => return None,
        })
    }

    fn request_header(name: &str) -> Option<Self> {
        Some(match name {
            ":path" => Self::Path,
            ":authority" => Self::Host,
            ":scheme" => Self::Scheme,
            ":method" => Self::Method,
            name => Self::Header(HeaderName::from_bytes(name.as_bytes()).ok()?),
        })
    }
}
