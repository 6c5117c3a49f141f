//! Writing a [`Format`] into a buffer.

use std::{
    io::Write,
    net::SocketAddr,
    time::{Duration, Instant, SystemTime},
};

use crate::telemetry::{
    access_log::{Flag, View},
    format::{Field, Format, HeaderName, Node, Part, Piece, Shape},
};

/// What stands for an absent value in an access log.
const ABSENT: &[u8] = b"-";

impl Format {
    /// Appends a line.
    pub fn write_line(&self, out: &mut Vec<u8>, view: &View<'_>) {
        match &self.shape {
            Shape::Text(pieces) => write_pieces(pieces, out, view, ABSENT),
            Shape::Json(node) => {
                node.write(out, view);
                out.push(b'\n');
            }
        }
    }

    /// Appends a header value: absent values are empty.
    pub fn write_header(&self, out: &mut Vec<u8>, view: &View<'_>) {
        match &self.shape {
            Shape::Text(pieces) => write_pieces(pieces, out, view, b""),
            Shape::Json(node) => node.write(out, view),
        }
    }
}

fn write_pieces(pieces: &[Piece], out: &mut Vec<u8>, view: &View<'_>, absent: &[u8]) {
    for piece in pieces {
        match piece {
            Piece::Literal(text) => out.extend_from_slice(text.as_bytes()),
            Piece::Field { field, limit } => {
                let start = out.len();
                if !field.write(out, view) {
                    out.truncate(start);
                    out.extend_from_slice(absent);
                } else if let Some(limit) = limit {
                    out.truncate(start + limit.min(&(out.len() - start)));
                }
            }
        }
    }
}

impl Node {
    fn write(&self, out: &mut Vec<u8>, view: &View<'_>) {
        match self {
            Self::Object(members) => {
                out.push(b'{');
                for (index, (key, node)) in members.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    out.extend_from_slice(key.as_bytes());
                    out.push(b':');
                    node.write(out, view);
                }
                out.push(b'}');
            }
            Self::List(nodes) => {
                out.push(b'[');
                for (index, node) in nodes.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    node.write(out, view);
                }
                out.push(b']');
            }
            Self::Fixed(json) => out.extend_from_slice(json.as_bytes()),
            Self::Text(pieces) => write_json_text(pieces, out, view),
        }
    }
}

/// A single operator keeps its type (numbers stay numbers, absent is null); anything else is a string.
fn write_json_text(pieces: &[Piece], out: &mut Vec<u8>, view: &View<'_>) {
    let mut value = Vec::new();
    if let [Piece::Field { field, limit }] = pieces {
        if !field.write(&mut value, view) {
            out.extend_from_slice(b"null");
            return;
        }
        if let Some(limit) = limit {
            value.truncate(*limit);
        } else if field.is_number() {
            out.extend_from_slice(&value);
            return;
        }
    } else {
        write_pieces(pieces, &mut value, view, ABSENT);
    }
    out.extend_from_slice(serde_json::Value::from(String::from_utf8_lossy(&value)).to_string().as_bytes());
}

impl Field {
    fn is_number(&self) -> bool {
        matches!(
            self,
            Self::ResponseCode
                | Self::BytesReceived
                | Self::BytesSent
                | Self::Duration
                | Self::RequestDuration
                | Self::ResponseDuration
                | Self::ResponseTxDuration
                | Self::Attempts
                | Self::UpstreamHost(Part::Port)
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
            Self::Request { name, or, without_query } => {
                let value = view
                    .request_header(name)
                    .or_else(|| or.as_ref().and_then(|or| view.request_header(or)))
                    .map(|value| if *without_query { before_query(value) } else { value });
                write_bytes(out, value)
            }
            Self::Response { name: HeaderName::Status, .. } => write_number(out, u64::from(entry.response_code)),
            Self::Response { name, or } => write_bytes(
                out,
                view.response_header(name).or_else(|| or.as_ref().and_then(|or| view.response_header(or))),
            ),
            Self::Trailer { name, or } => {
                write_bytes(out, view.trailer(name).or_else(|| or.as_ref().and_then(|or| view.trailer(or))))
            }
            Self::StartTime(format) => write_time(out, entry.start_time, format.as_deref()),
            Self::Protocol => write_bytes(out, entry.protocol.map(str::as_bytes)),
            Self::UpstreamProtocol => write_bytes(out, entry.upstream_protocol.map(str::as_bytes)),
            Self::ResponseCode => write_number(out, u64::from(entry.response_code)),
            Self::Details => write_text(out, &entry.details),
            Self::TerminationDetails => write_text(out, &entry.termination_details),
            Self::TransportFailure => write_text(out, &entry.transport_failure),
            Self::Flags { long } => write_flags(out, &entry.flags, *long),
            Self::BytesReceived => write_number(out, entry.bytes_received),
            Self::BytesSent => write_number(out, entry.bytes_sent),
            Self::Duration => write_millis(out, Some(entry.start.elapsed())),
            Self::RequestDuration => write_millis(out, since(entry.start, entry.request_received)),
            Self::ResponseDuration => write_millis(out, since(entry.start, entry.response_started)),
            Self::ResponseTxDuration => write_millis(out, entry.response_started.map(|at| at.elapsed())),
            Self::UpstreamHost(part) => write_address(out, entry.upstream_host, *part),
            Self::UpstreamCluster => write_bytes(out, entry.upstream_cluster.as_deref().map(str::as_bytes)),
            Self::UpstreamLocal(part) => write_address(out, entry.upstream_local, *part),
            Self::Attempts => write_number(out, u64::from(entry.attempts)),
            Self::DownstreamLocal(part) => write_address(out, Some(entry.downstream_local), *part),
            Self::DownstreamRemote(part) => write_address(out, Some(entry.downstream_remote), *part),
            Self::DownstreamDirectRemote(part) => write_address(out, Some(entry.downstream_direct_remote), *part),
            Self::RequestedServerName => write_bytes(out, entry.requested_server_name.as_deref().map(str::as_bytes)),
            Self::RouteName => write_text(out, entry.route_name.as_deref().unwrap_or_default()),
            Self::VirtualCluster => write_bytes(out, entry.virtual_cluster.as_deref().map(str::as_bytes)),
            Self::LocalReplyBody => write_bytes(out, entry.local_reply.as_deref()),
            Self::Constant(value) => write_text(out, value),
            Self::Tls(field) => field.write(out, entry),
            Self::Absent => false,
        }
    }
}

fn since(start: Instant, end: Option<Instant>) -> Option<Duration> {
    end.map(|end| end.saturating_duration_since(start))
}

fn before_query(path: &[u8]) -> &[u8] {
    path.split(|byte| *byte == b'?').next().unwrap_or(path)
}

fn write_bytes(out: &mut Vec<u8>, value: Option<&[u8]>) -> bool {
    value.inspect(|value| out.extend_from_slice(value)).is_some()
}

fn write_text(out: &mut Vec<u8>, value: &str) -> bool {
    out.extend_from_slice(value.as_bytes());
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
    for (index, flag) in flags.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(if long { flag.long() } else { flag.short() }.as_bytes());
    }
    !flags.is_empty()
}

fn write_address(out: &mut Vec<u8>, address: Option<SocketAddr>, part: Part) -> bool {
    let Some(address) = address else { return false };
    // Writing into a Vec does not fail.
    let _ = match part {
        Part::Whole => write!(out, "{address}"),
        Part::Ip => write!(out, "{}", address.ip()),
        Part::Port => write!(out, "{}", address.port()),
    };
    true
}

/// The default is ISO 8601 with milliseconds, written by hand: it is in every line.
pub(super) fn write_time(out: &mut Vec<u8>, time: SystemTime, format: Option<&str>) -> bool {
    let Ok(time) = jiff::Timestamp::try_from(time) else { return false };
    if let Some(format) = format {
        return match jiff::fmt::strtime::format(format, &time.to_zoned(jiff::tz::TimeZone::UTC)) {
            Ok(text) => write_text(out, &text),
            Err(_) => false,
        };
    }
    let time = jiff::tz::Offset::UTC.to_datetime(time);
    let two = |out: &mut Vec<u8>, value: i8, after: u8| {
        let value = value.unsigned_abs();
        out.extend_from_slice(&[b'0' + value / 10, b'0' + value % 10, after]);
    };
    let year = time.year().unsigned_abs();
    two(out, i8::try_from(year / 100).unwrap_or_default(), b'0');
    out.pop();
    two(out, i8::try_from(year % 100).unwrap_or_default(), b'-');
    two(out, time.month(), b'-');
    two(out, time.day(), b'T');
    two(out, time.hour(), b':');
    two(out, time.minute(), b':');
    two(out, time.second(), b'.');
    let millis = time.millisecond().unsigned_abs();
    out.push(b'0' + u8::try_from(millis / 100).unwrap_or_default());
    two(out, i8::try_from(millis % 100).unwrap_or_default(), b'Z');
    true
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::{HeaderMap, HeaderValue, Method, Uri};

    use super::*;
    use crate::telemetry::{
        access_log::{Entry, Live},
        format::{ENVOY_DEFAULT, FormatError, ISTIO_DEFAULT},
    };

    fn entry() -> Entry {
        let mut entry = Entry::new("10.0.0.2:80".parse().unwrap(), "10.0.0.1:4711".parse().unwrap());
        entry.start_time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_481_818_059_319);
        entry.protocol = Some("HTTP/1.1");
        entry
    }

    fn line(source: &str, entry: &Entry) -> String {
        let mut out = Vec::new();
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("h.test"));
        headers.insert("x-a", HeaderValue::from_static("abcdef"));
        let uri = Uri::from_static("/p?q=1");
        let live = Live { method: &Method::GET, uri: &uri, scheme: "http", headers: &headers };
        let view = View { entry, request: Some(live), response: None };
        Format::text(source).unwrap().write_line(&mut out, &view);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn operators() {
        let mut entry = entry();
        for (format, expected) in [
            ("[%START_TIME%]", "[2016-12-15T16:07:39.319Z]"),
            ("%START_TIME(%Y/%m/%dT%H:%M:%S.%3f %s)%", "2016/12/15T16:07:39.319 1481818059"),
            ("%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%", "GET /p?q=1 HTTP/1.1"),
            ("%REQ_WITHOUT_QUERY(:PATH)%", "/p"),
            ("%REQ(x-a):3%|%REQ(x-a):30%|%REQ(x-b)%|%REQ(host)%", "abc|abcdef|-|h.test"),
            ("100%%", "100%"),
            ("%RESPONSE_FLAGS% %ROUTE_NAME% %UPSTREAM_HOST%", "- - -"),
            ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_LOCAL_PORT%", "10.0.0.1 80"),
            ("%DOWNSTREAM_TLS_VERSION%", "-"),
        ] {
            assert_eq!(line(format, &entry), expected, "{format}");
        }
        entry.raise(Flag::UpstreamRetryLimitExceeded);
        entry.raise(Flag::UpstreamConnectionFailure);
        assert_eq!(line("%RESPONSE_FLAGS%", &entry), "URX,UF");
    }

    #[test]
    fn the_defaults_parse() {
        for format in [ENVOY_DEFAULT, ISTIO_DEFAULT] {
            assert!(line(format, &entry()).starts_with("[2016-12-15T16:07:39.319Z] \"GET /p?q=1 HTTP/1.1\" 0 - "));
        }
    }

    #[test]
    fn json_keeps_types() {
        let format = serde_json::json!({"code": "%RESPONSE_CODE%", "cluster": "%UPSTREAM_CLUSTER%", "p": "a %PROTOCOL%", "n": 1});
        let mut out = Vec::new();
        let mut entry = entry();
        entry.response_code = 200;
        entry.route_name = Some(Arc::from("r"));
        Format::json(&format).unwrap().write_line(&mut out, &View::of(&entry));
        assert_eq!(String::from_utf8(out).unwrap(), "{\"code\":200,\"cluster\":null,\"p\":\"a HTTP/1.1\",\"n\":1}\n");
    }

    #[test]
    fn bad_formats_say_what_is_wrong() {
        for (format, message) in [
            ("%NOPE%", "unknown operator %NOPE%"),
            (
                "a % b",
                "incorrect format \"a % b\": expected an operator like %PROTOCOL% at byte 2; a single % is written %%",
            ),
            ("%PROTOCOL(x)%", "operator %PROTOCOL%: takes no parameter"),
            ("%REQ%", "operator %REQ%: expected a header name"),
            ("%REQ(a?b?c)%", "operator %REQ%: at most one alternative header name"),
            ("%START_TIME(%Q%)%", "operator %START_TIME%: expected a strftime format"),
        ] {
            assert_eq!(Format::text(format).unwrap_err().to_string(), message);
        }
        assert_eq!(Format::text("%REQ(x)").unwrap_err(), FormatError::Syntax("%REQ(x)".into(), 0));
    }
}
