//! In which state the process is, for whoever answers for it: the admin server and health checks.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};

/// A state, as Envoy numbers them in `server.state`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Serving.
    Live = 0,
    /// Health checks are to fail: told so, or about to end.
    Draining = 1,
    /// Nothing is set up yet.
    #[default]
    PreInitializing = 2,
    /// Names are being resolved, configuration is awaited.
    Initializing = 3,
}

impl State {
    /// As `/ready` says it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Live => "LIVE",
            Self::Draining => "DRAINING",
            Self::PreInitializing => "PRE_INITIALIZING",
            Self::Initializing => "INITIALIZING",
        }
    }
}

/// The state, shared by all threads.
#[derive(Debug, Default)]
pub struct Lifecycle {
    started: AtomicU8,
    health_check_failed: AtomicBool,
}

/// How far starting has come, in [`Lifecycle::started`].
const INITIALIZING: u8 = 1;
const LIVE: u8 = 2;

impl Lifecycle {
    /// Starting has begun.
    pub fn initializing(&self) {
        self.started.store(INITIALIZING, Relaxed);
    }

    /// Connections are accepted.
    pub fn live(&self) {
        self.started.store(LIVE, Relaxed);
    }

    /// Has health checks fail, or pass again: `/healthcheck/fail` and `/healthcheck/ok`.
    pub fn fail_health_checks(&self, fail: bool) {
        self.health_check_failed.store(fail, Relaxed);
    }

    /// Whether health checks are to fail; read by the `health_check` filter for every request that it answers.
    pub fn health_check_failed(&self) -> bool {
        self.health_check_failed.load(Relaxed)
    }

    /// The state.
    pub fn state(&self) -> State {
        match self.started.load(Relaxed) {
            INITIALIZING => State::Initializing,
            LIVE if self.health_check_failed() => State::Draining,
            LIVE => State::Live,
            _ => State::PreInitializing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_until_health_checks_are_to_fail() {
        let lifecycle = Lifecycle::default();
        assert_eq!(lifecycle.state().name(), "PRE_INITIALIZING");
        lifecycle.initializing();
        assert_eq!(lifecycle.state(), State::Initializing);
        lifecycle.live();
        assert_eq!(lifecycle.state(), State::Live);
        lifecycle.fail_health_checks(true);
        assert_eq!(lifecycle.state(), State::Draining);
        lifecycle.fail_health_checks(false);
        assert_eq!(lifecycle.state(), State::Live);
    }
}
