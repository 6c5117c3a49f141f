//! What of all that happens to pods is worth an event.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use crate::{
    enroll::Outcome,
    reason::{Cause, Reason, START},
};

/// What is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A pod's connections are redirected from now on.
    Enrolled,
    /// A pod that is to be enrolled is not, and why.
    Failed(String),
    /// A pod that is enrolled is not so as it should be by now, and why.
    Unapplied(String),
    /// A pod's connections are not redirected any more, and why, where that is known.
    Withdrawn(Option<String>),
    /// Nothing is redirected on the node, and why.
    Unavailable(String),
}

/// What is known of one pod.
#[derive(Debug, Default)]
struct Pod {
    enrolled: bool,
    pending: Option<Pending>,
}

#[derive(Debug)]
struct Pending {
    cause: Cause,
    since: Instant,
    /// Since when for reasons of this cause.
    cause_since: Instant,
    told: Option<Reason>,
    /// Whether there is something to tell when it is due.
    untold: bool,
}

impl Pending {
    fn new(cause: Cause, now: Instant) -> Self {
        Self { cause, since: now, cause_since: now, told: None, untold: false }
    }

    /// When it is worth an event. Whatever it waits for, it should not do so for long.
    fn due(&self) -> Instant {
        (self.cause_since + self.cause.patience()).min(self.since + START)
    }

    /// Whether this is to be told now. That a pod starts is told once, however it does.
    fn tell(&mut self, reason: &Reason, now: Instant) -> bool {
        if reason.cause != self.cause {
            (self.cause, self.cause_since) = (reason.cause, now);
        }
        let is_new = self.told.as_ref().is_none_or(|told| told != reason && !reason.cause.is_start());
        let tell = now >= self.due() && is_new;
        self.untold = is_new && !tell;
        if tell {
            self.told = Some(reason.clone());
        }
        tell
    }
}

/// What was told of each pod.
#[derive(Debug)]
pub struct Story {
    pods: BTreeMap<String, Pod>,
    /// Enrolled by an earlier agent, which told of it.
    inherited: BTreeSet<String>,
}

impl Story {
    /// A story that an earlier agent began with these pods.
    pub fn new(inherited: BTreeSet<String>) -> Self {
        Self { pods: BTreeMap::new(), inherited }
    }

    /// What is to be told, now that the pods stand so.
    pub fn go_on(&mut self, all: &BTreeMap<String, Outcome>, now: Instant) -> Vec<(String, What)> {
        let mut told = Vec::new();
        self.pods.retain(|uid, pod| {
            let present = all.contains_key(uid);
            if !present && pod.enrolled {
                told.push((uid.clone(), What::Withdrawn(None)));
            }
            present
        });
        for (uid, outcome) in all {
            let pod = self.pods.entry(uid.clone()).or_default();
            let (redirected, reason) = match outcome {
                Outcome::Redirected { problem, .. } => (true, problem.as_ref()),
                Outcome::Pending(reason) => (false, Some(reason)),
            };
            if redirected && !std::mem::replace(&mut pod.enrolled, true) && !self.inherited.remove(uid) {
                told.push((uid.clone(), What::Enrolled));
            }
            let Some(reason) = reason else {
                pod.pending = None;
                continue;
            };
            let pending = pod.pending.get_or_insert_with(|| Pending::new(reason.cause, now));
            if pending.tell(reason, now) {
                let text = reason.text.clone();
                if !redirected {
                    // Now it is this agent's story.
                    self.inherited.remove(uid);
                }
                told.push((uid.clone(), if redirected { What::Unapplied(text) } else { What::Failed(text) }));
            }
        }
        told
    }

    /// When there may be more to tell although nothing changes.
    pub fn due(&self) -> Option<Instant> {
        let pending = self.pods.values().filter_map(|pod| pod.pending.as_ref());
        pending.filter(|pending| pending.untold).map(Pending::due).min()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{netns::Netns, reason::SOON};

    fn redirected() -> Outcome {
        Outcome::Redirected { identity: Netns::identity_at(Path::new("/")).unwrap(), problem: None }
    }

    fn pending(reason: &str) -> Outcome {
        Outcome::Pending(Reason::owner(reason))
    }

    fn starting(reason: &str) -> Outcome {
        Outcome::Pending(Reason::starting(reason))
    }

    fn at(outcome: Option<Outcome>) -> BTreeMap<String, Outcome> {
        outcome.map(|outcome| ("u".to_owned(), outcome)).into_iter().collect()
    }

    fn told(what: Option<What>) -> Vec<(String, What)> {
        what.map(|what| ("u".to_owned(), what)).into_iter().collect()
    }

    #[test]
    fn a_pod_that_comes_and_goes_is_told_of_once_each() {
        let (mut story, now) = (Story::new(BTreeSet::new()), Instant::now());
        for (outcome, what) in [
            (Some(starting("the pod has no address yet")), None),
            (Some(redirected()), Some(What::Enrolled)),
            (Some(redirected()), None),
            (None, Some(What::Withdrawn(None))),
            (None, None),
            (Some(redirected()), Some(What::Enrolled)),
        ] {
            assert_eq!(story.go_on(&at(outcome), now), told(what));
        }
    }

    #[test]
    fn a_pod_that_stays_pending_is_told_of_with_each_new_reason() {
        let (mut story, start) = (Story::new(BTreeSet::new()), Instant::now());
        let bad = || at(Some(pending("annotation x: invalid")));
        assert_eq!(story.go_on(&bad(), start), []);
        assert_eq!(story.due(), Some(start + SOON));
        let later = start + SOON;
        assert_eq!(story.go_on(&bad(), later), told(Some(What::Failed("annotation x: invalid".to_owned()))));
        assert_eq!(story.go_on(&bad(), later), []);
        assert_eq!(story.due(), None);
        assert_eq!(story.go_on(&at(Some(pending("other"))), later), told(Some(What::Failed("other".to_owned()))));
        assert_eq!(story.go_on(&at(None), later), [], "it was never enrolled");
    }

    #[test]
    fn a_pod_that_takes_its_time_to_start_is_no_failure_until_it_lasts() {
        let (mut story, start) = (Story::new(BTreeSet::new()), Instant::now());
        let not_begun = || at(Some(Outcome::Pending(Reason::not_begun("no process"))));
        assert_eq!(story.go_on(&not_begun(), start), []);
        assert_eq!(story.go_on(&at(Some(starting("no address"))), start + SOON * 2), []);
        assert_eq!(story.due(), Some(start + START));
        let late = start + START;
        assert_eq!(story.go_on(&not_begun(), late), told(Some(What::Failed("no process".to_owned()))));
        assert_eq!(story.go_on(&at(Some(starting("no address"))), late), [], "it was said that it does not start");
        let malformed = story.go_on(&at(Some(pending("annotation x: invalid"))), late);
        assert_eq!(malformed, told(Some(What::Failed("annotation x: invalid".to_owned()))));

        // What is not of its start is told as soon as ever, however long the start was.
        let (mut story, node) = (Story::new(BTreeSet::new()), || at(Some(Outcome::Pending(Reason::node("no slot")))));
        story.go_on(&not_begun(), start);
        assert_eq!(story.go_on(&node(), start + SOON * 2), []);
        assert_eq!(story.go_on(&node(), start + SOON * 3), told(Some(What::Failed("no slot".to_owned()))));
    }

    #[test]
    fn what_keeps_a_pod_pending_after_what_was_told_is_told_in_its_time_though_nothing_else_happens() {
        let (mut story, start) = (Story::new(BTreeSet::new()), Instant::now());
        let owner = || at(Some(pending("annotation x: invalid")));
        let node = || at(Some(Outcome::Pending(Reason::node("no slot"))));
        story.go_on(&owner(), start);
        let later = start + SOON;
        assert_eq!(story.go_on(&owner(), later), told(Some(What::Failed("annotation x: invalid".to_owned()))));
        assert_eq!((story.go_on(&node(), later), story.due()), (vec![], Some(later + SOON)));
        assert_eq!(story.go_on(&node(), later + SOON), told(Some(What::Failed("no slot".to_owned()))));
        assert_eq!(story.due(), None);
        // It is again what was told before it is time.
        story.go_on(&owner(), later + SOON);
        assert_eq!((story.go_on(&node(), later + SOON), story.due()), (vec![], None));
    }

    #[test]
    fn what_is_malformed_on_an_enrolled_pod_is_told() {
        let (mut story, now) = (Story::new(["u".to_owned()].into()), Instant::now());
        let malformed = || {
            let Outcome::Redirected { identity, .. } = redirected() else { unreachable!() };
            at(Some(Outcome::Redirected { identity, problem: Some(Reason::owner("label x: invalid")) }))
        };
        assert_eq!(story.go_on(&malformed(), now), []);
        let later = now + SOON;
        assert_eq!(story.go_on(&malformed(), later), told(Some(What::Unapplied("label x: invalid".to_owned()))));
        assert_eq!(story.go_on(&malformed(), later), []);
        assert_eq!(story.go_on(&at(Some(redirected())), later), []);
        assert_eq!(story.go_on(&at(None), later), told(Some(What::Withdrawn(None))));
    }

    #[test]
    fn what_an_earlier_agent_told_is_not_told_again() {
        let (mut story, now) = (Story::new(["u".to_owned()].into()), Instant::now());
        assert_eq!(story.go_on(&at(Some(pending("starting"))), now), []);
        assert_eq!(story.go_on(&at(Some(redirected())), now), []);
        assert_eq!(story.go_on(&at(None), now), told(Some(What::Withdrawn(None))));
        assert_eq!(story.go_on(&at(Some(redirected())), now), told(Some(What::Enrolled)));

        let mut story = Story::new(["u".to_owned()].into());
        story.go_on(&at(Some(pending("annotation x: invalid"))), now);
        story.go_on(&at(Some(pending("annotation x: invalid"))), now + SOON);
        let enrolled = story.go_on(&at(Some(redirected())), now + SOON);
        assert_eq!(enrolled, told(Some(What::Enrolled)), "it was said that it is not");
    }
}
