//! Preparing a request: one form for all protocols, checked, with the headers that this hop owes it.
//!
//! In that form the target is a path and query only, and `host` holds the authority, whichever protocol they came by.

use std::{borrow::Cow, net::SocketAddr};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version, header,
    request::Parts,
    uri::{PathAndQuery, Scheme},
};
use hyper::ext::Protocol;

use crate::{
    access_log::Flag,
    config::{
        http::{EscapedSlashes, HttpConnectionManager, StripPort, Underscores},
        request::is_grpc,
        route::without_port,
    },
    http::{
        codec::framing,
        headers::{
            forwarded::{self, Client},
            lines, mutate, nominated, normal_path, request_id, rewrite,
        },
        stream::{reply::Reply, route::CONNECT},
    },
};

/// Details of requests whose path has no form that routes are for, and of those that are sent where it has.
pub(in crate::http) const PATH_NOT_NORMAL: &str = "path_normalization_failed";
/// Details of requests by QUERY (draft-ietf-httpbis-safe-method-w-body section 2) that do not say what they ask in.
const QUERY_WITHOUT_TYPE: &str = "query_missing_content_type";
/// Details of a target that is no path, or must not be more than one (`allow_absolute_url`).
pub(in crate::http) const NO_PATH: &str = "absolute_path_rejected";

/// The prepared request's particulars.
#[derive(Clone, Debug)]
pub(in crate::http) struct Prepared {
    pub client: Client,
    /// The protocol that it wants to switch to, lower case.
    pub upgrade: Option<Box<str>>,
    /// Headers that were dropped for the underscores in their names.
    pub dropped: u64,
    /// The client waits to be told that it may go on, which this hop does.
    pub expected: bool,
}

/// Prepares a request that came from `peer` to `local`. Error: what it is answered.
pub(in crate::http) fn request(
    manager: &HttpConnectionManager,
    parts: &mut Parts,
    peer: SocketAddr,
    local: SocketAddr,
    scheme: &'static str,
) -> Result<Prepared, Box<Reply>> {
    // Whoever is the first to be asked knows that nothing was encrypted.
    let is_first = manager.use_remote_address && manager.xff_num_trusted_hops == 0;
    let claims = parts.version < Version::HTTP_2 && parts.uri.scheme() == Some(&Scheme::HTTPS);
    if is_first && claims && scheme != "https" {
        let details = "http1.https_url_on_plaintext_connection";
        return Err(refusal(StatusCode::FORBIDDEN, "Forbidden", Flag::DownstreamProtocolError, details));
    }
    let dropped = match manager.underscores {
        Underscores::Allow => 0,
        action => check_underscores(action, parts)?,
    };
    if parts.version >= Version::HTTP_2 {
        // One for each cookie (RFC 9113 section 8.2.3): HTTP/1 servers and whoever matches cookies know one for all.
        lines::join(&mut parts.headers, &header::COOKIE, "; ");
    }
    lines::Of::Request.join(&mut parts.headers);
    let upgrade = wanted_upgrade(parts);
    if upgrade.is_none() && nominated::remove(&mut parts.headers).is_err() {
        return Err(Box::new(Reply::protocol_error(StatusCode::BAD_REQUEST, "http1.connection_header_rejected")));
    }
    set_authority(manager, parts, local)?;
    if parts.method.as_str() == "QUERY" && !parts.headers.contains_key(header::CONTENT_TYPE) {
        return Err(refusal(StatusCode::BAD_REQUEST, "", None, QUERY_WITHOUT_TYPE));
    }
    // A tunnel leads to an authority; it has no path.
    let tunnel = parts.method == Method::CONNECT;
    if !tunnel {
        set_path(manager, parts)?;
    } else if parts.uri.authority().is_none() || !parts.uri.path().is_empty() {
        return Err(Box::new(Reply::protocol_error(StatusCode::BAD_REQUEST, "http1.invalid_url")));
    }
    mutate::strip_hop_by_hop(&mut parts.headers, upgrade.is_some() && !tunnel);
    mutate::keep_only_trailers_in_te(&mut parts.headers);
    let expected = !manager.passes_expectations
        && parts
            .headers
            .get(header::EXPECT)
            .is_some_and(|expect| expect.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if expected {
        // This hop has said so, or will when the body is read.
        parts.headers.remove(header::EXPECT);
    }
    let client = forwarded::identify(manager, (peer, local.port()), &mut parts.headers, scheme)
        .map_err(|status| refusal(status, "", None, forwarded::NOT_DETECTED))?;
    if let Some(via) = &manager.via {
        mutate::append_via(&mut parts.headers, via);
    }
    request_id::set(manager, &mut parts.headers, client);
    Ok(Prepared { client, upgrade, dropped, expected })
}

fn refusal(status: StatusCode, body: &'static str, flag: impl Into<Option<Flag>>, details: &'static str) -> Box<Reply> {
    Box::new(Reply::new(status, body, flag, details))
}

fn set_authority(manager: &HttpConnectionManager, parts: &mut Parts, local: SocketAddr) -> Result<(), Box<Reply>> {
    let missing = || refusal(StatusCode::BAD_REQUEST, "", None, "missing_host_header");
    let old = parts.version < Version::HTTP_11;
    if let Some(authority) = parts.uri.authority() {
        let value = HeaderValue::from_str(authority.as_str()).map_err(|_| missing())?;
        parts.headers.insert(header::HOST, value);
    } else if parts.headers.get_all(header::HOST).iter().nth(1).is_some() {
        join_hosts(&mut parts.headers);
    } else if let Some(host) =
        manager.default_host.as_ref().filter(|_| old && !parts.headers.contains_key(header::HOST))
    {
        parts.headers.insert(header::HOST, host.clone());
    }
    let host = parts.headers.get(header::HOST).ok_or_else(missing)?;
    if parts.version >= Version::HTTP_2 {
        if host.is_empty() {
            return Err(missing());
        }
    } else if !host.as_bytes().iter().all(|byte| framing::is_authority(*byte)) {
        return Err(Box::new(Reply::protocol_error(StatusCode::BAD_REQUEST, "http.invalid_authority")));
    }
    let dotless = if manager.strip_trailing_host_dot { without_dot(host.as_bytes()) } else { host.as_bytes().into() };
    let mut stripped = &*dotless;
    match manager.strip_port {
        StripPort::Never => {}
        mode => {
            let bare = without_port(stripped);
            let port =
                stripped.get(bare.len() + 1..).and_then(|port| std::str::from_utf8(port).ok()?.parse::<u32>().ok());
            if port.is_some_and(|port| mode == StripPort::Any || port == u32::from(local.port())) {
                stripped = bare;
            }
        }
    }
    if stripped.len() != host.len() {
        let value = HeaderValue::from_bytes(stripped).map_err(|_| missing())?;
        parts.headers.insert(header::HOST, value);
    }
    Ok(())
}

/// A host without the dot at its end, or before its port.
fn without_dot(host: &[u8]) -> Cow<'_, [u8]> {
    match host.iter().rposition(|byte| *byte == b'.').map(|dot| (&host[..dot], &host[dot + 1..])) {
        Some((name, [])) => name.into(),
        Some((name, port @ [b':', ..])) => [name, port].concat().into(),
        _ => host.into(),
    }
}

/// Several hosts become one, which is none of them: as in Envoy, and no router takes it for one.
fn join_hosts(headers: &mut HeaderMap) {
    let hosts = headers.get_all(header::HOST).iter().map(HeaderValue::as_bytes).filter(|host| !host.is_empty());
    let joined = hosts.collect::<Vec<_>>().join(&b","[..]);
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        headers.insert(header::HOST, joined);
    }
}

/// Makes the target a path and query, in the form that the manager wants. It keeps what it comes to where it is refused:
/// that is what is logged.
fn set_path(manager: &HttpConnectionManager, parts: &mut Parts) -> Result<(), Box<Reply>> {
    if parts.uri.authority().is_some() || parts.uri.scheme().is_some() {
        let path = parts.uri.path_and_query().cloned();
        parts.uri = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
        if manager.refuses_absolute_urls && parts.version < Version::HTTP_2 {
            return Err(refusal(StatusCode::NOT_FOUND, "", None, NO_PATH));
        }
    }
    if !parts.uri.path().starts_with('/') {
        return Ok(());
    }
    let bad = || refusal(StatusCode::BAD_REQUEST, "", None, PATH_NOT_NORMAL);
    let unescaped = match manager.escaped_slashes {
        EscapedSlashes::Keep => None,
        _ => normal_path::unescape_slashes(parts.uri.path()),
    };
    let action = if unescaped.is_some() { manager.escaped_slashes } else { EscapedSlashes::Keep };
    if let Some(path) = unescaped {
        replace_path(parts, path)?;
    }
    if action == EscapedSlashes::Reject {
        return Err(bad());
    }
    if manager.normalize_path {
        let path = normal_path::canonical(parts.uri.path()).ok_or_else(bad)?;
        replace_path(parts, path)?;
    }
    if manager.merge_slashes && parts.uri.path().contains("//") {
        let path = normal_path::merge_slashes(parts.uri.path());
        replace_path(parts, path)?;
    }
    match action {
        // Whoever calls by gRPC follows no redirects.
        EscapedSlashes::Redirect if is_grpc(&parts.headers) => Err(bad()),
        EscapedSlashes::Redirect => {
            let mut reply = refusal(StatusCode::TEMPORARY_REDIRECT, "", None, PATH_NOT_NORMAL);
            let path = parts.uri.path_and_query().and_then(|path| HeaderValue::from_str(path.as_str()).ok());
            reply.headers.extend(path.map(|path| (header::LOCATION, path)));
            Err(reply)
        }
        EscapedSlashes::Keep | EscapedSlashes::Reject | EscapedSlashes::Forward => Ok(()),
    }
}

fn replace_path(parts: &mut Parts, path: String) -> Result<(), Box<Reply>> {
    if path != parts.uri.path() {
        let bad = || refusal(StatusCode::BAD_REQUEST, "", None, PATH_NOT_NORMAL);
        parts.uri = Uri::from(rewrite::with_query(path.into_bytes(), parts.uri.query()).ok_or_else(bad)?);
    }
    Ok(())
}

/// Headers with underscores look like others to servers that turn dashes into underscores. How many were dropped.
fn check_underscores(action: Underscores, parts: &mut Parts) -> Result<u64, Box<Reply>> {
    let underscored: Vec<HeaderName> =
        parts.headers.keys().filter(|name| name.as_str().contains('_')).cloned().collect();
    // A stream of HTTP/2 has been reset before.
    if action == Underscores::Reject && !underscored.is_empty() {
        let details = "http1.unexpected_underscore";
        return Err(refusal(StatusCode::BAD_REQUEST, "Bad Request", Flag::DownstreamProtocolError, details));
    }
    let before = parts.headers.len();
    for name in underscored {
        parts.headers.remove(name);
    }
    Ok((before - parts.headers.len()) as u64)
}

fn wanted_upgrade(parts: &mut Parts) -> Option<Box<str>> {
    if parts.method == Method::CONNECT {
        let protocol = parts.extensions.get::<Protocol>().map(|protocol| protocol.as_str().to_ascii_lowercase());
        let Some(protocol) = protocol else { return Some(CONNECT.into()) };
        // RFC 8441: what HTTP/1 calls an upgrade, and what it is for whoever looks at it here.
        parts.method = Method::GET;
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        if let Ok(protocol) = HeaderValue::from_str(&protocol) {
            parts.headers.insert(header::UPGRADE, protocol);
        }
        return Some(protocol.into());
    }
    if parts.version >= Version::HTTP_2 {
        return None;
    }
    let upgrade = parts.headers.get(header::UPGRADE)?.to_str().ok()?.trim();
    let asked = nominated::has(&parts.headers, "upgrade");
    if asked && upgrade.eq_ignore_ascii_case("h2c") {
        // As in Envoy, which does not upgrade to HTTP/2 and goes on without.
        parts.headers.remove("http2-settings");
        return None;
    }
    asked.then(|| upgrade.to_ascii_lowercase().into())
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::http::{headers::request_id::X_REQUEST_ID, testing::manager};

    fn parts(uri: &str, version: Version, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri(uri).version(version);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn run(manager: &HttpConnectionManager, parts: &mut Parts) -> Result<Prepared, Box<Reply>> {
        request(manager, parts, "10.0.0.1:1".parse().unwrap(), "10.0.0.2:80".parse().unwrap(), "http")
    }

    #[test]
    fn both_protocols_become_one_form() {
        for (uri, version, headers) in [
            ("/p?q", Version::HTTP_11, &[("host", "h")][..]),
            ("http://h/p?q", Version::HTTP_11, &[("host", "other")]),
            ("http://h/p?q", Version::HTTP_2, &[]),
        ] {
            let mut parts = parts(uri, version, headers);
            run(&manager(), &mut parts).unwrap();
            assert_eq!(
                (parts.uri.to_string().as_str(), &parts.headers["host"]),
                ("/p?q", &HeaderValue::from_static("h"))
            );
            assert_eq!(parts.headers[X_REQUEST_ID].len(), 36);
        }
    }

    #[test]
    fn refused_requests() {
        for (uri, version, headers, status, details) in [
            ("/", Version::HTTP_11, &[][..], 400, "missing_host_header"),
            ("/", Version::HTTP_11, &[("host", "a b")], 400, "http.invalid_authority"),
            (
                "/",
                Version::HTTP_11,
                &[("host", "h"), ("connection", "x-forwarded-for")],
                400,
                "http1.connection_header_rejected",
            ),
        ] {
            let reply = run(&manager(), &mut parts(uri, version, headers)).unwrap_err();
            assert_eq!((reply.status.as_u16(), &*reply.details), (status, details));
        }
    }

    #[test]
    fn hosts_that_are_none_or_several() {
        for (hosts, expected) in [(&[""][..], ""), (&["a", "b"], "a,b"), (&["a", "", "a"], "a,a")] {
            let headers: Vec<_> = hosts.iter().map(|host| ("host", *host)).collect();
            let mut parts = parts("/", Version::HTTP_11, &headers);
            run(&manager(), &mut parts).unwrap();
            assert_eq!(parts.headers.get_all("host").iter().collect::<Vec<_>>(), [expected]);
        }
    }

    #[test]
    fn cookies_of_http_2_become_one() {
        for (version, expected) in [(Version::HTTP_11, &["a=1", "b=2"][..]), (Version::HTTP_2, &["a=1; b=2"])] {
            let mut parts = parts("http://h/", version, &[("host", "h"), ("cookie", "a=1"), ("cookie", "b=2")]);
            run(&manager(), &mut parts).unwrap();
            assert_eq!(parts.headers.get_all("cookie").iter().collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn only_the_expectation_that_is_met_ends_here() {
        for (expect, passed) in [("100-Continue", false), ("something else", true)] {
            let mut parts = parts("/", Version::HTTP_11, &[("host", "h"), ("expect", expect)]);
            run(&manager(), &mut parts).unwrap();
            assert_eq!(parts.headers.contains_key("expect"), passed);
        }
    }

    #[test]
    fn an_upgrade_to_http_2_is_ignored() {
        let h2c =
            [("host", "h"), ("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c"), ("http2-settings", "x")];
        let mut parts = parts("/", Version::HTTP_11, &h2c);
        assert_eq!(run(&manager(), &mut parts).unwrap().upgrade, None);
        for name in ["connection", "upgrade", "http2-settings"] {
            assert!(!parts.headers.contains_key(name), "{name}");
        }
    }

    #[test]
    fn escaped_slashes_and_underscores() {
        let mut manager = manager();
        manager.escaped_slashes = EscapedSlashes::Forward;
        let mut forwarded = parts("/a%2fb%5Cc%20?q=%2f", Version::HTTP_11, &[("host", "h")]);
        run(&manager, &mut forwarded).unwrap();
        assert_eq!(forwarded.uri, "/a/b\\c%20?q=%2f");
        manager.escaped_slashes = EscapedSlashes::Redirect;
        let reply = run(&manager, &mut parts("/a%2Fb?q", Version::HTTP_11, &[("host", "h")])).unwrap_err();
        assert_eq!((reply.status.as_u16(), &reply.headers["location"]), (307, &HeaderValue::from_static("/a/b?q")));
        manager.escaped_slashes = EscapedSlashes::Reject;
        let reply = run(&manager, &mut parts("/a%2Fb", Version::HTTP_11, &[("host", "h")])).unwrap_err();
        assert_eq!((reply.status.as_u16(), &*reply.details), (400, "path_normalization_failed"));
        manager.underscores = Underscores::Drop;
        let mut dropped = parts("/", Version::HTTP_11, &[("host", "h"), ("x_a", "1"), ("x-a", "1")]);
        run(&manager, &mut dropped).unwrap();
        assert!(!dropped.headers.contains_key("x_a") && dropped.headers.contains_key("x-a"));
        manager.underscores = Underscores::Reject;
        let reply = run(&manager, &mut parts("/", Version::HTTP_11, &[("host", "h"), ("x_a", "1")])).unwrap_err();
        assert_eq!(&*reply.details, "http1.unexpected_underscore");
    }

    #[test]
    fn the_clients_request_id_is_kept_unless_this_is_the_edge() {
        let mut manager = manager();
        let mut kept = parts("/", Version::HTTP_11, &[("host", "h"), ("x-request-id", "mine")]);
        run(&manager, &mut kept).unwrap();
        assert_eq!(kept.headers[X_REQUEST_ID], "mine");
        manager.use_remote_address = true;
        run(&manager, &mut kept).unwrap();
        assert_ne!(kept.headers[X_REQUEST_ID], "mine");
    }

    #[test]
    fn ports_are_stripped_as_configured() {
        let mut manager = manager();
        for (mode, host, expected) in [
            (StripPort::Never, "h:80", "h:80"),
            (StripPort::Matching, "h:80", "h"),
            (StripPort::Matching, "h:81", "h:81"),
            (StripPort::Any, "h:81", "h"),
        ] {
            manager.strip_port = mode;
            let mut parts = parts("/", Version::HTTP_11, &[("host", host)]);
            run(&manager, &mut parts).unwrap();
            assert_eq!(parts.headers["host"], expected);
        }
    }

    #[test]
    fn upgrades_are_recognised() {
        let mut parts = parts(
            "/",
            Version::HTTP_11,
            &[("host", "h"), ("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")],
        );
        assert_eq!(run(&manager(), &mut parts).unwrap().upgrade.as_deref(), Some("websocket"));
        assert!(parts.headers.contains_key("upgrade"));
    }
}
