//! A scripted server's connections in HTTP/2.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use h2::{Reason, RecvStream, server::SendResponse};
use http::{HeaderMap, HeaderName, HeaderValue, Request as HttpRequest, Response as HttpResponse};
use tokio::time::{sleep, timeout};

use super::{
    case::Then,
    http1::Header,
    script::{self, Answer, Response},
    seen::Request,
    upstream::Shared,
    wire::{PATIENCE, Wire},
};

/// After so long what was said has gone out.
const SAID: Duration = Duration::from_millis(50);

/// Serves a connection to its end.
pub async fn serve(wire: Wire, shared: Arc<Shared>, about: Vec<String>) {
    let mut builder = h2::server::Builder::new();
    let Ok(mut connection) = builder.enable_connect_protocol().handshake(wire).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        let path = request.uri().path().to_owned();
        // Without a task of its own: a connection that is closed instead of an answer ends here.
        let rule = shared.rule(&path).cloned();
        if let Some(rule) = rule.as_ref().filter(|rule| rule.then == Then::CloseAtOnce) {
            sleep(rule.delay.unwrap_or_default()).await;
            shared.remember(told(&request.into_parts().0, &about));
            return;
        }
        let (shared, about) = (shared.clone(), about.clone());
        tokio::spawn(async move { answer(request, respond, rule, &shared, &about).await });
    }
}

async fn answer(
    request: HttpRequest<RecvStream>,
    mut respond: SendResponse<Bytes>,
    rule: Option<super::case::Rule>,
    shared: &Shared,
    about: &[String],
) -> Option<()> {
    let (parts, mut stream) = request.into_parts();
    let mut seen = told(&parts, about);
    // A tunnel, unless a rule or the script says something else of its path.
    if parts.method == "CONNECT" && rule.is_none() && !parts.uri.path().starts_with("/status/") {
        shared.remember(seen);
        let mut back = respond.send_response(HttpResponse::new(()), false).ok()?;
        while let Some(Ok(chunk)) = stream.data().await {
            let _ = stream.flow_control().release_capacity(chunk.len());
            back.send_data(chunk, false).ok()?;
            if parts.uri.path().ends_with("/resets") {
                sleep(SAID).await;
                back.send_reset(Reason::INTERNAL_ERROR);
                return None;
            }
            if parts.uri.path().ends_with("/leaves") {
                break;
            }
        }
        back.send_data(Bytes::new(), true).ok()?;
        while let Some(Ok(_)) = stream.data().await {}
        return Some(());
    }
    let early = rule.as_ref().is_some_and(|rule| rule.early);
    let unread = early || parts.method == "CONNECT";
    while !unread && let Some(chunk) = stream.data().await {
        let chunk = chunk.ok()?;
        let _ = stream.flow_control().release_capacity(chunk.len());
        seen.body.extend_from_slice(&chunk);
    }
    if !unread {
        seen.trailers = stream.trailers().await.ok()?.map(|trailers| headers_of(&trailers)).unwrap_or_default();
    }
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    shared.remember(seen.clone());
    let (response, then) = match &rule {
        Some(rule) => {
            sleep(rule.delay.unwrap_or_default()).await;
            (Response::of(rule), rule.then)
        }
        None => match script::answer(&path, &seen, shared).await {
            Some(Answer::Response(response)) => (response, Then::Keep),
            // What only HTTP/1 can say badly is a reset here.
            _ => (Response::default(), Then::ResetAtOnce),
        },
    };
    if then == Then::ResetAtOnce {
        respond.send_reset(Reason::REFUSED_STREAM);
        return None;
    }
    let mut head = HttpResponse::builder().status(response.status).body(()).ok()?;
    *head.headers_mut() = map_of(&response.headers);
    let bodiless = !early && response.body.is_empty() && response.trailers.is_empty() && then != Then::Reset;
    let mut body = respond.send_response(head, bodiless).ok()?;
    if early {
        // What has come is not given room to be followed.
        body.send_data(Bytes::from(response.body), true).ok()?;
        let ended = async { while let Some(Ok(_)) = stream.data().await {} };
        shared.remember_end(timeout(PATIENCE, ended).await.is_ok());
        return Some(());
    }
    if bodiless {
        return Some(());
    }
    sleep(response.body_delay.unwrap_or_default()).await;
    if !response.body.is_empty() {
        let last = response.trailers.is_empty() && then != Then::Reset;
        body.send_data(Bytes::from(response.body), last).ok()?;
    }
    if then == Then::Reset {
        sleep(SAID).await;
        body.send_reset(Reason::INTERNAL_ERROR);
    } else if !response.trailers.is_empty() {
        body.send_trailers(map_of(&response.trailers)).ok()?;
    }
    Some(())
}

fn told(parts: &http::request::Parts, about: &[String]) -> Request {
    let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
    let scheme = parts.uri.scheme_str().unwrap_or("-");
    let authority = parts.uri.authority().map_or("-", |authority| authority.as_str());
    let protocol = parts.extensions.get::<h2::ext::Protocol>().map(|protocol| format!(" {}", protocol.as_str()));
    Request {
        connection: about.to_vec(),
        line: format!("{} {path} HTTP/2 {scheme} {authority}{}", parts.method, protocol.unwrap_or_default()),
        headers: headers_of(&parts.headers),
        ..Request::default()
    }
}

/// A map as a list.
pub fn headers_of(map: &HeaderMap) -> Vec<Header> {
    map.iter().map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())).collect()
}

/// A list as a map.
pub fn map_of(headers: &[Header]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let name: HeaderName = name.parse().unwrap_or_else(|error| panic!("header {name}: {error}"));
        let value: HeaderValue = value.parse().unwrap_or_else(|error| panic!("header {value}: {error}"));
        map.append(name, value);
    }
    map
}
