//! Calling a method of a service of gRPC: one message there, one back.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};
use prost::Message;

use super::{Question, Unanswered, ask, sign};
use crate::{
    config::grpc_service::GrpcService,
    http::{
        body::{RequestBody, client::ClientBody},
        stream::behalf::Behalf,
    },
    wire::grpc::status_of,
};

/// Answers are no longer than this where a service does not say, bytes.
const LONGEST: usize = 4 << 20;

/// What stands before each message: whether it is compressed, and its length (4 bytes).
const PREFIX: usize = 5;

/// gRPC's UNAVAILABLE.
const UNAVAILABLE: u8 = 14;

/// gRPC's INTERNAL.
const INTERNAL: u8 = 13;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Calls a method. Error: gRPC's status.
pub(crate) async fn unary<A: Message + Default>(
    behalf: Behalf<'_>,
    service: &GrpcService,
    method: &'static str,
    message: &impl Message,
) -> Result<A, u8> {
    let snapshot = behalf.worker.snapshot(behalf.view).load_full();
    let cluster = snapshot.cluster(&service.cluster).ok_or(UNAVAILABLE)?;
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = Method::POST;
    parts.uri = Uri::from_static(method);
    head(behalf, service, &mut parts.headers);
    let question = Question {
        parts,
        body: RequestBody::Stream(ClientBody::whole(framed(message))),
        scheme: "http",
        timeout: service.timeout,
        keep: Some(service.longest.unwrap_or(LONGEST) + PREFIX),
    };
    let answered = ask(behalf, cluster, question).await.map_err(|why| match why {
        Unanswered::TooLong => INTERNAL,
        _ => UNAVAILABLE,
    })?;
    if answered.status != StatusCode::OK {
        return Err(status_of(answered.status.as_u16()));
    }
    // Of an answer without a message it is in the head.
    let status = answered.trailers.get(GRPC_STATUS).or_else(|| answered.headers.get(GRPC_STATUS));
    match status.and_then(|status| status.to_str().ok()?.parse().ok()) {
        Some(0) => unframed(&answered.body).ok_or(INTERNAL),
        Some(status) => Err(status),
        None => Err(INTERNAL),
    }
}

fn head(behalf: Behalf<'_>, service: &GrpcService, headers: &mut HeaderMap) {
    headers.insert(header::HOST, service.authority.clone());
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    if let Some(timeout) = service.timeout
        && let Ok(timeout) = HeaderValue::try_from(format!("{}m", timeout.as_millis()))
    {
        headers.insert(GRPC_TIMEOUT, timeout);
    }
    for (name, value) in &service.metadata {
        headers.append(name.clone(), value.clone());
    }
    if !service.bare {
        sign(behalf, headers, service.timeout.unwrap_or_default());
    }
}

fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    bytes.put_slice(&message.encode_to_vec());
    bytes.freeze()
}

/// The only message of a body.
fn unframed<A: Message + Default>(body: &Bytes) -> Option<A> {
    let [0, a, b, c, d, message @ ..] = &**body else { return None };
    let length = usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).ok()?;
    (message.len() == length).then(|| A::decode(message).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_a_prefix() {
        let text = "hello".to_owned();
        let bytes = framed(&text);
        assert_eq!(&bytes[..PREFIX], [0, 0, 0, 0, 7]);
        assert_eq!(unframed::<String>(&bytes), Some(text));
        assert_eq!(unframed::<String>(&bytes.slice(..bytes.len() - 1)), None);
        assert_eq!(unframed::<String>(&Bytes::from_static(&[1, 0, 0, 0, 0])), None);
    }
}
