//! The read side of the pinned maps, programs and links, for the API: what the kernel has, not what the agent meant.
//!
//! Everything is opened by its pin when it is asked for, so that what is shown is what is attached, also after another
//! agent adopted or replaced it. Only this instance's pins are looked at, never all programs or maps of the machine.

pub(super) mod decode;
mod dump;
mod events;
mod explain;
mod facts;
mod pinned;

pub use dump::{Entry, Field};
pub use explain::{ExplainError, Explanation, Origin, Protocol, explain, listener};
pub use facts::{LinkFacts, LinkTarget, MapFacts, ProgramFacts};
pub use pinned::Pinned;

use std::{fmt, io, path::PathBuf};

use aya::{
    maps::MapError,
    programs::{ProgramError, links::LinkError},
    sys::SyscallError,
};
use futures_util::stream::BoxStream;
use weir_abi::{
    Rule,
    event::Event,
    map::{CidrKey, Config, Fault, FlowKey, FlowValue, PodConfig, PortKey, SlotConfig},
};

/// What can be asked of the kernel. [`Pinned`] answers from the pins; tests answer from memory.
pub trait Kernel: Send + Sync + 'static {
    /// What holds for the whole node.
    fn config(&self) -> Result<Config, Error>;
    /// The enrolled pod of this netns cookie.
    fn enrolled(&self, netns: u64) -> Result<Option<PodConfig>, Error>;
    /// What `sk_lookup` knows of a slot.
    fn slot(&self, slot: u32) -> Result<SlotConfig, Error>;
    /// Whether a port is treated apart.
    fn has_port_rule(&self, key: &PortKey) -> Result<bool, Error>;
    /// Whether an address lies in an excluded CIDR.
    fn is_excluded_cidr(&self, key: &CidrKey) -> Result<bool, Error>;
    /// Decisions of a slot, over all CPUs, in the order of [`Rule::ALL`], zero ones too.
    fn counters(&self, slot: u32) -> Result<Vec<(Rule, u64)>, Error>;
    /// The same of several slots together.
    fn decisions(&self, slots: &[u32]) -> Result<Vec<(Rule, u64)>, Error>;
    /// Faults over all CPUs, in the order of [`Fault::ALL`], zero ones too.
    fn faults(&self) -> Result<Vec<(Fault, u64)>, Error>;
    /// Original destinations that were decided on, over all CPUs.
    fn flows(&self) -> Result<Vec<(FlowKey, FlowValue)>, Error>;
    /// The pinned programs and where they are attached, by name.
    fn programs(&self) -> Result<Vec<ProgramFacts>, Error>;
    /// The pinned maps, by name.
    fn maps(&self) -> Result<Vec<MapFacts>, Error>;
    /// Every entry of a map of [`weir_abi::map::name`], decoded and sorted by key.
    fn dump(&self, name: &str) -> Result<Vec<Entry>, Error>;
    /// Makes the kernel count program runs and run time for a while from now. Whether it did so before.
    fn count_runs(&self) -> Result<bool, Error>;
    /// Switches the writing of events on or off.
    fn set_watched(&self, watched: bool) -> Result<(), Error>;
    /// Events as they are written; those written before the call are thrown away. To be called once: two readers would
    /// take each other's events.
    fn events(&self) -> Result<BoxStream<'static, Vec<Event>>, Error>;
}

/// Why the kernel could not be asked, or had no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A pinned map could not be opened or read.
    #[error("map {name} ({}): {}", pin.display(), Chain(&**source))]
    Map {
        /// The map.
        name: String,
        /// Its pin.
        pin: PathBuf,
        /// Why.
        source: Box<MapError>,
    },
    /// A pinned program could not be opened.
    #[error("program {}: {}", pin.display(), Chain(&**source))]
    Program {
        /// Its pin.
        pin: PathBuf,
        /// Why.
        source: Box<ProgramError>,
    },
    /// A pinned link could not be opened.
    #[error("link {}: {}", pin.display(), Chain(&**source))]
    Link {
        /// Its pin.
        pin: PathBuf,
        /// Why.
        source: Box<LinkError>,
    },
    /// A directory of pins could not be read, or an event could not be waited for.
    #[error("{}: {source}", path.display())]
    Io {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel would not count runs.
    #[error("run statistics: {}", Chain(&**.0))]
    Statistics(Box<SyscallError>),
    /// The name is not one of weir's maps.
    #[error("no map {0:?}; expected one of {known}", known = super::object::NAMES.join(", "))]
    UnknownMap(String),
    /// The kernel offers no way to iterate over a map.
    #[error("map {name} cannot be dumped: {why}")]
    NotIterable {
        /// The map.
        name: &'static str,
        /// What it is.
        why: &'static str,
    },
    /// The flag could not be set.
    #[error(transparent)]
    Watched(Box<crate::redirect::Error>),
}

/// An error with what caused it, on one line.
struct Chain<'a, E>(&'a E);

impl<E: std::error::Error> fmt::Display for Chain<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod fake;
