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
    sync::mpsc,
    task::block_in_place,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use weir_abi::map::PodConfig;

use super::{
    ground::{Ground, Pod, Refreshed},
    outcomes::{Outcome, Outcomes},
    plan::{self, Enrolled, Look, Step, View, Wanted},
    policy::Policy,
    proxies::Proxies,
    registry::Registry,
    slots::Slots,
};
use crate::{
    config,
    handoff::{Event, ListenersHandedBack},
    netns::{self, Netns},
    redirect,
    sources::{Follower, PassedOver, PodNetns, PodSpec},
    status::{PodState, PodStatus, SharedBoard},
};

/// How often namespaces are looked after: a pod is enrolled this soon after its namespace appears.
const TICK: Duration = Duration::from_millis(500);
/// The board is written no more often than this.
const PUBLISH: Duration = Duration::from_millis(100);
/// How often the addresses of an enrolled pod are read again, and a pod that a proxy refused is offered again.
const REFRESH: Duration = Duration::from_secs(30);
/// How long a restarted agent waits for proxies to hand listening sockets back.
const HAND_BACK: Duration = Duration::from_secs(2);
/// When proxies are told that they know every pod, although some of an earlier agent could not be taken over.
const TAKE_OVER: Duration = Duration::from_secs(10);
/// Pauses between attempts to enroll a pod, doubling from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How long a proxy may take to let go of a pod before its namespace counts as free.
const LET_GO: Duration = Duration::from_secs(5);

/// What the reconciler goes by.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Node name, for workloads.
    pub node: String,
    /// Cookie of the node's own namespace.
    pub node_netns: u64,
    /// What holds for every pod.
    pub redirect: config::Redirect,
}

/// Why a pod is not enrolled, and when to try again.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) reason: String,
    pause: Duration,
    again: Instant,
}

/// A pod that a proxy has still to let go.
#[derive(Debug)]
pub(super) struct Withdrawn {
    pub(super) status: PodStatus,
    cookie: u64,
    until: Instant,
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
    pub(super) pods: BTreeMap<String, Pod>,
    pub(super) served: HashMap<String, Served>,
    /// Enrolled by an earlier agent, not taken over yet.
    pub(super) adopted: BTreeMap<u64, PodConfig>,
    pub(super) handed_back: HashMap<String, ListenersHandedBack>,
    pub(super) hand_back_until: Instant,
    pub(super) take_over_until: Instant,
    pub(super) failures: HashMap<String, Failure>,
    pub(super) withdrawn: HashMap<String, Withdrawn>,
    pub(super) proxies: Proxies,
    pub(super) outcomes: Outcomes,
    pub(super) refreshed: Instant,
}

impl Reconciler {
    /// Reads what the kernel has, and cleans up after an agent that died half-way through an enrolment.
    pub fn new(
        ground: Ground,
        settings: Settings,
        board: SharedBoard,
        registry: Arc<Registry>,
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
            settings,
            board,
            registry,
            wanted: None,
            passed_over: Vec::new(),
            pods: BTreeMap::new(),
            served: HashMap::new(),
            handed_back: HashMap::new(),
            failures: HashMap::new(),
            withdrawn: HashMap::new(),
            proxies: Proxies::default(),
            outcomes: Outcomes::default(),
            refreshed: now,
        })
    }

    /// What becomes of each pod, for those who wait for one.
    pub fn outcomes(&self) -> Outcomes {
        self.outcomes.clone()
    }

    /// Runs until the source or the proxies' events end.
    pub async fn run(mut self, mut source: Follower, mut events: mpsc::Receiver<Event>) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut steps = VecDeque::new();
        let mut published = Instant::now();
        let mut shown = true;
        source.mark_changed();
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
                    None => return,
                },
                changed = source.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let listing = source.borrow_and_update().clone();
                    self.board.write().source_error = listing.error;
                    self.passed_over = listing.passed_over;
                    if let Some(pods) = listing.pods {
                        self.want(pods);
                    }
                    steps = self.plan();
                }
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
            shown = published.elapsed() >= PUBLISH;
            if shown {
                self.publish();
                published = Instant::now();
            }
        }
    }

    /// Takes what the source says.
    fn want(&mut self, pods: Vec<PodSpec>) {
        let mut before = self.wanted.take().unwrap_or_default();
        let mut wanted = BTreeMap::new();
        for spec in pods {
            let policy = Policy::of(&spec, &self.settings.redirect).map_err(|error| error.to_string());
            let earlier = before.remove(&spec.uid).filter(|pod| pod.spec == spec);
            if earlier.is_none() {
                // Something changed: it is worth another attempt at once.
                self.failures.remove(&spec.uid);
            }
            let netns = earlier.map_or(Look::NotDue, |pod| pod.netns);
            wanted.insert(spec.uid.clone(), Wanted { spec, policy, netns });
        }
        self.failures.retain(|uid, _| wanted.contains_key(uid));
        self.outcomes.retain(|uid| wanted.contains_key(uid));
        self.wanted = Some(wanted);
    }

    /// Looks at the namespaces, and plans.
    fn plan(&mut self) -> VecDeque<Step> {
        block_in_place(|| self.look());
        let now = Instant::now();
        let enrolled: BTreeMap<String, Enrolled> =
            self.pods.iter().map(|(uid, pod)| (uid.clone(), enrolled(pod))).collect();
        let adopted = self.adopted.iter().map(|(cookie, pod)| (*cookie, pod.slot)).collect();
        let busy = self.withdrawn.values().filter(|pod| now < pod.until).map(|pod| pod.cookie).collect();
        let view = View {
            wanted: self.wanted.as_ref(),
            enrolled: &enrolled,
            adopted: &adopted,
            busy: &busy,
            node_netns: self.settings.node_netns,
            sockets_overdue: now >= self.hand_back_until,
        };
        plan::plan(&view).into()
    }

    /// What is at the paths of the wanted pods' namespaces; those that are still the same are not entered again.
    fn look(&mut self) {
        let now = Instant::now();
        for (uid, wanted) in self.wanted.iter_mut().flatten() {
            let pod = self.pods.get(uid);
            if pod.is_none() && self.failures.get(uid).is_some_and(|failure| failure.again > now) {
                wanted.netns = Look::NotDue;
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
                PodNetns::Unknown(_) => None,
            };
            wanted.netns = match known {
                Some((identity, cookie)) if there == Some(identity) => Look::Found { identity, cookie },
                _ => look(&wanted.spec.netns),
            };
        }
    }

    fn execute(&mut self, step: Step) {
        let uid = match step {
            Step::Forget { cookie, slot } => return self.forget(cookie, slot),
            Step::Withdraw { uid, gone } => {
                self.withdraw(&uid, gone);
                uid
            }
            Step::Adopt { uid, slot } => {
                self.adopt(&uid, slot);
                uid
            }
            Step::Listen { uid } => {
                self.listen(&uid);
                uid
            }
            Step::Update { uid } => {
                self.update(&uid);
                uid
            }
            Step::Enroll { uid } => {
                self.enroll(&uid);
                uid
            }
            Step::Pend { uid, reason } => {
                self.pend(&uid, reason);
                uid
            }
        };
        self.tell_outcome(&uid);
    }

    /// Tells those who wait for a pod where it stands.
    fn tell_outcome(&self, uid: &str) {
        if self.wanted.as_ref().is_none_or(|wanted| !wanted.contains_key(uid)) {
            return;
        }
        let outcome = match (self.pods.get(uid), self.failures.get(uid)) {
            (Some(pod), _) => Outcome::Redirected { identity: pod.netns.identity() },
            (None, Some(failure)) => Outcome::Pending(failure.reason.clone()),
            (None, None) => Outcome::Pending("it is about to be enrolled".to_owned()),
        };
        self.outcomes.set(uid, outcome);
    }

    fn enroll(&mut self, uid: &str) {
        let Some((spec, Ok(policy))) = self.wanted(uid) else { return };
        let name = spec.full_name();
        let Some(slot) = self.slots.take() else { return self.fail(uid, redirect::Error::NoSlot.to_string()) };
        match self.ground.enroll(spec, policy, slot) {
            Ok(pod) => {
                tracing::info!(pod = %name, uid, slot, netns = pod.cookie, ips = ?pod.ips, "pod redirected");
                self.registry.insert(uid, pod.netns.clone());
                self.proxies.enroll(&pod, &self.settings.node);
                self.keep(uid, pod);
            }
            Err(error) => {
                self.slots.free(slot);
                self.fail(uid, error.to_string());
            }
        }
    }

    fn adopt(&mut self, uid: &str, slot: u32) {
        let Some((spec, policy)) = self.wanted(uid) else { return };
        let Some((cookie, present)) = self.adopted.iter().find(|(_, pod)| pod.slot == slot) else { return };
        let (cookie, present, name) = (*cookie, *present, spec.full_name());
        match self.ground.adopt(spec, policy.ok(), cookie, &present) {
            Ok(mut pod) => {
                self.adopted.remove(&cookie);
                self.registry.insert(uid, pod.netns.clone());
                if let Some(back) = self.handed_back.remove(uid) {
                    self.take_back(&mut pod, back);
                }
                tracing::info!(pod = %name, uid, slot, sockets = pod.listeners.len(), "pod taken over");
                self.keep(uid, pod);
            }
            Err(error) => self.fail(uid, error.to_string()),
        }
    }

    pub(super) fn take_back(&self, pod: &mut Pod, back: ListenersHandedBack) {
        match self.ground.take_back(pod, back) {
            Ok(true) => {}
            Ok(false) => tracing::warn!(pod = %pod.spec.full_name(), "a proxy handed back some sockets, but not all"),
            Err(error) => tracing::warn!(pod = %pod.spec.full_name(), %error, "sockets handed back are not used"),
        }
    }

    fn listen(&mut self, uid: &str) {
        let Some(mut pod) = self.pods.remove(uid) else { return };
        match self.ground.listen(&mut pod) {
            Ok(()) => {
                tracing::warn!(pod = %pod.spec.full_name(), "the pod's listening sockets were gone; it has new ones");
                self.failures.remove(uid);
                self.proxies.enroll(&pod, &self.settings.node);
            }
            Err(error) => {
                pod.listeners.clear();
                self.fail(uid, error.to_string());
            }
        }
        self.pods.insert(uid.to_owned(), pod);
    }

    fn update(&mut self, uid: &str) {
        let Some((spec, Ok(policy))) = self.wanted(uid) else { return };
        let Some(pod) = self.pods.get_mut(uid) else { return };
        match self.ground.update(pod, spec, policy) {
            Ok(()) => {
                tracing::info!(pod = %pod.spec.full_name(), uid, "pod changed");
                self.failures.remove(uid);
                self.proxies.update(pod, &self.settings.node);
            }
            Err(error) => self.fail(uid, error.to_string()),
        }
    }

    fn withdraw(&mut self, uid: &str, gone: bool) {
        let Some(status) = self.pod_status(uid) else { return };
        let Some(pod) = self.pods.remove(uid) else { return };
        self.served.remove(uid);
        self.failures.remove(uid);
        self.take_out(pod.cookie, pod.slot);
        let drain = if gone { Duration::ZERO } else { self.settings.redirect.drain };
        self.registry.drain(uid, drain);
        self.proxies.withdraw(uid, drain);
        tracing::info!(pod = %pod.spec.full_name(), uid, slot = pod.slot, netns_gone = gone, "pod withdrawn");
        if self.proxies.letting_go(uid) {
            let status = PodStatus { state: PodState::Withdrawing, slot: None, listeners: 0, ..status };
            let until = Instant::now() + LET_GO;
            self.withdrawn.insert(uid.to_owned(), Withdrawn { status, cookie: pod.cookie, until });
        }
    }

    fn forget(&mut self, cookie: u64, slot: u32) {
        self.adopted.remove(&cookie);
        self.take_out(cookie, slot);
        tracing::info!(netns = cookie, slot, "a pod that an earlier agent enrolled is not wanted any more");
    }

    /// Takes a pod out of the kernel; what fails is tried again.
    fn take_out(&mut self, cookie: u64, slot: u32) {
        match self.ground.withdraw(cookie, slot) {
            Ok(()) => self.slots.free(slot),
            Err(error) => {
                tracing::error!(netns = cookie, slot, %error, "a pod is not out of the kernel yet");
                self.adopted.insert(cookie, PodConfig { slot, ..PodConfig::default() });
            }
        }
    }

    fn keep(&mut self, uid: &str, pod: Pod) {
        self.failures.remove(uid);
        self.withdrawn.remove(uid);
        self.served.insert(uid.to_owned(), Served::Unknown);
        self.pods.insert(uid.to_owned(), pod);
    }

    /// An attempt failed: the next one comes after a pause, each longer than the one before.
    fn fail(&mut self, uid: &str, reason: String) {
        let pause =
            self.failures.get(uid).map_or(FIRST_PAUSE, |failure| failure.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        self.pend(uid, reason);
        if let Some(failure) = self.failures.get_mut(uid) {
            (failure.pause, failure.again) = (pause, Instant::now() + pause);
        }
    }

    /// Not now; looked at again with the next plan.
    fn pend(&mut self, uid: &str, reason: String) {
        let before = self.failures.get(uid);
        if before.is_none_or(|failure| failure.reason != reason) {
            tracing::warn!(uid, %reason, "pod is pending");
        }
        self.failures.insert(uid.to_owned(), Failure { reason, pause: Duration::ZERO, again: Instant::now() });
    }

    fn wanted(&self, uid: &str) -> Option<(PodSpec, Result<Policy, String>)> {
        let wanted = self.wanted.as_ref()?.get(uid)?;
        Some((wanted.spec.clone(), wanted.policy.clone()))
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
        if now < self.refreshed + REFRESH {
            return;
        }
        self.refreshed = now;
        for (uid, pod) in &mut self.pods {
            if matches!(self.served.get(uid), Some(Served::Refused(_))) && !pod.listeners.is_empty() {
                self.proxies.enroll(pod, &self.settings.node);
            }
            match self.ground.refresh(pod) {
                Ok(Refreshed::Same) => continue,
                Ok(Refreshed::Addresses) => self.proxies.update(pod, &self.settings.node),
                Ok(Refreshed::Sockets) => self.proxies.enroll(pod, &self.settings.node),
                Err(error) => {
                    tracing::warn!(pod = %pod.spec.full_name(), %error, "the pod's addresses cannot be read again");
                    continue;
                }
            }
            tracing::info!(pod = %pod.spec.full_name(), ips = ?pod.ips, "the pod's addresses changed");
        }
    }
}

fn look(netns: &PodNetns) -> Look {
    let inside = |netns: &Netns| Ok((netns.identity(), netns.look()?));
    let seen = match netns {
        PodNetns::Path(path) => Netns::open(path).and_then(|netns| inside(&netns)),
        PodNetns::Held(netns) => inside(netns),
        PodNetns::Unknown(reason) => return Look::Failed(reason.clone()),
    };
    match seen {
        // Looked at again with the next plan: it is about to be set up.
        Ok((_, contents)) if contents.ips.is_empty() => Look::Failed("the pod has no address yet".to_owned()),
        Ok((identity, contents)) => Look::Found { identity, cookie: contents.cookie },
        Err(error @ (netns::Error::Missing(_) | netns::Error::NotANamespace(_))) => Look::Missing(error.to_string()),
        Err(error) => Look::Failed(error.to_string()),
    }
}

fn enrolled(pod: &Pod) -> Enrolled {
    Enrolled {
        spec: pod.spec.clone(),
        policy: pod.policy.clone(),
        identity: pod.netns.identity(),
        cookie: pod.cookie,
        listening: !pod.listeners.is_empty(),
    }
}
