//! What of all that happens to pods is worth an event.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

use crate::enroll::Outcome;

/// A pod that is pending for a shorter time is only on its way.
const PENDING: Duration = Duration::from_secs(10);

/// What is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A pod's connections are redirected from now on.
    Enrolled,
    /// A pod that is to be enrolled is not, and why.
    Failed(String),
    /// A pod's connections are not redirected any more.
    Withdrawn,
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
    reason: String,
    since: Instant,
    told: Option<String>,
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
                told.push((uid.clone(), What::Withdrawn));
            }
            present
        });
        for (uid, outcome) in all {
            let pod = self.pods.entry(uid.clone()).or_default();
            match outcome {
                Outcome::Redirected { .. } => {
                    pod.pending = None;
                    if !std::mem::replace(&mut pod.enrolled, true) && !self.inherited.remove(uid) {
                        told.push((uid.clone(), What::Enrolled));
                    }
                }
                Outcome::Pending(reason) => {
                    let pending =
                        pod.pending.get_or_insert_with(|| Pending { reason: reason.clone(), since: now, told: None });
                    pending.reason.clone_from(reason);
                    let due = now >= pending.since + PENDING && pending.told.as_ref() != Some(reason);
                    if due {
                        // Now it is this agent's story.
                        self.inherited.remove(uid);
                        pending.told = Some(reason.clone());
                        told.push((uid.clone(), What::Failed(reason.clone())));
                    }
                }
            }
        }
        told
    }

    /// When there may be more to tell although nothing changes.
    pub fn due(&self) -> Option<Instant> {
        let pending = self.pods.values().filter_map(|pod| pod.pending.as_ref());
        pending.filter(|pending| pending.told.is_none()).map(|pending| pending.since + PENDING).min()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::netns::Netns;

    fn redirected() -> Outcome {
        Outcome::Redirected { identity: Netns::identity_at(Path::new("/")).unwrap() }
    }

    fn pending(reason: &str) -> Outcome {
        Outcome::Pending(reason.to_owned())
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
            (Some(pending("the pod has no address yet")), None),
            (Some(redirected()), Some(What::Enrolled)),
            (Some(redirected()), None),
            (None, Some(What::Withdrawn)),
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
        assert_eq!(story.due(), Some(start + PENDING));
        let later = start + PENDING;
        assert_eq!(story.go_on(&bad(), later), told(Some(What::Failed("annotation x: invalid".to_owned()))));
        assert_eq!(story.go_on(&bad(), later), []);
        assert_eq!(story.due(), None);
        assert_eq!(story.go_on(&at(Some(pending("other"))), later), told(Some(What::Failed("other".to_owned()))));
        assert_eq!(story.go_on(&at(None), later), [], "it was never enrolled");
    }

    #[test]
    fn what_an_earlier_agent_told_is_not_told_again() {
        let (mut story, now) = (Story::new(["u".to_owned()].into()), Instant::now());
        assert_eq!(story.go_on(&at(Some(pending("starting"))), now), []);
        assert_eq!(story.go_on(&at(Some(redirected())), now), []);
        assert_eq!(story.go_on(&at(None), now), told(Some(What::Withdrawn)));
        assert_eq!(story.go_on(&at(Some(redirected())), now), told(Some(What::Enrolled)));

        let mut story = Story::new(["u".to_owned()].into());
        story.go_on(&at(Some(pending("annotation x: invalid"))), now);
        story.go_on(&at(Some(pending("annotation x: invalid"))), now + PENDING);
        let enrolled = story.go_on(&at(Some(redirected())), now + PENDING);
        assert_eq!(enrolled, told(Some(What::Enrolled)), "it was said that it is not");
    }
}
