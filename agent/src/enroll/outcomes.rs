//! What became of each wanted pod, for those who wait for it: the CNI server and the writer of events.

use std::{collections::BTreeMap, sync::Arc};

use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::show::ABOUT_TO_BE;
use crate::{netns::Identity, reason::Reason};

/// Where a wanted pod stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The kernel redirects its connections, to sockets that wait for the proxy.
    Redirected {
        /// Its network namespace.
        identity: Identity,
        /// Why it is not so in the way that it should be by now.
        problem: Option<Reason>,
    },
    /// Not redirected yet, and why.
    Pending(Reason),
}

impl Outcome {
    /// Of a pod that is redirected in this namespace or not, and there whether it has its listening sockets; and of what
    /// failed last.
    pub(super) fn of(redirected: Option<(Identity, bool)>, failure: Option<Reason>) -> Self {
        match (redirected, failure) {
            // Its connections are not carried, whatever the kernel does with them.
            (None, Some(reason)) | (Some((_, false)), Some(reason)) => Self::Pending(reason),
            (Some((identity, _)), problem) => Self::Redirected { identity, problem },
            (None, None) => Self::Pending(Reason::starting(ABOUT_TO_BE)),
        }
    }
}

/// The outcomes of all wanted pods by uid; a pod that is not wanted has none. Written by the reconciler only.
#[derive(Clone, Debug)]
pub struct Outcomes {
    current: watch::Sender<Arc<BTreeMap<String, Outcome>>>,
}

impl Default for Outcomes {
    fn default() -> Self {
        Self { current: watch::Sender::new(Arc::default()) }
    }
}

impl Outcomes {
    /// Follows them.
    pub fn subscribe(&self) -> watch::Receiver<Arc<BTreeMap<String, Outcome>>> {
        self.current.subscribe()
    }

    /// Waits until a pod is redirected in this network namespace; when that is not so in time, the last reason why not.
    pub async fn redirected(&self, uid: &str, identity: Identity, deadline: Instant) -> Result<(), String> {
        let mut outcomes = self.subscribe();
        let is_there =
            |outcome: &Outcome| matches!(outcome, Outcome::Redirected { identity: now, .. } if *now == identity);
        let there = |all: &Arc<BTreeMap<String, Outcome>>| all.get(uid).is_some_and(is_there);
        if let Ok(Ok(_)) = timeout_at(deadline, outcomes.wait_for(there)).await {
            return Ok(());
        }
        let last = outcomes.borrow().get(uid).cloned();
        Err(match last {
            Some(Outcome::Pending(reason)) => reason.text,
            Some(Outcome::Redirected { identity: now, .. }) if now == identity => return Ok(()),
            Some(Outcome::Redirected { .. }) => "it is still redirected in an earlier network namespace".to_owned(),
            None => "the agent does not know yet that it is to be enrolled".to_owned(),
        })
    }

    /// Says where a pod stands.
    pub(crate) fn set(&self, uid: &str, outcome: Outcome) {
        self.current.send_if_modified(|all| {
            let changed = all.get(uid) != Some(&outcome);
            if changed {
                Arc::make_mut(all).insert(uid.to_owned(), outcome);
            }
            changed
        });
    }

    /// Forgets the pods of which `wanted` is false.
    pub(super) fn retain(&self, wanted: impl Fn(&str) -> bool) {
        self.current.send_if_modified(|all| {
            let changed = all.keys().any(|uid| !wanted(uid));
            if changed {
                Arc::make_mut(all).retain(|uid, _| wanted(uid));
            }
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, time::Duration};

    use super::*;
    use crate::netns::Netns;

    fn identity(path: &str) -> Identity {
        Netns::identity_at(Path::new(path)).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_hears_of_the_pod_in_its_namespace_or_why_not() {
        let outcomes = Outcomes::default();
        let (old, new) = (identity("/"), identity("/proc"));
        let soon = || Instant::now() + Duration::from_secs(1);
        let unknown = outcomes.redirected("u", new, soon()).await.unwrap_err();
        assert_eq!(unknown, "the agent does not know yet that it is to be enrolled");
        outcomes.set("u", Outcome::Pending(Reason::starting("the pod has no address yet")));
        assert_eq!(outcomes.redirected("u", new, soon()).await.unwrap_err(), "the pod has no address yet");
        outcomes.set("u", Outcome::Redirected { identity: old, problem: None });
        let earlier = outcomes.redirected("u", new, soon()).await.unwrap_err();
        assert_eq!(earlier, "it is still redirected in an earlier network namespace");

        let waiting = tokio::spawn({
            let outcomes = outcomes.clone();
            async move { outcomes.redirected("u", new, soon()).await }
        });
        tokio::task::yield_now().await;
        outcomes.set("u", Outcome::Redirected { identity: new, problem: None });
        assert_eq!(waiting.await.unwrap(), Ok(()));
        let overdue = Instant::now();
        assert_eq!(outcomes.redirected("u", new, overdue).await, Ok(()));
    }

    #[test]
    fn a_pod_whose_sockets_cannot_be_made_is_not_said_to_be_only_out_of_date() {
        let (identity, refused) = (identity("/"), || Reason::node("too many open files"));
        let redirected = |problem| Outcome::Redirected { identity, problem };
        assert_eq!(Outcome::of(Some((identity, true)), Some(refused())), redirected(Some(refused())));
        assert_eq!(Outcome::of(Some((identity, false)), Some(refused())), Outcome::Pending(refused()));
        assert_eq!(Outcome::of(Some((identity, false)), None), redirected(None), "they are about to come back");
        assert_eq!(Outcome::of(None, Some(refused())), Outcome::Pending(refused()));
        assert_eq!(Outcome::of(None, None), Outcome::Pending(Reason::starting(ABOUT_TO_BE)));
    }

    #[tokio::test]
    async fn only_what_changes_is_told() {
        let outcomes = Outcomes::default();
        let mut follower = outcomes.subscribe();
        outcomes.set("u", Outcome::Pending(Reason::node("why")));
        assert_eq!(follower.borrow_and_update().len(), 1);
        outcomes.set("u", Outcome::Pending(Reason::node("why")));
        outcomes.retain(|uid| uid == "u");
        assert!(!follower.has_changed().unwrap());
        outcomes.retain(|_| false);
        assert!(follower.borrow_and_update().is_empty());
    }
}
