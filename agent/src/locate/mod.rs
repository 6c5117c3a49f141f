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
use crate::{
    netns::{Identity, Netns},
    reason::Reason,
};

/// A pod that nobody asked for in this time is gone: its namespace is let go.
const FORGOTTEN: Duration = Duration::from_secs(120);
/// How often forgotten pods are looked for.
const SWEEP: Duration = Duration::from_secs(30);
/// How long a process in the namespace of a sandbox that a CNI call ended is taken for one that it left behind.
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
    /// Where container runtimes keep files of namespaces: to show them by a name, and to tell which are over.
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
    /// The kubelet has not made it, or has removed it.
    #[error("the pod has no cgroup yet (looked below {0})")]
    NoCgroup(String),
    /// Nor that of all pods, or nowhere that is looked.
    #[error("the pod has no cgroup yet (looked below {}, where there is no kubepods)", .0.display())]
    NoTree(PathBuf),
    /// There is a cgroup and nothing in it.
    #[error("the pod has no process yet")]
    NoProcess,
    /// The container runtime's own process, before it enters the pod's namespace.
    #[error("the pod's only process is still in the node's network namespace: the container runtime is setting it up")]
    OnlyNode,
    /// The sandbox was taken down and the next is not there.
    #[error("the pod's sandbox was taken down, and there is no new one yet")]
    TakenDown {
        /// Whether its namespace is over: no process of the pod is in it, and the runtime keeps no file of it.
        over: bool,
    },
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

impl NotYet {
    /// Whether the pod is known to have no network namespace now, rather than one that was not found.
    pub fn is_certain(&self) -> bool {
        match self {
            Self::NoCgroup(_) | Self::NoProcess | Self::TakenDown { over: true } => true,
            Self::InvalidUid(_) | Self::NoTree(_) | Self::OnlyNode | Self::TakenDown { over: false } => false,
            Self::Unreadable { .. } | Self::Open(_) => false,
        }
    }
}

impl From<NotYet> for Reason {
    fn from(not_yet: NotYet) -> Self {
        let text = not_yet.to_string();
        match not_yet {
            NotYet::NoCgroup(_) | NotYet::NoProcess => Self::not_begun(text),
            NotYet::OnlyNode | NotYet::TakenDown { .. } => Self::starting(text),
            NotYet::InvalidUid(_) | NotYet::NoTree(_) | NotYet::Unreadable { .. } | NotYet::Open(_) => Self::node(text),
        }
    }
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
    /// The last sandbox of each pod that had one and may have no other yet.
    ended: HashMap<String, Ended>,
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

/// A sandbox that was taken down.
#[derive(Clone, Debug)]
struct Ended {
    netns: Identity,
    /// Where its namespace was opened.
    path: PathBuf,
    /// Since when processes in it are leftovers; none where only its processes told, and not a CNI call.
    told: Option<Instant>,
    /// Its namespace is gone. Another may have its identity then.
    over: bool,
    asked: Instant,
}

impl Ended {
    fn new(netns: &Netns, told: bool) -> Self {
        let now = Instant::now();
        let (netns, path) = (netns.identity(), netns.path().to_owned());
        Self { netns, path, told: told.then_some(now), over: false, asked: now }
    }

    /// The namespace in which processes tell nothing of the pod's next.
    fn leftover(&self, now: Instant) -> Option<Identity> {
        let lingering = self.told.is_some_and(|told| now.duration_since(told) < LINGERING);
        (lingering && !self.over).then_some(self.netns)
    }
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
            pods.ended.insert(uid, Ended::new(&entry.netns, true));
        }
        drop(pods);
        self.tell();
    }

    /// The sandbox of a pod that was told by CNI and is still held.
    #[cfg(test)]
    pub(crate) fn container(&self, uid: &str) -> Option<String> {
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
        self.find_of(uid, false)
    }

    /// The namespace of a pod that was deleted, for as long as it has processes: none of them is started again.
    pub fn find_deleted(&self, uid: &str) -> Result<Arc<Netns>, NotYet> {
        self.find_of(uid, true)
    }

    fn find_of(&self, uid: &str, deleted: bool) -> Result<Arc<Netns>, NotYet> {
        let now = Instant::now();
        let (entry, ended) = self.ask(uid, now);
        if let Some(entry) = &entry
            && let Some(process) = entry.process
            && self.netns_of(process).is_ok_and(|netns| netns == Some(entry.netns.identity()))
        {
            return Ok(entry.netns.clone());
        }
        let seen = self.look(uid, ended.as_ref().and_then(|ended| ended.leftover(now)));
        match decide(entry.as_ref().map(|entry| &entry.held), deleted, &seen, now) {
            Verdict::Keep { process, held } => {
                let Some(mut entry) = entry else { return Err(self.not_yet(seen, uid, ended)) };
                (entry.process, entry.held) = (process, held);
                let netns = entry.netns.clone();
                self.put(uid, &netns, entry);
                Ok(netns)
            }
            Verdict::Hold(process) => self.hold(uid, process, entry, now),
            Verdict::Release => {
                let ended = entry.map(|entry| self.let_go(uid, &entry.netns)).or(ended);
                Err(self.not_yet(seen, uid, ended))
            }
            Verdict::Nothing => Err(self.not_yet(seen, uid, ended)),
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
    fn ask(&self, uid: &str, now: Instant) -> (Option<Entry>, Option<Ended>) {
        let mut pods = self.pods.lock();
        if pods.swept.is_none_or(|swept| now.duration_since(swept) >= SWEEP) {
            pods.swept = Some(now);
            let is_asked_for = |pod: &String, asked| pod == uid || now.duration_since(asked) < FORGOTTEN;
            pods.held.retain(|pod, entry| is_asked_for(pod, entry.asked));
            pods.ended.retain(|pod, ended| is_asked_for(pod, ended.asked));
        }
        if let Some(entry) = pods.held.get_mut(uid) {
            entry.asked = now;
        }
        if let Some(ended) = pods.ended.get_mut(uid) {
            ended.asked = now;
        }
        (pods.held.get(uid).cloned(), pods.ended.get(uid).cloned())
    }

    /// Puts `entry` in the place of one that holds `netns`; a CNI call that came meanwhile knows better.
    fn put(&self, uid: &str, netns: &Arc<Netns>, entry: Entry) {
        let mut pods = self.pods.lock();
        if let Some(present) = pods.held.get_mut(uid).filter(|present| Arc::ptr_eq(&present.netns, netns)) {
            *present = entry;
        }
    }

    /// Lets go of `netns` if it is held still, as that of a sandbox that is over.
    fn let_go(&self, uid: &str, netns: &Arc<Netns>) -> Ended {
        let ended = Ended::new(netns, false);
        let mut pods = self.pods.lock();
        if pods.held.get(uid).is_some_and(|present| Arc::ptr_eq(&present.netns, netns)) {
            pods.held.remove(uid);
            pods.ended.insert(uid.to_owned(), ended.clone());
        }
        ended
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
        pods.held.get(uid).map(|present| present.netns.clone()).ok_or(NotYet::TakenDown { over: false })
    }

    fn open(&self, process: Process) -> Result<Netns, NotYet> {
        let path = self.netns_path(process.pid);
        let file = Netns::open(&path)?.into_file();
        let netns = Netns::from_file(file, self.name(process.netns).unwrap_or(path))?;
        // The process may have ended and its id be another's.
        if netns.identity() == process.netns {
            return Ok(netns);
        }
        Err(NotYet::Unreadable { path: netns.path().to_owned(), source: io::Error::from_raw_os_error(libc::ESRCH) })
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
            Err(error @ NotYet::NoCgroup(_)) => return Seen { no_cgroup: Some(error), ..seen },
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

    fn not_yet(&self, seen: Seen, uid: &str, ended: Option<Ended>) -> NotYet {
        match (seen, ended) {
            (Seen { error: Some(error), .. }, _) => error,
            (Seen { in_ended: true, .. }, _) => NotYet::TakenDown { over: false },
            (Seen { in_node: true, .. }, _) => NotYet::OnlyNode,
            (_, Some(ended)) => NotYet::TakenDown { over: self.is_over(uid, &ended) },
            (Seen { no_cgroup: Some(error), .. }, None) => error,
            (_, None) => NotYet::NoProcess,
        }
    }

    /// Whether a namespace that no process of its pod is in is kept by the container runtime no more. To be asked while
    /// whoever uses it still holds it: its identity is soon another's.
    fn is_over(&self, uid: &str, ended: &Ended) -> bool {
        let over = ended.over || !self.is_kept(ended);
        if let Some(present) = self.pods.lock().ended.get_mut(uid).filter(|present| present.netns == ended.netns) {
            present.over |= over;
        }
        over
    }

    fn is_kept(&self, ended: &Ended) -> bool {
        let is_it = |path: &Path| Netns::identity_at(path) == Some(ended.netns);
        is_it(&ended.path)
            || match fs::read_dir(&self.settings.names) {
                Ok(mut files) => files.any(|file| file.is_ok_and(|file| is_it(&file.path()))),
                Err(error) => error.kind() != io::ErrorKind::NotFound,
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
