//! Rewriting paths and hosts, and where redirects lead.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Uri,
    uri::{PathAndQuery, Scheme},
};

use percent_encoding::{AsciiSet, CONTROLS, percent_encode};

use crate::config::route::{HostRewrite, PathMatch, PathRewrite, Redirect, RedirectPath, without_port};

/// What a rewritten path was before.
const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");

/// Besides controls and bytes beyond ASCII, what has no place in a target (RFC 3986 section 3).
const NOT_IN_A_TARGET: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'<').add(b'>').add(b'`');

/// A rewrite gives a target that is longer than any can be.
#[derive(Debug)]
pub(in crate::http) struct TooLong;

/// Rewrites a target's path; with `original`, what it was goes there.
pub(in crate::http) fn apply(
    rewrite: &PathRewrite,
    matched: &PathMatch,
    uri: &mut Uri,
    original: Option<&mut HeaderMap>,
) -> Result<(), TooLong> {
    let Some(old) = uri.path_and_query() else { return Ok(()) };
    let path = rewritten(rewrite, matched, uri);
    if path.is_empty() {
        // As in Envoy, there is nothing to go by.
        return Ok(());
    }
    let new = target(path, uri.query())?;
    if let Some((headers, old)) = original.zip(HeaderValue::from_str(old.as_str()).ok()) {
        headers.insert(ORIGINAL_PATH, old);
    }
    *uri = Uri::from(new);
    Ok(())
}

fn rewritten(rewrite: &PathRewrite, matched: &PathMatch, uri: &Uri) -> Vec<u8> {
    let path = uri.path();
    match rewrite {
        PathRewrite::Prefix(prefix) => {
            let rest = &path[matched.matched_len(path).min(path.len())..];
            [prefix, rest].concat().into()
        }
        PathRewrite::Regex(regex) => regex.apply(path.as_bytes()),
    }
}

/// A path and a query as a request may ask for them: with a slash in front, and escapes for what has no place there.
fn target(mut path: Vec<u8>, query: Option<&str>) -> Result<PathAndQuery, TooLong> {
    if !path.starts_with(b"/") {
        path.insert(0, b'/');
    }
    let path = Bytes::from(path);
    let as_it_is = match query {
        None => PathAndQuery::from_maybe_shared(path.clone()).ok(),
        Some(_) => with_query(path.to_vec(), query),
    };
    // A fragment would be cut off.
    if let Some(target) = as_it_is.filter(|_| !path.contains(&b'#')) {
        return Ok(target);
    }
    let escaped = percent_encode(&path, NOT_IN_A_TARGET).to_string();
    with_query(escaped.into_bytes(), query).ok_or(TooLong)
}

/// A path with a query after it. None: it would not be valid.
pub(in crate::http) fn with_query(mut path: Vec<u8>, query: Option<&str>) -> Option<PathAndQuery> {
    if let Some(query) = query {
        path.push(b'?');
        path.extend_from_slice(query.as_bytes());
    }
    PathAndQuery::from_maybe_shared(Bytes::from(path)).ok()
}

/// The new authority, if this rewrite gives one.
pub(in crate::http) fn host(
    rewrite: &HostRewrite,
    uri: &Uri,
    headers: &HeaderMap,
    endpoint: &str,
) -> Option<HeaderValue> {
    match rewrite {
        HostRewrite::Literal(host) => Some(host.clone()),
        HostRewrite::Auto => (!endpoint.is_empty()).then(|| HeaderValue::from_str(endpoint).ok()).flatten(),
        HostRewrite::Header(name) => headers.get(name).filter(|value| !value.is_empty()).cloned(),
        HostRewrite::PathRegex(regex) => HeaderValue::from_bytes(&regex.apply(uri.path().as_bytes())).ok(),
    }
}

/// Where a redirect leads: an absolute URL.
pub(in crate::http) fn location(
    redirect: &Redirect,
    matched: &PathMatch,
    uri: &Uri,
    authority: &str,
    scheme: &str,
) -> Vec<u8> {
    let new_scheme = redirect.scheme.as_deref().unwrap_or(scheme);
    let mut out = Vec::with_capacity(64);
    out.extend_from_slice(new_scheme.as_bytes());
    out.extend_from_slice(b"://");
    match (&redirect.host, redirect.port) {
        (Some(host), None) => out.extend_from_slice(host.as_bytes()),
        (host, Some(port)) => {
            let host = host.as_deref().map_or_else(|| without_port(authority.as_bytes()), str::as_bytes);
            out.extend_from_slice(host);
            out.extend_from_slice(format!(":{port}").as_bytes());
        }
        (None, None) => out.extend_from_slice(without_default_port(authority, scheme, new_scheme).as_bytes()),
    }
    let query = uri.query().filter(|_| !redirect.strip_query);
    let (mut path, query): (Vec<u8>, _) = match &redirect.path {
        None => (uri.path().into(), query),
        Some(RedirectPath::Whole(path)) if path.contains('?') => (path.as_bytes().to_vec(), None),
        Some(RedirectPath::Whole(path)) => (path.as_bytes().to_vec(), query),
        Some(RedirectPath::Rewrite(rewrite)) => match rewritten(rewrite, matched, uri) {
            nothing if nothing.is_empty() => (uri.path().into(), query),
            path => (path, query),
        },
    };
    // What stands in the configuration as it is to be stays.
    if redirect.strip_query && !matches!(redirect.path, Some(RedirectPath::Whole(_))) {
        path.truncate(path.iter().position(|byte| *byte == b'?').unwrap_or(path.len()));
    }
    // What follows the host must not become part of it.
    if !path.starts_with(b"/") {
        out.push(b'/');
    }
    out.extend_from_slice(&path);
    if let Some(query) = query {
        out.push(b'?');
        out.extend_from_slice(query.as_bytes());
    }
    out
}

/// The authority, less a port that is the old scheme's default when the scheme changes.
fn without_default_port<'a>(authority: &'a str, scheme: &str, new_scheme: &str) -> &'a str {
    let default = if scheme == Scheme::HTTPS.as_str() { ":443" } else { ":80" };
    if scheme == new_scheme { authority } else { authority.strip_suffix(default).unwrap_or(authority) }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::matcher::{Regex, RegexRewrite, Substitution};

    fn uri(text: &'static str) -> Uri {
        Uri::from_static(text)
    }

    #[test]
    fn paths() {
        let prefix = |prefix: &str, to: &str, from| {
            let matched = PathMatch::Prefix(prefix.into());
            let mut uri = uri(from);
            apply(&PathRewrite::Prefix(to.into()), &matched, &mut uri, None).unwrap();
            uri.to_string()
        };
        assert_eq!(prefix("/a", "/b", "/a/c?q=1"), "/b/c?q=1");
        assert_eq!(prefix("/a/", "/", "/a/c"), "/c");
        assert_eq!(prefix("/a/", "x", "/a/c?q"), "/xc?q");
        assert_eq!(prefix("/a", "/b c#", "/a/d?q"), "/b%20c%23/d?q");
        assert_eq!(prefix("/a", "", "/a?q"), "/a?q");
        let long = PathRewrite::Prefix("/x".repeat(40_000).into());
        let mut unchanged = uri("/a");
        assert!(apply(&long, &PathMatch::Prefix("/a".into()), &mut unchanged, None).is_err());
        assert_eq!(unchanged, "/a");
        let pattern = Regex::search("^/x/(.*)$").unwrap();
        let substitution = Substitution::parse("/\\1/y", 1).unwrap();
        let rewrite = PathRewrite::Regex(RegexRewrite { pattern, substitution });
        let mut uri = uri("/x/z?k");
        let mut headers = HeaderMap::new();
        apply(&rewrite, &PathMatch::Prefix("/".into()), &mut uri, Some(&mut headers)).unwrap();
        assert_eq!(uri, "/z/y?k");
        assert_eq!(headers["x-envoy-original-path"], "/x/z?k");
    }

    fn redirect() -> Redirect {
        Redirect { status: StatusCode::FOUND, scheme: None, host: None, port: None, path: None, strip_query: false }
    }

    #[test]
    fn locations() {
        let matched = PathMatch::Prefix("/old".into());
        let location = |redirect: &Redirect, authority: &str| {
            String::from_utf8(super::location(redirect, &matched, &uri("/old/p?q=1"), authority, "http")).unwrap()
        };
        let https = Redirect { scheme: Some("https".into()), ..redirect() };
        assert_eq!(location(&https, "h:8080"), "https://h:8080/old/p?q=1");
        assert_eq!(location(&https, "h:80"), "https://h/old/p?q=1");
        let port = Redirect { port: Some(81), ..redirect() };
        assert_eq!(location(&port, "h:80"), "http://h:81/old/p?q=1");
        let host = Redirect { host: Some("n".into()), strip_query: true, ..redirect() };
        assert_eq!(location(&host, "h:80"), "http://n/old/p");
        let whole = Redirect { path: Some(RedirectPath::Whole("/new?x=y".into())), ..redirect() };
        assert_eq!(location(&whole, "h"), "http://h/new?x=y");
        let prefix =
            |to: &str| Redirect { path: Some(RedirectPath::Rewrite(PathRewrite::Prefix(to.into()))), ..redirect() };
        assert_eq!(location(&prefix("/new"), "h"), "http://h/new/p?q=1");
        assert_eq!(location(&prefix(".test"), "h"), "http://h/.test/p?q=1");
    }
}
