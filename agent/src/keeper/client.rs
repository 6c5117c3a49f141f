//! The agent's side: what the keeper is to hold, and a task that sees to it that it does.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::{Instant, sleep},
};
use weir_proto::handoff::v1::Listener;

use super::{
    Settings,
    link::{Error, Link},
    start::{clean_up, find_or_start, relieve},
    wire::State,
};
use crate::{
    handoff::{self, ListenersHandedBack},
    netns::PodListener,
};

/// Pauses before another attempt to have a keeper, doubling from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A keeper that lasted so long is no sign that the next one will not.
const LASTED: Duration = Duration::from_secs(60);

/// How the keeper is, for the board.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Its process id; none while there is none.
    pub pid: Option<i32>,
    /// Pods that it keeps sockets of.
    pub pods: u32,
    /// Sockets that it keeps.
    pub sockets: u32,
    /// What is wrong; empty when all is well.
    pub problem: String,
}

/// What the keeper is to hold. Cheap to clone. Without a keeper it remembers nothing.
#[derive(Clone, Debug, Default)]
pub struct Keeper(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    wanted: Mutex<Wanted>,
    changed: Notify,
    status: watch::Sender<Status>,
}

#[derive(Debug, Default)]
struct Wanted {
    pods: BTreeMap<String, Sockets>,
    /// The proxy that accepts: the map that says that one does, and its process.
    proxy: Option<Arc<[OwnedFd; 2]>>,
    /// The change that said so.
    proxy_change: u64,
    /// Counts up with every change.
    changes: u64,
    /// Whether what is not among `pods` may go.
    settled: bool,
    /// Whether the keeper is to end.
    dismissed: bool,
}

/// A pod's sockets; shared, so that nothing is closed while it is on its way.
#[derive(Clone, Debug)]
struct Sockets {
    change: u64,
    listeners: Arc<[PodListener]>,
}

/// The task that sees to the keeper.
#[derive(Debug)]
pub struct Caring(Option<(JoinHandle<()>, Arc<Shared>)>);

impl Keeper {
    /// None.
    pub fn off() -> Self {
        Self(None)
    }

    /// None, also where an earlier agent left one: that ends. What it held comes with it, not to be believed unseen.
    pub async fn end(settings: &Settings) -> (Self, Caring, Vec<ListenersHandedBack>) {
        let kept = relieve(settings).await.unwrap_or_else(|problem| {
            tracing::error!(%problem, "there is to be no keeper, and the one that an earlier agent left does not end");
            Vec::new()
        });
        (Self::off(), Caring::off(), kept)
    }

    /// Finds the keeper that an earlier agent left, or starts one, and from then on sees to it that there is one. What it
    /// held already comes with it, not to be believed unseen. Without a keeper the agent works too: failures are logged
    /// and shown, and tried again.
    pub async fn start(settings: Settings) -> (Self, Caring, Vec<ListenersHandedBack>) {
        let shared =
            Arc::new(Shared { wanted: Mutex::default(), changed: Notify::new(), status: watch::Sender::default() });
        if std::process::id() == 1 {
            tracing::warn!(
                "the agent is the first process of its pid namespace: the keeper ends with it, and new connections are \
                 refused while agent and proxy are both away"
            );
        }
        let (link, kept) = match find_or_start(&settings).await {
            Ok((link, kept)) => (Some(link), kept),
            Err(error) => {
                shared.trouble(error.to_string());
                (None, Vec::new())
            }
        };
        let held = kept.iter().map(|back| (back.uid.clone(), Held::Inherited)).collect();
        let caring = tokio::spawn(care(settings, shared.clone(), link.map(|link| (link, held))));
        (Self(Some(shared.clone())), Caring(Some((caring, shared))), kept)
    }

    /// A pod has these listening sockets, in the place of others.
    pub fn keep(&self, uid: &str, listeners: &[PodListener]) {
        self.change(|wanted| {
            let sockets = Sockets { change: wanted.changes, listeners: listeners.into() };
            wanted.pods.insert(uid.to_owned(), sockets);
        });
    }

    /// A pod's sockets are not to be kept any more.
    pub fn forget(&self, uid: &str) {
        self.change(|wanted| drop(wanted.pods.remove(uid)));
    }

    /// A proxy accepts, or none does. Once agent and proxy are both gone, the keeper tells the kernel through `map`.
    pub fn watch(&self, map_and_process: Option<[OwnedFd; 2]>) {
        self.change(|wanted| {
            wanted.proxy = map_and_process.map(Arc::new);
            wanted.proxy_change = wanted.changes;
        });
    }

    /// Everything that an earlier agent left is taken over: what nobody said to keep is not needed.
    pub fn settle(&self) {
        if self.0.as_ref().is_some_and(|shared| !shared.wanted.lock().settled) {
            self.change(|wanted| wanted.settled = true);
        }
    }

    /// How it is; none if there is not to be one.
    pub fn status(&self) -> Option<Status> {
        self.0.as_ref().map(|shared| shared.status.borrow().clone())
    }

    fn change(&self, change: impl FnOnce(&mut Wanted)) {
        let Some(shared) = &self.0 else { return };
        let mut wanted = shared.wanted.lock();
        wanted.changes += 1;
        change(&mut wanted);
        drop(wanted);
        shared.changed.notify_one();
    }
}

impl Caring {
    /// Nothing to see to.
    pub fn off() -> Self {
        Self(None)
    }

    /// Has the keeper close everything and end, for good, and waits until it has.
    pub async fn dismiss(self) {
        let Some((caring, shared)) = self.0 else { return };
        {
            let mut wanted = shared.wanted.lock();
            wanted.pods.clear();
            wanted.dismissed = true;
        }
        shared.changed.notify_one();
        if let Err(error) = caring.await {
            tracing::error!(%error, "the keeper's task ended");
        }
    }
}

impl Shared {
    fn trouble(&self, problem: String) {
        tracing::error!(%problem, "no keeper: new connections are refused while agent and proxy are both away");
        self.status.send_replace(Status { problem, ..Status::default() });
    }

    fn dismissed(&self) -> bool {
        self.wanted.lock().dismissed
    }
}

/// What the keeper holds of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    /// From an earlier agent.
    Inherited,
    /// What this change said.
    Since(u64),
    /// Not, as there is no room.
    Refused(u64),
}

type HeldPods = BTreeMap<String, Held>;

/// Sees to it that there is a keeper and that it holds what is wanted, until it is dismissed.
async fn care(settings: Settings, shared: Arc<Shared>, mut found: Option<(Link, HeldPods)>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let since = Instant::now();
        if let Some((link, mut held)) = found.take() {
            let pid = link.pid();
            match follow(&link, &mut held, &shared).await {
                Ok(()) => {
                    if let Err(error) = link.dismiss().await {
                        tracing::warn!(%error, pid, "the keeper does not end");
                    }
                    break;
                }
                Err(error) => {
                    tracing::warn!(%error, pid, "the keeper is lost; there will be another");
                    shared.status.send_replace(Status { problem: error.to_string(), ..Status::default() });
                }
            }
        }
        if shared.dismissed() {
            break;
        }
        pause = if since.elapsed() > LASTED { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
        tokio::select! {
            () = sleep(pause) => {}
            () = dismissal(&shared) => break,
        }
        match find_or_start(&settings).await {
            Ok((link, kept)) => {
                found = Some((link, kept.into_iter().map(|back| (back.uid, Held::Inherited)).collect()));
            }
            Err(error) => shared.trouble(error.to_string()),
        }
    }
    shared.status.send_replace(Status::default());
    clean_up(&settings).await;
}

async fn dismissal(shared: &Shared) {
    while !shared.dismissed() {
        shared.changed.notified().await;
    }
}

/// Keeps what the keeper holds as wanted. Returns when it is dismissed.
async fn follow(link: &Link, held: &mut HeldPods, shared: &Shared) -> Result<(), Error> {
    let mut status = Status { pid: Some(link.pid()), ..Status::default() };
    // By the first answer it is known how much it holds.
    link.forget("").await?;
    let mut watched = 0;
    loop {
        let (proxy, change) = {
            let wanted = shared.wanted.lock();
            (wanted.proxy.clone(), wanted.proxy_change)
        };
        if change != watched {
            let fds: Vec<_> = proxy.iter().flat_map(|both| both.iter().map(AsFd::as_fd)).collect();
            link.watch(&fds).await?;
            watched = change;
        }
        let said = differences(&shared.wanted.lock(), held, link.limit());
        for (uid, next) in said {
            match next {
                Next::Keep(sockets) => {
                    let listeners: Vec<Listener> = sockets.listeners.iter().map(handoff::listener).collect();
                    let fds: Vec<_> = sockets.listeners.iter().map(|listener| listener.socket.as_fd()).collect();
                    link.keep(&uid, listeners, &fds).await?;
                    held.insert(uid, Held::Since(sockets.change));
                }
                Next::Refuse(sockets) => {
                    link.forget(&uid).await?;
                    held.insert(uid.clone(), Held::Refused(sockets.change));
                    status.problem = format!("it has room for {} sockets only: some pods' are not kept", link.limit());
                    tracing::warn!(uid, limit = link.limit(), "the keeper has no room for a pod's sockets");
                }
                Next::Forget => {
                    link.forget(&uid).await?;
                    held.remove(&uid);
                }
            }
        }
        if !held.values().any(|held| matches!(held, Held::Refused(_))) {
            status.problem.clear();
        }
        tokio::select! {
            state = link.state() => {
                let State { pods, sockets, error } = state?;
                if !error.is_empty() {
                    tracing::warn!(%error, "the keeper does not keep a pod's sockets");
                    status.problem = error;
                }
                (status.pods, status.sockets) = (pods, sockets);
                shared.status.send_replace(status.clone());
            }
            () = shared.changed.notified() => {
                if shared.dismissed() {
                    return Ok(());
                }
            }
        }
    }
}

/// What is to be said of a pod.
#[derive(Debug)]
enum Next {
    Keep(Sockets),
    Refuse(Sockets),
    Forget,
}

/// What is to be said, so that the keeper holds what is wanted and no more than `limit` sockets. What goes comes first: it
/// makes room.
fn differences(wanted: &Wanted, held: &HeldPods, limit: u32) -> Vec<(String, Next)> {
    let mut said: Vec<(String, Next)> = Vec::new();
    if wanted.settled {
        let unwanted = held.keys().filter(|uid| !wanted.pods.contains_key(*uid));
        said.extend(unwanted.map(|uid| (uid.clone(), Next::Forget)));
    }
    let mut room = limit as usize;
    for (uid, sockets) in &wanted.pods {
        let fits = sockets.listeners.len() <= room;
        if fits {
            room -= sockets.listeners.len();
        }
        let next = match held.get(uid) {
            Some(Held::Since(change)) if fits && *change == sockets.change => continue,
            Some(Held::Refused(change)) if !fits && *change == sockets.change => continue,
            _ if fits => Next::Keep(sockets.clone()),
            _ => Next::Refuse(sockets.clone()),
        };
        said.push((uid.clone(), next));
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_abi::verdict::Direction;

    fn listeners(count: u32) -> Vec<PodListener> {
        let socket = Arc::new(tempfile::tempfile().unwrap().into());
        let address = "10.0.0.2:15001".parse().unwrap();
        (0..count)
            .map(|worker| PodListener { direction: Direction::Outbound, worker, address, socket: Arc::clone(&socket) })
            .collect()
    }

    fn keeper() -> (Keeper, Arc<Shared>) {
        let shared =
            Arc::new(Shared { wanted: Mutex::default(), changed: Notify::new(), status: watch::Sender::default() });
        (Keeper(Some(shared.clone())), shared)
    }

    /// Says everything, as `follow` does, and tells what was said.
    fn say(shared: &Shared, held: &mut HeldPods, limit: u32) -> Vec<String> {
        let said = differences(&shared.wanted.lock(), held, limit);
        said.into_iter()
            .map(|(uid, next)| match next {
                Next::Keep(sockets) => {
                    held.insert(uid.clone(), Held::Since(sockets.change));
                    format!("keep {uid}")
                }
                Next::Refuse(sockets) => {
                    held.insert(uid.clone(), Held::Refused(sockets.change));
                    format!("refuse {uid}")
                }
                Next::Forget => {
                    held.remove(&uid);
                    format!("forget {uid}")
                }
            })
            .collect()
    }

    #[test]
    fn only_what_changed_is_said_and_what_was_inherited_stays_until_all_is_taken_over() {
        let (keeper, shared) = keeper();
        let mut held = HeldPods::from([("old".to_owned(), Held::Inherited), ("a".to_owned(), Held::Inherited)]);
        assert_eq!(say(&shared, &mut held, 10), [""; 0]);
        keeper.keep("a", &listeners(2));
        keeper.keep("b", &listeners(2));
        assert_eq!(say(&shared, &mut held, 10), ["keep a", "keep b"]);
        assert_eq!(say(&shared, &mut held, 10), [""; 0]);
        keeper.settle();
        assert_eq!(say(&shared, &mut held, 10), ["forget old"]);
        keeper.keep("b", &listeners(3));
        keeper.forget("a");
        assert_eq!(say(&shared, &mut held, 10), ["forget a", "keep b"]);
    }

    #[test]
    fn what_does_not_fit_waits_until_there_is_room() {
        let (keeper, shared) = keeper();
        let mut held = HeldPods::new();
        keeper.keep("a", &listeners(3));
        keeper.keep("b", &listeners(3));
        keeper.settle();
        assert_eq!(say(&shared, &mut held, 5), ["keep a", "refuse b"]);
        assert_eq!(say(&shared, &mut held, 5), [""; 0]);
        keeper.forget("a");
        assert_eq!(say(&shared, &mut held, 5), ["forget a", "keep b"]);
    }

    #[test]
    fn without_a_keeper_nothing_is_held() {
        let keeper = Keeper::off();
        let listeners = listeners(1);
        keeper.keep("a", &listeners);
        assert_eq!(Arc::strong_count(&listeners[0].socket), 1);
        assert_eq!(keeper.status(), None);
    }
}
