//! What tells cells apart, and how they stand.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;

use crate::config::error::Error;

/// Envoy's default of `initial_fetch_timeout`.
pub const INITIAL_FETCH_TIMEOUT: Duration = Duration::from_secs(15);

/// What is in a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A route configuration.
    Routes,
    /// Virtual hosts of a route configuration, by whose name they are asked for.
    Hosts,
    /// All scopes of a `ScopedRoutes`, by names that are not known beforehand.
    ScopedRoutes,
    /// A certificate, a validation context, keys of session tickets.
    Secret,
    /// A filter's configuration.
    Extension,
    /// A layer of runtime values.
    Runtime,
}

/// Where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// `path_config_source`: a file of its own.
    File(Arc<str>),
    /// `ads`: the stream of the bootstrap's `ads_config`.
    Ads,
    /// `api_config_source`: a server of its own; the message, encoded.
    Server(Bytes),
}

impl Source {
    /// A file that is there; `at`: the path of the field that names it.
    pub(crate) fn file(path: &str, at: &str) -> Result<Self, Error> {
        match Path::new(path).is_file() {
            true => Ok(Self::File(path.into())),
            false => {
                let message = format!("paths must refer to an existing path in the system: '{path}' does not exist");
                Err(Error::at(at, message))
            }
        }
    }
}

/// What tells cells apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subject {
    /// What is in it.
    pub kind: Kind,
    /// Where that comes from.
    pub source: Source,
    /// What it is called there; empty: everything of its kind.
    pub name: Arc<str>,
}

/// How a cell stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nobody wants it yet.
    Sleeping,
    /// Nothing has come yet.
    Waiting,
    /// It has a value.
    Ready,
    /// What came first was refused, or was not there: nobody waits any longer.
    Refused,
    /// Nothing came in time; nobody waits any longer.
    TimedOut,
    /// The source says that there is none.
    Absent,
}

/// What is known of what came, for those who look at the configuration.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// What is in force.
    pub accepted: Option<Accepted>,
    /// What came last, if it was refused.
    pub refused: Option<Refused>,
}

/// A resource in force.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// The encoded message.
    pub body: Bytes,
    /// The version under which it came first.
    pub version: Arc<str>,
    /// When that was.
    pub at: SystemTime,
}

/// A resource that was refused.
#[derive(Clone, Debug)]
pub struct Refused {
    /// The encoded message.
    pub body: Bytes,
    /// Its version.
    pub version: Arc<str>,
    /// When it came.
    pub at: SystemTime,
    /// Why.
    pub why: String,
}

/// Who feeds cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feeder {
    /// Who follows files.
    Files,
    /// Who follows management servers.
    Servers,
}

impl Source {
    /// Who feeds from it.
    pub fn feeder(&self) -> Feeder {
        match self {
            Self::File(_) => Feeder::Files,
            Self::Ads | Self::Server(_) => Feeder::Servers,
        }
    }
}
