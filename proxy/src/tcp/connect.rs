//! Choosing and reaching an upstream for a TCP connection.

use std::{
    any::Any,
    borrow::Cow,
    io,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use xxhash_rust::xxh64::xxh64;

use super::tunnel::{Open, Opened, Wanted};
use crate::{
    access_log::{ClusterNames, Entry, Flag, Upstream},
    cluster::{
        Outcome, PickContext, Reach,
        account::{Account, ActiveRequest, OpenConnection, place_to_wait},
        dial::{Secured, Way},
    },
    config::{
        Cluster,
        cluster::{Host, InUse, RoutingPriority},
        snapshot::Snapshot,
        tcp::{Settings, Target, Tunneling, WeightedCluster},
        tls::Transport,
    },
    downstream::Downstream,
    telemetry::stats::process,
    tls::{PeerTls, client::Asked},
    wire::{
        dial::{ConnectError, Dialer},
        io::Io,
        proxy_header::Client,
        race::Preference,
        socket::SocketSettings,
    },
    worker::state::Worker,
};

/// Connect timeout towards an original destination (Istio's for its PassthroughCluster).
const PASSTHROUGH_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// An upstream connection, counted against its cluster's limit until dropped.
pub(super) struct Connected {
    pub(super) stream: Io,
    pub(super) tls: Option<Rc<PeerTls>>,
    pub(super) held: Option<Held>,
    /// What is to be kept while it lasts.
    pub(super) kept: Option<Box<dyn Any>>,
}

/// What a connection holds of its cluster.
#[derive(Debug)]
pub(super) struct Held {
    account: Rc<Account>,
    _place: InUse,
    _request: ActiveRequest,
    opened: OpenConnection,
}

impl Held {
    /// Bytes went to the upstream, and came from it.
    pub(super) fn count(&self, sent: u64, received: u64) {
        let Account { cluster, shard, .. } = &*self.account;
        shard.add(cluster.stats.upstream_cx_tx_bytes_total, sent);
        shard.add(cluster.stats.upstream_cx_rx_bytes_total, received);
    }

    /// The host, if the connection is to end when that becomes unhealthy.
    pub(super) fn to_end_with(&self) -> Option<Arc<Host>> {
        let Account { cluster, endpoint, .. } = &*self.account;
        cluster.closes_on_failure.then(|| endpoint.host.clone())
    }

    /// Whether the upstream ended the connection.
    pub(super) fn ended_remotely(&self, remote: bool) {
        self.opened.remote.set(remote);
    }
}

/// Why there is no upstream connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    #[error("the cluster does not exist")]
    NoCluster,
    #[error("the cluster has no healthy endpoint")]
    NoEndpoint,
    #[error("the cluster has as many connections as it may")]
    Overflow,
    #[error("as many wait for a connection of the cluster as may")]
    NoWaiting,
    #[error(transparent)]
    Connect(ConnectError),
}

impl Failed {
    /// Envoy's response flag.
    pub(super) fn flag(&self) -> Flag {
        match self {
            Self::NoCluster => Flag::NoClusterFound,
            Self::NoEndpoint => Flag::NoHealthyUpstream,
            Self::Overflow => Flag::UpstreamOverflow,
            Self::NoWaiting => Flag::UpstreamRetryLimitExceeded,
            Self::Connect(_) => Flag::UpstreamConnectionFailure,
        }
    }

    /// Envoy's number for it, in `%DOWNSTREAM_LOCAL_CLOSE_REASON%`.
    pub(super) fn number(&self) -> u8 {
        match self {
            Self::Connect(_) | Self::NoWaiting => 0,
            Self::NoEndpoint => 1,
            Self::Overflow => 2,
            Self::NoCluster => 3,
        }
    }
}

/// Connects to the target on behalf of `downstream`, trying as many endpoints as the settings say; `chosen` is a
/// cluster that goes before theirs. `entry` learns the
/// cluster and the endpoint tried last.
pub(super) async fn to_target(
    worker: &Worker,
    downstream: &Downstream,
    settings: &Settings,
    chosen: Option<&Arc<str>>,
    entry: &mut Entry,
) -> Result<Connected, Failed> {
    let dialer = downstream.dialer();
    match &settings.target {
        Target::OriginalDestination(name) => {
            entry.cluster = Some(ClusterNames::of(name.clone()));
            let way = Way {
                dialer: &dialer,
                view: downstream.view(),
                to: downstream.destination,
                also: &[],
                preference: Preference::default(),
                timeout: PASSTHROUGH_CONNECT_TIMEOUT,
                transport: &Transport::Plain,
                asked: Asked::default(),
                socket: &SocketSettings::default(),
                client: None,
                filter_state: None,
                metadata: (None, None),
                shard: &worker.stats,
            };
            let Secured { io, tls, .. } = attempt(worker, way, entry).await.map_err(Failed::Connect)?;
            Ok(Connected { stream: io, tls, held: None, kept: None })
        }
        Target::Clusters(clusters) => {
            let cluster = cluster_of(&worker.snapshot(downstream.view()).load(), clusters, chosen, entry)?;
            to_cluster(worker, &dialer, downstream, &cluster, settings, entry).await
        }
    }
}

/// The cluster that a connection goes to: `chosen`, or one of these.
fn cluster_of(
    snapshot: &Snapshot,
    clusters: &[WeightedCluster],
    chosen: Option<&Arc<str>>,
    entry: &mut Entry,
) -> Result<Arc<Cluster>, Failed> {
    let name = chosen.or_else(|| draw(clusters, fastrand::u64(..)));
    let cluster = name.and_then(|name| snapshot.cluster(name)).ok_or(Failed::NoCluster)?;
    entry.cluster = Some(cluster.logged.clone());
    Ok(cluster.clone())
}

/// The same through a stream of HTTP. What is counted of the cluster is counted with its requests.
pub(super) async fn through_tunnel(
    worker: &Worker,
    downstream: &Downstream,
    settings: &Settings,
    chosen: Option<&Arc<str>>,
    (tunnel, open): (&Tunneling, &Open<'_>),
    entry: &mut Entry,
) -> Result<Connected, Failed> {
    let Target::Clusters(clusters) = &settings.target else { return Err(Failed::NoCluster) };
    let cluster = cluster_of(&worker.snapshot(downstream.view()).load(), clusters, chosen, entry)?;
    loop {
        let context = context(downstream, settings);
        let picked =
            worker.balancers.pick(&cluster, &context).ok_or_else(|| no_endpoint(worker, &cluster, &context))?;
        let (member, endpoint) = (picked.cluster(&cluster), &picked.endpoint);
        entry.tried.extend(entry.upstream.replace(endpoint.logged()));
        entry.attempts += 1;
        let wanted = Wanted { settings: tunnel, clusters: (&cluster, member), endpoint, entry };
        match open(wanted).await {
            Ok(Opened { stream, tls, made, kept }) => {
                if let Some(made) = made {
                    made.tell(entry);
                }
                return Ok(Connected { stream, tls, held: None, kept: Some(kept) });
            }
            Err(error) => {
                entry.raise(Flag::UpstreamConnectionFailure);
                if entry.attempts >= settings.max_connect_attempts {
                    worker.stats.inc(cluster.stats.upstream_cx_connect_attempts_exceeded);
                    return Err(Failed::Connect(error));
                }
            }
        }
    }
}

/// Whether a cluster may have one more connection; those that it may not have do not wait.
fn has_room(worker: &Worker, cluster: &Cluster) -> Result<(), Failed> {
    if cluster.usage.connections.load() < cluster.breakers.max_connections {
        return Ok(());
    }
    worker.stats.inc(cluster.stats.upstream_cx_overflow);
    Err(Failed::Overflow)
}

/// Counts that there is no endpoint. As in Envoy, a connection does not wait for a name to be resolved: those that come
/// later find it.
fn no_endpoint(worker: &Worker, cluster: &Cluster, context: &PickContext<'_>) -> Failed {
    if !matches!(cluster.reach(context), Reach::Wait(_)) {
        worker.stats.inc(cluster.stats.upstream_cx_none_healthy);
    }
    Failed::NoEndpoint
}

/// What the choice of an endpoint goes by.
fn context<'a>(downstream: &'a Downstream, settings: &Settings) -> PickContext<'a> {
    let hash = settings.hash_source.then(|| xxh64(downstream.peer.ip().to_string().as_bytes(), 0));
    PickContext {
        destination: downstream.original_destination(),
        host: downstream.server_name.as_deref(),
        metadata: [None, downstream.metadata.as_deref()],
        filter_state: downstream.filter_state.as_deref(),
        hash,
        ..PickContext::default()
    }
}

/// What is known of a connection to its original destination that another proxy has made.
pub(super) fn know(downstream: &Downstream, upstream: &Io, settings: &Settings, entry: &mut Entry) {
    if let Target::OriginalDestination(name) = &settings.target {
        entry.cluster = Some(ClusterNames::of(name.clone()));
    }
    entry.upstream = Some(Upstream { address: downstream.destination, hostname: None, metadata: None });
    entry.upstream_local = upstream.local_addr().ok();
    entry.attempts = 1;
}

async fn to_cluster(
    worker: &Worker,
    dialer: &Dialer,
    downstream: &Downstream,
    cluster: &Arc<Cluster>,
    settings: &Settings,
    entry: &mut Entry,
) -> Result<Connected, Failed> {
    loop {
        has_room(worker, cluster)?;
        let context = context(downstream, settings);
        let picked = worker.balancers.pick(cluster, &context).ok_or_else(|| no_endpoint(worker, cluster, &context))?;
        let (chosen, endpoint) = (picked.cluster(cluster), &picked.endpoint);
        if picked.member.is_some() {
            // The connection counts where it goes.
            has_room(worker, chosen)?;
        }
        let asked = Asked { hostname: &endpoint.hostname, ..Asked::default() };
        entry.tried.extend(entry.upstream.replace(endpoint.logged()));
        let client = Client { source: downstream.peer, destination: downstream.destination };
        let way = Way {
            filter_state: downstream.filter_state.as_deref(),
            ..chosen.way(endpoint, dialer, asked, Some(client), &worker.stats)
        };
        let account =
            Rc::new(Account { cluster: chosen.clone(), endpoint: endpoint.clone(), shard: worker.stats.clone() });
        let Some(_waits) = place_to_wait(&account.cluster, RoutingPriority::Default, &account.shard) else {
            // As in Envoy an attempt, which no host has.
            entry.attempts += 1;
            entry.tried.extend(entry.upstream.take());
            if another_follows(worker, cluster, settings, entry.attempts).await {
                continue;
            }
            return Err(Failed::NoWaiting);
        };
        let pending = account.pending();
        let place = account.place_in_time(RoutingPriority::Default).await;
        let opened = account.connection(None);
        match attempt(worker, way, entry).await {
            Ok(Secured { io, tls, .. }) => {
                chosen.report(endpoint, Outcome::ConnectedOnly);
                opened.connected();
                // However it ends: the connection is the request.
                opened.interrupted.set(true);
                pending.served();
                let held = Held { _place: place, _request: account.request(), opened, account };
                return Ok(Connected { stream: io, tls, held: Some(held), kept: None });
            }
            Err(error) => {
                let timed_out = matches!(error, ConnectError::Timeout);
                chosen.report(endpoint, if timed_out { Outcome::TimedOut(504) } else { Outcome::Failed });
                opened.failed(&error);
                pending.ejected();
                entry.raise(Flag::UpstreamConnectionFailure);
                drop((opened, place));
                if !another_follows(worker, cluster, settings, entry.attempts).await {
                    return Err(Failed::Connect(error));
                }
            }
        }
    }
}

/// Whether another attempt may follow those that have failed; it is time for it then.
async fn another_follows(worker: &Worker, cluster: &Cluster, settings: &Settings, attempts: u32) -> bool {
    if attempts >= settings.max_connect_attempts {
        worker.stats.inc(cluster.stats.upstream_cx_connect_attempts_exceeded);
        return false;
    }
    if let Some((least, most)) = settings.backoff {
        tokio::time::sleep(backoff(least, most, attempts, fastrand::f64())).await;
    }
    true
}

async fn attempt(worker: &Worker, way: Way<'_>, entry: &mut Entry) -> Result<Secured, ConnectError> {
    entry.attempts += 1;
    entry.upstream.get_or_insert_with(|| Upstream { address: way.to, hostname: None, metadata: None });
    entry.timing.asked = Some(Instant::now());
    worker.stats.inc(process::UPSTREAM_CX_TOTAL);
    let connected = way.connect().await;
    entry.timing.ready = Some(Instant::now());
    if let Ok(Secured { made, .. }) = &connected {
        made.tell(entry);
    }
    connected.inspect_err(|error| {
        entry.transport_failure = transport_failure(error);
        worker.stats.inc(match error {
            ConnectError::Timeout => process::UPSTREAM_CX_CONNECT_TIMEOUT,
            ConnectError::Io(_) | ConnectError::Pipe { .. } | ConnectError::Tls(_) | ConnectError::Local(_) => {
                process::UPSTREAM_CX_CONNECT_FAIL
            }
        });
    })
}

/// `%UPSTREAM_TRANSPORT_FAILURE_REASON%`: Envoy writes spaces as underscores, and nothing for a timeout.
fn transport_failure(error: &ConnectError) -> Cow<'static, str> {
    match error {
        ConnectError::Timeout => Cow::Borrowed(""),
        ConnectError::Tls(reason) => reason.replace(' ', "_").into(),
        ConnectError::Local(reason) => reason.transport().replace(' ', "_").into(),
        ConnectError::Io(error) => format!("delayed_connect_error:_{}", kernels_text(error)).into(),
        ConnectError::Pipe { path, source } => {
            format!("immediate_connect_error:_{}|remote_address:{path}", kernels_text(source)).into()
        }
    }
}

/// The kernel's text without Rust's "(os error N)".
fn kernels_text(error: &io::Error) -> String {
    let text = error.raw_os_error().map_or_else(|| error.to_string(), os_error_text);
    text.replace(' ', "_")
}

fn os_error_text(number: i32) -> String {
    let text = io::Error::from_raw_os_error(number).to_string();
    text.strip_suffix(&format!(" (os error {number})")).unwrap_or(&text).to_owned()
}

/// How long to wait after so many attempts: at random up to twice as long after each, from `least` on and up to `most`.
fn backoff(least: Duration, most: Duration, attempts: u32, random: f64) -> Duration {
    let ceiling = least.saturating_mul(1_u32.checked_shl(attempts).unwrap_or(u32::MAX).saturating_sub(1));
    ceiling.min(most).mul_f64(random)
}

/// The cluster that `random` falls on.
fn draw(clusters: &[WeightedCluster], random: u64) -> Option<&Arc<str>> {
    if let [only] = clusters {
        return Some(&only.name);
    }
    let total: u64 = clusters.iter().map(|cluster| u64::from(cluster.weight)).sum();
    let mut point = random.checked_rem(total)?;
    clusters.iter().find_map(|cluster| match point.checked_sub(u64::from(cluster.weight)) {
        Some(rest) => {
            point = rest;
            None
        }
        None => Some(&cluster.name),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_share_the_draw() {
        let cluster = |name: &str, weight| WeightedCluster { name: name.into(), weight };
        let clusters = [cluster("a", 20), cluster("none", 0), cluster("b", 80)];
        let names: Vec<_> = (0..100).map(|point| draw(&clusters, point).unwrap().to_string()).collect();
        assert_eq!(names.iter().filter(|name| *name == "a").count(), 20);
        assert_eq!(names.iter().filter(|name| *name == "b").count(), 80);
        assert_eq!(draw(&[cluster("only", 0)], 7).map(|name| &**name), Some("only"));
        assert_eq!(draw(&[cluster("a", 0), cluster("b", 0)], 7), None);
        assert_eq!(draw(&[], 7), None);
    }

    #[test]
    fn waits_grow_up_to_a_limit() {
        let wait = |attempts| backoff(Duration::from_millis(10), Duration::from_millis(50), attempts, 1.0).as_millis();
        assert_eq!([1, 2, 3, 4, 40].map(wait), [10, 30, 50, 50, 50]);
    }

    #[test]
    fn failures_read_as_envoys() {
        let refused = ConnectError::Io(io::Error::from_raw_os_error(libc::ECONNREFUSED));
        assert_eq!(transport_failure(&refused), "delayed_connect_error:_Connection_refused");
        let missing = ConnectError::Pipe { path: "/a".into(), source: io::Error::from_raw_os_error(libc::ENOENT) };
        let expected = "immediate_connect_error:_No_such_file_or_directory|remote_address:/a";
        assert_eq!(transport_failure(&missing), expected);
        assert_eq!(transport_failure(&ConnectError::Timeout), "");
    }
}
