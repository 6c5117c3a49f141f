//! The keeper: a process of its own that holds copies of all listening sockets.
//!
//! Agent and proxy may end together, as when their pod is deleted: then the sockets, and with them the connections that
//! wait in their backlogs, live on in the keeper until the next agent fetches them. It is started by the agent, moves to
//! a cgroup of its own so that it outlives the agent's container, gives up every privilege, and ends by itself when no
//! agent comes back. It decides nothing and reads no connection: `accept` is not among the system calls that it may
//! make on what it keeps, and what it gives back the agent verifies like any other socket that it is handed.

mod cgroup;
mod client;
mod confine;
mod link;
mod process;
mod shelf;
mod start;
mod table;
mod wire;

pub use client::{Caring, Keeper, Status};
pub use process::{Error, keep};
pub use start::dismiss;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// Where the keeper is, and how long it waits.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The agent's instance.
    pub instance: String,
    /// Its socket.
    pub socket: PathBuf,
    /// The cgroup2 directory that it moves to.
    pub cgroup: PathBuf,
    /// Without an agent for so long it ends.
    pub patience: Duration,
    /// The agent's program.
    pub program: PathBuf,
}

impl Settings {
    /// Settings of this program's keeper.
    pub fn new(instance: &str, socket: &Path, cgroup: PathBuf, patience: Duration) -> Self {
        let (instance, socket) = (instance.to_owned(), socket.to_owned());
        Self { instance, socket, cgroup, patience, program: "/proc/self/exe".into() }
    }

    /// Where it writes what happens: nobody else may be there to hear it.
    pub fn log(&self) -> PathBuf {
        let mut path = self.socket.as_os_str().to_owned();
        path.push(".log");
        path.into()
    }
}
