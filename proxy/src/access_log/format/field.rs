//! What a format is made of: literals, and operators as they are parsed.

use std::sync::Arc;

use super::{cel::Cel, time::TimeFormat, tls::TlsField};
use crate::access_log::header_name::HeaderName;

/// `name?or`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// The header.
    pub name: HeaderName,
    /// Used when it is absent.
    pub or: Option<HeaderName>,
}

impl Names {
    /// Visits both.
    pub fn each(&self, visit: &mut impl FnMut(&HeaderName)) {
        visit(&self.name);
        self.or.iter().for_each(visit);
    }

    /// The first value that `find` finds.
    pub(super) fn first<'a>(&self, find: impl Fn(&HeaderName) -> Option<&'a [u8]>) -> Option<&'a [u8]> {
        find(&self.name).or_else(|| self.or.as_ref().and_then(&find))
    }
}

/// How to write a socket address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `ip:port`.
    Whole,
    /// The IP address.
    Ip,
    /// The network of so many bits that it is in, where it is IPv4 or IPv6.
    Network(u8),
    /// The port.
    Port,
}

/// Which path an operator means, when it was rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selected {
    /// `ORIG`: the original.
    Original,
    /// `PATH`: the path as it is.
    Path,
    /// `ORIG_OR_PATH`: the original if there is one.
    Either,
}

/// What of the bytes of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bytes {
    /// Bodies.
    Body,
    /// All of them.
    Wire,
    /// Headers as they were sent.
    Headers,
    /// Headers before compression.
    Decompressed,
}

/// Where bytes flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// From the client.
    Received,
    /// To the client.
    Sent,
    /// From the upstream.
    UpstreamReceived,
    /// To the upstream.
    UpstreamSent,
}

/// Headers whose size is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Headers {
    /// The request's.
    Request,
    /// The response's.
    Response,
    /// The response's trailers.
    Trailers,
}

/// A time that an operator counts from the start of the stream, in ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// Until now.
    Total,
    /// Until the last byte of the request came.
    Request,
    /// Until the last byte of the request was sent upstream.
    RequestSent,
    /// Until the first byte of the response came.
    Response,
    /// From the first byte of the response to the last byte sent to the client.
    ResponseSent,
    /// Until the client's TLS handshake was done.
    Handshake,
    /// How long a connection was waited for.
    PoolReady,
}

/// A point in time that `COMMON_DURATION` knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// DS_RX_BEG.
    Start,
    /// DS_RX_END.
    RequestReceived,
    /// US_CX_BEG.
    ConnectBegan,
    /// US_CX_END.
    Connected,
    /// US_HS_END.
    UpstreamSecured,
    /// US_TX_BEG.
    RequestSentFrom,
    /// US_TX_END.
    RequestSent,
    /// US_RX_BEG.
    ResponseStarted,
    /// US_RX_BODY_BEG.
    BodyStarted,
    /// US_RX_END.
    ResponseReceived,
    /// DS_TX_BEG.
    ReplyBegan,
    /// DS_TX_END.
    ReplyEnded,
    /// A name that nothing sets.
    Unset,
}

/// Units of `COMMON_DURATION`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// ms.
    Millis,
    /// us.
    Micros,
    /// ns.
    Nanos,
}

/// How a gRPC status is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrpcForm {
    /// `PermissionDenied`.
    Camel,
    /// `PERMISSION_DENIED`.
    Snake,
    /// 7.
    Number,
}

/// Whose metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetadataOf {
    /// Set by filters.
    Dynamic,
    /// The cluster's.
    Cluster,
    /// The endpoint's.
    Host,
    /// The route's.
    Route,
    /// The virtual host's.
    VirtualHost,
    /// The listener's.
    Listener,
    /// The filter chain's.
    FilterChain,
}

/// What an operator writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// `REQ(name?or)`, `REQ_WITHOUT_QUERY`.
    Request {
        /// The header.
        names: Names,
        /// Without what follows a `?`.
        without_query: bool,
    },
    /// `RESP(name?or)`.
    Response(Names),
    /// `TRAILER(name?or)`.
    Trailer(Names),
    /// `PATH`.
    Path {
        /// With the query.
        query: bool,
        /// Which.
        selected: Selected,
    },
    /// `QUERY_PARAM(name)`.
    QueryParameter(Box<str>),
    /// `QUERY_PARAMS`.
    Query(Selected),
    /// `REQUEST_HEADERS_BYTES` and the like.
    Size(Headers),
    /// `START_TIME`, `EMIT_TIME`.
    Time {
        /// Now, and not when the stream began.
        now: bool,
        /// How.
        format: TimeFormat,
    },
    /// `PROTOCOL`.
    Protocol,
    /// `UPSTREAM_PROTOCOL`.
    UpstreamProtocol,
    /// `RESPONSE_CODE`.
    ResponseCode,
    /// `RESPONSE_CODE_DETAILS`.
    Details {
        /// Spaces stay.
        spaces: bool,
    },
    /// `CONNECTION_TERMINATION_DETAILS`.
    TerminationDetails,
    /// `RESPONSE_FLAGS`, or the long names.
    Flags {
        /// `RESPONSE_FLAGS_LONG`.
        long: bool,
    },
    /// `BYTES_RECEIVED` and its relatives.
    Bytes(Bytes, Flow),
    /// `DURATION` and its relatives.
    Duration(Span),
    /// `COMMON_DURATION(from:to:precision)`.
    Between {
        /// From.
        from: Point,
        /// To.
        to: Point,
        /// In.
        precision: Precision,
    },
    /// `UPSTREAM_HOST`.
    UpstreamHost,
    /// `UPSTREAM_REMOTE_ADDRESS`: of the connection.
    UpstreamRemote(Part),
    /// `UPSTREAM_HOST_NAME`, or without its port.
    UpstreamHostName {
        /// With its port.
        port: bool,
    },
    /// `UPSTREAM_HOSTS_ATTEMPTED` and its relatives.
    History(Tried),
    /// `UPSTREAM_CONNECTION_IDS_ATTEMPTED`.
    ConnectionHistory,
    /// `UPSTREAM_CONNECTION_ID`.
    UpstreamConnection,
    /// `UPSTREAM_CLUSTER`, `UPSTREAM_CLUSTER_RAW`.
    UpstreamCluster {
        /// Its name, even if it is counted under another one.
        raw: bool,
    },
    /// `UPSTREAM_LOCAL_ADDRESS`.
    UpstreamLocal(Part),
    /// `UPSTREAM_TRANSPORT_FAILURE_REASON`.
    TransportFailure,
    /// `UPSTREAM_REQUEST_ATTEMPT_COUNT`.
    Attempts,
    /// `DOWNSTREAM_DETECTED_CLOSE_TYPE`.
    DownstreamCloseType,
    /// `UPSTREAM_DETECTED_CLOSE_TYPE`.
    UpstreamCloseType,
    /// `UPSTREAM_REMOTE_ADDRESS_ENDPOINT_ID`: empty for addresses of the network.
    UpstreamEndpointId,
    /// `DOWNSTREAM_LOCAL_CLOSE_REASON`.
    LocalCloseReason,
    /// `UPSTREAM_LOCAL_CLOSE_REASON`.
    UpstreamCloseReason,
    /// `DOWNSTREAM_LOCAL_ADDRESS`.
    DownstreamLocal(Part),
    /// `DOWNSTREAM_REMOTE_ADDRESS`.
    DownstreamRemote(Part),
    /// `DOWNSTREAM_DIRECT_REMOTE_ADDRESS`.
    DownstreamDirectRemote(Part),
    /// `REQUESTED_SERVER_NAME`.
    RequestedServerName {
        /// What of the request takes part; none: SNI only.
        host: Option<Selected>,
        /// SNI goes before.
        sni_first: bool,
    },
    /// `TLS_JA3_FINGERPRINT`.
    Ja3,
    /// `TLS_JA4_FINGERPRINT`.
    Ja4,
    /// `ROUTE_NAME`.
    RouteName,
    /// `VIRTUAL_CLUSTER_NAME`.
    VirtualCluster,
    /// `LISTENER_NAME`.
    ListenerName,
    /// `FILTER_CHAIN_NAME`.
    FilterChainName,
    /// `CONNECTION_ID`.
    ConnectionId,
    /// `STREAM_ID`.
    StreamId,
    /// `UNIQUE_ID`.
    UniqueId,
    /// `ACCESS_LOG_TYPE`.
    LogType,
    /// `GRPC_STATUS`, `GRPC_STATUS_NUMBER`.
    GrpcStatus(GrpcForm),
    /// `METADATA(...)` and its older forms.
    Metadata {
        /// Whose.
        of: MetadataOf,
        /// The namespace.
        namespace: Box<str>,
        /// Keys, from the outside in; none: the whole namespace.
        path: Vec<Box<str>>,
    },
    /// `FILTER_STATE(key)`.
    FilterState {
        /// The object's name.
        key: Box<str>,
        /// As what it is, in JSON; else as a text.
        typed: bool,
    },
    /// `CEL(expression)`, `TYPED_CEL(expression)`.
    Cel(Cel),
    /// `LOCAL_REPLY_BODY`.
    LocalReplyBody,
    /// The first of several operators that has a value.
    Coalesce(Vec<Limited>),
    /// A value fixed at configuration time: `HOSTNAME`, `ENVIRONMENT(X)`.
    Constant(Arc<str>),
    /// A number that is always the same here.
    Number(u64),
    /// An operator about TLS.
    Tls(TlsField),
    /// An operator whose source (filter state, traces) this stream cannot have.
    Absent,
}

/// How endpoints that were tried are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tried {
    /// Names, not addresses.
    pub names: bool,
    /// With ports.
    pub ports: bool,
}

/// An operator, cut to a length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limited {
    /// The operator.
    pub field: Field,
    /// Bytes at most.
    pub limit: Option<usize>,
}

/// A literal or an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Literal(Box<str>),
    Field(Limited),
}

/// Visits the operators of pieces.
pub(super) fn each_of(pieces: &[Piece], visit: &mut impl FnMut(&Field)) {
    for piece in pieces {
        if let Piece::Field(limited) = piece {
            limited.field.each(visit);
        }
    }
}

impl Field {
    /// Visits it, and those within it.
    pub(super) fn each(&self, visit: &mut impl FnMut(&Field)) {
        visit(self);
        if let Self::Coalesce(operators) = self {
            for operator in operators {
                // Not generic recursion without end: a reference to the same visitor.
                operator.field.each(visit);
            }
        }
    }
}
