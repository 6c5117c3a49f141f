//! The reconciler: the one task that changes which pods are enrolled.
//!
//! It owns everything it decides with. Steps block (they enter namespaces and load programs) and run one at a time;
//! between them it hears what proxies say.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::block_in_place,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use weir_abi::map::PodConfig;

use super::{
    addresses::Addresses,
    ground::{Ground, Pod, Refreshed},
    order::{Leaving, Milestones, Order},
    outcomes::Outcomes,
    plan::{self, Enrolled, Look, Step, View, Wanted},
    proxies::Proxies,
    registry::Registry,
    slots::Slots,
};
use crate::{
    config,
    counts::Counts,
    handoff::{Event, ListenersHandedBack, ProxyId},
    health::{Health, Progress, Stage},
    netns::{self, Identity, Netns},
    reason::{Reason, Waiting},
    redirect,
    sources::{Follower, PassedOver, PodNetns, PodSpec},
    status::{PodStatus, SharedBoard},
};

/// How often namespaces are looked after: a pod is enrolled this soon after its namespace appears.
const TICK: Duration = Duration::from_millis(500);
/// The board is written no more often than this.
const PUBLISH: Duration = Duration::from_millis(100);
/// How often a pod that a proxy refused is offered again.
const OFFER: Duration = Duration::from_secs(30);
/// How long a restarted agent waits for proxies to hand listening sockets back.
const HAND_BACK: Duration = Duration::from_secs(2);
/// When proxies are told that they know every pod, although some of an earlier agent could not be taken over.
const TAKE_OVER: Duration = Duration::from_secs(10);

/// What the reconciler goes by.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Node name, for workloads.
    pub node: String,
    /// Cookie of the node's own namespace.
    pub node_netns: u64,
    /// What holds for every pod.
    pub redirect: config::Redirect,
    /// The agent's own namespace, if it is a pod's: a proxy in another one is that of another pod, of an earlier or of a
    /// failed rollout.
    pub own_netns: Option<Identity>,
    /// Where it counts what it does.
    pub counts: Counts,
}

/// Why a pod is not enrolled, and when to try again.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) reason: Reason,
    pub(super) pause: Duration,
    pub(super) again: Instant,
}

/// A pod that a proxy has still to let go.
#[derive(Debug)]
pub(super) struct Withdrawn {
    pub(super) status: PodStatus,
    pub(super) cookie: u64,
    pub(super) until: Instant,
}

/// Where a pod stands with the proxies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Served {
    /// No proxy has acknowledged it.
    #[default]
    Unknown,
    /// One did.
    Yes,
    /// The one that accepts refused it, and why.
    Refused(String),
}

/// The reconciler.
pub struct Reconciler {
    pub(super) ground: Ground,
    pub(super) settings: Settings,
    pub(super) board: SharedBoard,
    pub(super) registry: Arc<Registry>,
    pub(super) slots: Slots,
    pub(super) wanted: Option<BTreeMap<String, Wanted>>,
    pub(super) passed_over: Vec<PassedOver>,
    source_error: String,
    pub(super) pods: BTreeMap<String, Pod>,
    pub(super) served: HashMap<String, Served>,
    /// When the enrolment of pods began that no proxy has acknowledged.
    pub(super) begun: HashMap<String, Instant>,
    /// Enrolled by an earlier agent, not taken over yet.
    pub(super) adopted: BTreeMap<u64, PodConfig>,
    pub(super) handed_back: HashMap<String, ListenersHandedBack>,
    pub(super) hand_back_until: Instant,
    pub(super) take_over_until: Instant,
    pub(super) failures: HashMap<String, Failure>,
    /// How long pods that the board shows as pending have been so.
    pub(super) waiting: HashMap<String, Waiting>,
    pub(super) withdrawn: HashMap<String, Withdrawn>,
    pub(super) proxies: Proxies,
    pub(super) outcomes: Outcomes,
    pub(super) addresses: Addresses,
    /// The proxy that the keeper looks after, and its process.
    pub(super) watched: Option<(ProxyId, i32)>,
    pub(super) leaving: Option<Leaving>,
    pub(super) milestones: watch::Sender<Milestones>,
    health: Health,
    offered: Instant,
}

impl Reconciler {
    /// Reads what the kernel has, and cleans up after an agent that died half-way through an enrolment.
    pub fn new(
        ground: Ground,
        settings: Settings,
        board: SharedBoard,
        registry: Arc<Registry>,
        health: Health,
    ) -> Result<Self, redirect::Error> {
        let adopted: BTreeMap<u64, PodConfig> = ground.redirect.enrolled()?.into_iter().collect();
        let taken: BTreeSet<u32> = adopted.values().map(|pod| pod.slot).collect();
        for slot in ground.redirect.used_slots()?.difference(&taken) {
            tracing::warn!(slot, "an earlier agent ended while it enrolled or withdrew a pod; its slot is cleaned");
            ground.redirect.release(*slot)?;
        }
        let now = Instant::now();
        Ok(Self {
            slots: Slots::new(taken),
            hand_back_until: if adopted.is_empty() { now } else { now + HAND_BACK },
            take_over_until: now + TAKE_OVER,
            adopted,
            ground,
            proxies: Proxies::new(settings.counts.clone()),
            settings,
            board,
            registry,
            wanted: None,
            passed_over: Vec::new(),
            source_error: String::new(),
            pods: BTreeMap::new(),
            served: HashMap::new(),
            begun: HashMap::new(),
            handed_back: HashMap::new(),
            failures: HashMap::new(),
            waiting: HashMap::new(),
            withdrawn: HashMap::new(),
            outcomes: Outcomes::default(),
            addresses: Addresses::default(),
            watched: None,
            leaving: None,
            milestones: watch::Sender::default(),
            health,
            offered: now,
        })
    }

    /// What becomes of each pod, for those who wait for one.
    pub fn outcomes(&self) -> Outcomes {
        self.outcomes.clone()
    }

    /// Runs until it is ordered to stop, or the source or the proxies' events end. The pods' sockets.
    pub async fn run(
        mut self,
        mut source: Follower,
        mut events: mpsc::Receiver<Event>,
        mut orders: watch::Receiver<Order>,
    ) -> Vec<ListenersHandedBack> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut steps = VecDeque::new();
        let mut published = Instant::now();
        let mut shown = true;
        source.mark_changed();
        orders.mark_changed();
        loop {
            // In no order: a proxy that never stops talking must not keep pods from being enrolled.
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => {
                        // What was planned may not hold any more, or more may be possible now.
                        if self.hear(event) {
                            steps = self.plan();
                        }
                    }
                    None => return self.give_up(),
                },
                ordered = orders.changed() => match (ordered, *orders.borrow_and_update()) {
                    (Err(_), _) | (_, Order::Stop) => return self.give_up(),
                    (_, Order::Leave) => {
                        self.leave();
                        steps = self.plan();
                    }
                    (_, Order::Enroll) => {}
                },
                changed = source.changed() => {
                    if changed.is_err() {
                        return self.give_up();
                    }
                    let listing = source.borrow_and_update().clone();
                    let mut board = self.board.write();
                    board.source_listed = listing.pods.is_some();
                    (board.source_error, board.source_notes) = (listing.error.clone(), listing.notes);
                    drop(board);
                    (self.passed_over, self.source_error) = (listing.passed_over, listing.error);
                    if let Some(pods) = listing.pods.filter(|_| self.leaving.is_none()) {
                        self.want(pods);
                    }
                    steps = self.plan();
                }
                Some(uid) = self.addresses.changed() => block_in_place(|| self.readdress(&uid)),
                _ = tick.tick() => {
                    block_in_place(|| self.tend());
                    steps = self.plan();
                }
                () = std::future::ready(()), if !steps.is_empty() => {
                    if let Some(step) = steps.pop_front() {
                        block_in_place(|| self.execute(step));
                    }
                }
                () = sleep_until(published + PUBLISH), if !shown => {}
            }
            self.settle();
            self.go_on_leaving();
            self.health.enter(Stage::Leading(self.progress()));
            shown = published.elapsed() >= PUBLISH;
            if shown {
                self.publish();
                published = Instant::now();
            }
        }
    }

    /// Takes what the source says.
    pub(super) fn want(&mut self, pods: Vec<PodSpec>) {
        let mut before = self.wanted.take().unwrap_or_default();
        let mut wanted = BTreeMap::new();
        for spec in pods {
            let uid = spec.uid.clone();
            let pod = match before.remove(&uid) {
                Some(earlier) if earlier.spec == spec => Wanted { spec, ..earlier },
                _ => {
                    // Something changed: it is worth another attempt at once.
                    self.failures.remove(&uid);
                    Wanted::new(spec, &self.settings.redirect)
                }
            };
            wanted.insert(uid, pod);
        }
        self.failures.retain(|uid, _| wanted.contains_key(uid));
        self.outcomes.retain(|uid| wanted.contains_key(uid));
        self.wanted = Some(wanted);
    }

    /// Looks at the namespaces, and plans.
    fn plan(&mut self) -> VecDeque<Step> {
        block_in_place(|| self.look());
        let now = Instant::now();
        let enrolled = self.pods.iter().map(|(uid, pod)| (uid.as_str(), enrolled(pod))).collect();
        let adopted = self.adopted.iter().map(|(cookie, pod)| (*cookie, pod.slot)).collect();
        let busy = self.withdrawn.values().filter(|pod| now < pod.until).map(|pod| pod.cookie).collect();
        let view = View {
            wanted: self.wanted.as_ref(),
            // Whoever leaves wants nobody, whatever the source says.
            source_well: self.source_error.is_empty() || self.leaving.is_some(),
            enrolled: &enrolled,
            adopted: &adopted,
            busy: &busy,
            node_netns: self.settings.node_netns,
            sockets_overdue: now >= self.hand_back_until,
        };
        let steps = plan::plan(&view);
        for uid in plan::undisturbed(&view, &steps) {
            if !self.failures.contains_key(uid) {
                self.tell_outcome(uid);
            }
        }
        steps.into()
    }

    /// What is at the paths of the wanted pods' namespaces; those that are still the same are not entered again.
    fn look(&mut self) {
        let now = Instant::now();
        for (uid, wanted) in self.wanted.iter_mut().flatten() {
            let pod = self.pods.get(uid);
            if pod.is_none() && self.failures.get(uid).is_some_and(|failure| failure.again > now) {
                let cookie = match wanted.netns {
                    Look::Found { cookie, .. } => Some(cookie),
                    Look::NotDue { cookie } => cookie,
                    Look::Missing(_) | Look::Failed(_) => None,
                };
                wanted.netns = Look::NotDue { cookie };
                continue;
            }
            let known = match (pod, &wanted.netns) {
                (Some(pod), _) => Some((pod.netns.identity(), pod.cookie)),
                (None, Look::Found { identity, cookie }) => Some((*identity, *cookie)),
                (None, _) => None,
            };
            let there = match &wanted.spec.netns {
                PodNetns::Path(path) => Netns::identity_at(path),
                PodNetns::Held(netns) => Some(netns.identity()),
                PodNetns::Unknown(_) | PodNetns::Absent(_) => None,
            };
            wanted.netns = match known {
                Some((identity, cookie)) if there == Some(identity) => Look::Found { identity, cookie },
                _ => look(&wanted.spec.netns),
            };
        }
    }

    /// What is done now and then.
    fn tend(&mut self) {
        let now = Instant::now();
        self.registry.sweep();
        self.check_sockets();
        let proxies = &self.proxies;
        self.withdrawn.retain(|uid, pod| now < pod.until && proxies.letting_go(uid));
        if now >= self.hand_back_until && !self.proxies.any_ready() {
            // An earlier agent may have left it set.
            self.set_ready(false);
        }
        if now < self.offered + OFFER {
            return;
        }
        self.offered = now;
        for (uid, pod) in &self.pods {
            if matches!(self.served.get(uid), Some(Served::Refused(_))) && !pod.listeners.is_empty() {
                self.proxies.enroll(pod, &self.settings.node);
            }
        }
    }

    /// Reads a pod's addresses again.
    pub(super) fn readdress(&mut self, uid: &str) {
        let Some(pod) = self.pods.get_mut(uid) else { return };
        match self.ground.refresh(pod) {
            Ok(Refreshed::Same) => return,
            Ok(Refreshed::Addresses) => self.proxies.update(pod, &self.settings.node),
            Ok(Refreshed::Sockets) => {
                self.proxies.enroll(pod, &self.settings.node);
            }
            Err(error) => {
                tracing::warn!(pod = %pod.spec.full_name(), %error, "the pod's addresses cannot be read again");
                self.addresses.again(uid);
                return;
            }
        }
        tracing::info!(pod = %pod.spec.full_name(), ips = ?pod.ips, "the pod's addresses changed");
        if let Some(pod) = self.pods.get(uid) {
            self.keep_sockets(pod);
        }
    }

    /// What the kubelet is told.
    fn progress(&self) -> Progress {
        Progress {
            taken_over: self.taken_over(),
            unlisted: self.wanted.is_none().then(|| self.source_error.clone()),
            proxy_ready: self.proxies.own_serves(),
            snapshot_sent: self.proxies.acceptor_synced(),
            hung: self.proxies.hung(),
        }
    }
}

fn look(netns: &PodNetns) -> Look {
    let inside = |netns: &Netns| Ok((netns.identity(), netns.look()?));
    let seen = match netns {
        PodNetns::Path(path) => Netns::open(path).and_then(|netns| inside(&netns)),
        PodNetns::Held(netns) => inside(netns),
        PodNetns::Unknown(reason) => return Look::Failed(reason.clone()),
        PodNetns::Absent(reason) => return Look::Missing(reason.clone()),
    };
    match seen {
        // Looked at again with the next plan: it is about to be set up.
        Ok((_, contents)) if contents.ips.is_empty() => Look::Failed(Reason::starting("the pod has no address yet")),
        Ok((identity, contents)) => Look::Found { identity, cookie: contents.cookie },
        Err(error @ (netns::Error::Missing(_) | netns::Error::NotANamespace(_))) => {
            Look::Missing(Reason::starting(error.to_string()))
        }
        Err(error) => Look::Failed(Reason::node(error.to_string())),
    }
}

fn enrolled(pod: &Pod) -> Enrolled<'_> {
    Enrolled {
        spec: &pod.spec,
        policy: &pod.policy,
        identity: pod.netns.identity(),
        cookie: pod.cookie,
        listening: !pod.listeners.is_empty(),
    }
}
