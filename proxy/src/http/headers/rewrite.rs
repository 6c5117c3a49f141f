//! Rewriting paths and hosts, and where redirects lead.

use http::{
    HeaderMap, HeaderValue, Uri,
    uri::{PathAndQuery, Scheme},
};

use crate::config::route::{HostRewrite, PathMatch, PathRewrite, Redirect, RedirectPath, without_port};

/// The path and query after a rewrite. None: it would not be valid.
pub(in crate::http) fn path(rewrite: &PathRewrite, matched: &PathMatch, uri: &Uri) -> Option<PathAndQuery> {
    let path = match rewrite {
        PathRewrite::Prefix(prefix) => replace_prefix(uri.path(), matched, prefix).into_bytes(),
        PathRewrite::Regex(regex) => regex.apply(uri.path().as_bytes()),
    };
    with_query(path, uri.query())
}

fn replace_prefix(path: &str, matched: &PathMatch, prefix: &str) -> String {
    let rest = &path[matched.matched_len(path).min(path.len())..];
    format!("{prefix}{rest}")
}

/// A path with a query after it. None: it would not be valid.
pub(in crate::http) fn with_query(mut path: Vec<u8>, query: Option<&str>) -> Option<PathAndQuery> {
    if let Some(query) = query {
        path.push(b'?');
        path.extend_from_slice(query.as_bytes());
    }
    PathAndQuery::from_maybe_shared(bytes::Bytes::from(path)).ok()
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
        Some(RedirectPath::Prefix(prefix)) => (replace_prefix(uri.path(), matched, prefix).into(), query),
        Some(RedirectPath::Regex(regex)) => (regex.apply(uri.path().as_bytes()), query),
    };
    // What stands in the configuration as it is to be stays.
    if redirect.strip_query && !matches!(redirect.path, Some(RedirectPath::Whole(_))) {
        path.truncate(path.iter().position(|byte| *byte == b'?').unwrap_or(path.len()));
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
            path(&PathRewrite::Prefix(to.into()), &matched, &uri(from)).unwrap().to_string()
        };
        assert_eq!(prefix("/a", "/b", "/a/c?q=1"), "/b/c?q=1");
        assert_eq!(prefix("/a/", "/", "/a/c"), "/c");
        let pattern = Regex::search("^/x/(.*)$").unwrap();
        let substitution = Substitution::parse("/\\1/y", 1).unwrap();
        let rewrite = PathRewrite::Regex(RegexRewrite { pattern, substitution });
        let new = path(&rewrite, &PathMatch::Prefix("/".into()), &uri("/x/z?k")).unwrap();
        assert_eq!(new, "/z/y?k");
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
        let prefix = Redirect { path: Some(RedirectPath::Prefix("/new".into())), ..redirect() };
        assert_eq!(location(&prefix, "h"), "http://h/new/p?q=1");
    }
}
