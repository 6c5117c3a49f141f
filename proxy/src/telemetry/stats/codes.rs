//! Counters by response code, registered when a code is first seen: Envoy shows only those that occurred.

use std::sync::{
    OnceLock,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use super::{metric::Counter, scope::Scope};

/// The codes that have a place: three digits.
const CODES: std::ops::Range<u16> = 100..1000;

/// Counters whose name ends in a response code.
#[derive(Debug)]
pub struct Codes {
    scope: Scope,
    prefix: Box<str>,
    numbers: OnceLock<Box<[AtomicU32]>>,
}

impl Codes {
    /// Counters `<scope>.<prefix><code>`, such as `upstream_rq_` and 503.
    pub fn new(scope: &Scope, prefix: &str) -> Self {
        Self { scope: scope.clone(), prefix: prefix.into(), numbers: OnceLock::new() }
    }

    /// The counter of `code`; one that counts nowhere for what is not a response code.
    pub fn counter(&self, code: u16) -> Counter {
        if !CODES.contains(&code) {
            return Counter::default();
        }
        let numbers = self.numbers.get_or_init(|| CODES.map(|_| AtomicU32::new(0)).collect());
        let known = &numbers[usize::from(code - CODES.start)];
        match known.load(Relaxed) {
            0 => {
                // Two workers at once get the same number.
                let counter = self.scope.counter(&format!("{}{code}", self.prefix));
                known.store(counter.0, Relaxed);
                counter
            }
            number => Counter(number),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::stats::{Kind, Metric, Store};

    #[test]
    fn a_code_appears_once_it_occurs() {
        let store = Store::new(1);
        let codes = Codes::new(&store.root().scope("cluster.c"), "upstream_rq_");
        let names = || {
            store.read(Kind::Counter, |name| name.starts_with("cluster")).iter().map(Metric::name).collect::<Vec<_>>()
        };
        assert!(names().is_empty());
        store.worker(0).inc(codes.counter(503));
        store.worker(0).inc(codes.counter(503));
        assert_eq!(codes.counter(0), Counter::default());
        assert_eq!(names(), ["cluster.c.upstream_rq_503"]);
        assert_eq!(store.total(codes.counter(503)), 2);
    }
}
