//! The service's two methods over gRPC: each request is answered as it comes.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame};
use hyper::body::Incoming;

use super::told::{WITHOUT_CONTENTS, response};
use crate::admin::{counts, state::Admin};

/// The service's messages.
const REQUEST: &str = "envoy.service.status.v3.ClientStatusRequest";
const RESPONSE: &str = "envoy.service.status.v3.ClientStatusResponse";
/// A message begins with a flag and its length.
const PREFIX: usize = 5;
/// The longest request, bytes.
const LONGEST: usize = 1 << 20;

/// A method of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::admin) enum Method {
    /// One request.
    Fetch,
    /// As many as come.
    Stream,
}

impl Method {
    /// That of a path.
    pub(in crate::admin) fn of(path: &str) -> Option<Self> {
        match path.strip_prefix("/envoy.service.status.v3.ClientStatusDiscoveryService/")? {
            "FetchClientStatus" => Some(Self::Fetch),
            "StreamClientStatus" => Some(Self::Stream),
            _ => None,
        }
    }
}

/// Codes of gRPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Code {
    Ok = 0,
    InvalidArgument = 3,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Internal = 13,
}

/// Requests and their responses, as the body of the answer.
pub(in crate::admin) struct Calls {
    admin: Arc<Admin>,
    method: Method,
    requests: Incoming,
    come: BytesMut,
    answered: usize,
    ended: bool,
    /// Counts the request of HTTP.
    _request: counts::Request,
}

impl Calls {
    pub(in crate::admin) fn new(
        admin: Arc<Admin>,
        method: Method,
        requests: Incoming,
        request: counts::Request,
    ) -> Self {
        Self { admin, method, requests, come: BytesMut::new(), answered: 0, ended: false, _request: request }
    }

    fn end(&mut self, (code, message): (Code, &str)) -> Frame<Bytes> {
        self.ended = true;
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from(code as u16));
        if let Ok(message) = HeaderValue::from_str(message)
            && !message.is_empty()
        {
            trailers.insert("grpc-message", message);
        }
        Frame::trailers(trailers)
    }

    fn answer(&mut self, request: &[u8]) -> Result<Frame<Bytes>, (Code, &'static str)> {
        let request = weir_proto::json_of(REQUEST, request).map_err(|_| (Code::InvalidArgument, "no request"))?;
        let chosen = ["node_matchers"].iter().any(|field| request.get(field).is_some());
        if chosen {
            return Err((Code::Unimplemented, "node_matchers: every node is told of, each as a whole"));
        }
        let contents = !request.get(WITHOUT_CONTENTS).and_then(serde_json::Value::as_bool).unwrap_or_default();
        let message = weir_proto::bytes_of(RESPONSE, &response(&self.admin, contents));
        let message = message.map_err(|error| {
            tracing::warn!(%error, "the client status is not told");
            (Code::Internal, "what there is can't be told")
        })?;
        let mut frame = BytesMut::with_capacity(PREFIX + message.len());
        frame.put_u8(0);
        frame.put_u32(u32::try_from(message.len()).map_err(|_| (Code::ResourceExhausted, "too much to tell"))?);
        frame.put_slice(&message);
        self.answered += 1;
        Ok(Frame::data(frame.freeze()))
    }
}

/// The first message, once all of it has come.
fn message(come: &mut BytesMut) -> Result<Option<Bytes>, (Code, &'static str)> {
    let Some((mut prefix, rest)) = come.split_at_checked(PREFIX) else { return Ok(None) };
    if prefix.get_u8() != 0 {
        return Err((Code::Unimplemented, "compressed requests are not supported"));
    }
    let length = prefix.get_u32() as usize;
    if length > LONGEST {
        return Err((Code::ResourceExhausted, "the request is too long"));
    }
    if rest.len() < length {
        return Ok(None);
    }
    come.advance(PREFIX);
    Ok(Some(come.split_to(length).freeze()))
}

impl Body for Calls {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        loop {
            if this.method == Method::Fetch && this.answered > 0 {
                return Poll::Ready(Some(Ok(this.end((Code::Ok, "")))));
            }
            let answered = match message(&mut this.come) {
                Ok(Some(request)) => this.answer(&request),
                Ok(None) => match ready!(Pin::new(&mut this.requests).poll_frame(cx)) {
                    Some(Ok(frame)) => {
                        if let Ok(data) = frame.into_data() {
                            this.come.extend_from_slice(&data);
                        }
                        continue;
                    }
                    Some(Err(_)) => return Poll::Ready(None),
                    None if this.answered == 0 => Err((Code::InvalidArgument, "no request")),
                    None => Err((Code::Ok, "")),
                },
                Err(wrong) => Err(wrong),
            };
            return Poll::Ready(Some(Ok(answered.unwrap_or_else(|end| this.end(end)))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_once_they_are_whole() {
        let mut come = BytesMut::from(&b"\0\0\0\0\x02a"[..]);
        assert_eq!(message(&mut come), Ok(None));
        come.extend_from_slice(b"b\0\0\0\0\0\0");
        assert_eq!(message(&mut come), Ok(Some(Bytes::from_static(b"ab"))));
        assert_eq!(message(&mut come), Ok(Some(Bytes::new())));
        assert_eq!(message(&mut come), Ok(None));
        let refused = |bytes: &[u8]| message(&mut BytesMut::from(bytes)).unwrap_err().0;
        assert_eq!(refused(b"\x01\0\0\0\0"), Code::Unimplemented);
        assert_eq!(refused(b"\0\xff\0\0\0"), Code::ResourceExhausted);
        let service = "/envoy.service.status.v3.ClientStatusDiscoveryService/";
        assert_eq!(Method::of(&format!("{service}FetchClientStatus")), Some(Method::Fetch));
        assert_eq!(Method::of(&format!("{service}Other")), None);
    }
}
