//! The pods that the agent enrolled: their listening sockets, handed to the workers, and what else this process holds
//! for them. Lives on the control thread.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::{IpAddr, TcpListener},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    rc::Rc,
    sync::{Arc, Weak},
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use socket2::SockRef;
use tokio::sync::mpsc;
use weir_proto::handoff::v1 as handoff;

use crate::{
    intake::passing::{self, UnpackError},
    pod::{
        Direction, Pod, PodLocal,
        maps::Maps,
        passing::Passing,
        stash::{Family, Need, Stash},
    },
    telemetry::stats::{Shared, process},
    view::{ViewId, ViewNames},
    worker::{Accepting, Source, Taken, Workers},
};

/// How long connections may drain of a pod that is missing from a snapshot, where nobody says.
const PRUNE_DRAIN: Duration = Duration::from_secs(30);
/// How long connections take to close once they are forced to.
const FORCED_CLOSE: Duration = Duration::from_secs(1);

/// Why a pod cannot be served; the agent shows it as the pod's pending reason.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// A field of the message is missing or malformed.
    #[error("{field}: {problem}")]
    Field {
        /// Its name.
        field: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// The message and the file descriptors beside it disagree.
    #[error("{listeners} listeners with {fds} file descriptors")]
    Count {
        /// Listeners in the message.
        listeners: usize,
        /// File descriptors beside it.
        fds: usize,
    },
    /// Not a listening TCP socket.
    #[error("listener {address}: {source}")]
    Listener {
        /// Its address.
        address: String,
        /// What the kernel says.
        source: io::Error,
    },
    /// A pod without listening sockets, and none held.
    #[error("no listeners, and none are held for this pod")]
    NoListeners,
}

/// Why a connection of another proxy is not carried on here.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// Its pod is not held.
    #[error("the pod is not enrolled here")]
    NoPod,
    /// The message is malformed.
    #[error(transparent)]
    Message(#[from] UnpackError),
    /// Not a connection that a pod may have.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The enrolled pods.
#[derive(Debug)]
pub struct Pods {
    held: HashMap<Arc<str>, Held>,
    /// Withdrawn ones whose connections drain.
    leaving: HashMap<Arc<str>, Weak<PodLocal>>,
    workers: Rc<Workers>,
    maps: Arc<ArcSwapOption<Maps>>,
    needs: mpsc::Sender<Need>,
    passing: Passing,
    /// The worker that is given the next connection of another proxy.
    next: usize,
    stats: Shared,
    ceiling: usize,
    /// By whose configurations they are served.
    views: ViewNames,
}

#[derive(Debug)]
struct Held {
    pod: Arc<ArcSwap<Pod>>,
    accepting: BothWays,
    listeners: Vec<HeldListener>,
}

/// Accepting what a pod opens, and what is opened to it.
#[derive(Debug)]
struct BothWays {
    outbound: Accepting,
    inbound: Accepting,
}

impl BothWays {
    async fn stop(self) {
        self.outbound.stop().await;
        self.inbound.stop().await;
    }
}

/// A listening socket, kept to be given back to a new agent.
#[derive(Debug)]
struct HeldListener {
    listener: handoff::Listener,
    direction: Direction,
    socket: OwnedFd,
}

impl Pods {
    /// None yet. Each may have `ceiling` connections open at a time, and is served by the view of its namespace among `views`;
    /// what their stashes need goes to `needs`, and their connections to another proxy by `passing`.
    pub fn new(
        workers: Rc<Workers>,
        needs: mpsc::Sender<Need>,
        passing: Passing,
        stats: Shared,
        ceiling: usize,
        views: ViewNames,
    ) -> Self {
        let (held, leaving) = (HashMap::new(), HashMap::new());
        Self { held, leaving, workers, maps: Arc::default(), needs, passing, next: 0, stats, ceiling, views }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// How many workers accept for them.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Resolves once every worker has come round since: never while one hangs.
    pub fn workers_answer(&self) -> impl Future<Output = io::Result<()>> + use<> {
        let workers = self.workers.clone();
        async move { workers.answer().await }
    }

    /// Takes the agent's maps, in place of earlier ones.
    pub fn set_maps(&self, maps: Maps) {
        self.maps.store(Some(Arc::new(maps)));
    }

    /// The listening sockets held, by pod.
    pub fn listeners(&self) -> impl Iterator<Item = (&str, Vec<handoff::Listener>, Vec<BorrowedFd<'_>>)> {
        self.held.iter().map(|(uid, held)| {
            let listeners = held.listeners.iter().map(|held| held.listener.clone()).collect();
            (&**uid, listeners, held.listeners.iter().map(|held| held.socket.as_fd()).collect())
        })
    }

    /// Serves a pod: returns once the workers accept from its sockets. New sockets replace earlier ones.
    pub async fn enroll(&mut self, enroll: handoff::Enroll, fds: Vec<OwnedFd>) -> Result<(), EnrollError> {
        let workload = enroll.workload.ok_or(EnrollError::Field { field: "workload", problem: "missing".into() })?;
        let listeners = take_listeners(enroll.listeners, fds)?;
        let uid: Arc<str> = workload.uid.as_str().into();
        if uid.is_empty() {
            return Err(EnrollError::Field { field: "workload.uid", problem: "empty".into() });
        }
        let ips = parse_ips(&workload.ips)?;
        let families = families(&ips);
        match self.held.get_mut(&uid) {
            Some(held) => {
                let local = held.pod.load().local.clone();
                let view = self.views.serving(&workload.namespace);
                held.pod.store(Arc::new(describe(workload, ips, view, local)));
                if !listeners.is_empty() {
                    // The new ones first: at no time does nobody accept.
                    let accepting = accept(&self.workers, &held.pod, &listeners).await?;
                    held.listeners = listeners;
                    std::mem::replace(&mut held.accepting, accepting).stop().await;
                }
            }
            None => {
                if listeners.is_empty() {
                    return Err(EnrollError::NoListeners);
                }
                let stash = Stash::new(uid.clone(), self.needs.clone());
                let maps = self.maps.clone();
                let local = PodLocal::new(stash, maps, self.passing.clone(), self.stats.clone(), self.ceiling);
                let view = self.views.serving(&workload.namespace);
                let pod = Arc::new(ArcSwap::from_pointee(describe(workload, ips, view, Arc::new(local))));
                let accepting = accept(&self.workers, &pod, &listeners).await?;
                self.held.insert(uid.clone(), Held { pod, accepting, listeners });
            }
        }
        if let Some(held) = self.held.get(&uid) {
            held.pod.load().local.stash.ask_again(families);
        }
        Ok(())
    }

    /// Goes on with a connection of another proxy; resolves once a worker does.
    pub fn carry_on(
        &mut self,
        connection: Option<handoff::PassedConnection>,
        fds: Vec<OwnedFd>,
    ) -> impl Future<Output = Result<(), TakeError>> + use<> {
        let connection = connection.unwrap_or_default();
        let pod = self.held.get(&*connection.uid).map(|held| held.pod.clone());
        self.next = (self.next + 1) % self.workers.len();
        let (workers, next) = (self.workers.clone(), self.next);
        async move {
            let pod = pod.ok_or(TakeError::NoPod)?;
            let (passage, [downstream, upstream]) = passing::unpack(connection, fds)?;
            Ok(workers.carry_on(next, Taken { pod, passage, downstream, upstream }).await?)
        }
    }

    /// Takes upstream sockets into a pod's stash, or the reason why there are none. For a pod that is gone they are
    /// closed.
    pub fn sockets(&self, uid: &str, family: Family, error: &str, fds: Vec<OwnedFd>) {
        let leaving = || self.leaving.get(uid).and_then(Weak::upgrade);
        let Some(local) = self.held.get(uid).map(|held| held.pod.load().local.clone()).or_else(leaving) else { return };
        self.stats.add(process::UPSTREAM_SOCKETS_RECEIVED, fds.len() as u64);
        if error.is_empty() {
            local.stash.put(family, fds);
        } else {
            tracing::warn!(uid, error, "the agent has no upstream sockets");
            local.stash.fail(family, error);
        }
    }

    /// Whether connections of a withdrawn pod still drain.
    pub fn is_leaving(&self, uid: &str) -> bool {
        self.leaving.get(uid).is_some_and(|local| local.strong_count() > 0)
    }

    /// Stops accepting for a pod and closes its listening sockets; its connections may drain so long. Returns once
    /// nobody accepts; a pod that is not held is no error.
    pub async fn withdraw(&mut self, uid: &str, drain: Duration) {
        let Some(held) = self.held.remove(uid) else { return };
        let Held { pod, accepting, listeners } = held;
        drop(listeners);
        accepting.stop().await;
        let local = pod.load().local.clone();
        local.outbound.start(Some(drain));
        local.inbound.start(Some(drain));
        let workers = self.workers.clone();
        let uid: Arc<str> = uid.into();
        self.leaving.retain(|_, local| local.strong_count() > 0);
        self.leaving.insert(uid.clone(), Arc::downgrade(&local));
        tokio::task::spawn_local(async move {
            // Connections that still go on may need sockets; after them nothing may keep the pod's network namespace.
            let finished = async {
                local.outbound.finished().await;
                local.inbound.finished().await;
            };
            if tokio::time::timeout(drain + FORCED_CLOSE, finished).await.is_err() {
                tracing::warn!(%uid, open = local.open(), "connections outlived the drain of their pod");
            }
            local.stash.close();
            workers.forget(&uid).await;
        });
    }

    /// Withdraws what is not among `enrolled`.
    pub async fn prune(&mut self, enrolled: &HashSet<String>) {
        let gone: Vec<_> = self.held.keys().filter(|uid| !enrolled.contains(&***uid)).cloned().collect();
        for uid in gone {
            tracing::info!(%uid, "pod is not enrolled any more");
            self.withdraw(&uid, PRUNE_DRAIN).await;
        }
    }

    /// Stops accepting what pods open; what is open may drain so long.
    pub async fn stop_outbound(&mut self, drain: Duration) {
        for held in self.held.values_mut() {
            std::mem::replace(&mut held.accepting.outbound, Accepting::none()).stop().await;
            held.pod.load().local.outbound.start(Some(drain));
        }
    }

    /// Connections open that pods opened.
    pub fn outbound_open(&self) -> usize {
        self.held.values().map(|held| held.pod.load().local.outbound.open()).sum()
    }

    /// Stops accepting for every pod; the listening sockets stay with the agent for a successor.
    pub async fn withdraw_all(&mut self, drain: Duration) {
        let all: Vec<_> = self.held.keys().cloned().collect();
        for uid in all {
            self.withdraw(&uid, drain).await;
        }
    }
}

/// Pairs listeners with their file descriptors and checks both.
fn take_listeners(listeners: Vec<handoff::Listener>, fds: Vec<OwnedFd>) -> Result<Vec<HeldListener>, EnrollError> {
    if listeners.len() != fds.len() {
        return Err(EnrollError::Count { listeners: listeners.len(), fds: fds.len() });
    }
    listeners
        .into_iter()
        .zip(fds)
        .map(|(listener, socket)| {
            let direction = Direction::from_handoff(listener.direction).ok_or_else(|| {
                let problem = format!("{} is not a direction", listener.direction);
                EnrollError::Field { field: "listeners.direction", problem }
            })?;
            let failed = |source| EnrollError::Listener { address: listener.address.clone(), source };
            prepare(&socket).map_err(failed)?;
            Ok(HeldListener { listener, direction, socket })
        })
        .collect()
}

/// Checks that it listens, and sets what accepted sockets inherit.
fn prepare(socket: &OwnedFd) -> io::Result<()> {
    let socket = SockRef::from(socket);
    if !socket.is_listener()? {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a listening socket"));
    }
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)
}

/// Hands the sockets to the workers; returns once all of them accept.
async fn accept(
    workers: &Workers,
    pod: &Arc<ArcSwap<Pod>>,
    listeners: &[HeldListener],
) -> Result<BothWays, EnrollError> {
    let both = BothWays { outbound: Accepting::none(), inbound: Accepting::none() };
    let indices: Vec<_> =
        listeners.iter().map(|held| (held.direction, is_ipv6(&held.listener), held.listener.worker)).collect();
    for (worker, index) in assign(&indices, workers.len()) {
        let held = &listeners[index];
        let failed = |source| EnrollError::Listener { address: held.listener.address.clone(), source };
        let socket = TcpListener::from(held.socket.try_clone().map_err(failed)?);
        let source = Source::Pod { pod: pod.clone(), direction: held.direction };
        let accepting = match held.direction {
            Direction::Outbound => &both.outbound,
            Direction::Inbound => &both.inbound,
        };
        workers.accept(worker, socket.into(), source, accepting).await.map_err(failed)?;
    }
    Ok(both)
}

fn is_ipv6(listener: &handoff::Listener) -> bool {
    listener.address.starts_with('[')
}

/// Which worker accepts from which listener. Among the listeners of one direction and family, each has a worker, and
/// each worker has a listener: several workers share one where there are more of them.
fn assign<K: PartialEq + Copy>(listeners: &[(K, bool, u32)], workers: usize) -> Vec<(usize, usize)> {
    let mut pairs = Vec::new();
    let mut groups: Vec<((K, bool), Vec<usize>)> = Vec::new();
    for (index, (direction, ipv6, _)) in listeners.iter().enumerate() {
        match groups.iter_mut().find(|(key, _)| *key == (*direction, *ipv6)) {
            Some((_, group)) => group.push(index),
            None => groups.push(((*direction, *ipv6), vec![index])),
        }
    }
    for (_, mut group) in groups {
        group.sort_by_key(|index| listeners[*index].2);
        for place in 0..group.len().max(workers) {
            pairs.push((place % workers, group[place % group.len()]));
        }
    }
    pairs
}

fn parse_ips(ips: &[String]) -> Result<Vec<IpAddr>, EnrollError> {
    let parse = |ip: &String| {
        let problem = || format!("\"{ip}\" is not an IP address");
        ip.parse().map_err(|_| EnrollError::Field { field: "workload.ips", problem: problem() })
    };
    ips.iter().map(parse).collect()
}

/// The families that a pod with these addresses dials; both when none are known.
fn families(ips: &[IpAddr]) -> Vec<Family> {
    [Family::V4, Family::V6]
        .into_iter()
        .filter(|family| ips.is_empty() || ips.iter().any(|ip| ip.is_ipv4() == (*family == Family::V4)))
        .collect()
}

fn describe(workload: handoff::Workload, ips: Vec<IpAddr>, view: ViewId, local: Arc<PodLocal>) -> Pod {
    let handoff::Workload { uid, name, namespace, service_account, labels, .. } = workload;
    Pod { uid, name, namespace, view, service_account, labels, ips, local }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listener_has_a_worker_and_every_worker_a_listener() {
        let four = [("out", false, 0), ("out", false, 1), ("in", false, 1), ("in", false, 0)];
        assert_eq!(assign(&four, 2), [(0, 0), (1, 1), (0, 3), (1, 2)]);
        assert_eq!(assign(&four, 1), [(0, 0), (0, 1), (0, 3), (0, 2)]);
        assert_eq!(assign(&[("out", false, 0)], 3), [(0, 0), (1, 0), (2, 0)]);
        assert_eq!(assign(&[("out", false, 0), ("out", true, 0)], 1), [(0, 0), (0, 1)]);
    }

    #[test]
    fn what_is_wrong_with_an_enrolment_is_named() {
        let listener = |direction: handoff::Direction| handoff::Listener {
            direction: direction.into(),
            worker: 0,
            address: "10.0.0.2:15001".into(),
        };
        let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let refuse = |listeners, fds| take_listeners(listeners, fds).unwrap_err().to_string();
        assert_eq!(refuse(vec![listener(handoff::Direction::Inbound)], vec![]), "1 listeners with 0 file descriptors");
        assert_eq!(
            refuse(vec![listener(handoff::Direction::Unspecified)], vec![null()]),
            "listeners.direction: 0 is not a direction"
        );
        assert_eq!(
            refuse(vec![listener(handoff::Direction::Inbound)], vec![null()]),
            "listener 10.0.0.2:15001: Socket operation on non-socket (os error 88)"
        );
        let error = parse_ips(&["10.0.0".into()]).unwrap_err().to_string();
        assert_eq!(error, "workload.ips: \"10.0.0\" is not an IP address");
    }
}
