//! What the board shows of the pods: where each stands, and why.

use std::{collections::HashMap, path::Path};

use tokio::time::Instant;

use super::{Reconciler, ground::Pod, policy::Policy, reconciler::Served};
use crate::{
    reason::{Reason, Waiting},
    sources::PassedOver,
    status::{PodState, PodStatus},
};

/// What is said of a pod that nothing was tried for yet.
pub(super) const ABOUT_TO_BE: &str = "it is about to be enrolled";

impl Reconciler {
    /// Shows everything on the board.
    pub(super) fn publish(&mut self) {
        let listed = self.wanted.iter().flatten().map(|(uid, _)| uid).filter_map(|uid| self.pod_status(uid));
        let leaving =
            self.withdrawn.iter().filter(|(uid, _)| self.wanted.as_ref().is_none_or(|pods| !pods.contains_key(*uid)));
        let leaving = leaving.map(|(_, pod)| pod.status.clone());
        let mut pods: Vec<PodStatus> = listed.chain(leaving).chain(self.passed_over.iter().map(passed_over)).collect();
        self.waiting = wait(&self.waiting, &mut pods, Instant::now());
        let proxies = self.proxies.status();
        let mut board = self.board.write();
        (board.pods, board.proxies) = (pods, proxies);
    }

    pub(super) fn pod_status(&self, uid: &str) -> Option<PodStatus> {
        let pod = self.pods.get(uid);
        let wanted = self.wanted.as_ref().and_then(|pods| pods.get(uid));
        let spec = pod.map(|pod| &pod.spec).or(wanted.map(|wanted| &wanted.spec))?;
        let netns = wanted.and_then(|wanted| wanted.spec.netns.path()).or(pod.map(|pod| pod.netns.path()));
        let nothing = Policy::default();
        let policy =
            pod.map(|pod| &pod.policy).or(wanted.and_then(|wanted| wanted.policy.as_ref().ok())).unwrap_or(&nothing);
        Some(PodStatus {
            uid: spec.uid.clone(),
            name: spec.name.clone(),
            namespace: spec.namespace.clone(),
            service_account: spec.service_account.clone(),
            netns: netns.map(Path::to_owned),
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

    pub(super) fn pod_state(&self, uid: &str, pod: Option<&Pod>) -> PodState {
        if let Some(failure) = self.failures.get(uid) {
            return PodState::pending(failure.reason.clone());
        }
        let Some(pod) = pod else { return PodState::pending(Reason::starting(ABOUT_TO_BE)) };
        let reason = match self.served.get(uid) {
            _ if pod.listeners.is_empty() => "redirected; its listening sockets are not back yet",
            Some(Served::Yes) => return PodState::Enrolled,
            Some(Served::Refused(error)) => {
                return PodState::pending(Reason::node(format!("redirected; the proxy refuses it: {error}")));
            }
            _ if self.proxies.speaker().is_none() => "redirected; no proxy is connected",
            _ => "redirected; the proxy has not acknowledged it yet",
        };
        PodState::pending(Reason::node(reason))
    }
}

/// Says of pending pods whether they count against the node, by how long they have waited; what to go by next time.
fn wait(before: &HashMap<String, Waiting>, pods: &mut [PodStatus], now: Instant) -> HashMap<String, Waiting> {
    let mut waiting = HashMap::new();
    for pod in pods {
        let PodState::Pending { reason, overdue } = &mut pod.state else { continue };
        let waited = Waiting::go_on(before.get(&pod.uid).copied(), reason.cause, now);
        *overdue = waited.is_overdue(now);
        waiting.insert(pod.uid.clone(), waited);
    }
    waiting
}

fn passed_over(pod: &PassedOver) -> PodStatus {
    PodStatus {
        uid: pod.uid.clone(),
        name: pod.name.clone(),
        namespace: pod.namespace.clone(),
        service_account: String::new(),
        netns: None,
        netns_cookie: None,
        ips: Vec::new(),
        slot: None,
        state: PodState::PassedOver { reason: pod.reason.clone(), ended: pod.ended },
        probe_ports: Vec::new(),
        excluded_outbound_ports: Vec::new(),
        excluded_outbound_cidrs: Vec::new(),
        excluded_inbound_ports: Vec::new(),
        fail_open: false,
        listeners: 0,
        enrolled: None,
    }
}
