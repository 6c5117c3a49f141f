//! Which pod a user means, and what a pod is called.

use std::{collections::HashMap, net::IpAddr};

use crate::{
    distance::distance,
    status::{Board, PodState, PodStatus},
};

/// Letters that a name may be mistyped by.
const TYPOS: usize = 2;
/// Names that are told where one was not found.
const NEAR: usize = 5;

/// Why a query names no pod, or more than one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lookup {
    /// Nothing matches.
    #[error("no pod {query:?}; {near}")]
    None {
        /// What was asked for.
        query: String,
        /// What there is that may have been meant.
        near: String,
    },
    /// Several match.
    #[error("pod {query:?} is ambiguous: {matches}")]
    Several {
        /// What was asked for.
        query: String,
        /// What matches, with uids.
        matches: String,
    },
}

/// Finds the pod that `query` names: a uid, `namespace/name` or `name`.
pub fn find<'a>(board: &'a Board, query: &str) -> Result<&'a PodStatus, Lookup> {
    let mut matches: Vec<&PodStatus> =
        board.pods.iter().filter(|pod| pod.uid == query || pod.name == query || pod.full_name() == query).collect();
    // A pod that comes back under its name (a StatefulSet's) may meet its predecessor on the way out.
    if matches.len() > 1 && matches.iter().any(|pod| pod.uid == query) {
        matches.retain(|pod| pod.uid == query);
    }
    // Those that are over are meant only where none of the name is left.
    let running: Vec<&PodStatus> = matches.iter().copied().filter(|pod| is_running(pod)).collect();
    matches.retain(|pod| is_running(pod) || !running.iter().any(|other| other.full_name() == pod.full_name()));
    match matches[..] {
        [] => Err(Lookup::None { query: query.to_owned(), near: near(board, query) }),
        [pod] => Ok(pod),
        _ => {
            let mut names: Vec<String> =
                matches.iter().map(|pod| format!("{} (uid {})", pod.full_name(), pod.uid)).collect();
            names.sort();
            Err(Lookup::Several { query: query.to_owned(), matches: names.join(", ") })
        }
    }
}

/// Whether a pod may have processes, and is not on its way out.
fn is_running(pod: &PodStatus) -> bool {
    match &pod.state {
        PodState::Enrolled | PodState::Pending { .. } => true,
        PodState::Withdrawing => false,
        PodState::PassedOver { ended, .. } => !ended,
    }
}

/// What may have been meant by a query that names no pod.
fn near(board: &Board, query: &str) -> String {
    let name = query.rsplit('/').next().unwrap_or_default();
    let alike = |pod: &&PodStatus| {
        // A workload's name is the beginning of its pods' names.
        pod.name.starts_with(name)
            || name.starts_with(&pod.name)
            || is_mistyped(&pod.name, name)
            || is_mistyped(&pod.full_name(), query)
    };
    let listed = |mut names: Vec<String>| {
        names.sort();
        names.dedup();
        let more = if names.len() > NEAR { ", ..." } else { "" };
        names.truncate(NEAR);
        format!("{}{more}", names.join(", "))
    };
    let pods: Vec<String> = board.pods.iter().filter(alike).map(PodStatus::full_name).collect();
    if !pods.is_empty() {
        return format!("there is {}", listed(pods));
    }
    if board.pods.is_empty() {
        return "the agent knows of no pods on this node".to_owned();
    }
    let namespaces = board.pods.iter().map(|pod| pod.namespace.clone()).collect();
    format!("the agent knows of pods on this node in namespaces {}", listed(namespaces))
}

/// Whether one name may have been typed for another: few letters differ, and most do not.
fn is_mistyped(name: &str, typed: &str) -> bool {
    let letters = distance(name, typed);
    letters <= TYPOS && 2 * letters < name.len().max(typed.len())
}

/// A pod's identity in lists and events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodName {
    /// Kubernetes pod UID, "" for what is no pod.
    pub uid: String,
    /// `namespace/name`, "" for nobody known.
    pub name: String,
}

/// Pods by what the kernel knows of them.
#[derive(Debug, Default)]
pub struct Names {
    by_cookie: HashMap<u64, PodName>,
    by_slot: HashMap<u32, PodName>,
    by_ip: HashMap<IpAddr, PodName>,
}

impl Names {
    /// Those of the board now, and `node` for the node's own network namespace.
    pub fn of(board: &Board, node_netns: u64) -> Self {
        let mut names = Self::default();
        names.by_cookie.insert(node_netns, PodName { uid: String::new(), name: "node".to_owned() });
        for pod in &board.pods {
            let name = PodName { uid: pod.uid.clone(), name: pod.full_name() };
            for ip in &pod.ips {
                names.by_ip.insert(*ip, name.clone());
            }
            if let Some(cookie) = pod.netns_cookie {
                names.by_cookie.insert(cookie, name.clone());
            }
            if let Some(slot) = pod.slot {
                names.by_slot.insert(slot, name);
            }
        }
        names
    }

    /// Who has this netns, or, where the kernel does not know its cookie, this slot.
    pub fn of_netns(&self, cookie: u64, slot: u32) -> PodName {
        let known = if cookie == 0 { self.by_slot.get(&slot) } else { self.by_cookie.get(&cookie) };
        known.cloned().unwrap_or_else(|| PodName { uid: String::new(), name: format!("netns:{cookie}") })
    }

    /// Who has this slot.
    pub fn of_slot(&self, slot: u32) -> Option<&PodName> {
        self.by_slot.get(&slot)
    }

    /// Who has this address.
    pub fn of_ip(&self, ip: IpAddr) -> Option<&PodName> {
        self.by_ip.get(&ip)
    }

    /// Who has this netns.
    pub fn of_cookie(&self, cookie: u64) -> Option<&PodName> {
        self.by_cookie.get(&cookie)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{board, pod},
        *,
    };
    use crate::reason::Reason;

    #[test]
    fn a_pod_is_found_by_uid_full_name_or_name() {
        let board =
            board(vec![pod("u1", "default/web", 1, 0), pod("u2", "prod/web", 2, 1), pod("u3", "prod/db", 3, 2)]);
        for (query, uid) in [("u1", "u1"), ("prod/web", "u2"), ("db", "u3")] {
            assert_eq!(find(&board, query).unwrap().uid, uid);
        }
        assert_eq!(
            find(&board, "web").unwrap_err().to_string(),
            "pod \"web\" is ambiguous: default/web (uid u1), prod/web (uid u2)"
        );
        let none = |query: &str| find(&board, query).unwrap_err().to_string();
        assert_eq!(none("wb"), "no pod \"wb\"; there is default/web, prod/web");
        assert_eq!(none("demo/web"), "no pod \"demo/web\"; there is default/web, prod/web");
        assert_eq!(
            none("elsewhere"),
            "no pod \"elsewhere\"; the agent knows of pods on this node in namespaces default, prod"
        );
        let empty = crate::api::tests::board(Vec::new());
        assert_eq!(
            find(&empty, "web").unwrap_err().to_string(),
            "no pod \"web\"; the agent knows of no pods on this node"
        );
    }

    #[test]
    fn of_pods_of_one_name_the_one_that_runs_is_meant() {
        let of = |uid: &str, state| PodStatus { state, ..pod(uid, "prod/db-0", 1, 0) };
        // Whatever the reason that is told.
        let passed_over = |ended| PodState::PassedOver { reason: "it is on the host network".to_owned(), ended };
        let (ended, running) = (|| passed_over(true), || passed_over(false));
        for state in [PodState::Enrolled, PodState::pending(Reason::node("why")), running()] {
            for over in [ended(), PodState::Withdrawing] {
                let board = board(vec![of("old", over), of("new", state.clone())]);
                assert_eq!(find(&board, "prod/db-0").unwrap().uid, "new", "{board:?}");
                assert_eq!(find(&board, "old").unwrap().uid, "old", "by its uid");
            }
        }
        assert_eq!(find(&board(vec![of("old", ended())]), "db-0").unwrap().uid, "old");
        let two = board(vec![of("one", PodState::Enrolled), of("two", PodState::Enrolled), of("old", ended())]);
        assert_eq!(
            find(&two, "prod/db-0").unwrap_err().to_string(),
            "pod \"prod/db-0\" is ambiguous: prod/db-0 (uid one), prod/db-0 (uid two)"
        );
        // Another namespace's is another pod.
        let elsewhere = board(vec![of("old", ended()), pod("u", "default/db-0", 2, 1)]);
        assert!(find(&elsewhere, "db-0").is_err());
    }

    #[test]
    fn names_are_found_by_what_the_kernel_knows() {
        let names = Names::of(&board(vec![pod("u1", "default/web", 11, 4)]), 1);
        assert_eq!(names.of_netns(11, 0).name, "default/web");
        assert_eq!(names.of_netns(0, 4).uid, "u1");
        assert_eq!(names.of_netns(1, 0).name, "node");
        assert_eq!(names.of_netns(99, 0).name, "netns:99");
        assert_eq!(names.of_ip("10.0.0.4".parse().unwrap()).unwrap().name, "default/web");
    }
}
