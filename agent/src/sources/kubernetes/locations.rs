//! The network namespaces of wanted pods: asked for with every change of a pod, when the locator has news, and now and
//! then; one that is not found yet sooner, and then less and less often.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::{
    task::{JoinError, spawn_blocking},
    time::Instant,
};

use super::record::RecordedNetns;
use crate::{
    locate::{Locator, NotYet},
    netns::{Identity, Netns},
    reason::Reason,
    sources::PodNetns,
};

/// How often a namespace is asked for again, and the longest pause for one that is not found.
const AGAIN: Duration = Duration::from_secs(10);
/// The first pause for one that is not found; each is half as long again as the one before.
const FIRST: Duration = Duration::from_millis(100);
/// How often a pod is looked after that was deleted and may still have processes.
const LEAVING: Duration = Duration::from_secs(1);
/// The locator's news of several pods come together.
const NEWS: Duration = Duration::from_millis(30);

/// The namespaces of wanted pods.
#[derive(Debug)]
pub struct Locations {
    locator: Arc<Locator>,
    pods: HashMap<String, Location>,
}

#[derive(Debug)]
struct Location {
    netns: Result<Arc<Netns>, NotFound>,
    /// For the record: what proves that it is the same one.
    cookie: Option<u64>,
    pause: Duration,
    again: Instant,
}

/// Why a pod has no namespace.
#[derive(Debug, PartialEq, Eq)]
struct NotFound {
    reason: Reason,
    /// It is known to have none now.
    certain: bool,
}

impl From<NotYet> for NotFound {
    fn from(not_yet: NotYet) -> Self {
        Self { certain: not_yet.is_certain(), reason: not_yet.into() }
    }
}

/// What a look gave.
struct Found {
    uid: String,
    netns: Result<Arc<Netns>, NotFound>,
    /// Only if the namespace is another one than before.
    cookie: Option<u64>,
}

/// What changed with a look.
#[derive(Debug, Default)]
pub struct Changes {
    /// Whether a wanted pod has another namespace than before, or there is another reason why it has none.
    pub any: bool,
    /// Leaving pods that have no process left.
    pub gone: Vec<String>,
}

/// A pod whose namespace is wanted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wanted {
    pub uid: String,
    /// Whether it was deleted.
    pub leaving: bool,
}

impl Locations {
    /// No pod is looked for yet.
    pub fn new(locator: Arc<Locator>) -> Self {
        Self { locator, pods: HashMap::new() }
    }

    /// Tells the locator of namespaces that an earlier agent knew, those that are still the same.
    pub async fn seed(&self, known: Vec<(String, RecordedNetns)>) {
        let locator = self.locator.clone();
        let seeding = spawn_blocking(move || {
            for (uid, RecordedNetns { path, cookie }) in known {
                let Ok(netns) = Netns::open(&path) else { continue };
                if netns.look().is_ok_and(|contents| contents.cookie == cookie) {
                    locator.seed(&uid, Arc::new(netns));
                }
            }
        });
        let _ = seeding.await;
    }

    /// A pod changed: it is looked for at once.
    pub fn changed(&mut self, uid: &str, now: Instant) {
        if let Some(location) = self.pods.get_mut(uid) {
            (location.again, location.pause) = (now, FIRST);
        }
    }

    /// The locator has news.
    pub fn news(&mut self, now: Instant) {
        for location in self.pods.values_mut() {
            let due = if location.netns.is_err() { now } else { now + NEWS };
            location.again = location.again.min(due);
        }
    }

    /// When the next look is due.
    pub fn due(&self) -> Option<Instant> {
        self.pods.values().map(|location| location.again).min()
    }

    /// What is known of a pod's namespace.
    pub fn netns(&self, uid: &str) -> PodNetns {
        match self.pods.get(uid).map(|location| &location.netns) {
            Some(Ok(netns)) => PodNetns::Held(netns.clone()),
            Some(Err(NotFound { reason, certain: true })) => PodNetns::Absent(reason.clone()),
            Some(Err(NotFound { reason, certain: false })) => PodNetns::Unknown(reason.clone()),
            None => PodNetns::Unknown(Reason::not_begun("the pod's network namespace was not looked for yet")),
        }
    }

    /// What another agent can find a pod's namespace by.
    pub fn record(&self, uid: &str) -> Option<RecordedNetns> {
        let location = self.pods.get(uid)?;
        let (netns, cookie) = (location.netns.as_ref().ok()?, location.cookie?);
        Some(RecordedNetns { path: netns.path().to_owned(), cookie })
    }

    /// Looks for those of the wanted pods that are due, and forgets all others.
    pub async fn look(&mut self, wanted: BTreeSet<Wanted>, now: Instant) -> Changes {
        let leaving: BTreeSet<String> = wanted.iter().filter(|pod| pod.leaving).map(|pod| pod.uid.clone()).collect();
        let uids: BTreeSet<String> = wanted.into_iter().map(|pod| pod.uid).collect();
        self.pods.retain(|uid, _| uids.contains(uid));
        let due = uids.into_iter().filter(|uid| self.pods.get(uid).is_none_or(|location| location.again <= now));
        let due: Vec<(Wanted, Option<Identity>)> = due
            .map(|uid| {
                let (before, leaving) = (self.identity(&uid), leaving.contains(&uid));
                (Wanted { uid, leaving }, before)
            })
            .collect();
        if due.is_empty() {
            return Changes::default();
        }
        let asked = due.iter().map(|(pod, _)| pod.uid.clone()).collect();
        let locator = self.locator.clone();
        let looking =
            spawn_blocking(move || due.into_iter().map(|(pod, before)| find(&locator, pod, before)).collect());
        let found = looking.await;
        self.take_all(asked, found, &leaving, Instant::now())
    }

    /// Takes what a look for these pods gave.
    fn take_all(
        &mut self,
        asked: Vec<String>,
        found: Result<Vec<Found>, JoinError>,
        leaving: &BTreeSet<String>,
        now: Instant,
    ) -> Changes {
        let mut changes = Changes::default();
        let found = found.unwrap_or_else(|error| {
            tracing::error!(%error, "the look for pods' network namespaces failed; it is tried again");
            changes.any = self.postpone(asked, now);
            Vec::new()
        });
        for found in found {
            if found.netns.is_err() && leaving.contains(&found.uid) {
                self.pods.remove(&found.uid);
                changes.gone.push(found.uid);
                continue;
            }
            let leaving = leaving.contains(&found.uid);
            changes.any |= self.take(found, leaving, now);
        }
        changes
    }

    /// Nothing is known of these pods but what was before. They are looked for again, but not at once, as what failed may
    /// fail each time. Whether one was never looked for before.
    fn postpone(&mut self, uids: Vec<String>, now: Instant) -> bool {
        let known = self.pods.len();
        for uid in uids {
            let never = || Location {
                netns: Err(NotFound {
                    reason: Reason::node("the look for its network namespace failed"),
                    certain: false,
                }),
                cookie: None,
                pause: AGAIN,
                again: now,
            };
            self.pods.entry(uid).or_insert_with(never).again = now + AGAIN;
        }
        self.pods.len() > known
    }

    fn identity(&self, uid: &str) -> Option<Identity> {
        self.pods.get(uid)?.netns.as_ref().ok().map(|netns| netns.identity())
    }

    /// Takes what a look gave; whether it is something else than before.
    fn take(&mut self, found: Found, leaving: bool, now: Instant) -> bool {
        let Found { uid, netns, cookie } = found;
        let before = self.pods.remove(&uid);
        let same = before.as_ref().is_some_and(|before| match (&before.netns, &netns) {
            (Ok(before), Ok(netns)) => before.identity() == netns.identity(),
            (Err(before), Err(reason)) => before == reason,
            _ => false,
        });
        let pause = match (&netns, &before) {
            (Ok(_), _) => {
                if leaving {
                    LEAVING
                } else {
                    AGAIN
                }
            }
            (Err(_), Some(before)) if before.netns.is_err() => (before.pause * 3 / 2).min(AGAIN),
            (Err(_), _) => FIRST,
        };
        let cookie = cookie.or(before.and_then(|before| before.cookie)).filter(|_| netns.is_ok());
        self.pods.insert(uid, Location { netns, cookie, pause, again: now + pause });
        !same
    }
}

fn find(locator: &Locator, Wanted { uid, leaving }: Wanted, before: Option<Identity>) -> Found {
    let found = if leaving { locator.find_deleted(&uid) } else { locator.find(&uid) };
    let netns = found.map_err(NotFound::from);
    let new = netns.as_ref().ok().filter(|netns| Some(netns.identity()) != before);
    let cookie = new.and_then(|netns| netns.look().ok()).map(|contents| contents.cookie);
    Found { uid, netns, cookie }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::locate::Settings;

    /// A locator that finds nobody but those it was told of.
    fn locations(directory: &Path) -> Locations {
        let node = Netns::identity_at(Path::new("/")).unwrap();
        let settings = Settings::new(directory.to_owned(), directory.to_owned(), node);
        Locations::new(Arc::new(Locator::new(settings)))
    }

    fn wanted(uid: &str, leaving: bool) -> BTreeSet<Wanted> {
        [Wanted { uid: uid.to_owned(), leaving }].into()
    }

    fn own() -> Arc<Netns> {
        Arc::new(Netns::open(Path::new("/proc/self/ns/net")).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_found_is_looked_for_less_and_less_often() {
        let directory = tempfile::tempdir().unwrap();
        let mut locations = locations(directory.path());
        let mut pauses = Vec::new();
        for round in 0..20 {
            let now = Instant::now();
            let changes = locations.look(wanted("u", false), now).await;
            assert_eq!(changes.any, round == 0, "the reason stays the same");
            pauses.push(locations.due().unwrap() - now);
            tokio::time::advance(pauses[round]).await;
        }
        assert_eq!((pauses[0], *pauses.last().unwrap()), (FIRST, AGAIN));
        assert!(pauses.is_sorted(), "{pauses:?}");
        assert!(matches!(locations.netns("u"), PodNetns::Unknown(reason) if reason.text.contains("no cgroup yet")));
        // Not before it is due, unless the pod changed.
        locations.look(wanted("u", false), Instant::now()).await;
        let due = locations.due().unwrap();
        locations.look(wanted("u", false), Instant::now()).await;
        assert_eq!(locations.due(), Some(due));
        locations.changed("u", Instant::now());
        locations.look(wanted("u", false), Instant::now()).await;
        assert!(locations.due().unwrap() <= Instant::now() + FIRST * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn news_of_the_locator_are_looked_at_and_a_pod_that_left_is_gone_with_its_namespace() {
        let directory = tempfile::tempdir().unwrap();
        let mut locations = locations(directory.path());
        locations.look(wanted("u", false), Instant::now()).await;
        locations.locator.from_cni("u", "sandbox", own());
        locations.news(Instant::now());
        assert!(locations.look(wanted("u", false), Instant::now()).await.any);
        assert_eq!(locations.netns("u"), PodNetns::Held(own()));
        assert_eq!(locations.due(), Some(Instant::now() + AGAIN));
        assert!(locations.record("u").is_some());

        locations.changed("u", Instant::now());
        let changes = locations.look(wanted("u", true), Instant::now()).await;
        assert!(!changes.any && changes.gone.is_empty(), "its sandbox is still there");
        assert_eq!(locations.due(), Some(Instant::now() + LEAVING));
        locations.locator.release("sandbox");
        locations.news(Instant::now());
        tokio::time::advance(NEWS).await;
        assert_eq!(locations.look(wanted("u", true), Instant::now()).await.gone, ["u"]);
        assert_eq!(locations.due(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_fails_is_not_repeated_at_once_and_changes_nothing_that_is_known() {
        let directory = tempfile::tempdir().unwrap();
        let mut locations = locations(directory.path());
        locations.locator.from_cni("held", "sandbox", own());
        locations.look(wanted("held", false), Instant::now()).await;
        let asked = || vec!["held".to_owned(), "new".to_owned()];
        async fn fail() -> Vec<Found> {
            panic!("a fault of the locator")
        }
        let nobody = BTreeSet::new();
        let changes = locations.take_all(asked(), tokio::spawn(fail()).await, &nobody, Instant::now());
        assert!(changes.any && changes.gone.is_empty());
        assert_eq!(locations.due(), Some(Instant::now() + AGAIN), "both");
        assert_eq!(locations.netns("held"), PodNetns::Held(own()));
        assert!(matches!(locations.netns("new"), PodNetns::Unknown(reason) if reason.text.contains("failed")));
        let both = asked().into_iter().collect();
        let changes = locations.take_all(asked(), tokio::spawn(fail()).await, &both, Instant::now());
        assert!(!changes.any && changes.gone.is_empty(), "nor is a leaving pod gone for it");
    }

    #[tokio::test]
    async fn only_what_is_still_the_same_is_seeded() {
        let directory = tempfile::tempdir().unwrap();
        let locations = locations(directory.path());
        let cookie = own().look().unwrap().cookie;
        let recorded = |path: &str, cookie| RecordedNetns { path: path.into(), cookie };
        locations
            .seed(vec![
                ("same".to_owned(), recorded("/proc/self/ns/net", cookie)),
                ("other".to_owned(), recorded("/proc/self/ns/net", cookie + 1)),
                ("gone".to_owned(), recorded("/nonexistent", cookie)),
            ])
            .await;
        // Looked after as one found by cgroup: held for a while although no process is seen.
        assert!(locations.locator.find("same").is_ok());
        assert!(locations.locator.find("other").is_err() && locations.locator.find("gone").is_err());
    }
}
