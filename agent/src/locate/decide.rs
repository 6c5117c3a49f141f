//! What follows from what is seen of a pod: keep the namespace that is held, hold another, or let go.

use std::time::Duration;

use tokio::time::Instant;

use super::NotYet;
use crate::netns::Identity;

/// A pod without any process for so long is gone; while its sandbox is exchanged it has none for a moment.
const GONE: Duration = Duration::from_secs(5);
/// How long after a CNI ADD the first process of the sandbox may come, while those of another are still there.
const FIRST_PROCESS: Duration = Duration::from_secs(60);

/// How a namespace became known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// By a CNI ADD for this sandbox.
    Cni {
        /// Its container id.
        container_id: String,
    },
    /// By a process of the pod.
    Cgroup,
}

/// A namespace that is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) netns: Identity,
    pub(super) origin: Origin,
    since: Instant,
    /// Whether a process of the pod was ever seen in it.
    entered: bool,
    /// Since when the pod has had no process at all.
    empty: Option<Instant>,
}

impl Held {
    pub(super) fn new(netns: Identity, origin: Origin, now: Instant) -> Self {
        let entered = origin == Origin::Cgroup;
        Self { netns, origin, since: now, entered, empty: None }
    }

    pub(super) fn is_of(&self, container: &str) -> bool {
        matches!(&self.origin, Origin::Cni { container_id } if container_id == container)
    }
}

/// A process of a pod, in a namespace that may be the pod's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) netns: Identity,
    /// Ticks since boot.
    pub(super) started: u64,
}

/// What is seen of a pod's processes.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) processes: Vec<Process>,
    /// One is in the node's namespace.
    pub(super) in_node: bool,
    /// One is in a namespace whose sandbox is over.
    pub(super) in_ended: bool,
    /// The pod has no cgroup where those of all pods are: it has no process.
    pub(super) no_cgroup: Option<NotYet>,
    /// Something could not be read: what was not seen may be there.
    pub(super) error: Option<NotYet>,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The namespace held is still the pod's, as far as can be told.
    Keep {
        /// A process in it.
        process: Option<u32>,
        /// What is known of it now.
        held: Held,
    },
    /// The pod's namespace is this process's.
    Hold(Process),
    /// The pod has left the namespace that is held.
    Release,
    /// Nothing is held, and nothing seen.
    Nothing,
}

/// Decides by what is held and what is seen; `deleted` if the API server has the pod no more.
pub(super) fn decide(held: Option<&Held>, deleted: bool, seen: &Seen, now: Instant) -> Verdict {
    // The sandbox's own process is older than every process of the pod's containers, and cannot leave its namespace.
    // A container's may: whoever makes a namespace of its own must not be taken for the pod.
    let oldest = seen.processes.iter().min_by_key(|process| (process.started, process.pid));
    let Some(held) = held else { return oldest.map_or(Verdict::Nothing, |process| Verdict::Hold(*process)) };
    let inside = seen.processes.iter().find(|process| process.netns == held.netns);
    let keep = |empty, entered| Verdict::Keep {
        process: inside.map(|process| process.pid),
        held: Held { empty, entered, ..held.clone() },
    };
    if inside.is_some() {
        return keep(None, true);
    }
    if seen.error.is_some() {
        return keep(held.empty, held.entered);
    }
    if let Some(process) = oldest {
        // Those of the sandbox before may still be there when the next is announced.
        let expected = !held.entered && now.duration_since(held.since) < FIRST_PROCESS;
        return if expected { keep(None, false) } else { Verdict::Hold(*process) };
    }
    // A namespace that CNI announced is ended by CNI: a runtime without a process for the sandbox itself leaves a pod
    // without any while its containers are restarted. Those of a deleted pod are not, and the call that ends it may have
    // come while no agent was there. A process in the node's namespace is about to enter the pod's.
    if (held.origin != Origin::Cgroup && !deleted) || seen.in_node {
        return keep(None, held.entered);
    }
    let empty = held.empty.unwrap_or(now);
    let gone = if held.entered { GONE } else { FIRST_PROCESS };
    if now.duration_since(empty) >= gone { Verdict::Release } else { keep(Some(empty), held.entered) }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Different identities: of different files.
    fn identities() -> [Identity; 2] {
        ["/proc/self/ns/net", "/proc/self/ns/mnt"].map(|path| Identity::of(&fs::metadata(path).unwrap()))
    }

    fn process(pid: u32, netns: Identity, started: u64) -> Process {
        Process { pid, netns, started }
    }

    fn seen(processes: &[Process]) -> Seen {
        Seen { processes: processes.to_vec(), ..Seen::default() }
    }

    fn cni() -> Origin {
        Origin::Cni { container_id: "c1".to_owned() }
    }

    #[test]
    fn the_oldest_process_says_which_namespace_is_the_pod_s() {
        let [pods, other] = identities();
        let now = Instant::now();
        // A container's process that has made a namespace of its own has a lower id after these went around.
        let pause = process(900, pods, 100);
        assert_eq!(decide(None, false, &seen(&[process(7, other, 101), pause]), now), Verdict::Hold(pause));
        assert_eq!(decide(None, false, &seen(&[]), now), Verdict::Nothing);
    }

    #[test]
    fn a_namespace_is_kept_while_a_process_is_in_it_and_replaced_when_all_are_in_another() {
        let [first, second] = identities();
        let now = Instant::now();
        let held = Held::new(first, Origin::Cgroup, now);
        let both = [process(1, second, 1), process(2, first, 2)];
        assert_eq!(
            decide(Some(&held), false, &seen(&both), now),
            Verdict::Keep { process: Some(2), held: Held { entered: true, ..held.clone() } }
        );
        assert_eq!(decide(Some(&held), false, &seen(&both[..1]), now), Verdict::Hold(both[0]));
        // What could not be read may be a process in it.
        let error = Some(NotYet::NoProcess);
        let unsure = Seen { processes: vec![both[0]], error, ..Seen::default() };
        assert!(matches!(decide(Some(&held), false, &unsure, now), Verdict::Keep { process: None, .. }));
    }

    #[test]
    fn a_pod_without_a_process_is_let_go_after_a_while() {
        let [netns, other] = identities();
        let start = Instant::now();
        let held = Held::new(netns, Origin::Cgroup, start);
        let Verdict::Keep { held, .. } = decide(Some(&held), false, &seen(&[]), start) else {
            panic!("let go at once")
        };
        assert!(matches!(decide(Some(&held), false, &seen(&[]), start + GONE / 2), Verdict::Keep { .. }));
        assert_eq!(decide(Some(&held), false, &seen(&[]), start + GONE), Verdict::Release);
        // The runtime is making its next container, or something could not be read.
        let in_node = Seen { in_node: true, ..Seen::default() };
        assert!(matches!(decide(Some(&held), false, &in_node, start + GONE), Verdict::Keep { .. }));
        let unsure = Seen { error: Some(NotYet::NoProcess), ..Seen::default() };
        assert!(matches!(decide(Some(&held), false, &unsure, start + GONE), Verdict::Keep { .. }));
        // A moment without one does not count from before the pod had one again.
        let Verdict::Keep { held, .. } = decide(Some(&held), false, &seen(&[process(1, netns, 1)]), start + GONE)
        else {
            panic!("let go with a process in it")
        };
        assert!(matches!(decide(Some(&held), false, &seen(&[]), start + GONE), Verdict::Keep { .. }));
        assert_eq!(
            decide(Some(&held), false, &seen(&[process(2, other, 1)]), start),
            Verdict::Hold(process(2, other, 1))
        );
    }

    #[test]
    fn what_cni_announced_waits_for_its_first_process_and_ends_by_cni() {
        let [announced, before] = identities();
        let start = Instant::now();
        let held = Held::new(announced, cni(), start);
        let lingering = seen(&[process(1, before, 1)]);
        assert!(matches!(decide(Some(&held), false, &lingering, start + FIRST_PROCESS / 2), Verdict::Keep { .. }));
        assert!(matches!(decide(Some(&held), false, &seen(&[]), start + 100 * GONE), Verdict::Keep { .. }));
        let Verdict::Keep { held, .. } = decide(Some(&held), false, &seen(&[process(2, announced, 2)]), start) else {
            panic!("let go with a process in it")
        };
        assert!(held.is_of("c1") && !held.is_of("c2"));
        // A sandbox of which no CNI call told: the plugin was taken out for a while.
        assert_eq!(
            decide(Some(&held), false, &seen(&[process(3, before, 3)]), start),
            Verdict::Hold(process(3, before, 3))
        );
    }

    #[test]
    fn a_deleted_pod_of_which_no_call_told_the_end_is_let_go_without_a_process() {
        let [netns, _] = identities();
        let start = Instant::now();
        let held = Held::new(netns, cni(), start);
        let deleted = |held: &Held, seen: &Seen, now| decide(Some(held), true, seen, now);
        let keep = |verdict| match verdict {
            Verdict::Keep { held, .. } => held,
            other => panic!("{other:?}"),
        };
        // Its first process may be on its way.
        let waiting = keep(deleted(&held, &seen(&[]), start));
        let waiting = keep(deleted(&waiting, &seen(&[]), start + 2 * GONE));
        assert_eq!(deleted(&waiting, &seen(&[]), start + FIRST_PROCESS), Verdict::Release);
        let entered = keep(deleted(&held, &seen(&[process(1, netns, 1)]), start));
        let no_cgroup = Seen { no_cgroup: Some(NotYet::NoCgroup("kubepods".to_owned())), ..Seen::default() };
        let leaving = keep(deleted(&entered, &no_cgroup, start));
        assert_eq!(deleted(&leaving, &no_cgroup, start + GONE), Verdict::Release);
        let unsure = Seen { error: Some(NotYet::NoTree("/".into())), ..Seen::default() };
        keep(deleted(&leaving, &unsure, start + GONE));
    }
}
