//! The reconciler: the one task that changes which pods are enrolled.
//!
//! It owns everything it decides with. Steps block (they enter namespaces and load programs) and run one at a time;
//! between them it hears what proxies say.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    mem,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::mpsc,
    task::block_in_place,
    time::{Instant, MissedTickBehavior, interval},
};
use weir_abi::map::{PodConfig, config_flag};

use super::{
    ground::{Ground, Pod, Refreshed},
    plan::{self, Enrolled, Look, Step, View, Wanted},
    policy::Policy,
    proxies::{Proxies, Told},
    registry::Registry,
    slots::Slots,
};
use crate::{
    config,
    handoff::{Event, ListenersHandedBack},
    netns::{self, Netns},
    redirect,
    sources::{Follower, PodSpec},
    status::{PodState, PodStatus, SharedBoard},
};

/// How often namespaces are looked after: a pod is enrolled this soon after its namespace appears.
const TICK: Duration = Duration::from_millis(500);
/// While there is much to do, the board is written this often.
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
struct Failure {
    reason: String,
    pause: Duration,
    again: Instant,
}

/// A pod that a proxy has still to let go.
#[derive(Debug)]
struct Withdrawn {
    status: PodStatus,
    cookie: u64,
    until: Instant,
}

/// Where a pod stands with the proxies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Served {
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
    ground: Ground,
    settings: Settings,
    board: SharedBoard,
    registry: Arc<Registry>,
    slots: Slots,
    wanted: Option<BTreeMap<String, Wanted>>,
    pods: BTreeMap<String, Pod>,
    served: HashMap<String, Served>,
    /// Enrolled by an earlier agent, not taken over yet.
    adopted: BTreeMap<u64, PodConfig>,
    handed_back: HashMap<String, ListenersHandedBack>,
    hand_back_until: Instant,
    take_over_until: Instant,
    failures: HashMap<String, Failure>,
    withdrawn: HashMap<String, Withdrawn>,
    proxies: Proxies,
    refreshed: Instant,
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
        for slot in ground.redirect.steered_slots()? {
            if !taken.contains(&slot) {
                tracing::warn!(slot, "an earlier agent ended while it enrolled a pod; its slot is cleaned");
                ground.redirect.release(slot)?;
            }
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
            pods: BTreeMap::new(),
            served: HashMap::new(),
            handed_back: HashMap::new(),
            failures: HashMap::new(),
            withdrawn: HashMap::new(),
            proxies: Proxies::default(),
            refreshed: now,
        })
    }

    /// Runs until the source or the proxies' events end.
    pub async fn run(mut self, mut source: Follower, mut events: mpsc::Receiver<Event>) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut steps = VecDeque::new();
        let mut published = Instant::now();
        source.mark_changed();
        loop {
            tokio::select! {
                biased;
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
            }
            self.settle();
            if steps.is_empty() || published.elapsed() > PUBLISH {
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
            let path = &wanted.spec.netns;
            let known = match (self.pods.get(uid), &wanted.netns) {
                (Some(pod), _) => Some((pod.netns.identity(), pod.cookie)),
                (None, Look::Found { identity, cookie }) => Some((*identity, *cookie)),
                (None, _) => None,
            };
            let at_path = Netns::identity_at(path);
            wanted.netns = match known {
                Some((identity, cookie)) if at_path == Some(identity) => Look::Found { identity, cookie },
                _ => look(path),
            };
            let due = self.failures.get(uid).is_none_or(|failure| failure.again <= now);
            if !due && !self.pods.contains_key(uid) {
                wanted.netns = Look::NotDue;
            }
        }
    }

    fn execute(&mut self, step: Step) {
        match step {
            Step::Withdraw { uid, gone } => self.withdraw(&uid, gone),
            Step::Forget { cookie, slot } => self.forget(cookie, slot),
            Step::Adopt { uid, slot } => self.adopt(&uid, slot),
            Step::Listen { uid } => self.listen(&uid),
            Step::Update { uid } => self.update(&uid),
            Step::Enroll { uid } => self.enroll(&uid),
            Step::Pend { uid, reason } => self.pend(&uid, reason),
        }
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

    fn take_back(&self, pod: &mut Pod, back: ListenersHandedBack) {
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
                tracing::warn!(pod = %pod.spec.full_name(), "no proxy handed listening sockets back; new ones are made");
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
        self.check_sockets();
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

    /// Once every pod of an earlier agent is taken over and has its sockets, proxies are told every pod, and that this is
    /// all: what they hold beyond that they let go. What cannot be taken over holds that up only for a while.
    fn settle(&mut self) {
        let now = Instant::now();
        let listening = now >= self.hand_back_until || self.pods.values().all(|pod| !pod.listeners.is_empty());
        let taken_over = now >= self.take_over_until || self.adopted.is_empty();
        if self.wanted.is_some() && taken_over {
            self.registry.settle();
            if listening {
                let pods = self.pods.values().filter(|pod| !pod.listeners.is_empty());
                self.proxies.send_snapshot(pods, &self.settings.node);
            }
        }
    }

    /// Takes what a proxy says. Whether it changes what is to be done.
    fn hear(&mut self, event: Event) -> bool {
        match event {
            Event::Connected { proxy, hello, peer, handed_back } => {
                let maps = match self.ground.redirect.socket_maps() {
                    Ok(maps) => maps,
                    Err(error) => {
                        tracing::error!(%error, "no file descriptors for a proxy; it must dial again");
                        return false;
                    }
                };
                self.proxies.join(proxy, hello, peer, maps);
                for back in handed_back {
                    self.hand_back(back);
                }
                return true;
            }
            Event::Acked { proxy, id, error } => {
                let counts = self.proxies.speaker() == Some(proxy);
                return self.proxies.acknowledged(proxy, id).is_some_and(|told| self.acknowledged(told, error, counts));
            }
            Event::Ready(id) => self.proxies.ready(id, self.settings.redirect.drain),
            Event::Draining { proxy, open } => self.proxies.draining(proxy, open),
            Event::Gone(id) => {
                self.proxies.leave(id);
                self.check_sockets();
            }
        }
        self.set_ready(self.proxies.any_ready());
        false
    }

    /// A proxy can switch off a listening socket that it shares: such sockets are made anew.
    fn check_sockets(&mut self) {
        for pod in self.pods.values_mut() {
            if !pod.listeners.iter().all(|listener| netns::is_listening(&listener.socket)) {
                tracing::warn!(pod = %pod.spec.full_name(), "a listening socket does not listen any more");
                pod.listeners.clear();
            }
        }
    }

    fn hand_back(&mut self, back: ListenersHandedBack) {
        match self.pods.remove(&back.uid) {
            Some(mut pod) => {
                if pod.listeners.is_empty() {
                    block_in_place(|| self.take_back(&mut pod, back));
                }
                self.pods.insert(pod.spec.uid.clone(), pod);
            }
            // Only while there is something to take over: what is not taken then is closed.
            None if !self.adopted.is_empty() => drop(self.handed_back.insert(back.uid.clone(), back)),
            None => {}
        }
    }

    /// Takes what a proxy says of what it was told; `counts` if it is the one that accepts. Whether it changes what is
    /// to be done.
    fn acknowledged(&mut self, told: Told, error: String, counts: bool) -> bool {
        match told {
            Told::Enroll(uid) => {
                let Some(pod) = self.pods.get(&uid) else { return false };
                let served = self.served.entry(uid).or_default();
                if error.is_empty() {
                    if mem::replace(served, Served::Yes) != Served::Yes {
                        tracing::info!(pod = %pod.spec.full_name(), "pod enrolled");
                    }
                } else {
                    tracing::warn!(pod = %pod.spec.full_name(), %error, "a proxy does not serve the pod");
                    if counts {
                        *served = Served::Refused(error);
                    }
                }
            }
            Told::Update(uid) => {
                if !error.is_empty() {
                    tracing::warn!(uid, %error, "a proxy did not take a pod's change");
                }
            }
            Told::Withdraw(uid) => {
                let let_go = !self.proxies.letting_go(&uid);
                if let_go {
                    self.withdrawn.remove(&uid);
                }
                return let_go;
            }
        }
        false
    }

    fn set_ready(&self, ready: bool) {
        if let Err(error) = self.ground.redirect.config().set_flag(config_flag::PROXY_READY, ready) {
            tracing::error!(%error, ready, "the kernel does not know whether a proxy is ready");
        }
    }

    /// Shows everything on the board.
    fn publish(&self) {
        let listed = self.wanted.iter().flatten().map(|(uid, _)| uid).filter_map(|uid| self.pod_status(uid));
        let leaving =
            self.withdrawn.iter().filter(|(uid, _)| self.wanted.as_ref().is_none_or(|pods| !pods.contains_key(*uid)));
        let pods: Vec<PodStatus> = listed.chain(leaving.map(|(_, pod)| pod.status.clone())).collect();
        let proxies = self.proxies.status();
        let mut board = self.board.write();
        (board.pods, board.proxies) = (pods, proxies);
    }

    fn pod_status(&self, uid: &str) -> Option<PodStatus> {
        let pod = self.pods.get(uid);
        let wanted = self.wanted.as_ref().and_then(|pods| pods.get(uid));
        let spec = pod.map(|pod| &pod.spec).or(wanted.map(|wanted| &wanted.spec))?;
        let nothing = Policy::default();
        let policy =
            pod.map(|pod| &pod.policy).or(wanted.and_then(|wanted| wanted.policy.as_ref().ok())).unwrap_or(&nothing);
        Some(PodStatus {
            uid: spec.uid.clone(),
            name: spec.name.clone(),
            namespace: spec.namespace.clone(),
            service_account: spec.service_account.clone(),
            netns: spec.netns.clone(),
            netns_cookie: pod.map(|pod| pod.cookie),
            ips: pod.map(|pod| pod.ips.clone()).unwrap_or_default(),
            slot: pod.map(|pod| pod.slot),
            state: self.pod_state(uid, pod),
            probe_ports: policy.probe_ports.iter().copied().collect(),
            excluded_outbound_ports: policy.outbound_ports.iter().copied().collect(),
            excluded_outbound_cidrs: policy.outbound_cidrs.iter().copied().collect(),
            excluded_inbound_ports: policy.inbound_ports.iter().copied().collect(),
            fail_open: policy.fail_open,
            listeners: pod.map_or(0, |pod| pod.listeners.len() as u32),
            enrolled: pod.map(|pod| pod.enrolled),
        })
    }

    fn pod_state(&self, uid: &str, pod: Option<&Pod>) -> PodState {
        if let Some(failure) = self.failures.get(uid) {
            return PodState::Pending(failure.reason.clone());
        }
        let Some(pod) = pod else { return PodState::Pending("it is about to be enrolled".to_owned()) };
        let reason = match self.served.get(uid) {
            _ if pod.listeners.is_empty() => "redirected; its listening sockets are not back yet",
            Some(Served::Yes) => return PodState::Enrolled,
            Some(Served::Refused(error)) => {
                return PodState::Pending(format!("redirected; the proxy refuses it: {error}"));
            }
            _ if self.proxies.speaker().is_none() => "redirected; no proxy is connected",
            _ => "redirected; the proxy has not acknowledged it yet",
        };
        PodState::Pending(reason.to_owned())
    }
}

fn look(path: &std::path::Path) -> Look {
    let seen = Netns::open(path).and_then(|netns| Ok((netns.identity(), netns.look()?.cookie)));
    match seen {
        Ok((identity, cookie)) => Look::Found { identity, cookie },
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
