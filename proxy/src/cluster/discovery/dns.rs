//! Endpoints from DNS: one task per cluster on the control runtime, which stores new sets as answers change.
//!
//! Addresses stay in use while resolution fails. A failing name is tried again with exponential pauses.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

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

/// Resolves a cluster's names again and again, and says when it has done so first.
pub(in crate::cluster) async fn follow(cluster: Arc<Cluster>, resolver: impl Resolve, answered: oneshot::Sender<()>) {
    let Discovery::Dns(dns) = &cluster.discovery else { return };
    let mut answered = Some(answered);
    let mut known: Vec<Option<Answer>> = vec![None; dns.names.len()];
    let mut pause = dns.failure_refresh.0;
    loop {
        cluster.stats.inc(cluster.stats.update_attempt);
        let mut failed = false;
        let mut shortest = None;
        for (name, known) in dns.names.iter().zip(&mut known) {
            match resolver.resolve(&name.host).await {
                Ok(answer) => {
                    shortest = Some(shortest.map_or(answer.ttl, |ttl: Duration| ttl.min(answer.ttl)));
                    *known = Some(answer);
                }
                Err(error) => {
                    failed = true;
                    tracing::warn!(cluster = %cluster.name, name = %name.host, %error, "DNS resolution failed");
                }
            }
        }
        cluster.stats.inc(if failed { cluster.stats.update_failure } else { cluster.stats.update_success });
        store(&cluster, dns, &known);
        if let Some(answered) = answered.take() {
            // Nobody waits any more: that is fine.
            let _ = answered.send(());
        }
        let sleep = if failed {
            let now = pause;
            pause = (pause * 2).min(dns.failure_refresh.1);
            now.mul_f64(0.5 + fastrand::f64() / 2.0)
        } else {
            pause = dns.failure_refresh.0;
            let refresh = match shortest {
                Some(ttl) if dns.respect_ttl => ttl.max(SHORTEST_REFRESH),
                _ => dns.refresh,
            };
            refresh + dns.jitter.mul_f64(fastrand::f64())
        };
        tokio::time::sleep(sleep).await;
    }
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

    struct Script(RefCell<Vec<Result<&'static [u8], &'static str>>>);

    impl Resolve for Script {
        async fn resolve(&self, _: &str) -> Result<Answer, Unresolved> {
            let next = self.0.borrow_mut().pop().unwrap_or(Err("over"));
            next.map(|last| Answer {
                addresses: last.iter().map(|last| IpAddr::from([10, 0, 0, *last])).collect(),
                ttl: Duration::from_secs(2),
            })
            .map_err(Unresolved::unasked)
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

    async fn run(cluster: &Arc<Cluster>, mut script: Vec<Result<&'static [u8], &'static str>>, seconds: u64) {
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
        run(&cluster, vec![Ok(&[1]), Err("servfail"), Err("servfail")], 12).await;
        assert_eq!(addresses(&cluster), ["10.0.0.1:80"]);
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
