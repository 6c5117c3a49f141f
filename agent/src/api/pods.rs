//! Which pod a user means, and what a pod is called.

use std::{collections::HashMap, net::IpAddr};

use crate::status::{Board, PodStatus};

/// Why a query names no pod, or more than one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lookup {
    /// Nothing matches.
    #[error("no pod {0:?}; expected a uid, namespace/name or name that `weirctl pod list` shows")]
    None(String),
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
    match matches[..] {
        [] => Err(Lookup::None(query.to_owned())),
        [pod] => Ok(pod),
        _ => {
            let mut names: Vec<String> =
                matches.iter().map(|pod| format!("{} (uid {})", pod.full_name(), pod.uid)).collect();
            names.sort();
            Err(Lookup::Several { query: query.to_owned(), matches: names.join(", ") })
        }
    }
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
        assert_eq!(
            find(&board, "wb").unwrap_err().to_string(),
            "no pod \"wb\"; expected a uid, namespace/name or name that `weirctl pod list` shows"
        );
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
