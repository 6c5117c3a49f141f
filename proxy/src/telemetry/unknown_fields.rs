//! Fields that this version does not know, in what comes while the process runs: as those that a later version of a control
//! plane may send. They are left out, counted and told once each, unless the command line wants otherwise.

use std::{collections::HashSet, fmt, sync::OnceLock};

use parking_lot::Mutex;

use super::stats::{Counter, Scope, Shared, Store};

/// What is to be done with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Count and tell them.
    Tell,
    /// Refuse what has them (`--reject-unknown-dynamic-fields`).
    Refuse,
    /// Nothing (`--ignore-unknown-dynamic-fields`).
    Ignore,
}

/// Fields that are remembered: of more, some are told again.
const FIELDS: usize = 1024;

/// What has been done with them.
#[derive(Debug)]
struct Told {
    policy: Policy,
    shared: Shared,
    counter: Counter,
    /// What the counter belongs to.
    _scope: Scope,
    fields: Mutex<HashSet<String>>,
}

static TOLD: OnceLock<Told> = OnceLock::new();

/// From here on does what the command line wants.
pub fn watch(stats: &Store, policy: Policy) {
    let scope = stats.root().scope("server");
    let (shared, counter) = (stats.shared(), scope.counter("dynamic_unknown_fields"));
    // There is one process, and one command line.
    let _ = TOLD.set(Told { policy, shared, counter, _scope: scope, fields: Mutex::default() });
}

/// There are such fields, each by its name and place; why what has them is to be refused, if so.
pub fn met(fields: &[impl fmt::Display]) -> Result<(), String> {
    let Some(told) = TOLD.get() else { return Ok(()) };
    for field in fields {
        let field = field.to_string();
        match told.policy {
            Policy::Ignore => {}
            Policy::Refuse => return Err(field),
            Policy::Tell => {
                let mut fields = told.fields.lock();
                if fields.len() == FIELDS {
                    fields.clear();
                }
                if fields.insert(field.clone()) {
                    told.shared.inc(told.counter);
                    tracing::warn!(field, "is not known here and has no effect");
                }
            }
        }
    }
    Ok(())
}
