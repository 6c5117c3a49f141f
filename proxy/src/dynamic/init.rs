//! How far the process has come with what it starts with: first clusters, then listeners. Each was answered, or waited for
//! as long as it was to be, and is warm.

/// Where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Clusters, and their endpoints, are awaited.
    Clusters,
    /// Listeners, and what they are made of, are awaited.
    Listeners,
    /// All is there.
    Done,
}

/// What is still awaited.
#[derive(Debug)]
pub(super) struct Init {
    phase: Phase,
    /// Of clusters, of listeners.
    unanswered: [bool; 2],
}

/// What is to be done when a phase is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Ask for listeners.
    Listeners,
    /// Serve.
    Serve,
}

impl Init {
    /// Whether clusters, and listeners, come from somewhere.
    pub(super) fn new(clusters: bool, listeners: bool) -> Self {
        Self { phase: Phase::Clusters, unanswered: [clusters, listeners] }
    }

    /// Nobody waits for a first answer any more: of clusters, or of listeners.
    pub(super) fn answered(&mut self, listeners: bool) {
        self.unanswered[usize::from(listeners)] = false;
    }

    /// Goes on, if there is nothing left to wait for, with so many clusters and listeners that are not warm.
    pub(super) fn next(&mut self, cold_clusters: usize, cold_listeners: usize) -> Option<Next> {
        match self.phase {
            Phase::Clusters if !self.unanswered[0] && cold_clusters == 0 => {
                self.phase = Phase::Listeners;
                Some(Next::Listeners)
            }
            Phase::Listeners if !self.unanswered[1] && cold_listeners == 0 => {
                self.phase = Phase::Done;
                Some(Next::Serve)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_come_before_listeners_and_both_before_serving() {
        let mut init = Init::new(true, true);
        assert_eq!(init.next(0, 0), None);
        init.answered(false);
        assert_eq!(init.next(1, 0), None);
        assert_eq!(init.next(0, 0), Some(Next::Listeners));
        // A listener that came from disk before is awaited, too.
        assert_eq!(init.next(0, 1), None);
        init.answered(true);
        assert_eq!(init.next(1, 1), None);
        // Clusters that come later do not hold it up.
        assert_eq!(init.next(1, 0), Some(Next::Serve));
        assert_eq!(init.next(0, 0), None);
    }

    #[test]
    fn what_comes_from_nowhere_is_not_awaited() {
        let mut init = Init::new(false, false);
        assert_eq!([init.next(0, 0), init.next(0, 0)], [Some(Next::Listeners), Some(Next::Serve)]);
    }
}
