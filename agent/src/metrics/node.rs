//! What the agent that leads says of its node: pods, proxies, the source of pods, and what the kernel counted.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use weir_abi::{Rule, map::Fault};

use crate::{
    handoff::ProxyState,
    reason::Cause,
    redirect::{
        Retired,
        inspect::{Error, Kernel},
    },
    status::{Board, PodState, SharedBoard},
};

/// When the source of pods was last heard of; none while it was not, or where it cannot be told.
pub type Heard = Box<dyn Fn() -> Option<SystemTime> + Send + Sync>;

/// Where an agent that leads reads its node's figures.
pub struct Led {
    board: SharedBoard,
    kernel: Arc<dyn Kernel>,
    retired: Arc<Retired>,
    heard: Heard,
    sums: Mutex<Sums>,
}

impl Led {
    /// Counts decisions and faults from now on: what there is of the pods of these slots was counted by another agent.
    pub fn new(
        board: SharedBoard,
        kernel: Arc<dyn Kernel>,
        retired: Arc<Retired>,
        slots: &[u32],
        heard: Heard,
    ) -> Result<Self, Error> {
        let sums = Sums::after(&decisions(&*kernel, &retired, slots)?, &faults(&*kernel)?);
        Ok(Self { board, kernel, retired, heard, sums: Mutex::new(sums) })
    }

    /// The figures now. Blocks.
    pub fn figures(&self) -> (Figures, Result<(), Error>) {
        let (mut figures, slots) = {
            let board = self.board.read();
            (Figures::of(&board), board.pods.iter().filter_map(|pod| pod.slot).collect::<Vec<_>>())
        };
        figures.heard = (self.heard)().and_then(|heard| heard.duration_since(SystemTime::UNIX_EPOCH).ok());
        let read = || Ok((decisions(&*self.kernel, &self.retired, &slots)?, faults(&*self.kernel)?));
        let mut sums = self.sums.lock();
        let read = read().map(|(decisions, faults)| sums.rise(&decisions, &faults));
        (figures.decisions, figures.faults) = (sums.decisions(), sums.faults());
        (figures, read)
    }
}

/// Decisions by rule, of pods that are gone and of those in these slots.
fn decisions(kernel: &dyn Kernel, retired: &Retired, slots: &[u32]) -> Result<Vec<u64>, Error> {
    // In this order a slot that is emptied meanwhile is missing at worst, and there at the next reading.
    let mut sums = retired.sums();
    for (rule, count) in kernel.decisions(slots)? {
        sums[rule as usize] += count;
    }
    Ok(sums)
}

fn faults(kernel: &dyn Kernel) -> Result<Vec<u64>, Error> {
    Ok(kernel.faults()?.into_iter().map(|(_, count)| count).collect())
}

/// What the kernel counted since the agent leads. Never less than before: whoever sees a counter fall takes it for a
/// restart.
#[derive(Debug)]
struct Sums {
    decisions: Vec<Sum>,
    faults: Vec<Sum>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    before: u64,
    shown: u64,
}

impl Sum {
    fn rise(&mut self, read: u64) {
        self.shown = self.shown.max(read.saturating_sub(self.before));
    }
}

impl Sums {
    fn after(decisions: &[u64], faults: &[u64]) -> Self {
        let after = |before: &[u64]| before.iter().map(|before| Sum { before: *before, shown: 0 }).collect();
        Self { decisions: after(decisions), faults: after(faults) }
    }

    fn rise(&mut self, decisions: &[u64], faults: &[u64]) {
        self.decisions.iter_mut().zip(decisions).for_each(|(sum, read)| sum.rise(*read));
        self.faults.iter_mut().zip(faults).for_each(|(sum, read)| sum.rise(*read));
    }

    /// Without what is never counted for a pod.
    fn decisions(&self) -> Vec<(Rule, u64)> {
        let rules = Rule::ALL.into_iter().filter(|rule| *rule != Rule::NotEnrolled);
        rules.map(|rule| (rule, self.decisions[rule as usize].shown)).collect()
    }

    fn faults(&self) -> Vec<(Fault, u64)> {
        Fault::ALL.into_iter().zip(&self.faults).map(|(fault, sum)| (fault, sum.shown)).collect()
    }
}

/// How many of each kind, by the kind's name.
pub type Tally = Vec<(&'static str, u64)>;

/// What is shown of a node.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Pods by state.
    pub pods: Tally,
    /// Pending ones by whose it is to change that.
    pub pending: Tally,
    /// Pending ones that count against the node.
    pub overdue: u64,
    /// Proxies by state.
    pub proxies: Tally,
    /// Proxies that do not answer.
    pub hung: u64,
    /// 1 for each part of the agent that has a problem, else 0.
    pub problems: Tally,
    /// Whether the source said which pods there are, and is well.
    pub source_well: bool,
    /// When it was last heard of, since 1970.
    pub heard: Option<Duration>,
    /// Decisions of the kernel.
    pub decisions: Vec<(Rule, u64)>,
    /// Faults of the kernel's.
    pub faults: Vec<(Fault, u64)>,
}

impl Figures {
    fn of(board: &Board) -> Self {
        let pending = board.pods.iter().filter_map(|pod| match &pod.state {
            PodState::Pending { reason, overdue } => Some((reason.cause, *overdue)),
            _ => None,
        });
        let keeper = board.keeper.status().is_some_and(|keeper| !keeper.problem.is_empty());
        let cni = board.cni.as_ref().is_some_and(|cni| cni.problem().is_some());
        let problems = [("cni", cni), ("keeper", keeper), ("pods-cgroup", !board.pods_cgroup_error.is_empty())];
        Self {
            pods: tally(PodState::NAMES, board.pods.iter().map(|pod| pod.state.name())),
            pending: tally(Cause::ALL.map(Cause::name), pending.clone().map(|(cause, _)| cause.name())),
            overdue: pending.filter(|(_, overdue)| *overdue).count() as u64,
            proxies: tally(ProxyState::ALL.map(ProxyState::name), board.proxies.iter().map(|proxy| proxy.state.name())),
            hung: board.proxies.iter().filter(|proxy| proxy.unanswered.is_some()).count() as u64,
            problems: problems.map(|(part, bad)| (part, u64::from(bad))).to_vec(),
            source_well: board.source_listed && board.source_error.is_empty(),
            ..Self::default()
        }
    }
}

/// Kinds of which there is none, too: who adds up series over time needs them.
fn tally<const N: usize>(kinds: [&'static str; N], found: impl Iterator<Item = &'static str>) -> Tally {
    let mut tally: Tally = kinds.map(|kind| (kind, 0)).to_vec();
    for kind in found {
        tally.iter_mut().filter(|(known, _)| *known == kind).for_each(|(_, count)| *count += 1);
    }
    tally
}

#[cfg(test)]
mod tests {
    use weir_abi::map::MAX_RULES;

    use super::*;

    #[test]
    fn a_sum_begins_at_nothing_and_never_falls() {
        let mut decisions = vec![0; MAX_RULES as usize];
        decisions[Rule::Redirected as usize] = 100;
        let mut sums = Sums::after(&decisions, &[5; Fault::ALL.len()]);
        let redirected =
            |sums: &Sums| sums.decisions().into_iter().find(|(rule, _)| *rule == Rule::Redirected).unwrap().1;
        assert_eq!(redirected(&sums), 0);
        for (read, shown) in [(100, 0), (130, 30), (90, 30), (120, 30), (131, 31)] {
            decisions[Rule::Redirected as usize] = read;
            sums.rise(&decisions, &[7; Fault::ALL.len()]);
            assert_eq!(redirected(&sums), shown, "{read}");
        }
        assert!(sums.faults().iter().all(|(_, count)| *count == 2));
        assert!(sums.decisions().iter().all(|(rule, _)| *rule != Rule::NotEnrolled));
    }
}
