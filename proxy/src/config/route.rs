//! Virtual hosts and routes, and finding the one for a request.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use crate::config::{
    filter::{Overrides, local_ratelimit::RateLimit},
    fraction::Fraction,
    headers::HeaderChanges,
    matcher::{HeaderMatcher, MatchedHeader, QueryMatcher, Regex, RegexRewrite},
    metadata::Metadata,
    retry::RetryPolicy,
};

/// A route configuration: virtual hosts by domain.
#[derive(Debug, Default)]
pub struct RouteTable {
    /// Its name.
    pub name: Arc<str>,
    /// Header changes for every route.
    pub headers: HeaderChanges,
    /// Apply the changes from the least to the most specific, so that the most specific one wins.
    pub most_specific_wins: bool,
    /// A port in `:authority` does not count.
    pub ignore_port: bool,
    /// Header that holds the domain, instead of `:authority`.
    pub vhost_header: Option<HeaderName>,
    /// Headers to remove from external requests.
    pub internal_only_headers: Vec<HeaderName>,
    /// What it says about filters.
    pub filters: Overrides,
    virtual_hosts: Vec<Arc<VirtualHost>>,
    domains: Domains,
}

/// Domains in lower case, to indices of virtual hosts.
#[derive(Debug, Default)]
struct Domains {
    exact: HashMap<Box<str>, usize>,
    /// `*.example.com` by `.example.com`, longest first.
    suffixes: Vec<(Box<str>, usize)>,
    /// `example.*` by `example.`, longest first.
    prefixes: Vec<(Box<str>, usize)>,
    any: Option<usize>,
}

/// A virtual host.
#[derive(Debug, Default)]
pub struct VirtualHost {
    /// Its name.
    pub name: Arc<str>,
    /// Routes; the first that matches is taken.
    pub routes: Vec<Arc<Route>>,
    /// Which requests must use TLS.
    pub require_tls: RequireTls,
    /// Header changes for its routes.
    pub headers: HeaderChanges,
    /// `x-envoy-attempt-count` in requests.
    pub attempt_count_in_request: bool,
    /// `x-envoy-attempt-count` in responses.
    pub attempt_count_in_response: bool,
    /// What it says about filters.
    pub filters: Overrides,
    /// What makes rate limit descriptors.
    pub rate_limits: Vec<RateLimit>,
}

/// Which requests are redirected to https.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RequireTls {
    /// None.
    #[default]
    None,
    /// Those from outside.
    ExternalOnly,
    /// All.
    All,
}

/// A route.
#[derive(Debug)]
pub struct Route {
    /// Its name; may be empty.
    pub name: Arc<str>,
    /// Which requests it takes.
    pub matches: RouteMatch,
    /// What it does with them.
    pub action: Action,
    /// Header changes.
    pub headers: HeaderChanges,
    /// Bytes of a request that may be buffered for a retry, instead of the listener's limit.
    pub buffer_limit: Option<usize>,
    /// What it says about filters.
    pub filters: Overrides,
    /// Configured metadata.
    pub metadata: Option<Metadata>,
}

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
    /// gRPC requests only.
    pub grpc: bool,
    /// Share of the requests.
    pub fraction: Option<Fraction>,
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
}

/// What a route does.
#[derive(Debug)]
pub enum Action {
    /// Sends it to a cluster.
    Forward(Box<Forward>),
    /// Answers with a redirect.
    Redirect(Redirect),
    /// Answers itself.
    Direct(DirectResponse),
}

/// How a request is forwarded.
#[derive(Debug)]
pub struct Forward {
    /// Where to.
    pub clusters: Clusters,
    /// Status when the cluster does not exist.
    pub cluster_not_found: http::StatusCode,
    /// Change of the path.
    pub path_rewrite: Option<PathRewrite>,
    /// Change of `:authority`.
    pub host_rewrite: Option<HostRewrite>,
    /// Send the old `:authority` as `x-forwarded-host`.
    pub append_forwarded_host: bool,
    /// From the end of the request to the end of the response; none: for ever.
    pub timeout: Option<Duration>,
    /// Instead of the connection manager's `stream_idle_timeout`; `Some(None)`: never.
    pub idle_timeout: Option<Option<Duration>>,
    /// gRPC: the most that `grpc-timeout` may ask for; `Some(None)`: anything.
    pub max_grpc_timeout: Option<Option<Duration>>,
    /// Reset the stream after so long.
    pub max_stream_duration: Option<Option<Duration>>,
    /// Retries.
    pub retry: Option<Arc<RetryPolicy>>,
    /// Upgrades allowed or refused here, lower case.
    pub upgrades: Vec<(Box<str>, bool)>,
    /// What makes rate limit descriptors.
    pub rate_limits: Vec<RateLimit>,
    /// The virtual host's `rate_limits` count besides the route's.
    pub include_vhost_rate_limits: bool,
}

impl Forward {
    /// Envoy's default timeout of a route.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);
}

/// The cluster of a request.
#[derive(Debug)]
pub enum Clusters {
    /// One.
    One(Arc<str>),
    /// Named by a header.
    Header(HeaderName),
    /// Several, by weight.
    Weighted {
        /// The clusters.
        clusters: Vec<WeightedCluster>,
        /// The sum of the weights, not 0.
        total: u64,
    },
}

/// One of several clusters.
#[derive(Debug)]
pub struct WeightedCluster {
    /// Its name.
    pub name: Arc<str>,
    /// Its share.
    pub weight: u32,
    /// Header changes.
    pub headers: HeaderChanges,
    /// Change of `:authority`.
    pub host_rewrite: Option<HeaderValue>,
    /// What it says about filters.
    pub filters: Overrides,
}

impl Clusters {
    /// The cluster for a request, and the index of the weighted entry that it came from. None: the header is absent.
    pub fn pick(&self, headers: &HeaderMap, random: u64) -> (Option<Arc<str>>, Option<usize>) {
        match self {
            Self::One(name) => (Some(name.clone()), None),
            Self::Header(header) => (headers.get(header).and_then(|name| name.to_str().ok()).map(Arc::from), None),
            Self::Weighted { clusters, total } => {
                let mut point = random % total;
                for (index, cluster) in clusters.iter().enumerate() {
                    if point < u64::from(cluster.weight) {
                        return (Some(cluster.name.clone()), Some(index));
                    }
                    point -= u64::from(cluster.weight);
                }
                (None, None)
            }
        }
    }
}

/// A change of the path.
#[derive(Clone, Debug)]
pub enum PathRewrite {
    /// What the route matched (prefix, path) is replaced.
    Prefix(Box<str>),
    /// Matches are replaced, the query left alone.
    Regex(RegexRewrite),
}

/// A change of `:authority`.
#[derive(Clone, Debug)]
pub enum HostRewrite {
    /// To this.
    Literal(HeaderValue),
    /// To the endpoint's host name, if it has one.
    Auto,
    /// To what a header says.
    Header(HeaderName),
    /// To the path (without the query) rewritten.
    PathRegex(RegexRewrite),
}

/// A redirect.
#[derive(Clone, Debug)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: http::StatusCode,
    /// New scheme.
    pub scheme: Option<Box<str>>,
    /// New host.
    pub host: Option<Box<str>>,
    /// New port.
    pub port: Option<u16>,
    /// New path.
    pub path: Option<RedirectPath>,
    /// Drop the query.
    pub strip_query: bool,
}

/// The path of a redirect.
#[derive(Clone, Debug)]
pub enum RedirectPath {
    /// This; a query in it replaces the request's.
    Whole(Box<str>),
    /// What the route matched is replaced.
    Prefix(Box<str>),
    /// Matches are replaced.
    Regex(RegexRewrite),
}

/// A response made here.
#[derive(Clone, Debug)]
pub struct DirectResponse {
    /// Its status.
    pub status: http::StatusCode,
    /// Its body.
    pub body: Bytes,
}

/// A request, as far as routing looks at it.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    /// The method.
    pub method: &'a Method,
    /// The target.
    pub uri: &'a Uri,
    /// `:authority`.
    pub authority: &'a [u8],
    /// `http` or `https`.
    pub scheme: &'a str,
    /// The headers.
    pub headers: &'a HeaderMap,
}

impl<'a> RequestView<'a> {
    /// A header's first value, pseudo-headers among them.
    pub fn header(&self, name: &MatchedHeader) -> Option<&'a [u8]> {
        match name {
            MatchedHeader::Method => Some(self.method.as_str().as_bytes()),
            MatchedHeader::Path => Some(self.uri.path_and_query().map_or("", |path| path.as_str()).as_bytes()),
            MatchedHeader::Authority => Some(self.authority),
            MatchedHeader::Scheme => Some(self.scheme.as_bytes()),
            MatchedHeader::Plain(name) => self.headers.get(name).map(HeaderValue::as_bytes),
        }
    }
}

impl RouteTable {
    /// A table of `virtual_hosts`, each with its domains. Error: a domain that is there twice.
    pub fn new(name: &str, virtual_hosts: Vec<(VirtualHost, Vec<String>)>) -> Result<Self, DuplicateDomain> {
        let mut table = Self { name: name.into(), ..Self::default() };
        for (index, (host, domains)) in virtual_hosts.into_iter().enumerate() {
            for (position, domain) in domains.into_iter().enumerate() {
                if !table.domains.insert(&domain.to_ascii_lowercase(), index) {
                    return Err(DuplicateDomain { domain, virtual_host: index, position });
                }
            }
            table.virtual_hosts.push(Arc::new(host));
        }
        table.domains.sort();
        Ok(table)
    }

    /// The virtual hosts.
    pub fn virtual_hosts(&self) -> &[Arc<VirtualHost>] {
        &self.virtual_hosts
    }

    /// The virtual host for an authority: exact, longest `*.suffix`, longest `prefix.*`, `*`.
    pub fn virtual_host(&self, authority: &[u8]) -> Option<&Arc<VirtualHost>> {
        if self.domains.only_any() {
            return self.domains.any.map(|index| &self.virtual_hosts[index]);
        }
        let authority = if self.ignore_port { without_port(authority) } else { authority };
        let host = std::str::from_utf8(authority).ok()?;
        let found = if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            self.domains.find(&host.to_ascii_lowercase())
        } else {
            self.domains.find(host)
        };
        found.map(|index| &self.virtual_hosts[index])
    }
}

/// A domain that several virtual hosts, or one of them twice, want.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DuplicateDomain {
    /// Which.
    pub domain: String,
    /// Index of the virtual host.
    pub virtual_host: usize,
    /// Index among its domains.
    pub position: usize,
}

impl Domains {
    fn insert(&mut self, domain: &str, index: usize) -> bool {
        let list = if domain == "*" {
            let free = self.any.is_none();
            self.any.get_or_insert(index);
            return free;
        } else if let Some(suffix) = domain.strip_prefix('*') {
            (&mut self.suffixes, suffix)
        } else if let Some(prefix) = domain.strip_suffix('*') {
            (&mut self.prefixes, prefix)
        } else {
            return self.exact.insert(domain.into(), index).is_none();
        };
        let (list, part) = list;
        let free = list.iter().all(|(known, _)| **known != *part);
        list.push((part.into(), index));
        free
    }

    fn sort(&mut self) {
        self.suffixes.sort_by_key(|(part, _)| std::cmp::Reverse(part.len()));
        self.prefixes.sort_by_key(|(part, _)| std::cmp::Reverse(part.len()));
    }

    fn only_any(&self) -> bool {
        self.exact.is_empty() && self.suffixes.is_empty() && self.prefixes.is_empty()
    }

    fn find(&self, host: &str) -> Option<usize> {
        if let Some(index) = self.exact.get(host) {
            return Some(*index);
        }
        // A wildcard stands for at least one character.
        let fits = |part: &str| host.len() > part.len();
        self.suffixes
            .iter()
            .find(|(suffix, _)| fits(suffix) && host.ends_with(&**suffix))
            .or_else(|| self.prefixes.iter().find(|(prefix, _)| fits(prefix) && host.starts_with(&**prefix)))
            .map(|(_, index)| *index)
            .or(self.any)
    }
}

/// An authority without its port; the brackets of an IPv6 address stay.
pub fn without_port(authority: &[u8]) -> &[u8] {
    match authority.iter().rposition(|byte| *byte == b':') {
        Some(colon) if authority[colon + 1..].iter().all(u8::is_ascii_digit) && !authority[..colon].ends_with(b":") => {
            let host = &authority[..colon];
            // "::1" has no port, "[::1]:80" has.
            if host.contains(&b':') && !host.ends_with(b"]") { authority } else { host }
        }
        _ => authority,
    }
}

impl VirtualHost {
    /// The first route that takes the request. `random` decides runtime fractions.
    pub fn route(&self, request: &RequestView<'_>, random: u64) -> Option<&Arc<Route>> {
        self.routes.iter().find(|route| route.matches.matches(request, random))
    }
}

impl RouteMatch {
    /// Whether every condition holds.
    pub fn matches(&self, request: &RequestView<'_>, random: u64) -> bool {
        self.path.matches(request.uri.path(), self.case_sensitive)
            && self.headers.iter().all(|matcher| header_matches(matcher, request))
            && (self.query.is_empty()
                || self.query.iter().all(|matcher| matcher.matches(request.uri.query().unwrap_or_default())))
            && (!self.grpc || is_grpc(request.headers))
            && self.fraction.is_none_or(|fraction| fraction.takes(random))
    }
}

impl PathMatch {
    fn matches(&self, path: &str, case_sensitive: bool) -> bool {
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
        }
    }

    /// How many bytes of a matching path the match covers: what a prefix rewrite replaces.
    pub fn matched_len(&self, path: &str) -> usize {
        match self {
            Self::Prefix(prefix) | Self::SeparatedPrefix(prefix) => prefix.len(),
            Self::Exact(_) | Self::Regex(_) => path.len(),
        }
    }
}

/// Whether a header matcher takes a request.
pub fn header_matches(matcher: &HeaderMatcher, request: &RequestView<'_>) -> bool {
    match &matcher.name {
        MatchedHeader::Plain(name) => plain_header_matches(matcher, name, request.headers),
        pseudo => matcher.matches(request.header(pseudo)),
    }
}

/// The same for headers only, of a response for example. Of several values one that matches is enough.
pub fn plain_header_matches(matcher: &HeaderMatcher, name: &HeaderName, headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(name).iter().map(HeaderValue::as_bytes).peekable();
    if values.peek().is_none() {
        return matcher.matches(None);
    }
    // An inverted matcher holds when no value is what it must not be.
    if matcher.invert {
        values.all(|value| matcher.matches(Some(value)))
    } else {
        values.any(|value| matcher.matches(Some(value)))
    }
}

/// Whether a request is gRPC, by its content type.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(http::header::CONTENT_TYPE).is_some_and(|value| {
        value
            .as_bytes()
            .strip_prefix(b"application/grpc")
            .is_some_and(|rest| rest.is_empty() || rest[0] == b'+' || rest[0] == b';')
    })
}

#[cfg(test)]
mod tests;
