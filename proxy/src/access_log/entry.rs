//! What is known about a stream or a connection when its access log line is written.
//!
//! An [`Entry`] is filled along the data path. Headers are gone by the time a line is written (they have been moved to
//! the other side), so the ones that some format or filter names are kept in [`Kept`] as they pass: cheap clones of
//! shared bytes.

use std::{
    borrow::Cow,
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Instant, SystemTime},
};

use smallvec::SmallVec;

use super::{flag::Flag, kept::Kept};
use crate::{
    filter_state::FilterState,
    matcher::metadata::{EndpointMetadata, Metadata},
    tls::{PeerTls, fingerprint::Fingerprints},
};

/// Why a line is written, as in `%ACCESS_LOG_TYPE%`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogType {
    /// A listener's line.
    #[default]
    NotSet,
    /// A TCP connection has its upstream.
    TcpUpstreamConnected,
    /// A TCP connection has come.
    TcpConnectionStart,
    /// A TCP connection that goes on.
    TcpPeriodic,
    /// A TCP connection has ended.
    TcpConnectionEnd,
    /// A request has come.
    DownstreamStart,
    /// A request that goes on.
    DownstreamPeriodic,
    /// A request has ended.
    DownstreamEnd,
    /// A tunnel through an HTTP request stands.
    DownstreamTunnelSuccessfullyEstablished,
    /// A request to an upstream has its connection.
    UpstreamPoolReady,
    /// A request to an upstream that goes on.
    UpstreamPeriodic,
    /// A request to an upstream has ended.
    UpstreamEnd,
}

impl LogType {
    /// As Envoy writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotSet => "NotSet",
            Self::TcpUpstreamConnected => "TcpUpstreamConnected",
            Self::TcpConnectionStart => "TcpConnectionStart",
            Self::TcpPeriodic => "TcpPeriodic",
            Self::TcpConnectionEnd => "TcpConnectionEnd",
            Self::DownstreamStart => "DownstreamStart",
            Self::DownstreamPeriodic => "DownstreamPeriodic",
            Self::DownstreamEnd => "DownstreamEnd",
            Self::DownstreamTunnelSuccessfullyEstablished => "DownstreamTunnelSuccessfullyEstablished",
            Self::UpstreamPoolReady => "UpstreamPoolReady",
            Self::UpstreamPeriodic => "UpstreamPeriodic",
            Self::UpstreamEnd => "UpstreamEnd",
        }
    }

    /// Whether it is of the router's log of requests to upstreams.
    pub const fn is_upstreams(self) -> bool {
        matches!(self, Self::UpstreamPoolReady | Self::UpstreamPeriodic | Self::UpstreamEnd)
    }
}

/// What logs say of the listener and the filter chain of a connection.
#[derive(Debug, Default)]
pub struct Place {
    /// The listener's name.
    pub listener: Arc<str>,
    /// The filter chain's name; empty: none.
    pub filter_chain: Arc<str>,
    /// The listener's metadata.
    pub listener_metadata: Option<Arc<Metadata>>,
    /// The filter chain's metadata.
    pub chain_metadata: Option<Metadata>,
}

/// What logs say of a cluster.
#[derive(Clone, Debug, Default)]
pub struct ClusterNames {
    /// Its name: `%UPSTREAM_CLUSTER_RAW%`.
    pub name: Arc<str>,
    /// What it is counted under: `%UPSTREAM_CLUSTER%`.
    pub observability: Arc<str>,
    /// Its metadata.
    pub metadata: Option<Metadata>,
}

impl ClusterNames {
    /// Of a cluster that is only a name.
    pub fn of(name: Arc<str>) -> Arc<Self> {
        Arc::new(Self { observability: name.clone(), name, metadata: None })
    }
}

/// An endpoint as logs name it.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Its address.
    pub address: SocketAddr,
    /// Its name; none: it is known by its address.
    pub hostname: Option<Arc<str>>,
    /// Its metadata.
    pub metadata: Option<Arc<EndpointMetadata>>,
}

/// Metadata of what a request was routed by.
#[derive(Clone, Debug, Default)]
pub struct RouteMetadata {
    /// The route's.
    pub route: Option<Arc<Metadata>>,
    /// The virtual host's.
    pub virtual_host: Option<Arc<Metadata>>,
}

/// When what happened; the names are those of `%COMMON_DURATION%`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timing {
    /// US_CX_BEG: a connection to the upstream was begun.
    pub connect_began: Option<Instant>,
    /// US_CX_END: it was there.
    pub connected: Option<Instant>,
    /// US_HS_END: its TLS handshake was done.
    pub upstream_secured: Option<Instant>,
    /// A connection, new or pooled, was asked for.
    pub asked: Option<Instant>,
    /// It was given.
    pub ready: Option<Instant>,
    /// US_TX_BEG: the first byte of the request was on its way.
    pub request_sent_from: Option<Instant>,
    /// US_TX_END: its last byte was.
    pub request_sent: Option<Instant>,
    /// US_RX_BODY_BEG: the first byte of the response's body has come.
    pub body_started: Option<Instant>,
    /// US_RX_END: the last byte of the response has come.
    pub response_received: Option<Instant>,
    /// DS_TX_BEG: the first byte of the response was on its way to the client.
    pub reply_began: Option<Instant>,
    /// DS_TX_END: its last byte was.
    pub reply_ended: Option<Instant>,
    /// The client's TLS handshake was done.
    pub downstream_secured: Option<Instant>,
}

/// Bytes of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metered {
    /// Of headers: names, values and what separates them, as HTTP/1 writes them.
    pub headers: u64,
    /// Of headers before compression.
    pub decompressed: u64,
    /// Everything.
    pub wire: u64,
}

impl std::ops::AddAssign for Metered {
    fn add_assign(&mut self, other: Self) {
        self.headers += other.headers;
        self.decompressed += other.decompressed;
        self.wire += other.wire;
    }
}

/// Bytes of a stream on both connections.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meters {
    /// From the client.
    pub downstream_received: Metered,
    /// To the client.
    pub downstream_sent: Metered,
    /// From the upstream.
    pub upstream_received: Metered,
    /// To the upstream.
    pub upstream_sent: Metered,
}

/// How a connection was closed: `%DOWNSTREAM_DETECTED_CLOSE_TYPE%`, `%UPSTREAM_DETECTED_CLOSE_TYPE%`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CloseType {
    /// In order, or not yet.
    #[default]
    Normal,
    /// By a reset of this side.
    LocalReset,
    /// By a reset of the peer.
    RemoteReset,
}

impl CloseType {
    /// As Envoy writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::LocalReset => "LocalReset",
            Self::RemoteReset => "RemoteReset",
        }
    }
}

/// What a line may say about one HTTP stream or one TCP connection.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The number of the client's connection.
    pub connection: u64,
    /// Listener and filter chain.
    pub place: Option<Arc<Place>>,
    /// When it began, for durations.
    pub start: Instant,
    /// When it began, for `%START_TIME%`.
    pub start_time: SystemTime,
    /// The request is complete: when its last byte was received.
    pub request_received: Option<Instant>,
    /// When the first byte of the response came from upstream.
    pub response_started: Option<Instant>,
    /// When the rest happened.
    pub timing: Timing,
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
    /// Why this side closed the client's connection; empty: it did not.
    pub local_close_reason: Cow<'static, str>,
    /// Why this side closed the upstream's connection; empty: it did not.
    pub upstream_close_reason: &'static str,
    /// How the client's connection was closed.
    pub downstream_close: CloseType,
    /// How the upstream's was.
    pub upstream_close: CloseType,
    /// The client's TLS; none: it is bare.
    pub tls: Option<Rc<PeerTls>>,
    /// The upstream's.
    pub upstream_tls: Option<Rc<PeerTls>>,
    /// Body bytes from the client.
    pub bytes_received: u64,
    /// Body bytes to the client.
    pub bytes_sent: u64,
    /// All bytes, where something asks for them.
    pub meters: Meters,
    /// The endpoint chosen last.
    pub upstream: Option<Upstream>,
    /// The endpoints that a TCP connection tried before it.
    pub tried: SmallVec<[Upstream; 0]>,
    /// The upstream connection's number; 0: there is none.
    pub upstream_connection: u64,
    /// The cluster chosen.
    pub cluster: Option<Arc<ClusterNames>>,
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
    /// Of the client's ClientHello; none: none were taken.
    pub fingerprints: Option<Arc<Fingerprints>>,
    /// The route's name.
    pub route_name: Option<Arc<str>>,
    /// Metadata of the route and the virtual host.
    pub route_metadata: RouteMetadata,
    /// Dynamic metadata.
    pub metadata: Option<Box<Metadata>>,
    /// Filter state; none: nothing is kept.
    pub filter_state: Option<Box<FilterState>>,
    /// The virtual cluster's name.
    pub virtual_cluster: Option<Arc<str>>,
    /// It is a health check.
    pub health_check: bool,
    /// The body of a response made here, while another one is made from it.
    pub local_reply: Option<bytes::Bytes>,
    /// Headers that some format or filter names.
    pub kept: Kept,
}

impl Entry {
    /// A stream that begins now on a connection from `remote` to `local`.
    pub fn new(local: SocketAddr, remote: SocketAddr) -> Self {
        Self::at(Instant::now(), SystemTime::now(), local, remote)
    }

    /// A stream or connection that began at `start`.
    pub fn since(start: Instant, local: SocketAddr, remote: SocketAddr) -> Self {
        Self::at(start, SystemTime::now() - start.elapsed(), local, remote)
    }

    fn at(start: Instant, start_time: SystemTime, local: SocketAddr, remote: SocketAddr) -> Self {
        Self {
            connection: 0,
            place: None,
            start,
            start_time,
            request_received: None,
            response_started: None,
            timing: Timing::default(),
            protocol: None,
            upstream_protocol: None,
            response_code: 0,
            flags: SmallVec::new(),
            details: Cow::Borrowed(""),
            termination_details: Cow::Borrowed(""),
            transport_failure: Cow::Borrowed(""),
            downstream_transport_failure: Cow::Borrowed(""),
            local_close_reason: Cow::Borrowed(""),
            upstream_close_reason: "",
            downstream_close: CloseType::Normal,
            upstream_close: CloseType::Normal,
            tls: None,
            upstream_tls: None,
            bytes_received: 0,
            bytes_sent: 0,
            meters: Meters::default(),
            upstream: None,
            tried: SmallVec::new(),
            upstream_connection: 0,
            cluster: None,
            upstream_local: None,
            attempts: 0,
            downstream_local: local,
            downstream_remote: remote,
            downstream_direct_remote: remote,
            requested_server_name: None,
            fingerprints: None,
            route_name: None,
            route_metadata: RouteMetadata::default(),
            metadata: None,
            filter_state: None,
            virtual_cluster: None,
            health_check: false,
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

/// The next connection's number: downstream and upstream connections are counted together, as in Envoy.
pub fn next_connection() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
