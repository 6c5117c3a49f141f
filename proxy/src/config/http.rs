//! The HTTP connection manager.

mod routes;
mod stats;

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, StatusCode};
use ipnet::IpNet;

pub use self::{
    routes::{Current, Element, Fragment, Needed, Routes, ScopeTable, ScopedRoutes, Scopes, Table},
    stats::{HttpStats, OfListener, Served},
};
use crate::{
    access_log::{AccessLog, Moments, Wanted},
    config::{filter::HttpFilter, http1::Http1, http2::Http2, local_reply::LocalReplies},
};

/// Which HTTP a connection speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Codec {
    /// Found out from the first bytes.
    #[default]
    Auto,
    /// HTTP/1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// What happens to `server` in responses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServerHeader {
    /// Set.
    #[default]
    Overwrite,
    /// Set unless the upstream set it.
    AppendIfAbsent,
    /// Left alone.
    PassThrough,
}

/// Whether a request's `:authority` loses its port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StripPort {
    /// It keeps it.
    #[default]
    Never,
    /// If it is the listener's.
    Matching,
    /// Always.
    Any,
}

/// What happens to `%2F` and `%5C` in paths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EscapedSlashes {
    /// They stay.
    #[default]
    Keep,
    /// The request is refused.
    Reject,
    /// The client is sent to the path without them.
    Redirect,
    /// They are decoded.
    Forward,
}

/// What happens to headers with underscores in their names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Underscores {
    /// They pass.
    #[default]
    Allow,
    /// The request is refused.
    Reject,
    /// They are dropped.
    Drop,
}

/// `http_connection_manager`.
#[derive(Debug)]
pub struct HttpConnectionManager {
    /// Prefix of its statistics.
    pub stat_prefix: Arc<str>,
    /// What is counted.
    pub stats: HttpStats,
    /// Which HTTP.
    pub codec: Codec,
    /// HTTP/1 settings.
    pub http1: Http1,
    /// HTTP/2 settings.
    pub http2: Http2,
    /// Virtual hosts and routes.
    pub routes: Routes,
    /// HTTP filters before the router.
    pub filters: Vec<HttpFilter>,
    /// The router.
    pub router: Router,
    /// Written per request.
    pub access_log: Vec<AccessLog>,
    /// When lines are written besides the one at the end.
    pub log: Moments,
    /// The headers that `access_log` names.
    pub wanted: Wanted,
    /// Value of `server`.
    pub server_name: HeaderValue,
    /// What happens to `server`.
    pub server_header: ServerHeader,
    /// The peer's address is the client's.
    pub use_remote_address: bool,
    /// What a client expects before it sends a body is the upstream's business too (`proxy_100_continue`).
    pub passes_expectations: bool,
    /// How else the client is found out; the first that knows it.
    pub detection: Vec<Detection>,
    /// Proxies in front of this one that are trusted.
    pub xff_num_trusted_hops: u32,
    /// Leave `x-forwarded-for` alone.
    pub skip_xff_append: bool,
    /// Say in `x-forwarded-port` which port the client came to.
    pub append_port: bool,
    /// The scheme that requests have whatever they say.
    pub scheme: Option<&'static str>,
    /// Say in `x-envoy-downstream-service-cluster` and `-node` who passes requests on, and in `user-agent` where there is
    /// none; the value of the first.
    pub tells_itself: Option<HeaderValue>,
    /// This host's address, for `x-forwarded-for` of local clients.
    pub node_address: IpAddr,
    /// Addresses that count as internal.
    pub internal_addresses: Vec<IpNet>,
    /// Value to append to `via`.
    pub via: Option<HeaderValue>,
    /// What becomes of `x-forwarded-client-cert`.
    pub forward_client_cert: ForwardClientCertificate,
    /// What this hop says in it.
    pub client_cert_details: ClientCertificateDetails,
    /// Set `x-request-id`.
    pub generate_request_id: bool,
    /// Say in `x-request-id` whether the request is traced.
    pub pack_trace_reason: bool,
    /// Keep an external client's `x-request-id` at the edge.
    pub preserve_external_request_id: bool,
    /// Which requests are traced, which their ids say; none: nothing is.
    pub tracing: Option<Sampling>,
    /// Send `x-request-id` in responses.
    pub request_id_in_response: bool,
    /// Answer HTTP/1.0.
    pub accept_http_10: bool,
    /// The authority of HTTP/1.0 requests without host.
    pub default_host: Option<HeaderValue>,
    /// Largest head of a request, bytes.
    pub max_head_bytes: usize,
    /// Most headers of a request.
    pub max_headers: usize,
    /// Close a connection without requests after so long.
    pub idle_timeout: Option<Duration>,
    /// Drain a connection after so long.
    pub max_connection_duration: Option<Duration>,
    /// A connection that drains takes requests for so long.
    pub drain_timeout: Duration,
    /// A connection that this side closes is read on for so long, so that the client gets the last response and not a
    /// reset; none: it is not.
    pub delayed_close_timeout: Option<Duration>,
    /// Reset a stream after so long.
    pub max_stream_duration: Option<Duration>,
    /// Requests per connection, 0: any number.
    pub max_requests_per_connection: u32,
    /// An HTTP/1 connection that is too old ends with its next response, not before.
    pub http1_safe_max_duration: bool,
    /// Reset a stream on which nothing moved for so long.
    pub stream_idle_timeout: Option<Duration>,
    /// The request must be complete within.
    pub request_timeout: Option<Duration>,
    /// The request's head must be complete within, from its first byte.
    pub request_headers_timeout: Option<Duration>,
    /// Upgrades that are allowed, lower case.
    pub upgrades: Vec<Box<str>>,
    /// What happens to the port of `:authority`.
    pub strip_port: StripPort,
    /// Drop a trailing dot of `:authority`.
    pub strip_trailing_host_dot: bool,
    /// Normalise paths by RFC 3986.
    pub normalize_path: bool,
    /// Fold adjacent slashes.
    pub merge_slashes: bool,
    /// What happens to encoded slashes in paths.
    pub escaped_slashes: EscapedSlashes,
    /// A target that is a whole URL is none, over HTTP/1.
    pub refuses_absolute_urls: bool,
    /// What happens to headers with underscores in their names.
    pub underscores: Underscores,
    /// Over HTTP/1, an answer of 400 made here ends the connection: what the client says is not understood.
    pub closes_on_bad_request: bool,
    /// Take any method over HTTP/1.
    pub custom_methods: bool,
    /// The form of responses made here.
    pub local_reply: Option<LocalReplies>,
    /// Bytes of a request that may be buffered for a retry.
    pub buffer_limit: usize,
    /// Connections go on while health checks are made to fail (the listener's `drain_type` MODIFY_ONLY).
    pub modify_only: bool,
    /// What is done under pressure is not done here (the listener's `bypass_overload_manager`).
    pub bypasses_overload: bool,
    /// Answers that are for want of resources say so (`append_local_overload`).
    pub tells_overload: bool,
    /// The cluster that this process belongs to; empty: none.
    pub service_cluster: HeaderValue,
    /// The node's id.
    pub service_node: HeaderValue,
}

impl HttpConnectionManager {
    /// Envoy's default of `stream_idle_timeout`.
    pub const DEFAULT_STREAM_IDLE: Duration = Duration::from_secs(300);
    /// Envoy's default of `common_http_protocol_options.idle_timeout`.
    pub const DEFAULT_IDLE: Duration = Duration::from_secs(3600);
    /// Envoy's default of `drain_timeout`.
    pub const DEFAULT_DRAIN: Duration = Duration::from_secs(5);
    /// Envoy's default of `delayed_close_timeout`.
    pub const DEFAULT_DELAYED_CLOSE: Duration = Duration::from_secs(1);
    /// Envoy's default of `max_request_headers_kb`.
    pub const DEFAULT_MAX_HEAD: usize = 60 * 1024;
    /// Envoy's default of `max_headers_count`.
    pub const DEFAULT_MAX_HEADERS: usize = 100;
}

/// `tracing`, as far as it decides which requests are traced and what they are called, and `request_id_extension`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// Percent of the requests that ask for it by `x-client-trace-id`.
    pub client: u32,
    /// Of ten thousand requests.
    pub random: u32,
    /// Percent of all that.
    pub overall: u32,
    /// `use_request_id_for_trace_sampling`: ids decide, or else all are taken.
    pub by_id: bool,
    /// The listener is outbound: what an operation is called is told to upstreams, and not to clients.
    pub outbound: bool,
}

/// One of `original_ip_detection_extensions`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detection {
    /// `x-forwarded-for`.
    ForwardedFor {
        /// Whose elements are trusted.
        trust: Trust,
        /// Append the peer's address to it.
        append: bool,
    },
    /// A header.
    Header {
        /// Its name.
        name: HeaderName,
        /// What it says may count as internal.
        trusted: bool,
        /// Answer requests without it so.
        reject: Option<StatusCode>,
    },
}

/// Which proxies are trusted to have appended to `x-forwarded-for`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// So many in front of this one.
    Hops(u32),
    /// Those with such addresses.
    Networks(Vec<IpNet>),
}

/// The router filter's own settings.
#[derive(Clone, Debug, Default)]
pub struct Router {
    /// No `x-envoy-*` headers of its own.
    pub suppress_envoy_headers: bool,
    /// Responses are not counted by code, nor their times (`dynamic_stats` is false).
    pub no_dynamic_stats: bool,
    /// Leave `x-envoy-expected-rq-timeout-ms` of the request alone.
    pub respect_expected_rq_timeout: bool,
    /// Requests in which one of these is wrong are refused.
    pub strict_headers: Vec<HeaderName>,
    /// Written per request to an upstream.
    pub upstream_log: Vec<AccessLog>,
    /// When lines are written besides the one at the end of each.
    pub log: Moments,
    /// What `upstream_log` names.
    pub wanted: Wanted,
}

/// What becomes of `x-forwarded-client-cert`. Without a client certificate it is removed, but for the last one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardClientCertificate {
    /// It is removed.
    #[default]
    Sanitize,
    /// It is passed on.
    ForwardOnly,
    /// This hop's client is added to it.
    AppendForward,
    /// It says who this hop's client is.
    SanitizeSet,
    /// It is passed on, also without a client certificate.
    AlwaysForwardOnly,
}

/// What `x-forwarded-client-cert` says of this hop's client, besides its certificate's hash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientCertificateDetails {
    /// The subject.
    pub subject: bool,
    /// The certificate.
    pub cert: bool,
    /// The certificate and those above it.
    pub chain: bool,
    /// DNS names.
    pub dns: bool,
    /// URIs.
    pub uri: bool,
}
