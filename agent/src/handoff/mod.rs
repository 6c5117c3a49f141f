//! The agent's side of the handoff protocol (`proto/handoff.proto`): pods and their sockets to the proxies.
//!
//! Each proxy has a connection of its own, with a deadline for every message: one that is stuck is dropped, and holds up
//! neither the reconciler nor another proxy. What to send is decided elsewhere; this module speaks.

pub(crate) mod channel;
mod connection;
mod fleet;
mod needs;
mod proxy;
mod pulse;
mod question;
mod server;

pub use channel::MAX_FDS;
pub use connection::{Event, ListenersHandedBack};
pub use fleet::{Fleet, Member, ProxyState};
#[cfg(test)]
pub(crate) use proxy::Outgoing;
pub use proxy::{Proxy, ProxyId};
pub use server::Server;

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd, RawFd},
};

use futures_util::future::BoxFuture;
use weir_abi::verdict::Direction;
use weir_proto::handoff::v1 as wire;

use crate::netns::{Family, PodListener};

/// The version of the protocol.
pub const VERSION: u32 = 1;

/// Makes upstream sockets for the proxies, outside the reconciler: a dial may wait for one.
pub trait UpstreamSockets: Send + Sync + 'static {
    /// Resolves once it is certain whether a pod is known: at once, but while the agent takes over from an earlier one.
    fn known<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, ()>;

    /// Unconnected, tagged sockets in a pod's network namespace; else why not. Blocks.
    fn make(&self, uid: &str, family: Family, count: u32) -> Result<Vec<OwnedFd>, String>;
}

/// A file descriptor of a process (Linux 5.3), readable once it has ended.
pub fn open_process(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes two numbers and no memory.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this file descriptor for this process; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// What a listening socket is called when it is passed on.
pub fn listener(listener: &PodListener) -> wire::Listener {
    let direction = match listener.direction {
        Direction::Outbound => wire::Direction::Outbound,
        Direction::Inbound => wire::Direction::Inbound,
    };
    wire::Listener { direction: direction.into(), worker: listener.worker, address: listener.address.to_string() }
}
