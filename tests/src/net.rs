//! Nodes and pods: a bridge in each node's namespace, a veth pair to each pod, nodes joined by one more bridge.
//!
//! Node *n* is 10.77.n.1 and fd77:n::1 towards its pods, 10.76.0.n and fd76::n towards other nodes; its pods count up
//! from 10.77.n.10 and fd77:n::10. All of it is inside namespaces, so that every test uses the same addresses.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    process,
    sync::{
        Arc, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    cgroup::Tree,
    netns::Netns,
    poll::wait_for,
    process::{Launch, Process},
    sweep,
};

/// Tests of one process share this; the heavy ones take it alone.
static ALONE: RwLock<()> = RwLock::new(());
static COUNT: AtomicU32 = AtomicU32::new(0);

/// Pods of a node count up from this in the last part of their addresses.
const FIRST_POD: u32 = 10;

/// The network of one test.
#[derive(Debug)]
pub struct Net {
    prefix: String,
    nodes: Vec<Arc<Node>>,
    fabric: Option<Netns>,
    cgroups: Arc<Tree>,
    directory: TempDir,
    _turn: Turn,
}

/// Whether other tests of this process may run at the same time.
#[derive(Debug)]
enum Turn {
    Shared { _guard: RwLockReadGuard<'static, ()> },
    Alone { _guard: RwLockWriteGuard<'static, ()> },
}

impl Net {
    /// A network beside those of other tests.
    pub fn new() -> Self {
        Self::make(Turn::Shared { _guard: ALONE.read().unwrap_or_else(|poisoned| poisoned.into_inner()) })
    }

    /// A network for a test that measures, or that loads the machine: no other test of this process runs meanwhile.
    pub fn alone() -> Self {
        Self::make(Turn::Alone { _guard: ALONE.write().unwrap_or_else(|poisoned| poisoned.into_inner()) })
    }

    fn make(turn: Turn) -> Self {
        sweep::once();
        let prefix = format!("{}{}-{}", sweep::PREFIX, process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let directory =
            tempfile::Builder::new().prefix(&format!("{prefix}-")).tempdir().expect("a temporary directory");
        // The proxy reaches the agent's socket and its own files as an unprivileged user.
        std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("chmod of a directory of this test");
        let cgroups = Arc::new(Tree::create(&prefix));
        Self { prefix, nodes: Vec::new(), fabric: None, cgroups, directory, _turn: turn }
    }

    /// What every name of this network starts with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Files of this test; world-readable.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A further node.
    pub fn node(&mut self, name: &str) -> Arc<Node> {
        let number = self.nodes.len() as u32 + 1;
        let netns = Netns::create(&format!("{}-{name}", self.prefix));
        for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            netns.sysctl(key, "1");
        }
        netns.ip(&format!(
            "link add br0 type bridge mcast_snooping 0\naddr add 10.77.{number}.1/24 dev br0\n\
             addr add fd77:{number}::1/64 dev br0 nodad\nlink set br0 up"
        ));
        let node = Arc::new(Node {
            name: name.to_owned(),
            prefix: self.prefix.clone(),
            number,
            netns,
            pods: AtomicU32::new(0),
            cgroups: self.cgroups.clone(),
            directory: self.directory.path().to_owned(),
        });
        self.nodes.push(node.clone());
        if self.nodes.len() > 1 {
            self.join();
        }
        node
    }

    /// Joins the newest node with the earlier ones.
    fn join(&mut self) {
        let first_time = self.fabric.is_none();
        let fabric = self.fabric.get_or_insert_with(|| {
            let fabric = Netns::create(&format!("{}-fabric", self.prefix));
            fabric.ip("link add br0 type bridge mcast_snooping 0\nlink set br0 up");
            fabric
        });
        let newest = self.nodes.len() - 1;
        for (index, node) in self.nodes.iter().enumerate() {
            if first_time || index == newest {
                let number = node.number;
                fabric.ip(&format!(
                    "link add n{number} type veth peer name eth0 netns {}\nlink set n{number} master br0 up",
                    node.netns.name()
                ));
                node.netns.ip(&format!(
                    "addr add 10.76.0.{number}/24 dev eth0\naddr add fd76::{number}/64 dev eth0 nodad\nlink set eth0 up"
                ));
            }
        }
        for (index, node) in self.nodes.iter().enumerate() {
            for (other_index, other) in self.nodes.iter().enumerate() {
                if index != other_index && (index == newest || other_index == newest) {
                    let number = other.number;
                    node.netns.ip(&format!(
                        "route add 10.77.{number}.0/24 via 10.76.0.{number}\n\
                         route add fd77:{number}::/64 via fd76::{number}"
                    ));
                }
            }
        }
    }
}

impl Default for Net {
    fn default() -> Self {
        Self::new()
    }
}

/// A node: the namespace that its pods hang on.
#[derive(Debug)]
pub struct Node {
    name: String,
    prefix: String,
    number: u32,
    /// The node's own network namespace.
    pub netns: Netns,
    pods: AtomicU32,
    cgroups: Arc<Tree>,
    directory: PathBuf,
}

impl Node {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What names of this network start with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Files of this test.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The cgroups of this test.
    pub fn cgroups(&self) -> &Tree {
        &self.cgroups
    }

    /// The address that pods see the node's own processes at.
    pub fn ipv4(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.number as u8, 1)
    }

    /// The same of IPv6.
    pub fn ipv6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd77, self.number as u16, 0, 0, 0, 0, 0, 1)
    }

    /// A further pod on this node.
    pub fn pod(&self, name: &str) -> Pod {
        let count = self.pods.fetch_add(1, Ordering::Relaxed);
        let host = FIRST_POD + count;
        let number = self.number;
        let netns = Netns::create(&format!("{}-{}-{name}", self.prefix, self.name));
        self.netns.ip(&format!(
            "link add v{host} type veth peer name eth0 netns {}\nlink set v{host} master br0 up",
            netns.name()
        ));
        let ipv4 = Ipv4Addr::new(10, 77, number as u8, host as u8);
        let ipv6 = Ipv6Addr::new(0xfd77, number as u16, 0, 0, 0, 0, 0, host as u16);
        netns.ip(&format!(
            "addr add {ipv4}/24 dev eth0\naddr add {ipv6}/64 dev eth0 nodad\nlink set eth0 up\n\
             route add default via 10.77.{number}.1\nroute add ::/0 via fd77:{number}::1"
        ));
        Pod {
            name: name.to_owned(),
            netns,
            ipv4,
            ipv6,
            veth: format!("v{host}"),
            directory: self.directory.clone(),
            cgroup: self.cgroups.pod(&format!("{}-{name}", self.name)),
        }
    }

    /// A process in the node's namespace and outside the pods' cgroups.
    pub fn launch(&self, program: impl AsRef<Path>) -> Launch<'_> {
        Launch::new(program, &self.directory).netns(&self.netns)
    }

    /// Waits until the kernel has destroyed the namespace that `veth` led to: a veth end goes with its peer's namespace,
    /// and a namespace lives as long as anything (a file, a socket, a process) refers to it.
    pub fn wait_until_gone(&self, veth: &str) {
        wait_for(&format!("{veth} of node {} goes away", self.name), Duration::from_secs(60), || {
            let links = self.links();
            if links.iter().any(|link| link == veth) { Err(links) } else { Ok(()) }
        });
    }

    /// The names of the node's network interfaces.
    pub fn links(&self) -> Vec<String> {
        self.netns.run(|| {
            nix::net::if_::if_nameindex()
                .expect("the kernel lists interfaces")
                .iter()
                .map(|interface| interface.name().to_string_lossy().into_owned())
                .collect()
        })
    }
}

/// A pod: a namespace with one interface.
#[derive(Debug)]
pub struct Pod {
    name: String,
    /// Its network namespace.
    pub netns: Netns,
    /// Its IPv4 address.
    pub ipv4: Ipv4Addr,
    /// Its IPv6 address.
    pub ipv6: Ipv6Addr,
    veth: String,
    directory: PathBuf,
    cgroup: PathBuf,
}

impl Pod {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Name of the node's end of its interface.
    pub fn veth(&self) -> &str {
        &self.veth
    }

    /// Files of this test.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The IPv4 address with a port.
    pub fn v4(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.ipv4), port)
    }

    /// The IPv6 address with a port.
    pub fn v6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V6(self.ipv6), port)
    }

    /// A process in the pod: its namespace and its cgroup.
    pub fn launch(&self, program: impl AsRef<Path>) -> Launch<'_> {
        Launch::new(program, &self.directory).netns(&self.netns).cgroup(&self.cgroup)
    }

    /// A process that sleeps in the pod, for tests that need one.
    pub fn pause(&self) -> Process {
        self.launch("sleep").args(["3600"]).start()
    }
}
