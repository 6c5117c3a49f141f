//! What a run found: one line a check, and a sum.

use std::time::Instant;

/// Width of a check's name.
const NAME: usize = 52;

/// The checks so far.
#[derive(Debug)]
pub struct Report {
    passed: u32,
    failed: u32,
    started: Instant,
}

impl Default for Report {
    fn default() -> Self {
        Self { passed: 0, failed: 0, started: Instant::now() }
    }
}

impl Report {
    /// Begins the table of a scenario.
    pub fn scenario(&mut self, name: &str) {
        println!("\n== {name} (at {:.0?})", self.started.elapsed());
    }

    /// Writes a line of a check and counts it; `Ok` and `Err` say what was seen.
    pub fn check(&mut self, name: &str, outcome: Result<String, String>) -> bool {
        let (word, seen) = match &outcome {
            Ok(seen) => ("ok    ", seen),
            Err(why) => ("FAILED", why),
        };
        println!("{word} {name:NAME$} {seen}");
        match outcome.is_ok() {
            true => self.passed += 1,
            false => self.failed += 1,
        }
        outcome.is_ok()
    }

    /// Writes a line that is no check.
    pub fn note(&self, what: &str) {
        println!("       {what}");
    }

    /// Writes the sum; whether nothing failed.
    pub fn sum(&self) -> bool {
        println!("\n{} passed, {} failed", self.passed, self.failed);
        self.failed == 0 && self.passed > 0
    }
}
