//! Responses made here: their status, body, flag and details.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::{failure::Failure, timers::Expired};
use crate::{
    access_log::{Entry, Flag, Live, View},
    cluster::Dropped,
    config::local_reply::{BodyFormat, LocalReplies, ReplyMapper},
    http::{
        codec::framing::Refusal,
        headers::{lines::Of, mutate},
    },
    runtime::Runtime,
    wire::grpc,
};

/// gRPC's DEADLINE_EXCEEDED.
const DEADLINE_EXCEEDED: u8 = 4;

const OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");
const LOCAL_OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-local-overloaded");
const DROP_OVERLOAD: HeaderName = HeaderName::from_static("x-envoy-drop-overload");
const UNCONDITIONAL_DROP_OVERLOAD: HeaderName = HeaderName::from_static("x-envoy-unconditional-drop-overload");

/// A response made here.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::http) struct Reply {
    pub status: StatusCode,
    pub body: Bytes,
    pub flag: Option<Flag>,
    pub details: Cow<'static, str>,
    pub headers: HeaderMap,
    /// What gRPC clients are told instead of what the status maps to.
    pub grpc_status: Option<u8>,
    /// It goes out as it is: no header changes of the route, no other form for gRPC clients.
    pub verbatim: bool,
    /// The rest of the request is not read.
    pub close: bool,
}

impl Reply {
    /// A reply with a text.
    pub fn new(
        status: StatusCode,
        body: &'static str,
        flag: impl Into<Option<Flag>>,
        details: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            status,
            body: Bytes::from_static(body.as_bytes()),
            flag: flag.into(),
            details: details.into(),
            headers: HeaderMap::new(),
            grpc_status: None,
            verbatim: false,
            close: false,
        }
    }

    /// The request is not one that may pass.
    pub fn refused(refusal: Refusal) -> Self {
        let (status, details) = match refusal {
            Refusal::Codec => (StatusCode::BAD_REQUEST, "http1.codec_error"),
            Refusal::Characters => (StatusCode::BAD_REQUEST, "http1.invalid_characters"),
            Refusal::TooLong => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "http1.headers_too_large"),
            Refusal::TooMany => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "http1.too_many_headers"),
            Refusal::LengthAndChunked => (StatusCode::BAD_REQUEST, "http1.content_length_and_chunked_not_allowed"),
            Refusal::Encoding => (StatusCode::NOT_IMPLEMENTED, "http1.invalid_transfer_encoding"),
            Refusal::ConnectBody => (StatusCode::BAD_REQUEST, "http1.body_disallowed"),
            Refusal::Target => (StatusCode::BAD_REQUEST, "http1.invalid_url"),
            Refusal::Scheme => (StatusCode::BAD_REQUEST, "http1.invalid_scheme"),
            Refusal::Version => (StatusCode::UPGRADE_REQUIRED, "low_version"),
        };
        Self::protocol_error(status, details)
    }

    /// The client breaks the protocol: it is told in the status's words.
    pub fn protocol_error(status: StatusCode, details: &'static str) -> Self {
        Self::new(status, status.canonical_reason().unwrap_or_default(), Flag::DownstreamProtocolError, details)
    }

    /// No route takes the request.
    pub fn no_route() -> Self {
        Self::new(StatusCode::NOT_FOUND, "", Flag::NoRouteFound, "route_not_found")
    }

    /// The route's cluster does not exist.
    pub fn no_cluster(status: StatusCode) -> Self {
        Self::new(status, "", Flag::NoClusterFound, "cluster_not_found")
    }

    /// The cluster has no endpoint.
    pub fn no_host() -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self::new(status, "no healthy upstream", Flag::NoHealthyUpstream, "no_healthy_upstream")
    }

    /// The cluster's load assignment has it turned away. `named`: a header says so.
    pub fn dropped(why: Dropped, named: bool) -> Self {
        let (body, flag, details, header) = match why {
            Dropped::All => (
                "unconditional drop overload",
                Flag::UnconditionalDropOverload,
                "unconditional_drop_overload",
                UNCONDITIONAL_DROP_OVERLOAD,
            ),
            Dropped::Share => ("drop overload", Flag::DropOverload, "drop_overload", DROP_OVERLOAD),
        };
        let mut reply = Self::new(StatusCode::SERVICE_UNAVAILABLE, body, flag, details);
        if named {
            reply.headers.insert(header, HeaderValue::from_static("true"));
        }
        reply
    }

    /// This process has too much to do. `named`: a header says so.
    pub fn overloaded(named: bool) -> Self {
        let mut reply = Self::new(StatusCode::SERVICE_UNAVAILABLE, "envoy overloaded", None, "overload");
        if named {
            reply.headers.insert(LOCAL_OVERLOADED, HeaderValue::from_static("true"));
        }
        reply
    }

    /// An attempt failed and was the last. `retried`: it was not the first.
    pub fn failed(failure: &Failure, retried: bool) -> Self {
        let how = if retried { "retried and the latest reset reason" } else { "reset reason" };
        let body = format!("upstream connect error or disconnect/reset before headers. {how}: {}", failure.reason());
        let mut reply =
            Self { body: Bytes::from(body), ..Self::new(failure.status(), "", failure.flag(), failure.details()) };
        if failure.is_overflow() {
            reply.headers.insert(OVERLOADED, HeaderValue::from_static("true"));
        }
        reply
    }

    /// A limit passed before the response began. `complete`: the whole request had come.
    pub fn expired(which: Expired, complete: bool) -> Self {
        let status = StatusCode::GATEWAY_TIMEOUT;
        // Where the client, too, may be to blame.
        let either = if complete { status } else { StatusCode::REQUEST_TIMEOUT };
        let timeout = "upstream request timeout";
        match which {
            Expired::Global => Self::new(status, timeout, Flag::UpstreamRequestTimeout, "response_timeout"),
            Expired::PerTry => Self::new(status, timeout, Flag::UpstreamRequestTimeout, "upstream_per_try_timeout"),
            Expired::PerTryIdle => {
                Self::new(status, timeout, Flag::UpstreamRequestTimeout, "upstream_per_try_idle_timeout")
            }
            Expired::Idle => Self::new(either, "stream timeout", Flag::StreamIdleTimeout, "stream_idle_timeout"),
            Expired::Request => {
                Self::new(StatusCode::REQUEST_TIMEOUT, "request timeout", None, "request_overall_timeout")
            }
            Expired::StreamDuration => Self::new(
                either,
                "upstream max stream duration reached",
                Flag::UpstreamMaxStreamDurationReached,
                "upstream_max_stream_duration_reached",
            ),
            Expired::MaxDuration => {
                let reply = Self::new(either, "downstream duration timeout", None, "max_duration_timeout");
                Self { grpc_status: Some(DEADLINE_EXCEEDED), ..reply }
            }
        }
    }

    /// For a client that wants it so, an upstream's lateness is no error: 204.
    pub fn or_nothing(self, wanted: bool) -> Self {
        match self.flag {
            Some(Flag::UpstreamRequestTimeout) if wanted => {
                Self { status: StatusCode::NO_CONTENT, body: Bytes::new(), ..self }
            }
            _ => self,
        }
    }

    /// Changes it as the connection manager says. `entry` is the stream's, and has the reply's status.
    pub fn rewrite(&mut self, replies: &LocalReplies, entry: &Entry, live: Option<Live<'_>>, runtime: &Runtime) {
        let mut format = replies.format.as_ref();
        let mut adds_content_type = false;
        let concerns = |mapper: &&ReplyMapper| {
            let view = View { response: Some(&self.headers), ..View::perhaps_live(entry, live) };
            mapper.filter.takes(&view, runtime)
        };
        if let Some(mapper) = replies.mappers.iter().find(concerns) {
            self.status = mapper.status.unwrap_or(self.status);
            if let Some(body) = &mapper.body {
                self.body = body.clone();
            }
            if !mapper.headers.is_empty() {
                mutate::add(&mapper.headers, Of::Response, &mut self.headers, |out, format, headers| {
                    let view = View { response: Some(headers), ..View::perhaps_live(entry, live) };
                    format.write_header(out, &view);
                });
            }
            adds_content_type = mapper.headers.iter().any(|addition| addition.name == header::CONTENT_TYPE);
            format = mapper.format.as_ref().or(format);
        }
        // One that the mapper adds stands.
        let content_type = self.headers.get(header::CONTENT_TYPE).filter(|_| adds_content_type).cloned();
        if let Some(format) = format {
            self.fill(format, entry, live, true);
        }
        if let Some(content_type) = content_type {
            self.headers.insert(header::CONTENT_TYPE, content_type);
        }
    }

    /// Makes the body by a format. `known`: the format knows of the reply's status and details.
    pub fn fill(&mut self, format: &BodyFormat, entry: &Entry, live: Option<Live<'_>>, known: bool) {
        let mut entry = entry.clone();
        if known {
            entry.response_code = self.status.as_u16();
            entry.details.clone_from(&self.details);
        }
        entry.local_reply = Some(self.body.clone());
        let view = View { response: Some(&self.headers), ..View::perhaps_live(&entry, live) };
        let mut body = Vec::new();
        format.format.write_line(&mut body, &view);
        self.body = Bytes::from(body);
        self.headers.insert(header::CONTENT_TYPE, format.content_type.clone());
    }

    /// The head and body as a gRPC client understands them: status 200, the error in headers.
    pub fn into_grpc(mut self) -> Self {
        let code = self.grpc_status.unwrap_or_else(|| grpc::status_of(self.status.as_u16()));
        // As Envoy does: the end of the line that JSON formats write is none of the message.
        if self.headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json")
            && self.body.last() == Some(&b'\n')
        {
            self.body.truncate(self.body.len() - 1);
        }
        self.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        self.headers.insert(HeaderName::from_static("grpc-status"), HeaderValue::from(u16::from(code)));
        if !self.body.is_empty()
            && let Ok(message) = HeaderValue::from_bytes(&percent_encode(&self.body))
        {
            self.headers.insert(HeaderName::from_static("grpc-message"), message);
        }
        self.status = StatusCode::OK;
        self.body = Bytes::new();
        self
    }
}

fn percent_encode(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for byte in text {
        if (b' '..=b'~').contains(byte) && *byte != b'%' {
            out.push(*byte);
        } else {
            out.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_say_whether_there_were_retries() {
        let text = |retried| String::from_utf8(Reply::failed(&Failure::Terminated, retried).body.to_vec()).unwrap();
        assert_eq!(
            text(false),
            "upstream connect error or disconnect/reset before headers. reset reason: connection termination"
        );
        assert_eq!(
            text(true),
            "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: connection termination"
        );
        assert_eq!(Reply::failed(&Failure::Overflow, false).headers["x-envoy-overloaded"], "true");
    }

    #[test]
    fn grpc_clients_get_200_and_a_grpc_status() {
        let reply = Reply::expired(Expired::Global, true).into_grpc();
        assert_eq!((reply.status, reply.body.len()), (StatusCode::OK, 0));
        assert_eq!(reply.headers["grpc-status"], "14");
        assert_eq!(reply.headers["grpc-message"], "upstream request timeout");
        assert_eq!(percent_encode("a%\n".as_bytes()), b"a%25%0A");
    }
}
