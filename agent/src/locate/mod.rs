//! Which network namespace a pod has, by the pod's UID.
//!
//! From the CNI call where there was one: it comes before the pod's first process, and a later one says when the
//! namespace is over. Else by the pod's cgroup (`cgroups`) to a process, and by that to its namespace. Either way the
//! namespace is held open from then on, so that nothing else can be taken for it, and let go when the pod has left it:
//! a namespace lives as long as somebody holds it. What follows from what is seen is decided by `decide`.

mod cgroups;
mod decide;

pub use cgroups::directories_of_all_pods;

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

use self::{
    cgroups::Cgroups,
    decide::{Held, Origin, Process, Seen, Verdict, decide},
};
use crate::netns::{Identity, Netns};

/// A pod that nobody asked for in this time is gone: its namespace is let go.
const FORGOTTEN: Duration = Duration::from_secs(120);
/// How often forgotten pods are looked for.
const SWEEP: Duration = Duration::from_secs(30);
/// How long the processes of a sandbox may outlive the CNI call that ended it.
const LINGERING: Duration = Duration::from_secs(120);

/// Where to look.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Root of cgroup2, as the agent sees it.
    pub cgroup2: PathBuf,
    /// The node's procfs.
    pub proc: PathBuf,
    /// The node's own network namespace: a process in it tells nothing of its pod.
    pub node_netns: Identity,
    /// Where container runtimes keep files of namespaces; only to show them by a name.
    pub names: PathBuf,
}

impl Settings {
    /// For a root of cgroup2, a procfs and the node's namespace, with the usual place of namespaces' files.
    pub fn new(cgroup2: PathBuf, proc: PathBuf, node_netns: Identity) -> Self {
        Self { cgroup2, proc, node_netns, names: "/run/netns".into() }
    }
}

/// Why a pod's network namespace is not known. None of these lasts for a pod that runs.
#[derive(Debug, thiserror::Error)]
pub enum NotYet {
    /// Not a name that a cgroup could have.
    #[error("invalid pod UID {0:?}, expected letters, digits, - and .")]
    InvalidUid(String),
    /// The kubelet has not made it, or nowhere that is looked.
    #[error("the pod has no cgroup yet (looked below {0})")]
    NoCgroup(String),
    /// There is a cgroup and nothing in it.
    #[error("the pod has no process yet")]
    NoProcess,
    /// The container runtime's own process, before it enters the pod's namespace.
    #[error("the pod's only process is still in the node's network namespace: the container runtime is setting it up")]
    OnlyNode,
    /// The sandbox was taken down and the next is not there.
    #[error("the pod's sandbox was taken down, and there is no new one yet")]
    TakenDown,
    /// A file that should tell could not be read.
    #[error("cannot find the pod's network namespace: {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The namespace could not be opened.
    #[error(transparent)]
    Open(#[from] crate::netns::Error),
}

/// Finds and holds the network namespaces of pods.
#[derive(Debug)]
pub struct Locator {
    settings: Settings,
    cgroups: Cgroups,
    pods: Mutex<Pods>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Pods {
    held: HashMap<String, Entry>,
    /// Namespaces that a CNI call has ended, by pod: a process may still be in one.
    ended: HashMap<String, (Identity, Instant)>,
    swept: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Entry {
    netns: Arc<Netns>,
    held: Held,
    /// A process that was in it when it was last looked at.
    process: Option<u32>,
    asked: Instant,
}

impl Locator {
    /// A locator that knows no pod.
    pub fn new(settings: Settings) -> Self {
        let cgroups = Cgroups::new(&settings.cgroup2);
        Self { settings, cgroups, pods: Mutex::default(), changed: watch::channel(0).0 }
    }

    /// Takes what a CNI ADD says: the pod's sandbox is this container, in this namespace. It replaces whatever was held.
    pub fn from_cni(&self, uid: &str, container_id: &str, netns: Arc<Netns>) {
        let now = Instant::now();
        let origin = Origin::Cni { container_id: container_id.to_owned() };
        let mut pods = self.pods.lock();
        let same = |entry: &&Entry| entry.held.origin == origin && entry.netns.identity() == netns.identity();
        if pods.held.get(uid).as_ref().is_some_and(same) {
            return;
        }
        pods.ended.remove(uid);
        let held = Held::new(netns.identity(), origin, now);
        pods.held.insert(uid.to_owned(), Entry { netns, held, process: None, asked: now });
        drop(pods);
        self.tell();
    }

    /// Takes what a CNI DEL says: this sandbox is over. A sandbox that was replaced since, or is not known, is no error.
    pub fn release(&self, container_id: &str) {
        let mut pods = self.pods.lock();
        let of_container = |entry: &Entry| entry.held.is_of(container_id);
        let Some(uid) = pods.held.iter().find(|(_, entry)| of_container(entry)).map(|(uid, _)| uid.clone()) else {
            return;
        };
        if let Some(entry) = pods.held.remove(&uid) {
            pods.ended.insert(uid, (entry.netns.identity(), Instant::now()));
        }
        drop(pods);
        self.tell();
    }

    /// The sandbox of a pod that was told by CNI and is still held.
    pub fn container(&self, uid: &str) -> Option<String> {
        match &self.pods.lock().held.get(uid)?.held.origin {
            Origin::Cni { container_id } => Some(container_id.clone()),
            Origin::Cgroup => None,
        }
    }

    /// Takes a namespace that was known before, by an agent before this one; looked after as one found by cgroup.
    pub fn seed(&self, uid: &str, netns: Arc<Netns>) {
        let now = Instant::now();
        let held = Held::new(netns.identity(), Origin::Cgroup, now);
        let entry = Entry { netns, held, process: None, asked: now };
        self.pods.lock().held.entry(uid.to_owned()).or_insert(entry);
    }

    /// A pod's namespace, looked for where it is not held and looked after where it is: to be asked now and then for
    /// every pod that matters. The UID is that of the pod's cgroup: for a static pod, the value of its annotation
    /// `kubernetes.io/config.hash`. Blocks for some 0.1 ms.
    pub fn find(&self, uid: &str) -> Result<Arc<Netns>, NotYet> {
        let now = Instant::now();
        let (entry, ended) = self.ask(uid, now);
        if let Some(entry) = &entry
            && let Some(process) = entry.process
            && self.netns_of(process).is_ok_and(|netns| netns == Some(entry.netns.identity()))
        {
            return Ok(entry.netns.clone());
        }
        let seen = self.look(uid, ended);
        match decide(entry.as_ref().map(|entry| &entry.held), &seen, now) {
            Verdict::Keep { process, held } => {
                let Some(mut entry) = entry else { return Err(self.not_yet(seen, uid, ended.is_some())) };
                (entry.process, entry.held) = (process, held);
                let netns = entry.netns.clone();
                self.put(uid, &netns, Some(entry));
                Ok(netns)
            }
            Verdict::Hold(process) => self.hold(uid, process, entry, now),
            Verdict::Release => {
                if let Some(entry) = entry {
                    self.put(uid, &entry.netns, None);
                }
                Err(self.not_yet(seen, uid, true))
            }
            Verdict::Nothing => Err(self.not_yet(seen, uid, ended.is_some())),
        }
    }

    /// Tells when a pod's namespace became known, changed or went other than by [`Locator::find`].
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn tell(&self) {
        self.changed.send_modify(|changes| *changes += 1);
    }

    /// What is known of a pod, which was asked for.
    fn ask(&self, uid: &str, now: Instant) -> (Option<Entry>, Option<Identity>) {
        let mut pods = self.pods.lock();
        if pods.swept.is_none_or(|swept| now.duration_since(swept) >= SWEEP) {
            pods.swept = Some(now);
            pods.held.retain(|held, entry| held == uid || now.duration_since(entry.asked) < FORGOTTEN);
            pods.ended.retain(|_, (_, when)| now.duration_since(*when) < LINGERING);
        }
        if let Some(entry) = pods.held.get_mut(uid) {
            entry.asked = now;
        }
        (pods.held.get(uid).cloned(), pods.ended.get(uid).map(|(netns, _)| *netns))
    }

    /// Puts `entry` in the place of one that holds `netns`; a CNI call that came meanwhile knows better.
    fn put(&self, uid: &str, netns: &Arc<Netns>, entry: Option<Entry>) {
        let mut pods = self.pods.lock();
        if !pods.held.get(uid).is_some_and(|present| Arc::ptr_eq(&present.netns, netns)) {
            return;
        }
        match entry {
            Some(entry) => pods.held.insert(uid.to_owned(), entry),
            None => pods.held.remove(uid),
        };
    }

    fn hold(&self, uid: &str, process: Process, before: Option<Entry>, now: Instant) -> Result<Arc<Netns>, NotYet> {
        let netns = match self.open(process) {
            Ok(netns) => Arc::new(netns),
            // The one before is better than none while there is no better one.
            Err(error) => return before.map(|entry| entry.netns).ok_or(error),
        };
        let held = Held::new(netns.identity(), Origin::Cgroup, now);
        let entry = Entry { netns: netns.clone(), held, process: Some(process.pid), asked: now };
        let mut pods = self.pods.lock();
        let present = pods.held.get(uid).map(|present| &present.netns);
        let unchanged = match (present, &before) {
            (None, None) => true,
            (Some(present), Some(before)) => Arc::ptr_eq(present, &before.netns),
            _ => false,
        };
        if unchanged {
            pods.held.insert(uid.to_owned(), entry);
            return Ok(netns);
        }
        pods.held.get(uid).map(|present| present.netns.clone()).ok_or(NotYet::TakenDown)
    }

    fn open(&self, process: Process) -> Result<Netns, NotYet> {
        let path = self.netns_path(process.pid);
        let file = Netns::open(&path)?.into_file();
        let netns = Netns::from_file(file, self.name(process.netns).unwrap_or(path))?;
        // The process may have ended and its id be another's.
        if netns.identity() == process.netns { Ok(netns) } else { Err(NotYet::NoProcess) }
    }

    /// The file that the container runtime keeps for a namespace; shown to people only.
    fn name(&self, netns: Identity) -> Option<PathBuf> {
        let files = fs::read_dir(&self.settings.names).ok()?;
        files.flatten().map(|file| file.path()).find(|path| Netns::identity_at(path) == Some(netns))
    }

    fn netns_path(&self, pid: u32) -> PathBuf {
        self.settings.proc.join(pid.to_string()).join("ns/net")
    }

    /// The namespace of a process; none when it has ended.
    fn netns_of(&self, pid: u32) -> Result<Option<Identity>, NotYet> {
        let path = self.netns_path(pid);
        match fs::metadata(&path) {
            Ok(metadata) => Ok(Some(Identity::of(&metadata))),
            Err(error) if is_gone(&error) => Ok(None),
            Err(source) => Err(NotYet::Unreadable { path, source }),
        }
    }

    /// The pod's processes, but for those that tell nothing: in the node's namespace, or in one that is over.
    fn look(&self, uid: &str, ended: Option<Identity>) -> Seen {
        let mut seen = Seen::default();
        let pids = match self.cgroups.processes(uid) {
            Ok(pids) => pids,
            Err(error) => return Seen { error: Some(error), ..seen },
        };
        for pid in pids {
            match self.netns_of(pid) {
                Ok(Some(netns)) if netns == self.settings.node_netns => seen.in_node = true,
                Ok(Some(netns)) if Some(netns) == ended => seen.in_ended = true,
                Ok(Some(netns)) => {
                    seen.processes.push(Process { pid, netns, started: started(&self.settings.proc, pid) });
                }
                Ok(None) => {}
                Err(error) => seen.error = Some(error),
            }
        }
        seen
    }

    fn not_yet(&self, seen: Seen, uid: &str, over: bool) -> NotYet {
        match seen {
            Seen { error: Some(error), .. } => error,
            Seen { in_ended: true, .. } => NotYet::TakenDown,
            Seen { in_node: true, .. } => NotYet::OnlyNode,
            _ if !cgroups::is_uid(uid) => NotYet::InvalidUid(uid.to_owned()),
            _ if over => NotYet::TakenDown,
            _ => NotYet::NoProcess,
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    // ENODEV: a cgroup that is being removed.
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH | libc::ENODEV | libc::ENOTDIR))
}

/// When a process started, in ticks since boot (proc_pid_stat(5), field 22); the end of time when it has ended.
fn started(proc: &Path, pid: u32) -> u64 {
    let stat = fs::read_to_string(proc.join(pid.to_string()).join("stat")).unwrap_or_default();
    // The second field is the program's name in parentheses, and may hold anything.
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    fields.split_whitespace().nth(19).and_then(|field| field.parse().ok()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
