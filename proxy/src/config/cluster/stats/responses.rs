//! Responses, counted by code and class.

use std::sync::OnceLock;

use crate::telemetry::stats::{Codes, Counter, Histogram, Scope, Shard, Unit};

/// Responses by code and class: `upstream_rq_503`, `upstream_rq_5xx`, `upstream_rq_completed`, `upstream_rq_time`.
#[derive(Debug)]
pub struct Responses {
    codes: Codes,
    classes: [OnceLock<Counter>; 5],
    /// Of no class.
    unknown: OnceLock<Counter>,
    time: OnceLock<Histogram>,
    completed: OnceLock<Counter>,
    prefix: Box<str>,
    scope: Scope,
}

/// One response, as statistics see it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Response<'a> {
    /// Its status.
    pub code: u16,
    /// The client is internal.
    pub internal: bool,
    /// The endpoint is a canary.
    pub canary: bool,
    /// The endpoint's zone; empty: not known.
    pub zone: &'a str,
    /// A name that the request wants it counted under besides.
    pub alternative: Option<&'a str>,
}

impl Default for Responses {
    fn default() -> Self {
        Self::new(&Scope::default(), "")
    }
}

impl Responses {
    /// Below `scope`; `prefix` comes before each name.
    pub fn new(scope: &Scope, prefix: &str) -> Self {
        Self {
            codes: Codes::new(scope, &format!("{prefix}upstream_rq_")),
            classes: Default::default(),
            unknown: OnceLock::new(),
            time: OnceLock::new(),
            completed: OnceLock::new(),
            prefix: prefix.into(),
            scope: scope.clone(),
        }
    }

    /// Counts a response by its code and class.
    pub fn charge(&self, shard: &Shard, code: u16) {
        let completed = || self.scope.counter(&format!("{}upstream_rq_completed", self.prefix));
        shard.inc(*self.completed.get_or_init(completed));
        let class = usize::from(code / 100);
        let Some(known) = class.checked_sub(1).and_then(|class| self.classes.get(class)) else {
            let register = || self.scope.counter(&format!("{}upstream_rq_unknown", self.prefix));
            return shard.inc(*self.unknown.get_or_init(register));
        };
        shard.inc(self.codes.counter(code));
        let register = || self.scope.counter(&format!("{}upstream_rq_{class}xx", self.prefix));
        shard.inc(*known.get_or_init(register));
    }

    /// The histogram of how long upstreams took.
    pub fn time(&self) -> Histogram {
        let register = || self.scope.histogram(&format!("{}upstream_rq_time", self.prefix), Unit::Milliseconds);
        *self.time.get_or_init(register)
    }
}
