//! Rewriting paths and hosts, and where redirects lead.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Uri,
    uri::{PathAndQuery, Scheme},
};

use crate::config::route::{HostRewrite, PathMatch, PathRewrite, Redirect, RedirectPath, without_port};
use percent_encoding::percent_encode_byte;

/// What a rewritten path was before.
const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");

/// Whether a byte has no place in a path (RFC 3986 section 3.3; a quotation mark is let pass, as elsewhere).
fn is_out_of_place(byte: u8) -> bool {
    matches!(byte, 0..=b' ' | b'#' | b'<' | b'>' | b'`' | 0x7f)
}

/// A rewrite gives a target that is longer than any can be.
#[derive(Debug)]
pub(in crate::http) struct TooLong;

/// Puts a rewritten path into a target; with `original`, what it was goes there.
pub(in crate::http) fn apply(path: Vec<u8>, uri: &mut Uri, original: Option<&mut HeaderMap>) -> Result<(), TooLong> {
    let new = target(path, uri.query())?;
    let old = uri.path_and_query().and_then(|old| HeaderValue::from_str(old.as_str()).ok());
    if let Some((headers, old)) = original.zip(old) {
        headers.insert(ORIGINAL_PATH, old);
    }
    *uri = Uri::from(new);
    Ok(())
}

/// The path of a target rewritten. None: it has no path, or, as in Envoy, the rewrite leaves nothing to go by.
pub(in crate::http) fn path(rewrite: &PathRewrite, matched: &PathMatch, uri: &Uri) -> Option<Vec<u8>> {
    let path = uri.path_and_query()?.path();
    let rewritten = match rewrite {
        PathRewrite::Prefix(prefix) => {
            let rest = &path[matched.matched_len(path).min(path.len())..];
            // With room for a slash and the query.
            let mut rewritten = Vec::with_capacity(prefix.len() + rest.len() + uri.query().map_or(0, str::len) + 2);
            rewritten.extend_from_slice(prefix.as_bytes());
            rewritten.extend_from_slice(rest.as_bytes());
            rewritten
        }
        PathRewrite::Regex(regex) => regex.apply(path.as_bytes()),
    };
    (!rewritten.is_empty()).then_some(rewritten)
}

/// A path and a query as a request may ask for them: with a slash in front, and escapes for what has no place there.
fn target(mut path: Vec<u8>, query: Option<&str>) -> Result<PathAndQuery, TooLong> {
    if !path.starts_with(b"/") {
        path.insert(0, b'/');
    }
    if path.iter().any(|byte| is_out_of_place(*byte)) || std::str::from_utf8(&path).is_err() {
        path = escaped(&path);
    }
    with_query(path, query).ok_or(TooLong)
}

fn escaped(path: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(path.len() * 3);
    for chunk in path.utf8_chunks() {
        for byte in chunk.valid().bytes() {
            match is_out_of_place(byte) {
                true => escaped.extend_from_slice(percent_encode_byte(byte).as_bytes()),
                false => escaped.push(byte),
            }
        }
        escaped.extend(chunk.invalid().iter().flat_map(|byte| percent_encode_byte(*byte).bytes()));
    }
    escaped
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

/// Where a redirect leads: an absolute URL. `rewritten`: the path, if the redirect rewrites the request's.
pub(in crate::http) fn location(
    redirect: &Redirect,
    rewritten: Option<&[u8]>,
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
        Some(RedirectPath::Rewrite(_)) => (rewritten.unwrap_or(uri.path().as_bytes()).into(), query),
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
            if let Some(path) = path(&PathRewrite::Prefix(to.into()), &matched, &uri) {
                apply(path, &mut uri, None).unwrap();
            }
            uri.to_string()
        };
        assert_eq!(prefix("/a", "/b", "/a/c?q=1"), "/b/c?q=1");
        assert_eq!(prefix("/a/", "/", "/a/c"), "/c");
        assert_eq!(prefix("/a/", "x", "/a/c?q"), "/xc?q");
        assert_eq!(prefix("/a", "/b c#", "/a/d?q"), "/b%20c%23/d?q");
        assert_eq!(prefix("/a", "", "/a?q"), "/a?q");
        assert_eq!(prefix("/a", "/é", "/a"), "/é");
        assert_eq!(prefix("/a", "/é ", "/a"), "/é%20");
        assert_eq!(escaped(b"/\xff\xc3\xa9\x7f"), b"/%FF\xc3\xa9%7F");
        let mut unchanged = uri("/a");
        assert!(apply("/x".repeat(40_000).into(), &mut unchanged, None).is_err());
        assert_eq!(unchanged, "/a");
        let pattern = Regex::search("^/x/(.*)$").unwrap();
        let substitution = Substitution::parse("/\\1/y", 1).unwrap();
        let rewrite = PathRewrite::Regex(RegexRewrite { pattern, substitution });
        let mut uri = uri("/x/z?k");
        let mut headers = HeaderMap::new();
        let path = path(&rewrite, &PathMatch::Prefix("/".into()), &uri).unwrap();
        apply(path, &mut uri, Some(&mut headers)).unwrap();
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
            let uri = uri("/old/p?q=1");
            let rewritten = match &redirect.path {
                Some(RedirectPath::Rewrite(rewrite)) => path(rewrite, &matched, &uri),
                _ => None,
            };
            String::from_utf8(super::location(redirect, rewritten.as_deref(), &uri, authority, "http")).unwrap()
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
