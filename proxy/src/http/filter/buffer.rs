//! Reading whole requests before they are passed on.

use http::{HeaderValue, StatusCode, header};
use http_body::Body;

use super::exchange::Exchange;
use crate::http::{
    body::client::ReadFailure,
    stream::{Stream, reply::Reply},
};

/// Reads the body, of at most `limit` bytes.
pub(super) async fn on_request(limit: usize, stream: &mut Stream, exchange: &mut Exchange<'_>) -> Option<Reply> {
    if exchange.body.is_end_stream() {
        return None;
    }
    match stream.record.while_logging(exchange.body.read_whole(limit)).await {
        Ok(length) => {
            let headers = &mut exchange.parts.headers;
            if !headers.contains_key(header::CONTENT_LENGTH) {
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
            }
            None
        }
        Err(failure) => Some(refusal(failure, stream)),
    }
}

/// The answer to a request whose body cannot be read.
pub(super) fn refusal(failure: ReadFailure, stream: &Stream) -> Reply {
    match failure {
        ReadFailure::TooLarge => {
            let status = StatusCode::PAYLOAD_TOO_LARGE;
            let reply = Reply::new(status, "Payload Too Large", None, "request_payload_too_large");
            Reply { close: true, ..reply }
        }
        ReadFailure::Broken => match stream.connection.broken_body() {
            Some(refusal) => Reply { close: true, ..Reply::refused(refusal) },
            // The client is gone: nobody reads this.
            None => Reply::new(StatusCode::BAD_REQUEST, "", None, "downstream_remote_disconnect"),
        },
    }
}
