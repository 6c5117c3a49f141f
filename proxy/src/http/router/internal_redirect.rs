//! Following a redirect of an upstream here: the request begins anew, with the redirect's target, as if the client had
//! sent it.

use http::{HeaderName, HeaderValue, Method, Response, StatusCode, Uri, header, request::Parts, uri::PathAndQuery};

use crate::{
    config::{
        cluster::Cluster,
        http::HttpStats,
        route::{InternalRedirects, Step},
    },
    http::{
        body::{BodySource, client::ClientBody, kept::Kept},
        stream::{
            Stream,
            route::{self, Routed},
        },
    },
    telemetry::stats::Counter,
};

const ORIGINAL_URL: HeaderName = HeaderName::from_static("x-envoy-original-url");

/// Why a redirect is passed on to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    /// There is no target, or the request cannot be repeated.
    Unfit,
    BadLocation,
    UnsafeScheme,
    TooMany,
    NoRoute,
    Predicate,
}

impl Refused {
    fn counter(self, stats: &HttpStats) -> Option<Counter> {
        let stats = &stats.own;
        Some(match self {
            Self::Unfit => return None,
            Self::BadLocation => stats.passthrough_internal_redirect_bad_location,
            Self::UnsafeScheme => stats.passthrough_internal_redirect_unsafe_scheme,
            Self::TooMany => stats.passthrough_internal_redirect_too_many_redirects,
            Self::NoRoute => stats.passthrough_internal_redirect_no_route,
            Self::Predicate => stats.passthrough_internal_redirect_predicate,
        })
    }
}

/// Where a redirect leads.
struct Target {
    scheme: &'static str,
    authority: HeaderValue,
    path: PathAndQuery,
}

fn target(location: &HeaderValue) -> Option<Target> {
    let uri: Uri = location.to_str().ok()?.parse().ok()?;
    let scheme = match uri.scheme_str()? {
        "http" => "http",
        "https" => "https",
        _ => return None,
    };
    let authority = HeaderValue::from_str(uri.authority()?.as_str()).ok()?;
    let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    Some(Target { scheme, authority, path })
}

/// Follows the redirect of `response`, if the route says so and nothing speaks against it. Otherwise the stream is as it
/// was, but for what is known of its route.
pub(super) fn follow<B>(
    stream: &mut Stream,
    routed: &Routed,
    cluster: &Cluster,
    parts: &mut Parts,
    response: &Response<B>,
    body: &BodySource,
) -> Option<ClientBody> {
    let policy = routed.forward()?.internal_redirects.as_ref()?;
    if !policy.statuses.contains(&response.status()) {
        return None;
    }
    let worker = stream.connection.worker.clone();
    match attempt(stream, routed, policy, parts, response, body) {
        Ok(body) => {
            worker.stats.inc(cluster.stats.upstream_internal_redirect_succeeded_total);
            Some(body)
        }
        Err(refused) => {
            if let Some(counter) = refused.counter(&stream.connection.manager.stats) {
                worker.stats.inc(counter);
            }
            worker.stats.inc(cluster.stats.upstream_internal_redirect_failed_total);
            None
        }
    }
}

fn attempt<B>(
    stream: &mut Stream,
    routed: &Routed,
    policy: &InternalRedirects,
    parts: &mut Parts,
    response: &Response<B>,
    body: &BodySource,
) -> Result<ClientBody, Refused> {
    let kept = match body {
        BodySource::None => None,
        BodySource::Kept(kept) if kept.borrow().is_whole() => Some(kept),
        BodySource::Kept(_) | BodySource::Once(_) | BodySource::After(_) => return Err(Refused::Unfit),
    };
    let location = response.headers().get(header::LOCATION).ok_or(Refused::Unfit)?;
    let target = target(location).ok_or(Refused::BadLocation)?;
    let schemes = (stream.scheme == "https", target.scheme == "https");
    if !policy.cross_scheme && schemes.0 != schemes.1 {
        return Err(Refused::UnsafeScheme);
    }
    if stream.followed.count >= policy.max {
        return Err(Refused::TooMany);
    }
    let mut next = parts.clone();
    for name in &policy.copy {
        next.headers.remove(name);
        for value in response.headers().get_all(name) {
            next.headers.append(name, value.clone());
        }
    }
    let host = next.headers.insert(header::HOST, target.authority);
    next.uri = Uri::from(target.path);
    let scheme_before = std::mem::replace(&mut stream.scheme, target.scheme);
    let connection = &stream.connection;
    let found = route::resolve(&connection.manager.routes, &stream.view(&next), &connection.worker.runtime).1;
    stream.forget_route();
    let Some(found) = found else {
        stream.scheme = scheme_before;
        return Err(Refused::NoRoute);
    };
    stream.routed(&found);
    let step = Step { from: routed.route.name.clone(), to: found.route.name.clone() };
    if !policy.predicates.iter().all(|predicate| predicate.allows(&step, &stream.followed.steps, schemes)) {
        stream.scheme = scheme_before;
        return Err(Refused::Predicate);
    }
    stream.followed.count += 1;
    stream.followed.steps.push(step);
    // RFC 9110 section 15.4.4: "See Other" is fetched.
    let fetched =
        response.status() == StatusCode::SEE_OTHER && parts.method != Method::GET && parts.method != Method::HEAD;
    if fetched {
        next.method = Method::GET;
        next.headers.remove(header::CONTENT_LENGTH);
    }
    let original = [
        scheme_before.as_bytes(),
        b"://",
        host.as_ref().map_or(b"", HeaderValue::as_bytes),
        parts.uri.path_and_query().map_or("/", PathAndQuery::as_str).as_bytes(),
    ];
    if let Ok(original) = HeaderValue::from_bytes(&original.concat()) {
        next.headers.insert(ORIGINAL_URL, original);
    }
    *parts = next;
    let body = kept.filter(|_| !fetched).map_or_else(ClientBody::empty, Kept::again);
    stream.begin_anew(parts, response.status(), body.length());
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_absolute() {
        let parsed = |location: &str| target(&HeaderValue::from_str(location).unwrap());
        let whole = parsed("http://a.test:8080/b?c=d#e").unwrap();
        assert_eq!(
            (whole.scheme, whole.authority.to_str().unwrap(), whole.path.as_str()),
            ("http", "a.test:8080", "/b?c=d")
        );
        assert_eq!(parsed("https://a.test").unwrap().path.as_str(), "/");
        for bad in ["/relative", "garbage", "ftp://a.test/", "", "http:///b"] {
            assert!(parsed(bad).is_none(), "{bad}");
        }
    }
}
