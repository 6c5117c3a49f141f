//! Why a pod is pending, and whose it is to change that.
//!
//! Whoever gives a reason says whose it is; nobody reads that out of its words. It decides what counts against the node
//! (anybody may make a pod that waits for ever) and when an event is worth its while.

use std::{fmt, time::Duration};

use tokio::time::Instant;

/// A pod that weir keeps waiting for a shorter time is only on its way.
pub const SOON: Duration = Duration::from_secs(10);
/// So long a pod may take to get its sandbox and its addresses, on a node that has much to do.
pub const START: Duration = Duration::from_secs(60);

/// Whose it is that a pod is pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Its owner's: a label or an annotation is to be put right.
    Owner,
    /// Nobody's here: the kubelet has not begun it, as where a volume is missing. It has no network namespace.
    NotBegun,
    /// The container runtime's: it is being set up, or set up again.
    Starting,
    /// weir's or the node's.
    Node,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Owner, Self::NotBegun, Self::Starting, Self::Node];

    /// As users read it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::NotBegun => "not-begun",
            Self::Starting => "starting",
            Self::Node => "node",
        }
    }

    /// How long it is no news.
    pub fn patience(self) -> Duration {
        match self {
            Self::Owner | Self::Node => SOON,
            Self::NotBegun | Self::Starting => START,
        }
    }

    /// Whether it passes by itself on every pod that starts.
    pub fn is_start(self) -> bool {
        matches!(self, Self::NotBegun | Self::Starting)
    }

    /// Whether it is the operator's to look after where it lasts.
    fn is_operators(self) -> bool {
        matches!(self, Self::Starting | Self::Node)
    }
}

/// Why a pod is pending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// Whose it is.
    pub cause: Cause,
    /// What is shown.
    pub text: String,
}

impl Reason {
    /// Something is wrong with what the pod says.
    pub fn owner(text: impl Into<String>) -> Self {
        Self { cause: Cause::Owner, text: text.into() }
    }

    /// The kubelet has not begun it.
    pub fn not_begun(text: impl Into<String>) -> Self {
        Self { cause: Cause::NotBegun, text: text.into() }
    }

    /// It is being set up.
    pub fn starting(text: impl Into<String>) -> Self {
        Self { cause: Cause::Starting, text: text.into() }
    }

    /// weir cannot, or the node.
    pub fn node(text: impl Into<String>) -> Self {
        Self { cause: Cause::Node, text: text.into() }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

/// Since when a pod waits for reasons that are the operator's to look after, whatever they were in between: a sandbox
/// that cannot be set up is taken down and made again.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    operators: Option<Instant>,
    node: Option<Instant>,
}

impl Waiting {
    /// What follows when the pod is pending for this cause now; `before` is what was, if it was pending.
    pub fn go_on(before: Option<Self>, cause: Cause, now: Instant) -> Self {
        let before = before.unwrap_or(Self { operators: None, node: None });
        Self {
            operators: cause.is_operators().then(|| before.operators.unwrap_or(now)),
            node: (cause == Cause::Node).then(|| before.node.unwrap_or(now)),
        }
    }

    /// Whether it counts against the node's health.
    pub fn is_overdue(self, now: Instant) -> bool {
        let lasted = |since: Option<Instant>, patience| since.is_some_and(|since| now >= since + patience);
        lasted(self.node, SOON) || lasted(self.operators, START)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a pod is overdue after it was pending for each of these causes for so many seconds.
    fn overdue(waited: &[(Cause, u64)]) -> bool {
        let (mut now, mut waiting) = (Instant::now(), None);
        for (cause, seconds) in waited {
            waiting = Some(Waiting::go_on(waiting, *cause, now));
            now += Duration::from_secs(*seconds);
        }
        waiting.is_some_and(|waiting| waiting.is_overdue(now))
    }

    #[test]
    fn what_is_not_the_operators_never_counts_against_the_node() {
        assert!(!overdue(&[(Cause::Owner, 100_000)]));
        assert!(!overdue(&[(Cause::NotBegun, 100_000)]), "a volume may be missing");
        assert!(!overdue(&[(Cause::NotBegun, 100_000), (Cause::Starting, 59)]), "only now it begins");
        assert!(!overdue(&[(Cause::Node, 100_000), (Cause::Owner, 100_000)]));
    }

    #[test]
    fn what_is_the_operators_counts_when_it_lasts() {
        assert!(!overdue(&[(Cause::Node, 9)]));
        assert!(overdue(&[(Cause::Node, 10)]));
        assert!(overdue(&[(Cause::Starting, 60)]));
        assert!(!overdue(&[(Cause::Starting, 30), (Cause::Node, 9)]));
        // A sandbox that is made again and again.
        let again = [(Cause::Starting, 15), (Cause::Node, 5)].repeat(3);
        assert!(overdue(&again));
        assert!(!overdue(&again[..4]));
    }
}
