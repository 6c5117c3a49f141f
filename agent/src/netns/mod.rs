//! Network namespaces of pods: entering them, what is in them, and the sockets that the agent makes there.
//!
//! A namespace is entered on a thread of its own, which ends there: no thread of the runtime ever leaves the agent's
//! namespace. The sockets made inside stay in their namespace wherever they are passed to.

mod address;
mod reserved;
mod search;
mod socket;
mod time_wait;
mod watch;

pub use search::all;
pub use socket::{Family, PodListener, check_handed_back, is_held, is_listening, listeners, upstream};
pub use watch::AddressChanges;

use std::{
    fs::{self, File},
    io,
    net::{IpAddr, SocketAddr},
    os::{linux::fs::MetadataExt, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
};

use nix::sched::{CloneFlags, setns};

/// `NSFS_MAGIC` of linux/magic.h.
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// Why a namespace, or something in it, could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing at the path.
    #[error("the network namespace {} does not exist", .0.display())]
    Missing(PathBuf),
    /// Something else at the path; what `ip netns delete` leaves for a moment is an empty file.
    #[error("{} is not a network namespace", .0.display())]
    NotANamespace(PathBuf),
    /// The kernel's answer to opening or entering it.
    #[error("cannot {action} the network namespace {}: {source}", path.display())]
    Enter {
        /// "open", "look at" or "enter".
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process has the port.
    #[error(
        "port {} is taken in the pod ({address}): weir needs it to itself; stop what listens there or move it to \
         another port", address.port()
    )]
    PortTaken {
        /// The address that could not be bound.
        address: SocketAddr,
    },
    /// A socket could not be made.
    #[error("cannot {action}: {source}")]
    Socket {
        /// What was tried.
        action: String,
        /// Why not.
        source: io::Error,
    },
    /// The proxy handed something back that is not the pod's listening socket.
    #[error("the socket handed back for {address} is not one of the pod's listening sockets: {problem}")]
    HandedBack {
        /// The address that it was said to have.
        address: String,
        /// What is wrong.
        problem: String,
    },
}

/// Which namespace it is: device and inode of its file. Not used again while anything holds the namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    device: u64,
    inode: u64,
}

/// A network namespace, held open.
#[derive(Debug)]
pub struct Netns {
    file: File,
    path: PathBuf,
    identity: Identity,
}

/// What is known of a namespace after a look inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// Its cookie (`SO_NETNS_COOKIE`): not used again until the machine restarts.
    pub cookie: u64,
    /// The pod's addresses: of global scope, not on loopback, in the order of the interfaces.
    pub ips: Vec<IpAddr>,
}

impl Identity {
    /// Of a namespace's file.
    pub fn of(metadata: &fs::Metadata) -> Self {
        Self { device: metadata.st_dev(), inode: metadata.st_ino() }
    }
}

impl Netns {
    /// Opens the namespace at a path.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let failed = |source: io::Error| match source.raw_os_error() {
            Some(libc::ENOENT | libc::ESRCH | libc::ENOTDIR) => Error::Missing(path.to_owned()),
            _ => Error::Enter { action: "open", path: path.to_owned(), source },
        };
        // Whatever is there: opening a FIFO would otherwise wait for its other end.
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
        Self::from_file(file, path.to_owned())
    }

    /// A namespace that is open already; `path` is what it is called.
    pub fn from_file(file: File, path: PathBuf) -> Result<Self, Error> {
        let failed = |source: io::Error| Error::Enter { action: "look at", path: path.clone(), source };
        let kind = nix::sys::statfs::fstatfs(&file).map_err(|errno| failed(errno.into()))?.filesystem_type();
        if kind.0 != NSFS_MAGIC {
            return Err(Error::NotANamespace(path));
        }
        let identity = Identity::of(&file.metadata().map_err(failed)?);
        Ok(Self { file, path, identity })
    }

    /// Its file.
    pub fn into_file(self) -> File {
        self.file
    }

    /// Which namespace it is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The path that it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which namespace is at a path now; none if there is none.
    pub fn identity_at(path: &Path) -> Option<Identity> {
        fs::metadata(path).ok().as_ref().map(Identity::of)
    }

    /// Runs `inside` in this namespace, on a thread that ends with it. Blocks.
    pub fn run<T: Send>(&self, inside: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
        let failed = |source| Error::Enter { action: "enter", path: self.path.clone(), source };
        thread::scope(|scope| {
            let work = || {
                setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(|errno| failed(errno.into()))?;
                inside()
            };
            let worker = thread::Builder::new().name("weir-netns".to_owned()).spawn_scoped(scope, work);
            match worker.map_err(failed)?.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Looks inside. Blocks.
    pub fn look(&self) -> Result<Contents, Error> {
        self.run(|| Ok(Contents { cookie: socket::netns_cookie()?, ips: address::pod_addresses()? }))
    }

    /// Takes weir's ports out of the range that connections get their source ports from, so that the application does
    /// not happen to sit on them. `proc` is where procfs is mounted writable. Those that were not reserved before. Blocks.
    pub fn reserve_ports(&self, proc: &Path, ports: &[u16]) -> Result<Vec<u16>, Error> {
        self.run(|| reserved::reserve(proc, ports))
    }

    /// Gives ports back that were reserved. Blocks.
    pub fn release_ports(&self, proc: &Path, ports: &[u16]) -> Result<(), Error> {
        self.run(|| reserved::release(proc, ports))
    }

    /// Lets new connections use source ports again that are in TIME_WAIT. Whether that was not so. Blocks.
    pub fn reuse_time_wait(&self, proc: &Path) -> Result<bool, Error> {
        self.run(|| time_wait::reuse(proc))
    }

    /// Undoes that. Blocks.
    pub fn restore_time_wait(&self, proc: &Path) -> Result<(), Error> {
        self.run(|| time_wait::restore(proc))
    }
}

impl std::os::fd::AsFd for Netns {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_namespace_is_named() {
        let missing = Netns::open(Path::new("/run/netns/no-such-pod")).unwrap_err().to_string();
        assert_eq!(missing, "the network namespace /run/netns/no-such-pod does not exist");
        let file = tempfile::NamedTempFile::new().unwrap();
        let other = Netns::open(file.path()).unwrap_err().to_string();
        assert_eq!(other, format!("{} is not a network namespace", file.path().display()));
        // Opened for reading it would wait for a writer.
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
        let other = Netns::open(&fifo).unwrap_err().to_string();
        assert_eq!(other, format!("{} is not a network namespace", fifo.display()));
    }

    #[test]
    fn a_taken_port_is_named() {
        let error = Error::PortTaken { address: "10.0.0.2:15001".parse().unwrap() };
        assert_eq!(
            error.to_string(),
            "port 15001 is taken in the pod (10.0.0.2:15001): weir needs it to itself; stop what listens there or \
             move it to another port"
        );
    }
}
