//! Virtual hosts and routes, and finding the one for a request.

mod action;
mod hash;
mod hosts;
mod internal_redirect;
pub(in crate::config) mod matching;
mod stats;

use std::{collections::HashMap, sync::Arc};

use http::{HeaderName, HeaderValue};

pub use self::{
    action::{
        Action, ChosenBy, ClusterName, Clusters, Connect, DirectResponse, Forward, GrpcDeadline, HostRewrite, Mirror,
        PathRewrite, Redirect, RedirectPath, UpgradeRule, WeightedCluster,
    },
    hash::{HashInput, HashPolicy, Hashed, hash},
    hosts::DiscoveredHosts,
    internal_redirect::{InternalRedirects, RedirectPredicate, Step},
    matching::{CookieMatcher, PathMatch, RouteMatch, TlsMatch},
    stats::{CopyStats, RequestHandles, RequestStats},
};
use crate::{
    config::{
        filter::{Overrides, local_ratelimit::RateLimit},
        headers::HeaderChanges,
        request::{RequestView, header_matches},
    },
    matcher::{HeaderMatcher, metadata::Metadata},
    runtime::Runtime,
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
    /// Further virtual hosts, that come by themselves.
    pub discovered: Option<DiscoveredHosts<RouteTable>>,
    virtual_hosts: Vec<Arc<VirtualHost>>,
    domains: Domains,
}

/// Domains in lower case, to indices of virtual hosts.
#[derive(Clone, Debug, Default)]
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
    /// Configured metadata.
    pub metadata: Option<Arc<Metadata>>,
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
    /// `x-envoy-is-timeout-retry` in requests.
    pub timeout_retry_header: bool,
    /// Groups of requests that have statistics of their own; the first that matches counts.
    pub virtual_clusters: Vec<VirtualCluster>,
    /// Statistics of requests that are in none of them, where there are any.
    pub other_requests: Option<RequestStats>,
}

/// A group of requests that has statistics of its own.
#[derive(Debug)]
pub struct VirtualCluster {
    /// Its name.
    pub name: Arc<str>,
    /// Requests that match all of these.
    pub headers: Vec<HeaderMatcher>,
    /// What it counts.
    pub stats: RequestStats,
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
    pub metadata: Option<Arc<Metadata>>,
    /// Statistics of its own.
    pub stats: Option<RequestStats>,
    /// What its requests are called where they are traced, if others are to know (`decorator`).
    pub operation: Option<HeaderValue>,
}

impl RouteTable {
    /// A table of `virtual_hosts`, each with its domains. Error: a domain that is there twice.
    pub fn new(name: &str, virtual_hosts: Vec<(VirtualHost, Vec<String>)>) -> Result<Self, DuplicateDomain> {
        let mut table = Self { name: name.into(), ..Self::default() };
        for (host, domains) in virtual_hosts {
            table.add(Arc::new(host), domains)?;
        }
        table.domains.sort();
        Ok(table)
    }

    /// The same with further virtual hosts, each with its domains. Error: a domain that is there twice.
    pub fn with_hosts(&self, more: Vec<(Arc<VirtualHost>, Vec<String>)>) -> Result<Self, DuplicateDomain> {
        let mut table = Self {
            name: self.name.clone(),
            headers: self.headers.clone(),
            most_specific_wins: self.most_specific_wins,
            ignore_port: self.ignore_port,
            vhost_header: self.vhost_header.clone(),
            internal_only_headers: self.internal_only_headers.clone(),
            filters: self.filters.clone(),
            discovered: None,
            virtual_hosts: self.virtual_hosts.clone(),
            domains: self.domains.clone(),
        };
        for (host, domains) in more {
            table.add(host, domains)?;
        }
        table.domains.sort();
        Ok(table)
    }

    /// This with the virtual hosts that have come, if any come by themselves.
    pub fn whole(&self) -> Option<Arc<RouteTable>> {
        self.discovered.as_ref()?.whole.current()
    }

    fn add(&mut self, host: Arc<VirtualHost>, domains: Vec<String>) -> Result<(), DuplicateDomain> {
        let index = self.virtual_hosts.len();
        for (position, domain) in domains.into_iter().enumerate() {
            if !self.domains.insert(&domain.to_ascii_lowercase(), index) {
                return Err(DuplicateDomain { domain, virtual_host: index, position });
            }
        }
        self.virtual_hosts.push(host);
        Ok(())
    }

    /// The virtual hosts.
    pub fn virtual_hosts(&self) -> &[Arc<VirtualHost>] {
        &self.virtual_hosts
    }

    /// The virtual host for an authority: exact, longest `*.suffix`, longest `prefix.*`, `*`. Without one only a table
    /// that does not ask for it has any.
    pub fn virtual_host(&self, authority: Option<&[u8]>) -> Option<&Arc<VirtualHost>> {
        if self.domains.only_any() {
            return self.domains.any.map(|index| &self.virtual_hosts[index]);
        }
        let authority = authority?;
        let authority = if self.ignore_port { before_colon(authority) } else { authority };
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

/// An authority without what stands where ports do, whatever it is.
fn before_colon(authority: &[u8]) -> &[u8] {
    match authority.iter().rposition(|byte| matches!(byte, b':' | b']')) {
        Some(colon) if authority.get(colon) == Some(&b':') => &authority[..colon],
        _ => authority,
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
    /// The group of requests that one belongs to, and what it counts.
    pub fn group(&self, request: &RequestView<'_>) -> (Option<&Arc<str>>, Option<&RequestStats>) {
        match self.virtual_cluster(request) {
            Some(cluster) => (Some(&cluster.name), Some(&cluster.stats)),
            None => (None, self.other_requests.as_ref()),
        }
    }

    fn virtual_cluster(&self, request: &RequestView<'_>) -> Option<&VirtualCluster> {
        self.virtual_clusters
            .iter()
            .find(|cluster| cluster.headers.iter().all(|matcher| header_matches(matcher, request)))
    }

    /// The first route that takes the request. `random` decides shares of requests.
    pub fn route(&self, request: &RequestView<'_>, random: u64, runtime: &Runtime) -> Option<&Arc<Route>> {
        self.routes.iter().find(|route| route.matches.matches(request, random, runtime))
    }
}

#[cfg(test)]
mod tests;
