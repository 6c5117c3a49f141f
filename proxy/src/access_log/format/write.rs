//! Writing what a format is made of into a buffer.

use std::{
    io::Write,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant, SystemTime},
};

use percent_encoding::percent_decode;

use super::{
    field::{Bytes, Field, Flow, GrpcForm, Headers, Limited, Part, Piece, Point, Precision, Selected, Span, Tried},
    filter_state, grpc, metadata,
    quote::quote,
};
use crate::{
    access_log::{
        entry::{Entry, Upstream},
        flag::Flag,
        header_name::HeaderName,
        unique,
        view::View,
    },
    wire::named::{Name, NamedAddress},
};

/// What stands for an absent value in an access log.
const ABSENT: &[u8] = b"-";

/// Appends the pieces; what is absent is `-`, or nothing.
pub(super) fn write_pieces(pieces: &[Piece], out: &mut Vec<u8>, view: &View<'_>, omit: bool) {
    for piece in pieces {
        match piece {
            Piece::Literal(text) => out.extend_from_slice(text.as_bytes()),
            Piece::Field(operator) => {
                if !operator.write(out, view) && !omit {
                    out.extend_from_slice(ABSENT);
                }
            }
        }
    }
}

impl Limited {
    /// Appends the value; false, and nothing is appended, if it is absent.
    fn write(&self, out: &mut Vec<u8>, view: &View<'_>) -> bool {
        let start = out.len();
        if !self.field.write(out, view) {
            out.truncate(start);
            return false;
        }
        if let Some(limit) = self.limit {
            out.truncate(start.saturating_add(limit).min(out.len()));
        }
        true
    }

    /// The same in JSON: numbers and metadata keep their types.
    pub(super) fn write_json(&self, out: &mut Vec<u8>, view: &View<'_>) -> bool {
        match &self.field {
            Field::Metadata { of, namespace, path } => {
                let written =
                    metadata::find(view.entry, *of, namespace, path, |found| metadata::write_json(out, &found));
                return written.unwrap_or(false);
            }
            Field::Cel(cel) => {
                if let Some(written) = cel.write_json(out, view, self.limit) {
                    return written;
                }
            }
            Field::FilterState { key, typed: true } => return filter_state::write_json(out, view.entry, key),
            Field::Coalesce(operators) => {
                let start = out.len();
                for operator in operators {
                    if operator.write_json(out, view) {
                        return true;
                    }
                    out.truncate(start);
                }
                return false;
            }
            _ => {}
        }
        let start = out.len();
        if !self.write(out, view) {
            return false;
        }
        if !self.field.is_number() {
            quote(out, start);
        }
        true
    }
}

impl Field {
    fn is_number(&self) -> bool {
        matches!(
            self,
            Self::ResponseCode
                | Self::Bytes(..)
                | Self::Size(_)
                | Self::Number(_)
                | Self::Duration(_)
                | Self::Between { .. }
                | Self::Attempts
                | Self::ConnectionId
                | Self::UpstreamConnection
                | Self::GrpcStatus(GrpcForm::Number)
                | Self::UpstreamRemote(Part::Port)
                | Self::UpstreamLocal(Part::Port)
                | Self::DownstreamLocal(Part::Port)
                | Self::DownstreamRemote(Part::Port)
                | Self::DownstreamDirectRemote(Part::Port)
        )
    }

    /// Appends the value; false if it is absent.
    fn write(&self, out: &mut Vec<u8>, view: &View<'_>) -> bool {
        let entry = view.entry;
        match self {
            Self::Request { names, without_query } => {
                let value = names.first(|name| view.request_header(name));
                write_bytes(out, if *without_query { value.map(before_query) } else { value })
            }
            Self::Response(names) if names.name == HeaderName::Status => {
                entry.response_code > 0 && write_number(out, u64::from(entry.response_code))
            }
            Self::Response(names) => write_bytes(out, names.first(|name| view.response_header(name))),
            Self::Trailer(names) => write_bytes(out, names.first(|name| view.trailer(name))),
            Self::Path { query, selected } => {
                let path = path(view, *selected);
                write_bytes(out, if *query { path } else { path.map(before_query) })
            }
            Self::QueryParameter(name) => match path(view, Selected::Path).and_then(query) {
                Some(query) => write_parameter(out, query, name),
                None => false,
            },
            Self::Query(selected) => write_bytes(out, path(view, *selected).and_then(query)),
            Self::Size(headers) => {
                let sizes = &entry.kept.sizes;
                let size = match headers {
                    Headers::Request => sizes.request,
                    Headers::Response => sizes.response,
                    Headers::Trailers => sizes.trailers,
                };
                write_number(out, size as u64)
            }
            Self::Time { now, format } => format.write(out, if *now { SystemTime::now() } else { entry.start_time }),
            Self::Protocol => write_bytes(out, entry.protocol.map(str::as_bytes)),
            Self::UpstreamProtocol => write_bytes(out, entry.upstream_protocol.map(str::as_bytes)),
            Self::ResponseCode => write_number(out, u64::from(entry.response_code)),
            Self::Details { spaces } => {
                let write = if *spaces { write_text } else { write_unspaced };
                // As in Envoy: what lacks a filter's configuration is answered with details, empty ones.
                write(out, &entry.details) || entry.flags.contains(&Flag::NoFilterConfigFound)
            }
            Self::TerminationDetails => write_text(out, &entry.termination_details),
            Self::TransportFailure => write_text(out, &entry.transport_failure),
            Self::LocalCloseReason => write_text(out, &entry.local_close_reason),
            Self::UpstreamCloseReason => write_text(out, entry.upstream_close_reason),
            Self::Flags { long } => write_flags(out, &entry.flags, *long),
            Self::Bytes(bytes, flow) => write_number(out, metered(entry, *bytes, *flow)),
            Self::Number(number) => write_number(out, *number),
            Self::Duration(span) => write_millis(out, duration(entry, *span)),
            Self::Between { from, to, precision } => {
                let (Some(from), Some(to)) = (moment(entry, *from), moment(entry, *to)) else { return false };
                let Some(lasted) = to.checked_duration_since(from) else { return false };
                let lasted = match precision {
                    Precision::Millis => lasted.as_millis(),
                    Precision::Micros => lasted.as_micros(),
                    Precision::Nanos => lasted.as_nanos(),
                };
                write_number(out, u64::try_from(lasted).unwrap_or(u64::MAX))
            }
            Self::UpstreamHost => write_address(out, address(entry), Part::Whole),
            Self::UpstreamRemote(part) => {
                // Of the connection: without one there is none.
                write_address(out, address(entry).filter(|_| entry.upstream_local.is_some()), *part)
            }
            Self::UpstreamEndpointId => {
                let named = entry.upstream.as_ref().and_then(|upstream| NamedAddress::of(&upstream.address));
                if let Some(Name::Internal { endpoint, .. }) = named.as_deref().map(|named| &named.name) {
                    out.extend_from_slice(endpoint.as_bytes());
                }
                entry.upstream_local.is_some()
            }
            Self::UpstreamHostName { port } => {
                entry.upstream.as_ref().is_some_and(|upstream| write_name(out, upstream, *port))
            }
            Self::History(tried) => !view.is_unconnected() && write_history(out, entry, *tried),
            Self::ConnectionHistory => entry.upstream_local.is_some() && write_number(out, entry.upstream_connection),
            Self::UpstreamConnection => write_number(out, entry.upstream_connection),
            Self::DownstreamCloseType => write_text(out, entry.downstream_close.name()),
            Self::UpstreamCloseType => entry.upstream.is_some() && write_text(out, entry.upstream_close.name()),
            Self::UpstreamCluster { raw } => entry
                .cluster
                .as_deref()
                .is_some_and(|cluster| write_text(out, if *raw { &cluster.name } else { &cluster.observability })),
            Self::UpstreamLocal(part) => write_address(out, entry.upstream_local, *part),
            Self::Attempts => write_number(out, u64::from(entry.attempts)),
            Self::DownstreamLocal(part) => write_address(out, Some(entry.downstream_local), *part),
            Self::DownstreamRemote(part) => write_address(out, Some(entry.downstream_remote), *part),
            Self::DownstreamDirectRemote(part) => write_address(out, Some(entry.downstream_direct_remote), *part),
            Self::RequestedServerName { host, sni_first } => {
                let sni = entry.requested_server_name.as_deref().map(str::as_bytes);
                let host = || host.filter(|_| !view.is_unconnected()).and_then(|selected| host_of(view, selected));
                write_bytes(out, if *sni_first { sni.or_else(host) } else { host().or(sni) })
            }
            Self::Ja3 => {
                let prints = entry.fingerprints.as_ref();
                write_text(out, prints.and_then(|prints| prints.ja3.as_deref()).unwrap_or_default())
            }
            Self::Ja4 => {
                let prints = entry.fingerprints.as_ref();
                write_text(out, prints.and_then(|prints| prints.ja4.as_deref()).unwrap_or_default())
            }
            Self::RouteName => write_text(out, entry.route_name.as_deref().unwrap_or_default()),
            Self::VirtualCluster => write_bytes(out, entry.virtual_cluster.as_deref().map(str::as_bytes)),
            Self::ListenerName => entry.place.as_ref().is_some_and(|place| write_text(out, &place.listener)),
            Self::FilterChainName => entry.place.as_ref().is_some_and(|place| write_text(out, &place.filter_chain)),
            Self::ConnectionId => write_number(out, entry.connection),
            // Requests to upstreams have none.
            Self::StreamId if view.log_type.is_upstreams() => false,
            Self::StreamId => match (view.request_id(), entry.protocol) {
                (Some(id), _) => write_bytes(out, Some(id)),
                (None, Some(_)) => false,
                (None, None) => write_text(out, &unique::of_connection(entry.connection)),
            },
            Self::UniqueId => write_text(out, &unique::random()),
            Self::LogType => write_text(out, view.log_type.name()),
            Self::GrpcStatus(form) => {
                view.is_grpc() && view.grpc_status().map(|status| grpc::write(out, status, *form)).is_some()
            }
            Self::Metadata { of, namespace, path } => {
                metadata::find(entry, *of, namespace, path, |found| metadata::write(out, &found)).unwrap_or(false)
            }
            Self::FilterState { key, typed: true } => filter_state::write_typed(out, entry, key),
            Self::FilterState { key, typed: false } => filter_state::write_plain(out, entry, key),
            Self::Cel(cel) => cel.write(out, view),
            Self::LocalReplyBody => {
                out.extend_from_slice(entry.local_reply.as_deref().unwrap_or_default());
                true
            }
            Self::Coalesce(operators) => operators.iter().any(|operator| operator.write(out, view)),
            Self::Constant(value) => {
                out.extend_from_slice(value.as_bytes());
                true
            }
            Self::Tls(field) => field.write(out, entry),
            Self::Absent => false,
        }
    }
}

fn path<'a>(view: &View<'a>, selected: Selected) -> Option<&'a [u8]> {
    match selected {
        Selected::Original => view.original_path(),
        Selected::Path => view.request_header(&HeaderName::Path),
        Selected::Either => view.original_path().or_else(|| view.request_header(&HeaderName::Path)),
    }
}

fn host_of<'a>(view: &View<'a>, selected: Selected) -> Option<&'a [u8]> {
    let host = || view.request_header(&HeaderName::Authority);
    match selected {
        Selected::Original => view.original_host(),
        Selected::Path => host(),
        Selected::Either => view.original_host().or_else(host),
    }
}

fn before_query(path: &[u8]) -> &[u8] {
    path.split(|byte| *byte == b'?').next().unwrap_or(path)
}

/// What follows the first `?`.
fn query(path: &[u8]) -> Option<&[u8]> {
    let at = path.iter().position(|byte| *byte == b'?')?;
    Some(&path[at + 1..])
}

/// Appends the first value of a parameter, decoded.
fn write_parameter(out: &mut Vec<u8>, query: &[u8], name: &str) -> bool {
    for pair in query.split(|byte| *byte == b'&') {
        let at = pair.iter().position(|byte| *byte == b'=');
        let (key, value) = at.map_or((pair, &b""[..]), |at| (&pair[..at], &pair[at + 1..]));
        if percent_decode(key).eq(name.bytes()) {
            out.extend(percent_decode(value));
            return true;
        }
    }
    false
}

fn without_port(host: &[u8]) -> &[u8] {
    match host.iter().rposition(|byte| *byte == b':') {
        Some(at) if host[at + 1..].iter().all(u8::is_ascii_digit) && !host[..at].contains(&b':') => &host[..at],
        Some(at) if host[..at].ends_with(b"]") => &host[..at],
        _ => host,
    }
}

fn address(entry: &Entry) -> Option<SocketAddr> {
    entry.upstream.as_ref().map(|upstream| upstream.address)
}

fn write_name(out: &mut Vec<u8>, upstream: &Upstream, port: bool) -> bool {
    match &upstream.hostname {
        Some(name) if port => write_text(out, name),
        Some(name) => write_bytes(out, Some(without_port(name.as_bytes()))),
        None => write_address(out, Some(upstream.address), if port { Part::Whole } else { Part::Ip }),
    }
}

fn write_history(out: &mut Vec<u8>, entry: &Entry, tried: Tried) -> bool {
    let start = out.len();
    // As Envoy: of an HTTP request only the endpoint that it had a connection to.
    let last = entry.upstream.as_ref().filter(|_| entry.protocol.is_none() || entry.upstream_local.is_some());
    for upstream in entry.tried.iter().chain(last) {
        separate(out, start);
        if tried.names {
            write_name(out, upstream, tried.ports);
        } else {
            write_address(out, Some(upstream.address), if tried.ports { Part::Whole } else { Part::Ip });
        }
    }
    out.len() > start
}

fn separate(out: &mut Vec<u8>, start: usize) {
    if out.len() > start {
        out.push(b',');
    }
}

fn metered(entry: &Entry, bytes: Bytes, flow: Flow) -> u64 {
    let meters = &entry.meters;
    let meter = match flow {
        Flow::Received => &meters.downstream_received,
        Flow::Sent => &meters.downstream_sent,
        Flow::UpstreamReceived => &meters.upstream_received,
        Flow::UpstreamSent => &meters.upstream_sent,
    };
    match bytes {
        Bytes::Body if flow == Flow::Received => entry.bytes_received,
        Bytes::Body => entry.bytes_sent,
        Bytes::Wire => meter.wire,
        Bytes::Headers => meter.headers,
        Bytes::Decompressed => meter.decompressed,
    }
}

fn duration(entry: &Entry, span: Span) -> Option<Duration> {
    let since = |at: Option<Instant>| at.map(|at| at.saturating_duration_since(entry.start));
    let timing = &entry.timing;
    match span {
        Span::Total => Some(entry.start.elapsed()),
        Span::Request => since(entry.request_received),
        Span::RequestSent => since(timing.request_sent),
        Span::Response => since(entry.response_started),
        Span::ResponseSent => Some(timing.reply_ended?.saturating_duration_since(entry.response_started?)),
        Span::Handshake => timing.downstream_secured.and_then(|at| at.checked_duration_since(entry.start)),
        Span::PoolReady => Some(timing.ready?.saturating_duration_since(timing.asked?)),
    }
}

fn moment(entry: &Entry, point: Point) -> Option<Instant> {
    let timing = &entry.timing;
    match point {
        Point::Start => Some(entry.start),
        Point::RequestReceived => entry.request_received,
        Point::ConnectBegan => timing.connect_began,
        Point::Connected => timing.connected,
        Point::UpstreamSecured => timing.upstream_secured,
        Point::RequestSentFrom => timing.request_sent_from,
        Point::RequestSent => timing.request_sent,
        Point::ResponseStarted => entry.response_started,
        Point::BodyStarted => timing.body_started,
        Point::ResponseReceived => timing.response_received,
        Point::ReplyBegan => timing.reply_began,
        Point::ReplyEnded => timing.reply_ended,
        Point::Unset => None,
    }
}

fn write_bytes(out: &mut Vec<u8>, value: Option<&[u8]>) -> bool {
    value.inspect(|value| out.extend_from_slice(value)).is_some()
}

fn write_text(out: &mut Vec<u8>, value: &str) -> bool {
    out.extend_from_slice(value.as_bytes());
    !value.is_empty()
}

/// Spaces become underscores.
fn write_unspaced(out: &mut Vec<u8>, value: &str) -> bool {
    let start = out.len();
    out.extend_from_slice(value.as_bytes());
    out[start..].iter_mut().filter(|byte| byte.is_ascii_whitespace()).for_each(|byte| *byte = b'_');
    !value.is_empty()
}

fn write_number(out: &mut Vec<u8>, value: u64) -> bool {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    true
}

fn write_millis(out: &mut Vec<u8>, value: Option<Duration>) -> bool {
    value.is_some_and(|value| write_number(out, u64::try_from(value.as_millis()).unwrap_or(u64::MAX)))
}

fn write_flags(out: &mut Vec<u8>, flags: &[Flag], long: bool) -> bool {
    if flags.is_empty() {
        // As Envoy: a dash even where absent values are empty.
        return write_text(out, "-");
    }
    for (index, flag) in flags.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(if long { flag.long() } else { flag.short() }.as_bytes());
    }
    true
}

fn write_address(out: &mut Vec<u8>, address: Option<SocketAddr>, part: Part) -> bool {
    let Some(address) = address else { return false };
    if let Some(named) = NamedAddress::of(&address) {
        // Of a name that there is, the port is empty.
        let name = named.to_string();
        return match part {
            Part::Port => !name.is_empty(),
            _ => write_text(out, &name),
        };
    }
    // Writing into a Vec does not fail.
    let _ = match part {
        Part::Whole => {
            if let SocketAddr::V4(address) = address {
                write_ipv4(out, address.ip().octets());
                out.push(b':');
                write_number(out, u64::from(address.port()));
                return true;
            }
            write!(out, "{address}")
        }
        Part::Ip => match address.ip() {
            IpAddr::V4(ip) => {
                write_ipv4(out, ip.octets());
                Ok(())
            }
            IpAddr::V6(ip) => write!(out, "{ip}"),
        },
        Part::Network(bits) => match ipnet::IpNet::new(address.ip(), bits) {
            Ok(network) => write!(out, "{}", network.trunc()),
            Err(_) => return false,
        },
        Part::Port => {
            write_number(out, u64::from(address.port()));
            Ok(())
        }
    };
    true
}

fn write_ipv4(out: &mut Vec<u8>, octets: [u8; 4]) {
    for (index, octet) in octets.into_iter().enumerate() {
        if index > 0 {
            out.push(b'.');
        }
        out.extend_from_slice(itoa::Buffer::new().format(octet).as_bytes());
    }
}
