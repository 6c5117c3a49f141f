//! How many connections may be open at once.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::runtime::Runtime;

/// A limit on open connections, counted over all workers. A runtime value goes before the configured one.
#[derive(Debug)]
pub struct Ceiling {
    open: AtomicU64,
    /// How many were refused that nobody has asked for yet.
    refused: AtomicU64,
    configured: u64,
    runtime_key: Box<str>,
}

/// The process's, as many as the runtime says.
impl Default for Ceiling {
    fn default() -> Self {
        Self::unlimited(Self::PROCESS)
    }
}

/// A connection's place below a [`Ceiling`], given back when dropped.
#[derive(Debug)]
pub struct Seat<'a>(&'a Ceiling);

impl Ceiling {
    /// The runtime key of the process's limit.
    pub const PROCESS: &'static str = "overload.global_downstream_max_connections";

    /// As many as the runtime says.
    pub fn unlimited(runtime_key: &str) -> Self {
        Self::of(u64::MAX, runtime_key)
    }

    /// At most `configured`, unless the runtime says otherwise.
    pub fn of(configured: u64, runtime_key: &str) -> Self {
        Self { open: AtomicU64::new(0), refused: AtomicU64::new(0), configured, runtime_key: runtime_key.into() }
    }

    /// A place for one more connection, if there is one.
    pub fn admit(&self, runtime: &Runtime) -> Option<Seat<'_>> {
        let most = runtime.integer(&self.runtime_key).unwrap_or(self.configured);
        let seat = Seat(self);
        // Counted before it is compared: two workers cannot both take the last one.
        if self.open.fetch_add(1, Relaxed) >= most {
            self.refused.fetch_add(1, Relaxed);
            return None;
        }
        Some(seat)
    }

    /// How much of what is configured is taken: 1 is all.
    pub fn pressure(&self) -> f64 {
        self.open.load(Relaxed) as f64 / self.configured.max(1) as f64
    }

    /// How many have been refused since this was asked last.
    pub fn take_refused(&self) -> u64 {
        self.refused.swap(0, Relaxed)
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_back() {
        let runtime = Runtime::default();
        let ceiling = Ceiling::of(1, "key");
        let first = ceiling.admit(&runtime).unwrap();
        assert!(ceiling.admit(&runtime).is_none());
        assert_eq!((ceiling.pressure(), ceiling.take_refused(), ceiling.take_refused()), (1.0, 1, 0));
        drop(first);
        assert!(ceiling.admit(&runtime).is_some());
        assert_eq!(ceiling.open.load(Relaxed), 0);
    }

    #[test]
    fn the_runtime_goes_first() {
        let message = weir_proto::from_yaml("layers: [{ name: a, static_layer: { key: 2 } }]").unwrap();
        let runtime = Runtime::from_config(Some(&message)).unwrap();
        let ceiling = Ceiling::of(1, "key");
        let seats = [ceiling.admit(&runtime), ceiling.admit(&runtime), ceiling.admit(&runtime)];
        assert_eq!(seats.map(|seat| seat.is_some()), [true, true, false]);
        assert!(Ceiling::unlimited("other").admit(&runtime).is_some());
    }
}
