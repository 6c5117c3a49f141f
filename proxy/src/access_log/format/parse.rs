//! Parsing format strings. What is refused is refused in Envoy's words.

use std::sync::Arc;

use super::{
    cel::Cel,
    coalesce,
    error::FormatError,
    field::{
        Bytes, Field, Flow, GrpcForm, Headers, Limited, MetadataOf, Names, Part, Piece, Point, Precision, Selected,
        Span, Tried,
    },
    time::TimeFormat,
    tls::TlsField,
};
use crate::access_log::header_name::HeaderName;

/// An operator that a list names.
fn named(command: &str, parameter: &str, limit: Option<usize>) -> Result<Limited, FormatError> {
    Operator { command, parameter, limit, rest: "" }.limited()
}

/// The pieces of a format string.
pub(super) fn pieces(source: &str) -> Result<Vec<Piece>, FormatError> {
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
        let operator =
            Operator::parse(after).ok_or_else(|| FormatError::Syntax(source.trim_end().replace('\n', "\\n"), here))?;
        if !literal.is_empty() {
            pieces.push(Piece::Literal(std::mem::take(&mut literal).into()));
        }
        pieces.push(Piece::Field(operator.limited()?));
        rest = operator.rest;
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal.into()));
    }
    Ok(pieces)
}

/// `COMMAND(PARAMETER):LENGTH%` taken apart.
#[derive(Clone, Copy)]
struct Operator<'a> {
    pub command: &'a str,
    /// Empty: none.
    pub parameter: &'a str,
    pub limit: Option<usize>,
    rest: &'a str,
}

/// What may come with a command.
#[derive(Clone, Copy, PartialEq)]
enum Takes {
    Nothing,
    /// A parameter may come, a length must not.
    Optional,
    /// Both may come.
    OptionalAndLength,
    /// A parameter must come.
    Required,
    /// A parameter must come, a length may.
    RequiredAndLength,
}

/// An operator of an address.
type OfPart = fn(Part) -> Field;

/// Makes an operator of its parameter.
type Make<'a> = fn(&Operator<'a>) -> Result<Field, FormatError>;

impl<'a> Operator<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let end = text.find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))?;
        let (command, rest) = text.split_at(end);
        if command.is_empty() {
            return None;
        }
        let Some(inner) = rest.strip_prefix('(') else {
            let (limit, rest) = ending(rest)?;
            return Some(Self { command, parameter: "", limit, rest });
        };
        // A parameter may hold parentheses and % (strftime, JSON): it ends at the first one that an operator's end follows.
        inner.match_indices(')').find_map(|(at, _)| {
            let (limit, rest) = ending(&inner[at + 1..])?;
            let parameter = &inner[..at];
            (!parameter.contains('\n')).then_some(Self { command, parameter, limit, rest })
        })
    }

    pub fn limited(&self) -> Result<Limited, FormatError> {
        let field = self.field()?;
        Ok(Limited { field, limit: self.limit })
    }

    fn verify(&self, takes: Takes) -> Result<(), FormatError> {
        let command = self.command;
        if takes == Takes::Nothing && (!self.parameter.is_empty() || self.limit.is_some()) {
            return Err(self.bad(format!("{command} does not take any parameters or length")));
        }
        if matches!(takes, Takes::Required | Takes::RequiredAndLength) && self.parameter.is_empty() {
            return Err(self.bad(format!("{command} requires parameters")));
        }
        if matches!(takes, Takes::Required | Takes::Optional) && self.limit.is_some() {
            return Err(self.bad(format!("{command} does not allow length to be specified.")));
        }
        Ok(())
    }

    fn field(&self) -> Result<Field, FormatError> {
        if let Some(field) = plain(self.command) {
            self.verify(Takes::Nothing)?;
            return Ok(field);
        }
        if let Some((field, takes)) = self.address()? {
            self.verify(takes)?;
            return Ok(field);
        }
        if let Some(field) = self.with_parameter()? {
            return Ok(field);
        }
        match TlsField::parse(self.command, self.parameter).map_err(|message| self.bad(message))? {
            Some(field) => {
                self.verify(if field.takes_parameter() { Takes::Optional } else { Takes::Nothing })?;
                Ok(Field::Tls(field))
            }
            None => Err(FormatError::Unknown(self.command.into())),
        }
    }

    /// Operators of addresses: whole, without port, port.
    fn address(&self) -> Result<Option<(Field, Takes)>, FormatError> {
        let sides: [(&str, OfPart); 6] = [
            ("UPSTREAM_REMOTE", Field::UpstreamRemote),
            ("UPSTREAM_LOCAL", Field::UpstreamLocal),
            ("DOWNSTREAM_LOCAL", Field::DownstreamLocal),
            ("DOWNSTREAM_DIRECT_LOCAL", Field::DownstreamLocal),
            ("DOWNSTREAM_REMOTE", Field::DownstreamRemote),
            ("DOWNSTREAM_DIRECT_REMOTE", Field::DownstreamDirectRemote),
        ];
        for (side, field) in sides {
            match self.command.strip_prefix(side) {
                Some("_ADDRESS") => return Ok(Some((field(Part::Whole), Takes::Nothing))),
                Some("_PORT") => return Ok(Some((field(Part::Port), Takes::Nothing))),
                Some("_ADDRESS_WITHOUT_PORT") => {
                    // As Envoy: what is no length of a prefix has no effect.
                    let part = self.parameter.parse().map_or(Part::Ip, Part::Network);
                    return Ok(Some((field(part), Takes::Optional)));
                }
                _ => {}
            }
        }
        Ok(None)
    }

    fn with_parameter(&self) -> Result<Option<Field>, FormatError> {
        let (takes, make): (Takes, Make<'a>) = match self.command {
            "REQ" | "REQUEST_HEADER" | "STREAM_INFO_REQ" => (Takes::RequiredAndLength, |operator| {
                Ok(Field::Request { names: operator.header_names()?, without_query: false })
            }),
            "REQ_WITHOUT_QUERY" => (Takes::RequiredAndLength, |operator| {
                Ok(Field::Request { names: operator.header_names()?, without_query: true })
            }),
            "RESP" | "RESPONSE_HEADER" => {
                (Takes::RequiredAndLength, |operator| Ok(Field::Response(operator.header_names()?)))
            }
            "TRAILER" | "RESPONSE_TRAILER" => {
                (Takes::RequiredAndLength, |operator| Ok(Field::Trailer(operator.header_names()?)))
            }
            "PATH" => (Takes::OptionalAndLength, Self::path),
            "QUERY_PARAM" => {
                (Takes::RequiredAndLength, |operator| Ok(Field::QueryParameter(operator.parameter.into())))
            }
            "QUERY_PARAMS" => {
                (Takes::OptionalAndLength, |operator| match operator.parameter {
                    "" | "ORIG" | "DECODED" => Ok(Field::Query(Selected::Path)),
                    other => Err(operator
                        .bad(format!("Invalid QUERY_PARAMS option: '{other}', only 'ORIG'/'DECODED' are allowed"))),
                })
            }
            "START_TIME" | "START_TIME_LOCAL" | "EMIT_TIME" | "EMIT_TIME_LOCAL" => (Takes::Optional, |operator| {
                let local = operator.command.ends_with("_LOCAL");
                let format = TimeFormat::parse(operator.parameter, local).map_err(|message| operator.bad(message))?;
                Ok(Field::Time { now: operator.command.starts_with("EMIT"), format })
            }),
            "RESPONSE_CODE_DETAILS" => {
                (Takes::Optional, |operator| Ok(Field::Details { spaces: operator.parameter == "ALLOW_WHITESPACES" }))
            }
            "COMMON_DURATION" => (Takes::Required, Self::between),
            "REQUESTED_SERVER_NAME" => (Takes::Optional, Self::server_name),
            "GRPC_STATUS" => (Takes::Optional, |operator| match operator.parameter {
                "" | "CAMEL_STRING" => Ok(Field::GrpcStatus(GrpcForm::Camel)),
                "SNAKE_STRING" => Ok(Field::GrpcStatus(GrpcForm::Snake)),
                "NUMBER" => Ok(Field::GrpcStatus(GrpcForm::Number)),
                other => Err(operator.bad(format!(
                    "GrpcStatusFormatter only supports CAMEL_STRING, SNAKE_STRING or NUMBER. Got: {other}"
                ))),
            }),
            "ENVIRONMENT" => (Takes::RequiredAndLength, |operator| {
                Ok(Field::Constant(std::env::var(operator.parameter).map_or_else(|_| "-".into(), Into::into)))
            }),
            "DYNAMIC_METADATA" => {
                (Takes::RequiredAndLength, |operator| Ok(metadata(MetadataOf::Dynamic, operator.parameter)))
            }
            "CLUSTER_METADATA" => (Takes::Required, |operator| Ok(metadata(MetadataOf::Cluster, operator.parameter))),
            "UPSTREAM_METADATA" => (Takes::Required, |operator| Ok(metadata(MetadataOf::Host, operator.parameter))),
            "METADATA" => (Takes::OptionalAndLength, Self::any_metadata),
            "FILTER_STATE" | "UPSTREAM_FILTER_STATE" => (Takes::OptionalAndLength, Self::filter_state),
            "CEL" | "TYPED_CEL" => (Takes::RequiredAndLength, |operator| {
                let typed = operator.command == "TYPED_CEL";
                let cel = Cel::parse(operator.parameter, typed).map_err(|message| operator.bad(message))?;
                Ok(Field::Cel(cel))
            }),
            "COALESCE" => (Takes::RequiredAndLength, |operator| {
                Ok(Field::Coalesce(
                    coalesce::operators(operator.parameter, named).map_err(|message| operator.bad(message))?,
                ))
            }),
            _ => return Ok(None),
        };
        self.verify(takes)?;
        make(self).map(Some)
    }

    fn path(&self) -> Result<Field, FormatError> {
        let (query, selected) = self.parameter.split_once(':').unwrap_or((self.parameter, ""));
        let query = match query {
            "" | "WQ" => true,
            "NQ" => false,
            other => return Err(self.bad(format!("Invalid PATH option: '{other}', only 'WQ'/'NQ' are allowed"))),
        };
        let allowed = "only 'ORIG'/'PATH'/'ORIG_OR_PATH' are allowed";
        let selected = selected_of(selected, "PATH")
            .ok_or_else(|| self.bad(format!("Invalid PATH option: '{selected}', {allowed}")))?;
        Ok(Field::Path { query, selected })
    }

    fn server_name(&self) -> Result<Field, FormatError> {
        let (source, host) = self.parameter.split_once(':').unwrap_or((self.parameter, ""));
        let (with_host, sni_first) = match source {
            "" | "SNI_ONLY" => (false, true),
            "SNI_FIRST" => (true, true),
            "HOST_FIRST" => (true, false),
            other => {
                let allowed = "only 'SNI_ONLY'/'SNI_FIRST'/'HOST_FIRST' are allowed";
                return Err(self.bad(format!("Invalid REQUESTED_SERVER_NAME option: '{other}', {allowed}")));
            }
        };
        let allowed = "only 'ORIG_OR_HOST'/'HOST'/'ORIG' are allowed";
        let host = selected_of(host, "HOST")
            .ok_or_else(|| self.bad(format!("Invalid REQUESTED_SERVER_NAME option: '{host}', {allowed}")))?;
        Ok(Field::RequestedServerName { host: with_host.then_some(host), sni_first })
    }

    fn between(&self) -> Result<Field, FormatError> {
        let parts: Vec<_> = self.parameter.split(':').collect();
        let (from, to, precision) = match parts.as_slice() {
            [from, to] => (from, to, Precision::Millis),
            [from, to, "ms"] => (from, to, Precision::Millis),
            [from, to, "us"] => (from, to, Precision::Micros),
            [from, to, "ns"] => (from, to, Precision::Nanos),
            [_, _, other] => return Err(self.bad(format!("Invalid common duration precision: {other}."))),
            _ => return Err(self.bad(format!("Invalid common duration configuration: {}.", self.parameter))),
        };
        Ok(Field::Between { from: point(from), to: point(to), precision })
    }

    fn any_metadata(&self) -> Result<Field, FormatError> {
        let (of, rest) = self.parameter.split_once(':').unwrap_or((self.parameter, ""));
        let of = match of {
            "DYNAMIC" => MetadataOf::Dynamic,
            "CLUSTER" => MetadataOf::Cluster,
            "UPSTREAM_HOST" => MetadataOf::Host,
            "ROUTE" => MetadataOf::Route,
            "VIRTUAL_HOST" => MetadataOf::VirtualHost,
            "LISTENER" => MetadataOf::Listener,
            "LISTENER_FILTER_CHAIN" => MetadataOf::FilterChain,
            other => return Err(self.bad(format!("{other} is not supported type of metadata"))),
        };
        Ok(metadata(of, rest))
    }

    fn filter_state(&self) -> Result<Field, FormatError> {
        let mut parts = self.parameter.splitn(3, ':');
        let (key, form, field) = (parts.next(), parts.next(), parts.next());
        let problem = if key.is_none_or(str::is_empty) {
            "Invalid filter state configuration, key cannot be empty."
        } else if !matches!(form, None | Some("" | "PLAIN" | "TYPED" | "FIELD")) {
            "Invalid filter state serialize type, only support PLAIN/TYPED/FIELD."
        } else if (form == Some("FIELD")) != field.is_some_and(|field| !field.is_empty()) {
            "Invalid filter state serialize type, FIELD should be used with the field name."
        } else {
            // No object has fields, and requests to upstreams have none of their own.
            return Ok(match (key, form) {
                (Some(key), form) if form != Some("FIELD") && self.command == "FILTER_STATE" => {
                    Field::FilterState { key: key.into(), typed: form != Some("PLAIN") }
                }
                _ => Field::Absent,
            });
        };
        Err(self.bad(problem))
    }

    fn header_names(&self) -> Result<Names, FormatError> {
        let mut names = self.parameter.split('?');
        let (name, or) = (names.next().unwrap_or_default(), names.next());
        if names.next().is_some() {
            let parameter = self.parameter;
            return Err(self.bad(format!("More than 1 alternative header specified in token: {parameter}")));
        }
        Ok(Names { name: self.header_name(name)?, or: or.map(|name| self.header_name(name)).transpose()? })
    }

    fn header_name(&self, name: &str) -> Result<HeaderName, FormatError> {
        let lower = name.to_ascii_lowercase();
        Ok(match lower.as_str() {
            ":method" => HeaderName::Method,
            ":path" => HeaderName::Path,
            ":authority" | "host" => HeaderName::Authority,
            ":scheme" => HeaderName::Scheme,
            ":status" => HeaderName::Status,
            plain => match (http::HeaderName::from_bytes(plain.as_bytes()), plain.strip_prefix(':')) {
                (Ok(name), _) => HeaderName::Plain(name),
                (Err(_), Some(pseudo)) if http::HeaderName::from_bytes(pseudo.as_bytes()).is_ok() => {
                    HeaderName::Unknown
                }
                _ => {
                    let problem = "Invalid header configuration. Format string contains invalid characters.";
                    return Err(self.bad(problem));
                }
            },
        })
    }

    fn bad(&self, why: impl Into<String>) -> FormatError {
        FormatError::Parameter(why.into())
    }
}

/// `:LENGTH%` or `%`, and what follows.
fn ending(text: &str) -> Option<(Option<usize>, &str)> {
    if let Some(rest) = text.strip_prefix('%') {
        return Some((None, rest));
    }
    let (digits, rest) = text.strip_prefix(':')?.split_once('%')?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((Some(digits.parse().ok()?), rest))
}

/// Operators that take nothing.
fn plain(command: &str) -> Option<Field> {
    use Bytes::{Body, Decompressed, Headers as Sent, Wire};
    Some(match command {
        "PROTOCOL" => Field::Protocol,
        "UPSTREAM_PROTOCOL" => Field::UpstreamProtocol,
        "RESPONSE_CODE" => Field::ResponseCode,
        "CONNECTION_TERMINATION_DETAILS" => Field::TerminationDetails,
        "RESPONSE_FLAGS" => Field::Flags { long: false },
        "RESPONSE_FLAGS_LONG" => Field::Flags { long: true },
        "CUSTOM_FLAGS" | "DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID" | "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_ENDPOINT_ID" => {
            Field::Constant("".into())
        }
        "UPSTREAM_REMOTE_ADDRESS_ENDPOINT_ID" => Field::UpstreamEndpointId,
        "BYTES_RECEIVED" => Field::Bytes(Body, Flow::Received),
        "BYTES_SENT" => Field::Bytes(Body, Flow::Sent),
        "DOWNSTREAM_WIRE_BYTES_RECEIVED" => Field::Bytes(Wire, Flow::Received),
        "DOWNSTREAM_WIRE_BYTES_SENT" => Field::Bytes(Wire, Flow::Sent),
        "DOWNSTREAM_HEADER_BYTES_RECEIVED" => Field::Bytes(Sent, Flow::Received),
        "DOWNSTREAM_HEADER_BYTES_SENT" => Field::Bytes(Sent, Flow::Sent),
        "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED" => Field::Bytes(Decompressed, Flow::Received),
        "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT" => Field::Bytes(Decompressed, Flow::Sent),
        "UPSTREAM_WIRE_BYTES_RECEIVED" => Field::Bytes(Wire, Flow::UpstreamReceived),
        "UPSTREAM_WIRE_BYTES_SENT" => Field::Bytes(Wire, Flow::UpstreamSent),
        "UPSTREAM_HEADER_BYTES_RECEIVED" => Field::Bytes(Sent, Flow::UpstreamReceived),
        "UPSTREAM_HEADER_BYTES_SENT" => Field::Bytes(Sent, Flow::UpstreamSent),
        "UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED" => Field::Bytes(Decompressed, Flow::UpstreamReceived),
        "UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT" => Field::Bytes(Decompressed, Flow::UpstreamSent),
        // Of QUIC connections; the round trip time too.
        "BYTES_RETRANSMITTED" | "PACKETS_RETRANSMITTED" | "DOWNSTREAM_CX_RTT" => Field::Number(0),
        "REQUEST_HEADERS_BYTES" => Field::Size(Headers::Request),
        "RESPONSE_HEADERS_BYTES" => Field::Size(Headers::Response),
        "RESPONSE_TRAILERS_BYTES" => Field::Size(Headers::Trailers),
        "DURATION" => Field::Duration(Span::Total),
        "REQUEST_DURATION" => Field::Duration(Span::Request),
        "REQUEST_TX_DURATION" => Field::Duration(Span::RequestSent),
        "RESPONSE_DURATION" => Field::Duration(Span::Response),
        "RESPONSE_TX_DURATION" => Field::Duration(Span::ResponseSent),
        "DOWNSTREAM_HANDSHAKE_DURATION" => Field::Duration(Span::Handshake),
        "UPSTREAM_CONNECTION_POOL_READY_DURATION" => Field::Duration(Span::PoolReady),
        "UPSTREAM_HOST" => Field::UpstreamHost,
        "UPSTREAM_HOST_NAME" => Field::UpstreamHostName { port: true },
        "UPSTREAM_HOST_NAME_WITHOUT_PORT" => Field::UpstreamHostName { port: false },
        "UPSTREAM_HOSTS_ATTEMPTED" => Field::History(Tried { names: false, ports: true }),
        "UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT" => Field::History(Tried { names: false, ports: false }),
        "UPSTREAM_HOST_NAMES_ATTEMPTED" => Field::History(Tried { names: true, ports: true }),
        "UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT" => Field::History(Tried { names: true, ports: false }),
        "UPSTREAM_CONNECTION_IDS_ATTEMPTED" => Field::ConnectionHistory,
        "UPSTREAM_CONNECTION_ID" => Field::UpstreamConnection,
        "UPSTREAM_CLUSTER" => Field::UpstreamCluster { raw: false },
        "UPSTREAM_CLUSTER_RAW" => Field::UpstreamCluster { raw: true },
        "UPSTREAM_TRANSPORT_FAILURE_REASON" => Field::TransportFailure,
        "UPSTREAM_REQUEST_ATTEMPT_COUNT" => Field::Attempts,
        "UPSTREAM_DETECTED_CLOSE_TYPE" => Field::UpstreamCloseType,
        "DOWNSTREAM_DETECTED_CLOSE_TYPE" => Field::DownstreamCloseType,
        "DOWNSTREAM_LOCAL_CLOSE_REASON" => Field::LocalCloseReason,
        "UPSTREAM_LOCAL_CLOSE_REASON" => Field::UpstreamCloseReason,
        "ROUTE_NAME" => Field::RouteName,
        "VIRTUAL_CLUSTER_NAME" => Field::VirtualCluster,
        "LISTENER_NAME" => Field::ListenerName,
        "FILTER_CHAIN_NAME" => Field::FilterChainName,
        "CONNECTION_ID" => Field::ConnectionId,
        "STREAM_ID" => Field::StreamId,
        "UNIQUE_ID" => Field::UniqueId,
        "ACCESS_LOG_TYPE" => Field::LogType,
        "GRPC_STATUS_NUMBER" => Field::GrpcStatus(GrpcForm::Number),
        "LOCAL_REPLY_BODY" => Field::LocalReplyBody,
        "HOSTNAME" => Field::Constant(hostname()),
        "TLS_JA3_FINGERPRINT" => Field::Ja3,
        "TLS_JA4_FINGERPRINT" => Field::Ja4,
        // Of QUIC and of tracers.
        "ROUNDTRIP_DURATION" | "TRACE_ID" | "SPAN_ID" => Field::Absent,
        _ => return None,
    })
}

/// Which of a path or a host, where `own` is the option's word for it as it is; none: it is no such option.
fn selected_of(option: &str, own: &str) -> Option<Selected> {
    match option {
        "" => Some(Selected::Either),
        "ORIG" => Some(Selected::Original),
        _ if option == own => Some(Selected::Path),
        _ => option.strip_prefix("ORIG_OR_").filter(|rest| *rest == own).map(|_| Selected::Either),
    }
}

fn point(name: &str) -> Point {
    match name {
        "DS_RX_BEG" => Point::Start,
        "DS_RX_END" => Point::RequestReceived,
        "US_CX_BEG" => Point::ConnectBegan,
        "US_CX_END" => Point::Connected,
        "US_HS_END" => Point::UpstreamSecured,
        "US_TX_BEG" => Point::RequestSentFrom,
        "US_TX_END" => Point::RequestSent,
        "US_RX_BEG" => Point::ResponseStarted,
        "US_RX_BODY_BEG" => Point::BodyStarted,
        "US_RX_END" => Point::ResponseReceived,
        "DS_TX_BEG" => Point::ReplyBegan,
        "DS_TX_END" => Point::ReplyEnded,
        _ => Point::Unset,
    }
}

fn metadata(of: MetadataOf, parameter: &str) -> Field {
    let mut parts = parameter.split(':');
    let namespace = parts.next().unwrap_or_default().into();
    Field::Metadata { of, namespace, path: parts.map(Into::into).collect() }
}

fn hostname() -> Arc<str> {
    nix::unistd::gethostname().map_or_else(|_| "-".into(), |name| name.to_string_lossy().into())
}
