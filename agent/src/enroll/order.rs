//! What the reconciler is told by those who run it, and how far it has come with that.

use std::time::Duration;

use tokio::{sync::watch, time::Instant};

use super::{Reconciler, ground::Pod};
use crate::handoff::{self, ListenersHandedBack};

/// How long taking every pod out may take before the rest goes without.
const WITHDRAWING: Duration = Duration::from_secs(30);
/// How long a proxy may take, beyond the drain, to close what is left.
const CLOSING: Duration = Duration::from_secs(2);

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Enroll the pods that the source names.
    Enroll,
    /// weir is taken off the node: withdraw every pod, whatever the source says, and let their connections drain.
    Leave,
    /// Finish the step in hand, and end. Pods stay as they are.
    Stop,
}

/// How far it has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Milestones {
    /// The pods of an earlier agent are taken over, with their sockets.
    pub settled: bool,
    /// Every pod is withdrawn, and its connections have drained.
    pub left: bool,
}

/// Tells of them.
pub type Progressing = watch::Receiver<Milestones>;

/// Where leaving stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    /// Pods are withdrawn, at the latest until then.
    Withdrawing(Instant),
    /// Their connections drain, at the latest until then.
    Draining(Instant),
    /// Nothing is left.
    Left,
}

impl Reconciler {
    /// Begins to leave.
    pub(super) fn leave(&mut self) {
        if self.leaving.is_none() {
            tracing::info!(pods = self.pods.len(), "weir is taken off this node; every pod is withdrawn");
            self.leaving = Some(Leaving::Withdrawing(Instant::now() + WITHDRAWING));
            self.want(Vec::new());
        }
    }

    /// Goes on with leaving as far as it is time to.
    pub(super) fn go_on_leaving(&mut self) {
        let now = Instant::now();
        let drain = self.settings.redirect.drain;
        match self.leaving {
            Some(Leaving::Withdrawing(until)) => {
                let withdrawn = self.pods.is_empty() && self.adopted.is_empty() && self.withdrawn.is_empty();
                if !withdrawn && now < until {
                    return;
                }
                if !withdrawn {
                    tracing::error!(
                        pods = self.pods.len(),
                        of_an_earlier_agent = self.adopted.len(),
                        "some pods could not be withdrawn in time"
                    );
                }
                self.proxies.drain(drain);
                self.leaving = Some(Leaving::Draining(now + drain + CLOSING));
            }
            Some(Leaving::Draining(until)) => {
                if self.proxies.drained() || now >= until {
                    tracing::info!("every pod is withdrawn and has drained");
                    self.leaving = Some(Leaving::Left);
                    self.milestones.send_modify(|milestones| milestones.left = true);
                }
            }
            Some(Leaving::Left) | None => {}
        }
    }

    /// The keeper is to hold a pod's sockets, unless it fails open: then nobody is to wait in them.
    pub(super) fn keep_sockets(&self, pod: &Pod) {
        if pod.policy.fail_open {
            self.ground.keeper.forget(&pod.spec.uid);
        } else if !pod.listeners.is_empty() {
            self.ground.keeper.keep(&pod.spec.uid, &pod.listeners);
        }
    }

    /// Sockets that were held by others than a proxy: the agent before this one, the keeper.
    pub fn inherit(&mut self, inherited: Vec<ListenersHandedBack>) {
        for back in inherited {
            self.hand_back(back);
        }
    }

    /// Tells how far it has come.
    pub fn milestones(&self) -> Progressing {
        self.milestones.subscribe()
    }

    /// The pods' listening sockets, for the next agent.
    pub(super) fn give_up(self) -> Vec<ListenersHandedBack> {
        let all = self.pods.into_iter().filter(|(_, pod)| !pod.listeners.is_empty());
        all.map(|(uid, pod)| {
            let listeners = pod.listeners.iter().map(|held| (handoff::listener(held), held.socket.clone())).collect();
            ListenersHandedBack { uid, listeners }
        })
        .collect()
    }
}
