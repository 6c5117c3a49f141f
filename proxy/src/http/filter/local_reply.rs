//! Answering a request here: the reply takes the way of a response, through the filters that the request has passed.

use http::{HeaderValue, Response, StatusCode, Version, header, request::Parts};

use super::chain::Chain;
use crate::{
    access_log::{Flag, Live, View},
    http::{
        codec::meters,
        headers::{
            mutate::{self, Changes},
            response,
        },
        stream::{Stream, connection::Unread, reply::Reply, response_body::ResponseBody},
    },
};

/// Answers with a reply made here. The route's response headers, if there is one, are applied.
pub(in crate::http) fn answer(
    stream: Stream,
    chain: Chain,
    reply: Reply,
    changes: Option<&Changes<'_>>,
    parts: &Parts,
) -> Response<ResponseBody> {
    let live = stream.live(parts);
    answer_to(stream, chain, reply, changes, Some(live))
}

/// The same; `live`: the request, if it is known.
fn answer_to(
    mut stream: Stream,
    mut chain: Chain,
    mut reply: Reply,
    changes: Option<&Changes<'_>>,
    live: Option<Live<'_>>,
) -> Response<ResponseBody> {
    let changes = changes.filter(|_| !reply.verbatim);
    tracing::debug!(
        // Not "filter": as in Envoy.
        target: "http",
        connection = stream.connection.id,
        stream = stream.record.name(),
        status = reply.status.as_u16(),
        details = %reply.details,
        "sending local reply"
    );
    let entry = &mut stream.record.entry;
    entry.details.clone_from(&reply.details);
    // As in Envoy, that the protocol is broken is noted when the reply has been made.
    let broken = reply.flag == Some(Flag::DownstreamProtocolError);
    if broken {
        stream.connection.protocol_error();
    } else if let Some(flag) = reply.flag {
        entry.raise(flag);
    }
    if reply.status == StatusCode::BAD_REQUEST {
        stream.connection.answers_bad_request();
    }
    if let Some(changes) = changes {
        let view = View::perhaps_live(entry, live);
        mutate::apply_to_response(changes, &mut reply.headers, &view);
    }
    if let Some(replies) = &stream.connection.manager.local_reply
        && !reply.verbatim
    {
        stream.record.entry.response_code = reply.status.as_u16();
        reply.rewrite(replies, &stream.record.entry, live, &stream.connection.worker.runtime);
    }
    // What %RESPONSE_CODE% is in headers that filters add.
    let code_in_filters = if reply.verbatim { 0 } else { reply.status.as_u16() };
    let reply = if stream.is_grpc() && !reply.verbatim { reply.into_grpc() } else { reply };
    let mut headers = reply.headers;
    if !reply.body.is_empty() && !headers.contains_key(header::CONTENT_TYPE) {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    if stream.head && !reply.body.is_empty() {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(reply.body.len()));
    }
    let entry = &mut stream.record.entry;
    // Later than the route's headers: as in Envoy, %RESPONSE_CODE% in them is 0.
    entry.response_code = code_in_filters;
    chain.on_response(&stream, reply.status, live, &mut headers);
    let about = stream.about();
    let Stream { mut record, head, connection, endless, .. } = stream;
    let unread = match reply.close || record.request_completed().is_none() {
        _ if endless => Unread::Tunnel,
        true => Unread::Rest,
        false => Unread::Nothing,
    };
    let entry = &mut record.entry;
    entry.response_code = reply.status.as_u16();
    if broken {
        entry.raise(Flag::DownstreamProtocolError);
    }
    response::finish(&connection.manager, &mut headers, false, about);
    let asked = if entry.protocol == Some("HTTP/1.0") { Version::HTTP_10 } else { Version::HTTP_11 };
    if reply.body.is_empty() {
        // As Envoy sends it: without a length.
        connection.ends_with_unbounded(asked, &headers);
    }
    // As in Envoy, an end that neither side has asked for before is not among what is reckoned.
    let ends = reply.close || connection.says_last();
    if !ends {
        entry.kept.response(&connection.manager.wanted, &headers);
    }
    connection.before_response(&mut headers, unread);
    if ends {
        entry.kept.response(&connection.manager.wanted, &headers);
    }
    let length = if head { 0 } else { reply.body.len() as u64 };
    record.meter_response(reply.status, &headers, meters::Body::Of(length));
    if !headers.contains_key(header::CONTENT_LENGTH) {
        // hyper adds it.
        record.entry.kept.add_response(&connection.manager.wanted, "content-length", length);
    }
    if connection.manager.wanted.times {
        record.entry.timing.reply_began = Some(std::time::Instant::now());
    }
    let mut response = Response::new(ResponseBody::local(reply.body, head, record));
    *response.version_mut() = connection.response_version(asked);
    *response.status_mut() = reply.status;
    response::set_reason(&mut response);
    *response.headers_mut() = headers;
    response
}

/// Answers a request that comes to no filter.
pub(in crate::http) fn reject(stream: Stream, reply: Reply, parts: &Parts) -> Response<ResponseBody> {
    let chain = Chain::new(&stream.connection.manager.filters, None);
    answer(stream, chain, reply, None, parts)
}

/// Answers what is not known as a request and not to be read any further, and ends its connection.
pub(in crate::http) fn refuse(stream: Stream, reply: Reply) -> Response<ResponseBody> {
    let chain = Chain::new(&stream.connection.manager.filters, None);
    answer_to(stream, chain, Reply { close: true, ..reply }, None, None)
}
