//! Which requests a route takes.

use http::{HeaderMap, Method};

use crate::{
    config::request::{RequestView, TlsView, cookies, header_matches, is_grpc},
    matcher::{
        HeaderMatcher, QueryMatcher, Regex, StringMatcher, fraction::RuntimeFraction, metadata::MetadataMatcher,
    },
    runtime::Runtime,
};

/// Which requests a route takes: all conditions must hold.
#[derive(Clone, Debug)]
pub struct RouteMatch {
    /// The path, without the query.
    pub path: PathMatch,
    /// Case counts in `path`.
    pub case_sensitive: bool,
    /// Headers.
    pub headers: Vec<HeaderMatcher>,
    /// Query parameters.
    pub query: Vec<QueryMatcher>,
    /// Cookies.
    pub cookies: Vec<CookieMatcher>,
    /// The client's certificate.
    pub tls: Option<TlsMatch>,
    /// Dynamic metadata.
    pub metadata: Vec<MetadataMatcher>,
    /// gRPC requests only.
    pub grpc: bool,
    /// Share of the requests.
    pub fraction: Option<RuntimeFraction>,
}

/// See [`RouteMatch`]. Literals are in lower case when case does not count.
#[derive(Clone, Debug)]
pub enum PathMatch {
    /// Begins with.
    Prefix(Box<str>),
    /// Is.
    Exact(Box<str>),
    /// Matches as a whole.
    Regex(Regex),
    /// Is, or begins with it and a slash.
    SeparatedPrefix(Box<str>),
    /// Any CONNECT request.
    Connect,
}

/// A matcher of a cookie.
#[derive(Clone, Debug)]
pub struct CookieMatcher {
    /// The cookie.
    pub name: Box<str>,
    /// How its value must look.
    pub value: StringMatcher,
    /// The other way round.
    pub invert: bool,
}

/// What must be known of the client's certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TlsMatch {
    /// There is one, or there is none.
    pub presented: Option<bool>,
    /// It was verified, or it was not.
    pub validated: Option<bool>,
}

impl RouteMatch {
    /// Whether every condition holds.
    pub fn matches(&self, request: &RequestView<'_>, random: u64, runtime: &Runtime) -> bool {
        self.path_matches(request)
            && self.headers.iter().all(|matcher| header_matches(matcher, request))
            && (self.query.is_empty()
                || self.query.iter().all(|matcher| matcher.matches(request.uri.query().unwrap_or_default())))
            && self.cookies.iter().all(|matcher| matcher.matches(request.headers))
            && self.tls.is_none_or(|tls| tls.matches(request.tls))
            && self.metadata.iter().all(|matcher| matcher.matches(request.metadata))
            && (!self.grpc || is_grpc(request.headers))
            && self.fraction.as_ref().is_none_or(|fraction| fraction.takes(random, runtime))
    }

    /// CONNECT has no path, and only matchers that say so take it. Its target can be any.
    fn path_matches(&self, request: &RequestView<'_>) -> bool {
        match (&self.path, *request.method == Method::CONNECT) {
            (PathMatch::Connect, connect) => connect,
            (_, false) => self.path.matches(request.uri.path(), self.case_sensitive),
            // Over HTTP/2, an extended CONNECT has a path.
            (_, true) => {
                request.uri.path().starts_with('/') && self.path.matches(request.uri.path(), self.case_sensitive)
            }
        }
    }
}

impl PathMatch {
    pub(super) fn matches(&self, path: &str, case_sensitive: bool) -> bool {
        if !case_sensitive && !matches!(self, Self::Regex(_)) {
            return self.matches_exactly(&path.to_ascii_lowercase());
        }
        self.matches_exactly(path)
    }

    fn matches_exactly(&self, path: &str) -> bool {
        match self {
            Self::Prefix(prefix) => path.starts_with(&**prefix),
            Self::Exact(exact) => path == &**exact,
            Self::Regex(regex) => regex.is_match(path.as_bytes()),
            Self::SeparatedPrefix(prefix) => {
                path.strip_prefix(&**prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            Self::Connect => false,
        }
    }

    /// How many bytes of a matching path the match covers: what a prefix rewrite replaces.
    pub fn matched_len(&self, path: &str) -> usize {
        match self {
            Self::Prefix(prefix) | Self::SeparatedPrefix(prefix) => prefix.len(),
            Self::Exact(_) | Self::Regex(_) | Self::Connect => path.len(),
        }
    }
}

impl CookieMatcher {
    fn matches(&self, headers: &HeaderMap) -> bool {
        let found = cookies(headers)
            .find(|(name, _)| *name == self.name.as_bytes())
            .is_some_and(|(_, value)| self.value.matches(value));
        found != self.invert
    }
}

impl TlsMatch {
    fn matches(self, view: TlsView) -> bool {
        self.presented.is_none_or(|wanted| wanted == view.presented)
            && self.validated.is_none_or(|wanted| wanted == view.validated)
    }
}
