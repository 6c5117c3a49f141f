//! Doing what was planned, one step at a time.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use weir_abi::map::PodConfig;

use super::{
    Reconciler,
    ground::Pod,
    outcomes::Outcome,
    plan::Step,
    policy::Policy,
    reconciler::{Failure, Served, Withdrawn},
};
use crate::{
    handoff::ListenersHandedBack,
    reason::Reason,
    redirect,
    sources::{PodNetns, PodSpec},
    status::{PodState, PodStatus},
};

/// Pauses between attempts to enroll a pod, doubling from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How long a proxy may take to let go of a pod before its namespace counts as free.
const LET_GO: Duration = Duration::from_secs(5);

impl Reconciler {
    /// Does one step. Blocks.
    pub(super) fn execute(&mut self, step: Step) {
        match &step {
            Step::Withdraw { uid, gone } => self.withdraw(uid, *gone),
            Step::Forget { cookie, slot } => self.forget(*cookie, *slot),
            Step::Replace { uid, of } => self.replace(uid, of),
            Step::Adopt { uid, slot } => self.adopt(uid, *slot),
            Step::Listen { uid } => self.listen(uid),
            Step::Update { uid } => self.update(uid),
            Step::Enroll { uid } => self.enroll(uid),
            Step::Pend { uid, reason } => self.pend(uid, reason.clone()),
        }
        if let Some(uid) = step.uid() {
            self.tell_outcome(uid);
        }
    }

    /// Tells those who wait for a pod where it stands.
    pub(super) fn tell_outcome(&self, uid: &str) {
        if self.wanted.as_ref().is_none_or(|wanted| !wanted.contains_key(uid)) {
            return;
        }
        let redirected = self.pods.get(uid).map(|pod| (pod.netns.identity(), !pod.listeners.is_empty()));
        let failure = self.failures.get(uid).map(|failure| failure.reason.clone());
        self.outcomes.set(uid, Outcome::of(redirected, failure));
    }

    fn enroll(&mut self, uid: &str) {
        let Some((spec, Ok(policy))) = self.wanted(uid) else { return };
        let name = spec.full_name();
        let Some(slot) = self.slots.take() else {
            self.settings.counts.failed.inc();
            return self.fail(uid, Reason::node(redirect::Error::NoSlot.to_string()));
        };
        let begun = Instant::now();
        match self.ground.enroll(spec, policy, slot) {
            Ok(pod) => {
                tracing::info!(pod = %name, uid, slot, netns = pod.cookie, ips = ?pod.ips, "pod redirected");
                self.registry.insert(uid, pod.netns.clone());
                self.proxies.enroll(&pod, &self.settings.node);
                self.keep(uid, pod);
                self.count_redirected(uid, begun);
            }
            Err(error) => {
                self.settings.counts.failed.inc();
                self.slots.free(slot);
                self.fail(uid, error.into());
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
            Err(error) => self.fail(uid, error.into()),
        }
    }

    /// Gives a pod the place of another one in the same namespace: slot, sockets and redirect stay, so that no
    /// connection finds a gap.
    fn replace(&mut self, uid: &str, of: &str) {
        let Some((spec, Ok(policy))) = self.wanted(uid) else { return };
        let Some(status) = self.pod_status(of) else { return };
        let Some(mut pod) = self.pods.remove(of) else { return };
        let begun = Instant::now();
        if let Err(error) = self.ground.rename(&mut pod, spec, policy) {
            self.settings.counts.failed.inc();
            self.pods.insert(of.to_owned(), pod);
            return self.fail(uid, error.into());
        }
        pod.enrolled = SystemTime::now();
        let (name, was) = (pod.spec.full_name(), status.full_name());
        tracing::info!(pod = %name, uid, slot = pod.slot, %was, "pod redirected in another's place");
        self.registry.insert(uid, pod.netns.clone());
        // The proxy accepts for the new pod before it lets go of the old one: they share their sockets.
        if !pod.listeners.is_empty() {
            self.proxies.enroll(&pod, &self.settings.node);
        }
        self.let_go(of, status, pod.cookie, self.settings.redirect.drain);
        self.keep(uid, pod);
        self.count_redirected(uid, begun);
        // What changed while nobody listened.
        self.readdress(uid);
    }

    /// Gives a pod that was taken over the sockets that a proxy handed back.
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
                self.keep_sockets(&pod);
                self.proxies.enroll(&pod, &self.settings.node);
            }
            Err(error) => {
                pod.listeners.clear();
                let Reason { cause, text } = error.into();
                let text = format!("redirected; its listening sockets cannot be made: {text}");
                self.fail(uid, Reason { cause, text });
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
                if let Some(pod) = self.pods.get(uid) {
                    self.keep_sockets(pod);
                }
            }
            Err(error) => self.fail(uid, error.into()),
        }
    }

    fn withdraw(&mut self, uid: &str, gone: bool) {
        let Some(status) = self.pod_status(uid) else { return };
        let Some(pod) = self.pods.remove(uid) else { return };
        self.take_out(pod.cookie, PodConfig { slot: pod.slot, ..PodConfig::default() });
        if !gone {
            self.ground.restore_sysctls(&pod);
        }
        let drain = if gone { Duration::ZERO } else { self.settings.redirect.drain };
        tracing::info!(pod = %pod.spec.full_name(), uid, slot = pod.slot, netns_gone = gone, "pod withdrawn");
        self.let_go(uid, status, pod.cookie, drain);
    }

    /// Tells the proxies to let go of a pod that is not there any more, and keeps its namespace while they do.
    fn let_go(&mut self, uid: &str, status: PodStatus, cookie: u64, drain: Duration) {
        self.served.remove(uid);
        self.begun.remove(uid);
        self.failures.remove(uid);
        self.addresses.forget(uid);
        self.ground.keeper.forget(uid);
        self.registry.drain(uid, drain);
        self.proxies.withdraw(uid, drain);
        if self.proxies.letting_go(uid) {
            let status = PodStatus { state: PodState::Withdrawing, slot: None, listeners: 0, ..status };
            let until = Instant::now() + LET_GO;
            self.withdrawn.insert(uid.to_owned(), Withdrawn { status, cookie, until });
        }
    }

    fn forget(&mut self, cookie: u64, slot: u32) {
        let pod = self.adopted.remove(&cookie).unwrap_or(PodConfig { slot, ..PodConfig::default() });
        self.take_out(cookie, pod);
        self.ground.restore_sysctls_at(cookie, pod.flags);
        tracing::info!(netns = cookie, slot, "a pod that an earlier agent enrolled is not wanted any more");
    }

    /// Takes a pod out of the kernel; what fails is tried again.
    fn take_out(&mut self, cookie: u64, pod: PodConfig) {
        match self.ground.withdraw(cookie, pod.slot) {
            Ok(()) => self.slots.free(pod.slot),
            Err(error) => {
                tracing::error!(netns = cookie, slot = pod.slot, %error, "a pod is not out of the kernel yet");
                self.adopted.insert(cookie, pod);
            }
        }
    }

    fn keep(&mut self, uid: &str, mut pod: Pod) {
        self.failures.remove(uid);
        self.withdrawn.remove(uid);
        self.served.insert(uid.to_owned(), Served::Unknown);
        self.keep_sockets(&pod);
        if let Some(changes) = pod.changes.take() {
            self.addresses.follow(uid, changes);
        }
        self.pods.insert(uid.to_owned(), pod);
    }

    fn count_redirected(&mut self, uid: &str, begun: Instant) {
        self.settings.counts.redirected.inc();
        self.begun.insert(uid.to_owned(), begun);
    }

    /// An attempt failed: the next one comes after a pause, each longer than the one before.
    fn fail(&mut self, uid: &str, reason: Reason) {
        let pause =
            self.failures.get(uid).map_or(FIRST_PAUSE, |failure| failure.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        self.pend(uid, reason);
        if let Some(failure) = self.failures.get_mut(uid) {
            (failure.pause, failure.again) = (pause, Instant::now() + pause);
        }
    }

    /// Not now; looked at again with the next plan.
    fn pend(&mut self, uid: &str, reason: Reason) {
        let before = self.failures.get(uid);
        if before.is_none_or(|failure| failure.reason != reason) {
            let wanted = self.wanted.as_ref().and_then(|pods| pods.get(uid));
            let pod = wanted.map(|wanted| wanted.spec.full_name()).unwrap_or_default();
            // Every pod that starts is looked for a while.
            if wanted.is_some_and(|wanted| matches!(wanted.spec.netns, PodNetns::Unknown(_) | PodNetns::Absent(_))) {
                tracing::debug!(pod, uid, %reason, "pod is pending");
            } else {
                tracing::warn!(pod, uid, %reason, "pod is pending");
            }
        }
        self.failures.insert(uid.to_owned(), Failure { reason, pause: Duration::ZERO, again: Instant::now() });
    }

    fn wanted(&self, uid: &str) -> Option<(PodSpec, Result<Policy, Reason>)> {
        let wanted = self.wanted.as_ref()?.get(uid)?;
        Some((wanted.spec.clone(), wanted.policy.clone()))
    }
}
