//! The agent's side of the handoff protocol (`proto/handoff.proto`): pods and their sockets to the proxies.
//!
//! Each proxy has a connection of its own, with a deadline for every message: one that is stuck is dropped, and holds up
//! neither the reconciler nor another proxy. What to send is decided elsewhere; this module speaks.

mod channel;
mod connection;
mod fleet;
mod server;

pub use channel::MAX_FDS;
pub use connection::{Event, ListenersHandedBack, Peer, Proxy, ProxyId};
pub use fleet::{Fleet, Member};
pub use server::{Error, Server};

use std::os::fd::OwnedFd;

use crate::netns::Family;

/// The version of the protocol.
pub const VERSION: u32 = 1;

/// Makes upstream sockets for the proxies, outside the reconciler: a dial may wait for one.
pub trait UpstreamSockets: Send + Sync + 'static {
    /// Unconnected, tagged sockets in a pod's network namespace; else why not. Blocks.
    fn make(&self, uid: &str, family: Family, count: u32) -> Result<Vec<OwnedFd>, String>;
}
