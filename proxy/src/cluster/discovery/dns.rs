//! Endpoints from DNS: one task per cluster on the control runtime, which stores new sets as answers change.
//!
//! Names are resolved independently of each other. Addresses stay in use while resolution fails, but not where the
//! answer is that there are none. A failing name is tried again with exponential pauses.

use std::{
    cell::{Cell, RefCell},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use hickory_resolver::{
    TokioResolver,
    config::{LookupIpStrategy, NameServerConfig, ProtocolConfig, ResolverConfig, ResolverOpts},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::op::ResponseCode,
    system_conf::read_system_conf,
};
use tokio::sync::oneshot;

use crate::config::cluster::{Cluster, Discovery, Dns, DnsFamily, DnsName, Endpoint, NameServers};

/// Never ask more often than this, whatever a TTL says.
const SHORTEST_REFRESH: Duration = Duration::from_secs(1);

/// The resolver could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("resolver configuration (/etc/resolv.conf): {0}")]
pub struct SetupError(String);

/// Resolves names. A trait so that tests can answer.
pub(in crate::cluster) trait Resolve {
    fn resolve(&self, name: &str) -> impl Future<Output = Result<Answer, Unresolved>>;
}

/// Addresses in the answer's order, and until when they hold.
#[derive(Clone, Debug)]
pub(in crate::cluster) struct Answer {
    pub addresses: Vec<IpAddr>,
    pub ttl: Duration,
}

/// Why there are no addresses.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{text}")]
pub(in crate::cluster) struct Unresolved {
    /// That is the answer: the name has none.
    pub nothing: bool,
    /// The same in the words of c-ares.
    pub reason: &'static str,
    text: String,
}

impl Unresolved {
    /// There is no such name.
    pub fn unknown() -> Self {
        let reason = "Domain name not found";
        Self { nothing: true, reason, text: reason.to_owned() }
    }

    /// Nobody could be asked.
    pub fn unasked(reason: &'static str) -> Self {
        Self { nothing: false, reason, text: reason.to_owned() }
    }
}

impl From<NetError> for Unresolved {
    fn from(error: NetError) -> Self {
        let code = |code: ResponseCode| match code {
            ResponseCode::NXDomain => (true, "Domain name not found"),
            ResponseCode::NoError => (true, "DNS server returned answer with no data"),
            ResponseCode::Refused => (false, "DNS server refused query"),
            _ => (false, "DNS server returned general failure"),
        };
        let (nothing, reason) = match &error {
            NetError::Dns(DnsError::NoRecordsFound(found)) => code(found.response_code),
            NetError::Dns(DnsError::ResponseCode(found)) => code(*found),
            NetError::Timeout => (false, "Timeout while contacting DNS servers"),
            NetError::Proto(_) => (false, "Misformatted domain name"),
            _ => (false, "Could not contact DNS servers"),
        };
        Self { nothing, reason, text: error.to_string() }
    }
}

impl Resolve for TokioResolver {
    async fn resolve(&self, name: &str) -> Result<Answer, Unresolved> {
        let lookup = self.lookup_ip(name).await?;
        let ttl = lookup.valid_until().saturating_duration_since(Instant::now());
        Ok(Answer { addresses: lookup.iter().collect(), ttl })
    }
}

pub(in crate::cluster) fn resolver(family: DnsFamily, servers: &NameServers) -> Result<TokioResolver, SetupError> {
    let error = |error: NetError| SetupError(error.to_string());
    let (system, system_options) = match read_system_conf() {
        Ok(read) => read,
        // What it says is not needed.
        Err(_) if !servers.addresses.is_empty() => {
            (ResolverConfig::from_parts(None, Vec::new(), Vec::new()), ResolverOpts::default())
        }
        Err(failed) => return Err(error(failed)),
    };
    let (domain, search) = match servers.no_search {
        true => (None, Vec::new()),
        false => (system.domain().cloned(), system.search().to_vec()),
    };
    let mut asked = match servers.addresses.as_slice() {
        [] => system.name_servers().to_vec(),
        addresses => addresses.iter().map(|address| at_port(*address)).collect(),
    };
    if servers.tcp {
        for server in &mut asked {
            server.connections.retain(|connection| matches!(connection.protocol, ProtocolConfig::Tcp));
        }
    }
    let config = ResolverConfig::from_parts(domain, search, asked);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = system_options;
    let options = builder.options_mut();
    // Refreshing is up to us.
    options.cache_size = 0;
    options.ip_strategy = match family {
        DnsFamily::Auto => LookupIpStrategy::Ipv6thenIpv4,
        DnsFamily::V4Only => LookupIpStrategy::Ipv4Only,
        DnsFamily::V6Only => LookupIpStrategy::Ipv6Only,
        DnsFamily::V4Preferred => LookupIpStrategy::Ipv4thenIpv6,
        DnsFamily::All => LookupIpStrategy::Ipv4AndIpv6,
    };
    builder.build().map_err(error)
}

/// A name server at a port of its own.
fn at_port(address: SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    server.connections.iter_mut().for_each(|connection| connection.port = address.port());
    server
}

/// Resolves a cluster's names again and again, each at its own times, and says when one has been resolved first.
pub(in crate::cluster) async fn follow(cluster: Arc<Cluster>, resolver: impl Resolve, answered: oneshot::Sender<()>) {
    let Discovery::Dns(dns) = &cluster.discovery else { return };
    let names = Names {
        cluster: &cluster,
        dns,
        resolver,
        known: RefCell::new(vec![None; dns.names.len()]),
        answered: Cell::new(Some(answered)),
    };
    join_all((0..dns.names.len()).map(|index| names.follow(index))).await;
}

/// The names of a cluster.
struct Names<'a, R> {
    cluster: &'a Cluster,
    dns: &'a Dns,
    resolver: R,
    /// What was last heard, by name.
    known: RefCell<Vec<Option<Answer>>>,
    answered: Cell<Option<oneshot::Sender<()>>>,
}

impl<R: Resolve> Names<'_, R> {
    /// Resolves one of them again and again.
    async fn follow(&self, index: usize) {
        let Self { cluster, dns, .. } = self;
        let name = &dns.names[index];
        let mut pause = dns.failure_refresh.0;
        loop {
            cluster.stats.inc(cluster.stats.update_attempt);
            let sleep = match held(self.resolver.resolve(&name.host).await, dns.strict) {
                Ok(answer) => {
                    pause = dns.failure_refresh.0;
                    let refresh = refresh(dns, &answer);
                    cluster.stats.inc(cluster.stats.update_success);
                    self.known.borrow_mut()[index] = Some(answer);
                    store(cluster, dns, &self.known.borrow());
                    if dns.strict {
                        self.publish_weight(index);
                    }
                    refresh + dns.jitter.mul_f64(fastrand::f64())
                }
                Err(error) => {
                    cluster.stats.inc(cluster.stats.update_failure);
                    tracing::warn!(cluster = %cluster.name, name = %name.host, %error, "DNS resolution failed");
                    let now = pause;
                    pause = (pause * 2).min(dns.failure_refresh.1);
                    now.mul_f64(0.5 + fastrand::f64() / 2.0)
                }
            };
            if let Some(answered) = self.answered.take() {
                // Nobody waits any more: that is fine.
                let _ = answered.send(());
            }
            tokio::time::sleep(sleep).await;
        }
    }
}

impl<R> Names<'_, R> {
    /// As in Envoy, `max_host_weight` is of the name that was resolved last.
    fn publish_weight(&self, index: usize) {
        let known = self.known.borrow();
        let found = known[index].as_ref().is_some_and(|answer| !answer.addresses.is_empty());
        let weight = if found { self.dns.names[index].template.weight } else { 1 };
        self.cluster.stats.set(self.cluster.stats.max_host_weight, u64::from(weight));
    }
}

/// What an answer comes to: that there are no addresses is one, unless the cluster is a single host, which stays.
fn held(answer: Result<Answer, Unresolved>, strict: bool) -> Result<Answer, Unresolved> {
    match answer {
        Err(error) if error.nothing && strict => Ok(Answer { addresses: Vec::new(), ttl: Duration::ZERO }),
        answer => answer,
    }
}

/// How long an answer is good for.
fn refresh(dns: &Dns, answer: &Answer) -> Duration {
    if dns.respect_ttl && !answer.addresses.is_empty() { answer.ttl.max(SHORTEST_REFRESH) } else { dns.refresh }
}

/// Stores what is known, unless it is what is stored.
fn store(cluster: &Cluster, dns: &Dns, known: &[Option<Answer>]) {
    let endpoints: Vec<Endpoint> = dns
        .names
        .iter()
        .zip(known)
        .filter_map(|(name, answer)| answer.as_ref().map(|answer| (name, answer)))
        .flat_map(|(name, answer)| {
            let addresses =
                if dns.strict { &answer.addresses[..] } else { &answer.addresses[..answer.addresses.len().min(1)] };
            endpoints(name, addresses)
        })
        .collect();
    let count = endpoints.len();
    if cluster.replace(endpoints, &dns.weights, dns.policy.clone()) {
        tracing::debug!(cluster = %cluster.name, endpoints = count, "DNS endpoints changed");
    } else {
        cluster.stats.inc(cluster.stats.update_no_rebuild);
    }
}

fn endpoints(name: &DnsName, addresses: &[IpAddr]) -> Vec<Endpoint> {
    let mut sorted = addresses.to_vec();
    if addresses.len() > 1 {
        sorted.sort_unstable();
        sorted.dedup();
    }
    sorted
        .into_iter()
        .map(|ip| Endpoint {
            hostname: name.hostname.clone(),
            template: name.template.clone(),
            ..Endpoint::at(SocketAddr::new(ip, name.port))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::config::cluster::{AssignmentPolicy, EndpointSet};

    struct Script(RefCell<Vec<Result<&'static [u8], Unresolved>>>);

    impl Resolve for Script {
        async fn resolve(&self, _: &str) -> Result<Answer, Unresolved> {
            let next = self.0.borrow_mut().pop().unwrap_or(Err(Unresolved::unasked("over")));
            next.map(|last| Answer {
                addresses: last.iter().map(|last| IpAddr::from([10, 0, 0, *last])).collect(),
                ttl: Duration::from_secs(2),
            })
        }
    }

    fn cluster(strict: bool, respect_ttl: bool) -> Arc<Cluster> {
        let mut cluster = Cluster::fixed("c", EndpointSet::default());
        cluster.discovery = Discovery::Dns(Dns {
            strict,
            names: vec![DnsName { host: "h".into(), hostname: "h".into(), port: 80, template: Arc::default() }],
            weights: Box::new([]),
            policy: AssignmentPolicy::default(),
            family: DnsFamily::Auto,
            servers: NameServers::default(),
            refresh: Duration::from_secs(5),
            respect_ttl,
            failure_refresh: (Duration::from_secs(5), Duration::from_secs(50)),
            jitter: Duration::ZERO,
        });
        Arc::new(cluster)
    }

    fn addresses(cluster: &Cluster) -> Vec<String> {
        cluster.endpoints.load().iter().map(|endpoint| endpoint.address.to_string()).collect()
    }

    async fn run(cluster: &Arc<Cluster>, mut script: Vec<Result<&'static [u8], Unresolved>>, seconds: u64) {
        script.reverse();
        let (answered, _answer) = oneshot::channel();
        let follow = follow(cluster.clone(), Script(RefCell::new(script)), answered);
        let _ = tokio::time::timeout(Duration::from_secs(seconds), follow).await;
    }

    #[tokio::test(start_paused = true)]
    async fn strict_takes_all_addresses_and_logical_the_first() {
        let strict = cluster(true, false);
        run(&strict, vec![Ok(&[2, 1])], 1).await;
        assert_eq!(addresses(&strict), ["10.0.0.1:80", "10.0.0.2:80"]);
        let logical = cluster(false, false);
        run(&logical, vec![Ok(&[2, 1])], 1).await;
        assert_eq!(addresses(&logical), ["10.0.0.2:80"]);
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_stay_while_resolution_fails() {
        let cluster = cluster(true, false);
        let failed = || Err(Unresolved::unasked("servfail"));
        run(&cluster, vec![Ok(&[1]), failed(), failed()], 12).await;
        assert_eq!(addresses(&cluster), ["10.0.0.1:80"]);
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_go_with_their_name_but_not_the_single_host() {
        let strict = cluster(true, false);
        run(&strict, vec![Ok(&[1]), Err(Unresolved::unknown())], 6).await;
        assert!(addresses(&strict).is_empty());
        let logical = cluster(false, false);
        run(&logical, vec![Ok(&[1]), Err(Unresolved::unknown())], 6).await;
        assert_eq!(addresses(&logical), ["10.0.0.1:80"]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_ttl_counts_when_respected() {
        let by_ttl = cluster(true, true);
        run(&by_ttl, vec![Ok(&[1]), Ok(&[2])], 3).await;
        assert_eq!(addresses(&by_ttl), ["10.0.0.2:80"]);
        let by_rate = cluster(true, false);
        run(&by_rate, vec![Ok(&[1]), Ok(&[2])], 3).await;
        assert_eq!(addresses(&by_rate), ["10.0.0.1:80"]);
    }
}
