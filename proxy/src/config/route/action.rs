//! What routes do with requests.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use smallvec::SmallVec;

use super::{
    hash::{HashPolicy, hash_of_present},
    internal_redirect::InternalRedirects,
    stats::CopyStats,
};
use crate::{
    config::{
        cluster::limits::RoutingPriority,
        filter::{Overrides, header_mutation::Mutation, local_ratelimit::RateLimit},
        headers::HeaderChanges,
        local_reply::BodyFormat,
        request::RequestView,
        retry::RetryPolicy,
    },
    matcher::{RegexRewrite, fraction::RuntimeFraction},
    runtime::Runtime,
    wire::proxy_header::ProxyHeader,
};

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
    /// An attempt that takes too long goes on beside the next one.
    pub hedge: bool,
    /// From `grpc-timeout` so much is taken off, for the way back.
    pub grpc_timeout_offset: Option<Duration>,
    /// gRPC: `grpc-timeout` limits the whole stream, up to this.
    pub grpc_stream: Option<GrpcDeadline>,
    /// Redirects that are followed here.
    pub internal_redirects: Option<InternalRedirects>,
    /// Upgrades allowed or refused here.
    pub upgrades: Vec<UpgradeRule>,
    /// Copies of requests go there too.
    pub mirrors: Vec<Mirror>,
    /// What keeps requests on the same endpoint, where the load balancing looks at it.
    pub hash: Vec<HashPolicy>,
    /// Which of the cluster's limits its requests count against.
    pub priority: RoutingPriority,
    /// What makes rate limit descriptors.
    pub rate_limits: Vec<RateLimit>,
    /// The virtual host's `rate_limits` count besides the route's.
    pub include_vhost_rate_limits: bool,
}

impl Forward {
    /// Envoy's default timeout of a route.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

    /// The cluster for a request, and the index of the weighted entry that it came from. No cluster: the header is
    /// absent. None at all: by the runtime, no cluster has a weight, or all together more than 32 bits.
    pub fn pick(
        &self,
        request: &RequestView<'_>,
        random: u64,
        runtime: &Runtime,
    ) -> Option<(Option<Arc<str>>, Option<usize>)> {
        self.clusters.pick(request, &self.hash, random, runtime)
    }

    /// How requests by a method end here, with their payload going to the upstream as it is; none: they do not.
    pub fn tunnel(&self, method: &Method) -> Option<&Connect> {
        let connect = self.upgrades.iter().find_map(|rule| rule.connect.as_ref())?;
        (*method == Method::CONNECT || (connect.allow_post && *method == Method::POST)).then_some(connect)
    }
}

/// How `grpc-timeout` limits a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrpcDeadline {
    /// No longer than this; none: as long as asked for.
    pub max: Option<Duration>,
    /// So much is taken off, for the way back.
    pub offset: Option<Duration>,
}

impl GrpcDeadline {
    /// How long a stream may last whose client asks for `asked`.
    pub fn apply(self, asked: Duration) -> Duration {
        let limited = self.max.map_or(asked, |max| max.min(asked));
        limited.saturating_sub(self.offset.unwrap_or_default())
    }
}

/// Whether an upgrade is allowed.
#[derive(Clone, Debug)]
pub struct UpgradeRule {
    /// The protocol, lower case.
    pub kind: Box<str>,
    /// It is.
    pub enabled: bool,
    /// A CONNECT request ends here: its payload goes to the upstream as it is.
    pub connect: Option<Connect>,
}

/// `ConnectConfig`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connect {
    /// The upstream is told first whose tunnel it is.
    pub proxy_header: Option<ProxyHeader>,
    /// The payload of POST requests goes to the upstream as it is, too.
    pub allow_post: bool,
}

/// Where copies of requests go.
#[derive(Clone, Debug)]
pub struct Mirror {
    /// Where copies are counted.
    pub stats: Arc<CopyStats>,
    /// The cluster.
    pub cluster: ClusterName,
    /// Share of the requests.
    pub fraction: Option<RuntimeFraction>,
    /// Append `-shadow` to the copy's host.
    pub suffix: bool,
    /// The copy's host.
    pub host: Option<HeaderValue>,
    /// Changes of the copy's headers.
    pub headers: Vec<Mutation>,
}

/// What a cluster is called.
#[derive(Clone, Debug)]
pub enum ClusterName {
    /// So.
    Fixed(Arc<str>),
    /// As a header of the request says.
    Header(HeaderName),
}

impl ClusterName {
    /// The name for a request; none: its header is absent.
    pub fn resolve(&self, headers: &HeaderMap) -> Option<Arc<str>> {
        match self {
            Self::Fixed(name) => Some(name.clone()),
            Self::Header(header) => headers.get(header)?.to_str().ok().map(Arc::from),
        }
    }
}

/// The cluster of a request.
#[derive(Debug)]
pub enum Clusters {
    /// One.
    One(ClusterName),
    /// Several, by weight.
    Weighted {
        /// What chooses among them, where it is there; else a number drawn at random.
        by: Option<ChosenBy>,
        /// The clusters.
        clusters: Vec<WeightedCluster>,
        /// The sum of the weights, not 0.
        total: u64,
        /// Runtime values may change the weights.
        runtime: bool,
    },
}

/// What chooses one of several clusters.
#[derive(Debug)]
pub enum ChosenBy {
    /// A header with a number.
    Header(HeaderName),
    /// The hash of the route's policies: what keeps a request on an endpoint keeps it on a cluster.
    Hash,
}

impl ChosenBy {
    /// The number that chooses for a request.
    fn number(&self, request: &RequestView<'_>, policies: &[HashPolicy]) -> Option<u64> {
        match self {
            Self::Header(name) => {
                let mut values = request.headers.get_all(name).iter();
                let only = values.next().filter(|_| values.next().is_none())?;
                only.to_str().ok()?.parse().ok()
            }
            Self::Hash => hash_of_present(policies, request),
        }
    }
}

/// One of several clusters.
#[derive(Debug)]
pub struct WeightedCluster {
    /// Its name.
    pub name: ClusterName,
    /// Its share.
    pub weight: u32,
    /// The runtime key of the weight; empty: none.
    pub weight_key: Box<str>,
    /// Header changes.
    pub headers: HeaderChanges,
    /// Change of `:authority`.
    pub host_rewrite: Option<HeaderValue>,
    /// What it says about filters.
    pub filters: Overrides,
}

impl Clusters {
    /// See [`Forward::pick`], which knows the route's policies.
    fn pick(
        &self,
        request: &RequestView<'_>,
        policies: &[HashPolicy],
        random: u64,
        runtime: &Runtime,
    ) -> Option<(Option<Arc<str>>, Option<usize>)> {
        match self {
            Self::One(name) => Some((name.resolve(request.headers), None)),
            Self::Weighted { clusters, total, by, runtime: changing } => {
                let random = by.as_ref().and_then(|by| by.number(request, policies)).unwrap_or(random);
                let chosen = if *changing {
                    // Read once: the sum is of the weights that are then compared.
                    let weights: SmallVec<[u64; 4]> = clusters.iter().map(|cluster| cluster.weight(runtime)).collect();
                    let total: u64 = weights.iter().sum();
                    if total == 0 || total > u64::from(u32::MAX) {
                        return None;
                    }
                    chosen(weights.iter().copied(), random % total)
                } else {
                    chosen(clusters.iter().map(|cluster| u64::from(cluster.weight)), random % total)
                };
                chosen.map(|index| (clusters[index].name.resolve(request.headers), Some(index)))
            }
        }
    }
}

/// Which of several weights a point of their sum falls into.
fn chosen(mut weights: impl Iterator<Item = u64>, mut point: u64) -> Option<usize> {
    weights.position(|weight| match point.checked_sub(weight) {
        Some(rest) => {
            point = rest;
            false
        }
        None => true,
    })
}

impl WeightedCluster {
    fn weight(&self, runtime: &Runtime) -> u64 {
        runtime.integer(&self.weight_key).map_or(u64::from(self.weight), |weight| weight.min(u64::from(u32::MAX)))
    }
}

/// A change of the path.
#[derive(Clone, Debug)]
pub enum PathRewrite {
    /// What the route matched (prefix, path) is replaced.
    Prefix(Box<str>),
    /// Matches are replaced, the query left alone. A path template is a regular expression, too.
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
    /// The request's, changed.
    Rewrite(PathRewrite),
}

/// A response made here.
#[derive(Clone, Debug)]
pub struct DirectResponse {
    /// Its status.
    pub status: http::StatusCode,
    /// Its body.
    pub body: Bytes,
    /// Instead of `body`: made for each request.
    pub format: Option<BodyFormat>,
}
