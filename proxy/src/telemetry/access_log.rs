//! What is known about a stream or a connection when its access log line is written, and where lines go.
//!
//! An [`Entry`] is filled along the data path. Headers are gone by the time a line is written (they have been moved to
//! the other side), so the ones that some format names are kept in [`Kept`] as they pass: cheap clones of shared bytes.

use std::{
    borrow::Cow,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Instant, SystemTime},
};

use http::{HeaderMap, HeaderValue, Method, Uri};
use smallvec::SmallVec;

use crate::{
    telemetry::{
        format::{Field, Format, HeaderName},
        writer::{LogFile, LogHandle},
    },
    tls::PeerTls,
};

/// Envoy's response flags: why a response is not simply the upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flag {
    /// UH: no healthy upstream.
    NoHealthyUpstream,
    /// UT: upstream request timeout.
    UpstreamRequestTimeout,
    /// UR: the upstream reset the stream.
    UpstreamRemoteReset,
    /// UF: the upstream connection could not be made.
    UpstreamConnectionFailure,
    /// UC: the upstream connection ended.
    UpstreamConnectionTermination,
    /// UO: a circuit breaker is open.
    UpstreamOverflow,
    /// NR: no route, or no filter chain.
    NoRouteFound,
    /// DC: the client closed its connection.
    DownstreamConnectionTermination,
    /// URX: the retries, or the connect attempts, are used up.
    UpstreamRetryLimitExceeded,
    /// SI: nothing moved within the stream idle timeout.
    StreamIdleTimeout,
    /// DPE: the client broke the protocol.
    DownstreamProtocolError,
    /// UPE: the upstream broke the protocol.
    UpstreamProtocolError,
    /// NC: the cluster does not exist.
    NoClusterFound,
    /// DR: the client reset the stream.
    DownstreamRemoteReset,
    /// UMSDR: the stream lasted longer than allowed.
    UpstreamMaxStreamDurationReached,
    /// DT: the connection or the request lasted longer than allowed.
    DurationTimeout,
    /// LR: reset here.
    LocalReset,
    /// LH: this process fails its health checks.
    FailedLocalHealthCheck,
    /// DI: delayed on purpose.
    DelayInjected,
    /// FI: aborted on purpose.
    FaultInjected,
    /// RL: a rate limit.
    RateLimited,
}

impl Flag {
    /// As in `%RESPONSE_FLAGS%`.
    pub const fn short(self) -> &'static str {
        match self {
            Self::NoHealthyUpstream => "UH",
            Self::UpstreamRequestTimeout => "UT",
            Self::UpstreamRemoteReset => "UR",
            Self::UpstreamConnectionFailure => "UF",
            Self::UpstreamConnectionTermination => "UC",
            Self::UpstreamOverflow => "UO",
            Self::NoRouteFound => "NR",
            Self::DownstreamConnectionTermination => "DC",
            Self::UpstreamRetryLimitExceeded => "URX",
            Self::StreamIdleTimeout => "SI",
            Self::DownstreamProtocolError => "DPE",
            Self::UpstreamProtocolError => "UPE",
            Self::NoClusterFound => "NC",
            Self::DownstreamRemoteReset => "DR",
            Self::UpstreamMaxStreamDurationReached => "UMSDR",
            Self::DurationTimeout => "DT",
            Self::LocalReset => "LR",
            Self::FailedLocalHealthCheck => "LH",
            Self::DelayInjected => "DI",
            Self::FaultInjected => "FI",
            Self::RateLimited => "RL",
        }
    }

    /// As in `%RESPONSE_FLAGS_LONG%`.
    pub const fn long(self) -> &'static str {
        match self {
            Self::NoHealthyUpstream => "NoHealthyUpstream",
            Self::UpstreamRequestTimeout => "UpstreamRequestTimeout",
            Self::UpstreamRemoteReset => "UpstreamRemoteReset",
            Self::UpstreamConnectionFailure => "UpstreamConnectionFailure",
            Self::UpstreamConnectionTermination => "UpstreamConnectionTermination",
            Self::UpstreamOverflow => "UpstreamOverflow",
            Self::NoRouteFound => "NoRouteFound",
            Self::DownstreamConnectionTermination => "DownstreamConnectionTermination",
            Self::UpstreamRetryLimitExceeded => "UpstreamRetryLimitExceeded",
            Self::StreamIdleTimeout => "StreamIdleTimeout",
            Self::DownstreamProtocolError => "DownstreamProtocolError",
            Self::UpstreamProtocolError => "UpstreamProtocolError",
            Self::NoClusterFound => "NoClusterFound",
            Self::DownstreamRemoteReset => "DownstreamRemoteReset",
            Self::UpstreamMaxStreamDurationReached => "UpstreamMaxStreamDurationReached",
            Self::DurationTimeout => "DurationTimeout",
            Self::LocalReset => "LocalReset",
            Self::FailedLocalHealthCheck => "FailedLocalHealthCheck",
            Self::DelayInjected => "DelayInjected",
            Self::FaultInjected => "FaultInjected",
            Self::RateLimited => "RateLimited",
        }
    }
}

/// What a line may say about one HTTP stream or one TCP connection.
#[derive(Clone, Debug)]
pub struct Entry {
    /// When it began, for durations.
    pub start: Instant,
    /// When it began, for `%START_TIME%`.
    pub start_time: SystemTime,
    /// The request is complete: when its last byte was received.
    pub request_received: Option<Instant>,
    /// When the first byte of the response came from upstream.
    pub response_started: Option<Instant>,
    /// `HTTP/1.1` and the like; none for TCP.
    pub protocol: Option<&'static str>,
    /// The upstream's.
    pub upstream_protocol: Option<&'static str>,
    /// 0 when no response was sent.
    pub response_code: u16,
    /// In the order in which they were raised.
    pub flags: SmallVec<[Flag; 2]>,
    /// `%RESPONSE_CODE_DETAILS%`; empty: unknown.
    pub details: Cow<'static, str>,
    /// `%CONNECTION_TERMINATION_DETAILS%`; empty: none.
    pub termination_details: Cow<'static, str>,
    /// `%UPSTREAM_TRANSPORT_FAILURE_REASON%`; empty: none.
    pub transport_failure: Cow<'static, str>,
    /// `%DOWNSTREAM_TRANSPORT_FAILURE_REASON%`; empty: none.
    pub downstream_transport_failure: Cow<'static, str>,
    /// The client's TLS; none: it is bare.
    pub tls: Option<Rc<PeerTls>>,
    /// The upstream's.
    pub upstream_tls: Option<Rc<PeerTls>>,
    /// Body bytes from the client.
    pub bytes_received: u64,
    /// Body bytes to the client.
    pub bytes_sent: u64,
    /// The endpoint chosen last.
    pub upstream_host: Option<SocketAddr>,
    /// The cluster chosen.
    pub upstream_cluster: Option<Arc<str>>,
    /// This side's address of the upstream connection.
    pub upstream_local: Option<SocketAddr>,
    /// How often an upstream was tried.
    pub attempts: u32,
    /// The address that the client connected to.
    pub downstream_local: SocketAddr,
    /// The client, as trusted headers say.
    pub downstream_remote: SocketAddr,
    /// The peer of the connection.
    pub downstream_direct_remote: SocketAddr,
    /// SNI.
    pub requested_server_name: Option<Arc<str>>,
    /// The route's name.
    pub route_name: Option<Arc<str>>,
    /// The virtual cluster's name.
    pub virtual_cluster: Option<Arc<str>>,
    /// The body of a response made here, while another one is made from it.
    pub local_reply: Option<bytes::Bytes>,
    /// Headers that some format names.
    pub kept: Kept,
}

impl Entry {
    /// A stream that begins now on a connection from `remote` to `local`.
    pub fn new(local: SocketAddr, remote: SocketAddr) -> Self {
        Self::since(Instant::now(), local, remote)
    }

    /// A stream or connection that began at `start`.
    pub fn since(start: Instant, local: SocketAddr, remote: SocketAddr) -> Self {
        Self {
            start,
            start_time: SystemTime::now() - start.elapsed(),
            request_received: None,
            response_started: None,
            protocol: None,
            upstream_protocol: None,
            response_code: 0,
            flags: SmallVec::new(),
            details: Cow::Borrowed(""),
            termination_details: Cow::Borrowed(""),
            transport_failure: Cow::Borrowed(""),
            downstream_transport_failure: Cow::Borrowed(""),
            tls: None,
            upstream_tls: None,
            bytes_received: 0,
            bytes_sent: 0,
            upstream_host: None,
            upstream_cluster: None,
            upstream_local: None,
            attempts: 0,
            downstream_local: local,
            downstream_remote: remote,
            downstream_direct_remote: remote,
            requested_server_name: None,
            route_name: None,
            virtual_cluster: None,
            local_reply: None,
            kept: Kept::default(),
        }
    }

    /// Raises a flag, once.
    pub fn raise(&mut self, flag: Flag) {
        if !self.flags.contains(&flag) {
            self.flags.push(flag);
        }
    }
}

/// A configured access log.
#[derive(Clone, Debug)]
pub struct AccessLog {
    /// Where lines go.
    pub file: LogFile,
    /// What they say.
    pub format: Arc<Format>,
}

/// Writes one line for `entry` to each of `logs`.
pub fn write(handle: &LogHandle, logs: &[AccessLog], entry: &Entry) {
    for log in logs {
        handle.append(&log.file, |line| log.format.write_line(line, &View::of(entry)));
    }
}

/// Which headers the formats of a set of access logs name: what [`Kept`] must keep.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    request: Vec<HeaderName>,
    response: Vec<http::HeaderName>,
    trailers: Vec<http::HeaderName>,
}

impl Wanted {
    /// What `logs` want.
    pub fn by(logs: &[AccessLog]) -> Self {
        let mut wanted = Self::default();
        for field in logs.iter().flat_map(|log| log.format.fields()) {
            match field {
                Field::Request { name, or, .. } => {
                    for name in std::iter::once(name).chain(or) {
                        if !wanted.request.contains(name) {
                            wanted.request.push(name.clone());
                        }
                    }
                }
                Field::Response { name, or } => {
                    add_plain(&mut wanted.response, std::iter::once(name).chain(or));
                }
                Field::Trailer { name, or } => {
                    add_plain(&mut wanted.trailers, std::iter::once(name).chain(or));
                }
                _ => {}
            }
        }
        wanted
    }
}

fn add_plain<'a>(list: &mut Vec<http::HeaderName>, names: impl Iterator<Item = &'a HeaderName>) {
    for name in names {
        if let HeaderName::Plain(name) = name
            && !list.contains(name)
        {
            list.push(name.clone());
        }
    }
}

/// The headers that some format names, as they passed.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    method: Option<Method>,
    uri: Option<Uri>,
    authority: Option<HeaderValue>,
    scheme: Option<&'static str>,
    request: SmallVec<[(http::HeaderName, HeaderValue); 4]>,
    response: SmallVec<[(http::HeaderName, HeaderValue); 1]>,
    trailers: SmallVec<[(http::HeaderName, HeaderValue); 0]>,
}

impl Kept {
    /// Keeps what is wanted of a request; a second call replaces the first.
    pub fn request(&mut self, wanted: &Wanted, method: &Method, uri: &Uri, scheme: &'static str, headers: &HeaderMap) {
        self.request.clear();
        for name in &wanted.request {
            match name {
                HeaderName::Method => self.method = Some(method.clone()),
                HeaderName::Path => self.uri = Some(uri.clone()),
                HeaderName::Scheme => self.scheme = Some(scheme),
                HeaderName::Authority => {
                    self.authority = headers.get(http::header::HOST).cloned().or_else(|| {
                        uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok())
                    });
                }
                HeaderName::Status => {}
                HeaderName::Plain(name) => keep(&mut self.request, name, headers),
            }
        }
    }

    /// Keeps what is wanted of a response.
    pub fn response(&mut self, wanted: &Wanted, headers: &HeaderMap) {
        self.response.clear();
        for name in &wanted.response {
            keep(&mut self.response, name, headers);
        }
    }

    /// Keeps what is wanted of the response's trailers.
    pub fn trailers(&mut self, wanted: &Wanted, headers: &HeaderMap) {
        self.trailers.clear();
        for name in &wanted.trailers {
            keep(&mut self.trailers, name, headers);
        }
    }
}

fn keep<const N: usize>(
    kept: &mut SmallVec<[(http::HeaderName, HeaderValue); N]>,
    name: &http::HeaderName,
    headers: &HeaderMap,
) where
    [(http::HeaderName, HeaderValue); N]: smallvec::Array<Item = (http::HeaderName, HeaderValue)>,
{
    if let Some(value) = headers.get(name) {
        kept.push((name.clone(), value.clone()));
    }
}

/// A live request, for formats in headers to add.
#[derive(Clone, Copy, Debug)]
pub struct Live<'a> {
    /// The method.
    pub method: &'a Method,
    /// The request target.
    pub uri: &'a Uri,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// The headers.
    pub headers: &'a HeaderMap,
}

/// What a format is written from: an entry, and headers that are still at hand.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// What is known.
    pub entry: &'a Entry,
    /// The request, if it is still at hand.
    pub request: Option<Live<'a>>,
    /// The response's headers, if they are still at hand.
    pub response: Option<&'a HeaderMap>,
}

impl<'a> View<'a> {
    /// At the end of a stream.
    pub fn of(entry: &'a Entry) -> Self {
        Self { entry, request: None, response: None }
    }

    /// A request header's value.
    pub fn request_header(&self, name: &HeaderName) -> Option<&'a [u8]> {
        let kept = &self.entry.kept;
        match (name, &self.request) {
            (HeaderName::Method, Some(live)) => Some(live.method.as_str().as_bytes()),
            (HeaderName::Method, None) => kept.method.as_ref().map(|method| method.as_str().as_bytes()),
            (HeaderName::Path, Some(live)) => path_of(live.uri),
            (HeaderName::Path, None) => kept.uri.as_ref().and_then(path_of),
            (HeaderName::Scheme, Some(live)) => Some(live.scheme.as_bytes()),
            (HeaderName::Scheme, None) => kept.scheme.map(str::as_bytes),
            (HeaderName::Authority, Some(live)) => live
                .headers
                .get(http::header::HOST)
                .map(HeaderValue::as_bytes)
                .or_else(|| live.uri.authority().map(|authority| authority.as_str().as_bytes())),
            (HeaderName::Authority, None) => kept.authority.as_ref().map(HeaderValue::as_bytes),
            (HeaderName::Status, _) => None,
            (HeaderName::Plain(name), Some(live)) => live.headers.get(name).map(HeaderValue::as_bytes),
            (HeaderName::Plain(name), None) => find(&kept.request, name),
        }
    }

    /// A response header's value; `:status` is written from the entry.
    pub fn response_header(&self, name: &HeaderName) -> Option<&'a [u8]> {
        let HeaderName::Plain(name) = name else { return None };
        match self.response {
            Some(headers) => headers.get(name).map(HeaderValue::as_bytes),
            None => find(&self.entry.kept.response, name),
        }
    }

    /// A trailer's value.
    pub fn trailer(&self, name: &HeaderName) -> Option<&'a [u8]> {
        let HeaderName::Plain(name) = name else { return None };
        find(&self.entry.kept.trailers, name)
    }
}

fn path_of(uri: &Uri) -> Option<&[u8]> {
    uri.path_and_query().map(|path| path.as_str().as_bytes())
}

fn find<'a>(kept: &'a [(http::HeaderName, HeaderValue)], name: &http::HeaderName) -> Option<&'a [u8]> {
    kept.iter().find(|(kept, _)| kept == name).map(|(_, value)| value.as_bytes())
}
