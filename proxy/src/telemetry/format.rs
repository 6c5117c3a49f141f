//! Envoy's format strings: literals and command operators, `%COMMAND(PARAMETER):LENGTH%`.
//!
//! Parsed once, off the data path; writing is in `format_write`. The same strings are used in
//! access logs (an absent value is `-`) and in headers to add (an absent value is empty).

use std::sync::Arc;

use crate::telemetry::format_tls::TlsField;

/// Envoy's own default for a file access log without a format.
pub const ENVOY_DEFAULT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
     %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \
     \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \
     \"%UPSTREAM_HOST%\"\n";

/// Istio's default.
pub const ISTIO_DEFAULT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
     %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \
     \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
     %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \
     \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% \
     %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

/// A header that a format names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderName {
    /// `:method`.
    Method,
    /// `:path`.
    Path,
    /// `:authority`; `host` of HTTP/1 is the same thing.
    Authority,
    /// `:scheme`.
    Scheme,
    /// `:status`.
    Status,
    /// Any other.
    Plain(http::HeaderName),
}

/// Which side of a socket address to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `ip:port`.
    Whole,
    /// The IP address.
    Ip,
    /// The port.
    Port,
}

/// What an operator writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// `REQ(name?or)`.
    Request {
        /// The header.
        name: HeaderName,
        /// Used when the header is absent.
        or: Option<HeaderName>,
        /// `REQ_WITHOUT_QUERY`.
        without_query: bool,
    },
    /// `RESP(name?or)`.
    Response {
        /// The header.
        name: HeaderName,
        /// Used when the header is absent.
        or: Option<HeaderName>,
    },
    /// `TRAILER(name?or)`.
    Trailer {
        /// The trailer.
        name: HeaderName,
        /// Used when the trailer is absent.
        or: Option<HeaderName>,
    },
    /// `START_TIME`, with a strftime format or the default.
    StartTime(Option<Arc<str>>),
    /// `PROTOCOL`.
    Protocol,
    /// `UPSTREAM_PROTOCOL`.
    UpstreamProtocol,
    /// `RESPONSE_CODE`.
    ResponseCode,
    /// `RESPONSE_CODE_DETAILS`.
    Details,
    /// `CONNECTION_TERMINATION_DETAILS`.
    TerminationDetails,
    /// `RESPONSE_FLAGS`, or the long names.
    Flags {
        /// `RESPONSE_FLAGS_LONG`.
        long: bool,
    },
    /// `BYTES_RECEIVED`.
    BytesReceived,
    /// `BYTES_SENT`.
    BytesSent,
    /// `DURATION`, ms.
    Duration,
    /// `REQUEST_DURATION`, ms.
    RequestDuration,
    /// `RESPONSE_DURATION`, ms.
    ResponseDuration,
    /// `RESPONSE_TX_DURATION`, ms.
    ResponseTxDuration,
    /// `UPSTREAM_HOST` and `UPSTREAM_REMOTE_ADDRESS`.
    UpstreamHost(Part),
    /// `UPSTREAM_CLUSTER` and `UPSTREAM_CLUSTER_RAW`.
    UpstreamCluster,
    /// `UPSTREAM_LOCAL_ADDRESS`.
    UpstreamLocal(Part),
    /// `UPSTREAM_TRANSPORT_FAILURE_REASON`.
    TransportFailure,
    /// `UPSTREAM_REQUEST_ATTEMPT_COUNT`.
    Attempts,
    /// `DOWNSTREAM_LOCAL_ADDRESS`.
    DownstreamLocal(Part),
    /// `DOWNSTREAM_REMOTE_ADDRESS`.
    DownstreamRemote(Part),
    /// `DOWNSTREAM_DIRECT_REMOTE_ADDRESS`.
    DownstreamDirectRemote(Part),
    /// `REQUESTED_SERVER_NAME`.
    RequestedServerName,
    /// `ROUTE_NAME`.
    RouteName,
    /// `VIRTUAL_CLUSTER_NAME`.
    VirtualCluster,
    /// `LOCAL_REPLY_BODY`.
    LocalReplyBody,
    /// A value fixed at configuration time: `HOSTNAME`, `ENVIRONMENT(X)`.
    Constant(Arc<str>),
    /// An operator about TLS.
    Tls(TlsField),
    /// An operator whose source (filter state, metadata) this stream cannot have.
    Absent,
}

/// A literal or an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Literal(Box<str>),
    Field { field: Field, limit: Option<usize> },
}

/// What a line looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    pub(super) shape: Shape,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Text(Vec<Piece>),
    Json(Node),
}

/// A node of a JSON format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Object(Vec<(Box<str>, Node)>),
    List(Vec<Node>),
    /// A string that may hold operators.
    Text(Vec<Piece>),
    /// Any other value, already in JSON.
    Fixed(Box<str>),
}

/// Why a format string is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// A `%` without its partner.
    #[error("incorrect format \"{0}\": expected an operator like %PROTOCOL% at byte {1}; a single % is written %%")]
    Syntax(String, usize),
    /// No such operator.
    #[error("unknown operator %{0}%")]
    Unknown(String),
    /// A parameter that makes no sense.
    #[error("operator %{0}%: {1}")]
    Parameter(String, &'static str),
}

impl Format {
    /// Parses a text format; it must bring its own line end.
    pub fn text(source: &str) -> Result<Self, FormatError> {
        Ok(Self { shape: Shape::Text(pieces(source)?) })
    }

    /// Parses a JSON format: strings in `value` are formats.
    pub fn json(value: &serde_json::Value) -> Result<Self, FormatError> {
        Ok(Self { shape: Shape::Json(node(value)?) })
    }

    /// Whether it is a literal without operators.
    pub fn as_literal(&self) -> Option<&str> {
        match &self.shape {
            Shape::Text(pieces) => match pieces.as_slice() {
                [] => Some(""),
                [Piece::Literal(text)] => Some(text),
                _ => None,
            },
            Shape::Json(_) => None,
        }
    }

    /// Its operators.
    pub fn fields(&self) -> Vec<&Field> {
        let mut fields = Vec::new();
        match &self.shape {
            Shape::Text(pieces) => fields_of(pieces, &mut fields),
            Shape::Json(node) => node.fields(&mut fields),
        }
        fields
    }
}

impl Node {
    fn fields<'a>(&'a self, fields: &mut Vec<&'a Field>) {
        match self {
            Self::Object(members) => members.iter().for_each(|(_, node)| node.fields(fields)),
            Self::List(nodes) => nodes.iter().for_each(|node| node.fields(fields)),
            Self::Text(pieces) => fields_of(pieces, fields),
            Self::Fixed(_) => {}
        }
    }
}

fn fields_of<'a>(pieces: &'a [Piece], fields: &mut Vec<&'a Field>) {
    fields.extend(pieces.iter().filter_map(|piece| match piece {
        Piece::Field { field, .. } => Some(field),
        Piece::Literal(_) => None,
    }));
}

fn node(value: &serde_json::Value) -> Result<Node, FormatError> {
    Ok(match value {
        serde_json::Value::Object(members) => Node::Object(
            members
                .iter()
                .map(|(key, value)| {
                    let key = serde_json::Value::String(key.clone()).to_string().into_boxed_str();
                    Ok((key, node(value)?))
                })
                .collect::<Result<_, FormatError>>()?,
        ),
        serde_json::Value::Array(values) => Node::List(values.iter().map(node).collect::<Result<_, _>>()?),
        serde_json::Value::String(text) => Node::Text(pieces(text)?),
        other => Node::Fixed(other.to_string().into_boxed_str()),
    })
}

fn pieces(source: &str) -> Result<Vec<Piece>, FormatError> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = source;
    while let Some(at) = rest.find('%') {
        literal.push_str(&rest[..at]);
        let here = source.len() - rest.len() + at;
        let after = &rest[at + 1..];
        if let Some(next) = after.strip_prefix('%') {
            literal.push('%');
            rest = next;
            continue;
        }
        let operator = Operator::parse(after).ok_or_else(|| FormatError::Syntax(source.trim_end().into(), here))?;
        if !literal.is_empty() {
            pieces.push(Piece::Literal(std::mem::take(&mut literal).into()));
        }
        pieces.push(Piece::Field { field: operator.field()?, limit: operator.limit });
        rest = operator.rest;
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal.into()));
    }
    Ok(pieces)
}

/// `COMMAND(PARAMETER):LENGTH%` taken apart.
struct Operator<'a> {
    command: &'a str,
    parameter: Option<&'a str>,
    limit: Option<usize>,
    rest: &'a str,
}

impl<'a> Operator<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let end = text.find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))?;
        let (command, mut rest) = text.split_at(end);
        if command.is_empty() {
            return None;
        }
        let mut parameter = None;
        if let Some(inner) = rest.strip_prefix('(') {
            // A parameter may hold % (strftime), so its end is `)%` or `):`.
            let close = inner
                .match_indices(')')
                .map(|(at, _)| at)
                .find(|at| matches!(inner.as_bytes().get(at + 1), Some(b'%' | b':')))?;
            parameter = Some(&inner[..close]);
            rest = &inner[close + 1..];
        }
        let mut limit = None;
        if let Some(inner) = rest.strip_prefix(':') {
            let end = inner.find('%')?;
            limit = Some(inner[..end].parse().ok()?);
            rest = &inner[end..];
        }
        Some(Self { command, parameter, limit, rest: rest.strip_prefix('%')? })
    }

    fn field(&self) -> Result<Field, FormatError> {
        use Part::{Ip, Port, Whole};
        if let Some(field) = self.with_parameter()? {
            return Ok(field);
        }
        let field = match self.command {
            "PROTOCOL" => Field::Protocol,
            "UPSTREAM_PROTOCOL" => Field::UpstreamProtocol,
            "RESPONSE_CODE" => Field::ResponseCode,
            "RESPONSE_CODE_DETAILS" => Field::Details,
            "CONNECTION_TERMINATION_DETAILS" => Field::TerminationDetails,
            "RESPONSE_FLAGS" => Field::Flags { long: false },
            "RESPONSE_FLAGS_LONG" => Field::Flags { long: true },
            "BYTES_RECEIVED" => Field::BytesReceived,
            "BYTES_SENT" => Field::BytesSent,
            "DURATION" => Field::Duration,
            "REQUEST_DURATION" => Field::RequestDuration,
            "RESPONSE_DURATION" => Field::ResponseDuration,
            "RESPONSE_TX_DURATION" => Field::ResponseTxDuration,
            "UPSTREAM_HOST" | "UPSTREAM_REMOTE_ADDRESS" => Field::UpstreamHost(Whole),
            "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Field::UpstreamHost(Ip),
            "UPSTREAM_REMOTE_PORT" => Field::UpstreamHost(Port),
            "UPSTREAM_CLUSTER" | "UPSTREAM_CLUSTER_RAW" => Field::UpstreamCluster,
            "UPSTREAM_LOCAL_ADDRESS" => Field::UpstreamLocal(Whole),
            "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Field::UpstreamLocal(Ip),
            "UPSTREAM_LOCAL_PORT" => Field::UpstreamLocal(Port),
            "UPSTREAM_TRANSPORT_FAILURE_REASON" => Field::TransportFailure,
            "UPSTREAM_REQUEST_ATTEMPT_COUNT" => Field::Attempts,
            "DOWNSTREAM_LOCAL_ADDRESS" => Field::DownstreamLocal(Whole),
            "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Field::DownstreamLocal(Ip),
            "DOWNSTREAM_LOCAL_PORT" => Field::DownstreamLocal(Port),
            "DOWNSTREAM_REMOTE_ADDRESS" => Field::DownstreamRemote(Whole),
            "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Field::DownstreamRemote(Ip),
            "DOWNSTREAM_REMOTE_PORT" => Field::DownstreamRemote(Port),
            "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => Field::DownstreamDirectRemote(Whole),
            "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => Field::DownstreamDirectRemote(Ip),
            "DOWNSTREAM_DIRECT_REMOTE_PORT" => Field::DownstreamDirectRemote(Port),
            "REQUESTED_SERVER_NAME" => Field::RequestedServerName,
            "ROUTE_NAME" => Field::RouteName,
            "VIRTUAL_CLUSTER_NAME" => Field::VirtualCluster,
            "LOCAL_REPLY_BODY" => Field::LocalReplyBody,
            "HOSTNAME" => Field::Constant(hostname()),
            command => match TlsField::parse(command, self.parameter) {
                Some(field) if field.takes_parameter() => return Ok(Field::Tls(field)),
                Some(field) => Field::Tls(field),
                None => return Err(FormatError::Unknown(command.into())),
            },
        };
        match self.parameter {
            Some(_) => Err(self.bad("takes no parameter")),
            None => Ok(field),
        }
    }

    fn with_parameter(&self) -> Result<Option<Field>, FormatError> {
        Ok(Some(match self.command {
            "REQ" => {
                let (name, or) = self.header_names()?;
                Field::Request { name, or, without_query: false }
            }
            "REQ_WITHOUT_QUERY" => {
                let (name, or) = self.header_names()?;
                Field::Request { name, or, without_query: true }
            }
            "RESP" => {
                let (name, or) = self.header_names()?;
                Field::Response { name, or }
            }
            "TRAILER" => {
                let (name, or) = self.header_names()?;
                Field::Trailer { name, or }
            }
            "START_TIME" => match self.parameter {
                None | Some("") => Field::StartTime(None),
                Some(format) => {
                    let epoch = jiff::Timestamp::UNIX_EPOCH;
                    jiff::fmt::strtime::format(format, &epoch.to_zoned(jiff::tz::TimeZone::UTC))
                        .map_err(|_| self.bad("expected a strftime format"))?;
                    Field::StartTime(Some(format.into()))
                }
            },
            "ENVIRONMENT" => match self.parameter {
                Some(name) if !name.is_empty() => match std::env::var(name) {
                    Ok(value) => Field::Constant(value.into()),
                    Err(_) => Field::Absent,
                },
                _ => return Err(self.bad("expected the name of a variable")),
            },
            "DYNAMIC_METADATA"
            | "FILTER_STATE"
            | "UPSTREAM_METADATA"
            | "CLUSTER_METADATA"
            | "UPSTREAM_FILTER_STATE" => match self.parameter {
                Some(name) if !name.is_empty() => Field::Absent,
                _ => return Err(self.bad("expected a parameter")),
            },
            _ => return Ok(None),
        }))
    }

    fn header_names(&self) -> Result<(HeaderName, Option<HeaderName>), FormatError> {
        let parameter = self.parameter.ok_or_else(|| self.bad("expected a header name"))?;
        let mut names = parameter.split('?');
        let name = self.header_name(names.next().unwrap_or_default())?;
        let or = names.next().map(|name| self.header_name(name)).transpose()?;
        match names.next() {
            Some(_) => Err(self.bad("at most one alternative header name")),
            None => Ok((name, or)),
        }
    }

    fn header_name(&self, name: &str) -> Result<HeaderName, FormatError> {
        let lower = name.to_ascii_lowercase();
        Ok(match lower.as_str() {
            ":method" => HeaderName::Method,
            ":path" => HeaderName::Path,
            ":authority" | "host" => HeaderName::Authority,
            ":scheme" => HeaderName::Scheme,
            ":status" => HeaderName::Status,
            plain => HeaderName::Plain(
                http::HeaderName::from_bytes(plain.as_bytes()).map_err(|_| self.bad("not a header name"))?,
            ),
        })
    }

    fn bad(&self, why: &'static str) -> FormatError {
        FormatError::Parameter(self.command.into(), why)
    }
}

fn hostname() -> Arc<str> {
    nix::unistd::gethostname().map_or_else(|_| "-".into(), |name| name.to_string_lossy().into())
}
