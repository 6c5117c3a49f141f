//! The lead: which of the agents of one instance works.
//!
//! Whoever holds the lock of the pins leads. In a rolling update the new pod must be ready before the old one is told to
//! end, so the new agent does not wait: it asks the one that leads to step down, over `<state>/<instance>.lead.sock`.
//! That one finishes the step in hand, closes its sockets, lets go of the lock, passes its copies of the pods' listening
//! sockets on, and then idles. When it sees the lock free again (the new agent crashed, the rollout was undone) it takes
//! the lead back. At no time do the pods' connections depend on an agent: they are redirected by what is pinned, and
//! accepted by the proxy.
//!
//! An agent never steps down for one that it superseded: a container of the old pod that is started again would otherwise
//! take the lead from its successor. Who superseded whom is in `<state>/<instance>.lineage`.

mod candidate;
mod departure;
mod holder;
mod lineage;
mod wire;

pub use candidate::{Candidate, Error, Standing, Tenure, Turn};
pub use departure::Departure;
pub use holder::{Heir, Parting};
pub use lineage::{Identity, Lineage};

use std::path::{Path, PathBuf};

/// Where the agents of an instance meet.
#[derive(Clone, Debug)]
pub struct Place {
    /// Directory of the pins, whose lock is the lead.
    pub pins: PathBuf,
    /// Where the one that leads can be asked to step down.
    pub socket: PathBuf,
    /// Who led, in order.
    pub lineage: PathBuf,
    /// The directory of both.
    pub state: PathBuf,
}

impl Place {
    /// The place of an instance, with the directory of what agents leave for each other.
    pub fn new(pins: &Path, state: &Path, instance: &str) -> Self {
        Self {
            pins: pins.to_owned(),
            socket: state.join(format!("{instance}.lead.sock")),
            lineage: state.join(format!("{instance}.lineage")),
            state: state.to_owned(),
        }
    }
}
