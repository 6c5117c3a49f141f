//! Redirects that are followed here, instead of by the client.

use std::sync::Arc;

use http::{HeaderName, StatusCode};

/// `InternalRedirectPolicy`.
#[derive(Clone, Debug)]
pub struct InternalRedirects {
    /// How many may follow one another for one request of a client.
    pub max: u32,
    /// Which responses are followed.
    pub statuses: Vec<StatusCode>,
    /// What the route of the new request must be.
    pub predicates: Vec<RedirectPredicate>,
    /// From http to https, and back.
    pub cross_scheme: bool,
    /// Headers of the response that the new request has, too.
    pub copy: Vec<HeaderName>,
}

impl InternalRedirects {
    /// Envoy's default of `max_internal_redirects`.
    pub const DEFAULT_MAX: u32 = 1;
}

/// What the route of a followed redirect must be.
#[derive(Clone, Debug)]
pub enum RedirectPredicate {
    /// One of these names.
    Listed(Vec<Arc<str>>),
    /// Not one that was followed from this route before.
    NotFollowedBefore,
    /// From http, not to https.
    NoUpgradeToTls,
}

/// A redirect from one route to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The name of the route that it comes from.
    pub from: Arc<str>,
    /// The name of the route that it leads to.
    pub to: Arc<str>,
}

impl RedirectPredicate {
    /// Whether a step may be taken after others.
    pub fn allows(&self, step: &Step, before: &[Step], (from_tls, to_tls): (bool, bool)) -> bool {
        match self {
            Self::Listed(names) => names.contains(&step.to),
            Self::NotFollowedBefore => !before.contains(step),
            Self::NoUpgradeToTls => from_tls || !to_tls,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn predicates() {
        let step = |to: &str| Step { from: "a".into(), to: to.into() };
        let plain = (false, false);
        let listed = RedirectPredicate::Listed(vec!["b".into()]);
        assert!(listed.allows(&step("b"), &[], plain) && !listed.allows(&step("c"), &[], plain));
        let new = RedirectPredicate::NotFollowedBefore;
        assert!(new.allows(&step("b"), &[step("c")], plain) && !new.allows(&step("b"), &[step("b")], plain));
        let safe = RedirectPredicate::NoUpgradeToTls;
        assert!(safe.allows(&step("b"), &[], (true, false)) && !safe.allows(&step("b"), &[], (false, true)));
    }
}
