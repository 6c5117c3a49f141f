//! Keys and values of every map, with the maps' names and sizes.

use crate::addr::Ip;

/// The maps, by the names that they are pinned and dumped under.
pub mod name {
    /// `ARRAY[1]` of [`Config`](super::Config).
    pub const CONFIG: &str = "CONFIG";
    /// `HASH`: netns cookie (`u64`) -> [`PodConfig`](super::PodConfig).
    pub const ENROLLED: &str = "ENROLLED";
    /// `ARRAY[MAX_PODS]` of [`SlotConfig`](super::SlotConfig): what `sk_lookup`, which has no netns cookie, knows of its pod.
    pub const SLOTS: &str = "SLOTS";
    /// `HASH`: [`PortKey`](super::PortKey) -> `u32` (present or not).
    pub const PORT_RULES: &str = "PORT_RULES";
    /// `LPM_TRIE`: [`CidrKey`](super::CidrKey) -> `u32` (present or not): excluded outbound CIDRs.
    pub const EXCLUDED_CIDRS: &str = "EXCLUDED_CIDRS";
    /// `SOCKMAP[MAX_PODS * MAX_LISTENERS]`: the inbound listening sockets of a pod.
    pub const LISTENERS: &str = "LISTENERS";
    /// `SK_STORAGE` of [`Endpoint`](crate::Endpoint) on the application's sockets: what `getpeername` must answer.
    pub const PEER: &str = "PEER";
    /// `SK_STORAGE` of [`Endpoint`](crate::Endpoint) on the proxy's accepted sockets: the original destination.
    pub const ACCEPTED: &str = "ACCEPTED";
    /// `SK_STORAGE` of [`Endpoint`](crate::Endpoint) on the proxy's upstream sockets: its tag, set by fd from userspace.
    pub const UPSTREAM: &str = "UPSTREAM";
    /// `HASH`: [`PendingKey`](super::PendingKey) -> [`Endpoint`](crate::Endpoint): between a SYN and the accepted socket.
    pub const PENDING: &str = "PENDING";
    /// `SK_STORAGE` of [`FourTuple`](super::FourTuple) on sockets that the node's own processes connected.
    pub const NODE_SOCKETS: &str = "NODE_SOCKETS";
    /// `LRU_HASH`: [`FourTuple`](super::FourTuple) -> `u32` (present or not): open connections of the node's own processes.
    pub const NODE_CONNECTIONS: &str = "NODE_CONNECTIONS";
    /// `PERCPU_ARRAY[MAX_PODS * MAX_RULES]` of `u64`: decisions per pod slot and rule.
    pub const COUNTERS: &str = "COUNTERS";
    /// `LRU_PERCPU_HASH`: [`FlowKey`](super::FlowKey) -> [`FlowValue`](super::FlowValue).
    pub const FLOWS: &str = "FLOWS";
    /// `RINGBUF` of [`Event`](crate::event::Event).
    pub const EVENTS: &str = "EVENTS";
    /// `PERCPU_ARRAY[Fault::COUNT]` of `u64`, indexed by [`Fault`](super::Fault).
    pub const FAULTS: &str = "FAULTS";
}

/// Pods that one node can enroll (Kubernetes' default ceiling is 110, the largest in use about 500).
pub const MAX_PODS: u32 = 1024;
/// Inbound listening sockets of one pod: one per worker, workers beyond share.
pub const MAX_LISTENERS: u32 = 16;
/// Rules that a decision can be counted under; see [`crate::verdict::Rule`].
pub const MAX_RULES: u32 = 32;
/// Addresses that one pod can have.
pub const MAX_POD_IPS: usize = 8;
/// Entries of [`name::ENROLLED`].
pub const MAX_ENROLLED: usize = MAX_PODS as usize;
/// Entries of [`name::PORT_RULES`].
pub const MAX_PORT_RULES: usize = 65_536;
/// Entries of [`name::EXCLUDED_CIDRS`].
pub const MAX_CIDRS: usize = 65_536;
/// Entries of [`name::PENDING`]: allocated as used, bounded by each pod's ephemeral ports.
pub const MAX_PENDING: usize = 1 << 20;
/// Entries of [`name::NODE_CONNECTIONS`].
pub const MAX_NODE_CONNECTIONS: usize = 16_384;
/// Entries of [`name::FLOWS`].
pub const MAX_FLOWS: usize = 16_384;
/// Bytes of [`name::EVENTS`].
pub const EVENTS_BYTES: usize = 1 << 20;

/// The pod-side port of redirected outbound connections, as Istio's `virtualOutbound`.
pub const OUTBOUND_PORT: u16 = 15001;
/// The pod-side port of steered inbound connections, as Istio's `virtualInbound`.
pub const INBOUND_PORT: u16 = 15006;

/// What holds for the whole node.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Cookie of the node's own network namespace (`SO_NETNS_COOKIE`).
    pub node_netns: u64,
    /// cgroup id of the directory that holds all pods (`kubepods`); 0: no process counts as the node's own.
    pub pods_cgroup: u64,
    /// Depth of that directory below the root of cgroup2 (the root is 0).
    pub pods_cgroup_level: u32,
    /// Bits of [`config_flag`].
    pub flags: u32,
    /// Port that outbound connections are rewritten to, in host byte order.
    pub outbound_port: u32,
    /// Always 0.
    pub reserved: u32,
}
const _: () = assert!(size_of::<Config>() == 32);

/// Bits of [`Config::flags`].
pub mod config_flag {
    /// Somebody watches: write events.
    pub const WATCHED: u32 = 1;
    /// A proxy said Ready and is connected; without it pods that fail open are left alone.
    pub const PROXY_READY: u32 = 2;
}

/// An enrolled pod, by its netns cookie.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodConfig {
    /// Index into [`name::SLOTS`] and the first half of every per-pod key.
    pub slot: u32,
    /// Bits of [`pod_flag`].
    pub flags: u32,
    /// The pod's addresses, the unused ones [`Ip::UNSPECIFIED`].
    pub ips: [Ip; MAX_POD_IPS],
    /// The address that IPv4 connections are rewritten to, or [`Ip::UNSPECIFIED`].
    pub redirect_v4: Ip,
    /// The address that IPv6 connections are rewritten to, or [`Ip::UNSPECIFIED`].
    pub redirect_v6: Ip,
}
const _: () = assert!(size_of::<PodConfig>() == 8 + 16 * (MAX_POD_IPS + 2));

/// Bits of [`PodConfig::flags`] and [`SlotConfig::flags`].
pub mod pod_flag {
    /// The slot is in use.
    pub const ENROLLED: u32 = 1;
    /// The pod opted out of failing closed.
    pub const FAIL_OPEN: u32 = 2;
    /// Only in [`PodConfig`](super::PodConfig), for whoever takes the pod out: weir reserved its outbound port in the
    /// pod's namespace.
    pub const RESERVED_OUTBOUND: u32 = 4;
    /// The same for its inbound port.
    pub const RESERVED_INBOUND: u32 = 8;
    /// The same for whoever takes the pod out: weir lets its ports in TIME_WAIT be used again.
    pub const TIME_WAIT_REUSE: u32 = 16;
}

/// What the `sk_lookup` instance of a pod knows, by slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotConfig {
    /// The pod's netns cookie.
    pub netns: u64,
    /// Bits of [`pod_flag`].
    pub flags: u32,
    /// Inbound listening sockets in [`name::LISTENERS`], from `slot * MAX_LISTENERS` on.
    pub listeners: u32,
}
const _: () = assert!(size_of::<SlotConfig>() == 16);

/// A port that is treated apart, per pod.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PortKey {
    /// The pod's slot.
    pub slot: u32,
    /// The port, in host byte order.
    pub port: u16,
    /// A value of [`PortRule`].
    pub kind: u16,
}
const _: () = assert!(size_of::<PortKey>() == 8);

/// What a [`PortKey`] says of its port.
#[repr(u16)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortRule {
    /// Outbound connections to it are left alone.
    ExcludedOutbound = 1,
    /// Inbound connections to it are left alone.
    ExcludedInbound = 2,
    /// A probe of the pod names it: the node's own processes may reach it untouched.
    Probe = 3,
}

/// The data of an LPM key: an excluded outbound CIDR of a pod. The prefix length counts the 32 bits of the slot, and
/// IPv4 prefixes lie below `::ffff:0:0/96`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CidrKey {
    /// The pod's slot.
    pub slot: u32,
    /// The address.
    pub ip: Ip,
}
const _: () = assert!(size_of::<CidrKey>() == 20);
/// Prefix length of a lookup in [`name::EXCLUDED_CIDRS`], in bits.
pub const CIDR_LOOKUP_BITS: u32 = 32 + 128;

/// A redirected or handed-over connection between its SYN and its accepted socket, as its client sees it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PendingKey {
    /// Network namespace cookie: both ends are in it.
    pub netns: u64,
    /// Source address.
    pub source_ip: Ip,
    /// Address that the SYN goes to, after rewriting.
    pub target_ip: Ip,
    /// Source port, in host byte order.
    pub source_port: u32,
    /// Port that the SYN goes to, after rewriting, in host byte order.
    pub target_port: u32,
}
const _: () = assert!(size_of::<PendingKey>() == 48);

/// A connection as its client sees it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FourTuple {
    /// Source address.
    pub source_ip: Ip,
    /// Destination address.
    pub destination_ip: Ip,
    /// Source port, in host byte order; 0: not connected yet.
    pub source_port: u32,
    /// Destination port, in host byte order.
    pub destination_port: u32,
}
const _: () = assert!(size_of::<FourTuple>() == 40);

/// A row of `weirctl redirect list`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// The pod's slot.
    pub slot: u32,
    /// A value of [`crate::Rule`]; it implies the direction.
    pub rule: u32,
    /// The original destination's address.
    pub ip: Ip,
    /// The original destination's port, in host byte order.
    pub port: u32,
    /// Always 0.
    pub reserved: u32,
}
const _: () = assert!(size_of::<FlowKey>() == 32);

/// How often and when a [`FlowKey`] was last decided, per CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowValue {
    /// Decisions.
    pub count: u64,
    /// `CLOCK_MONOTONIC` of the last one, in nanoseconds.
    pub last_seen: u64,
}
const _: () = assert!(size_of::<FlowValue>() == 16);

/// What went wrong inside the eBPF programs themselves, counted in [`name::FAULTS`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No socket storage for the original destination: the connection was refused.
    PeerStorage = 0,
    /// No room for a pending entry: the proxy will find no original destination and close.
    PendingInsert = 1,
    /// No socket storage on the accepted socket: the proxy will find no original destination and close.
    AcceptedStorage = 2,
    /// No room in the ring buffer: an event was not written.
    EventDropped = 3,
    /// No socket storage for a node process: its connection goes to the proxy.
    NodeStorage = 4,
    /// No room for a node process's connection: it goes to the proxy.
    NodeInsert = 5,
}

impl Fault {
    /// Every fault, in the order of its index.
    pub const ALL: [Self; 6] = [
        Self::PeerStorage,
        Self::PendingInsert,
        Self::AcceptedStorage,
        Self::EventDropped,
        Self::NodeStorage,
        Self::NodeInsert,
    ];
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// The name that `weirctl` shows.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PeerStorage => "peer-storage",
            Self::PendingInsert => "pending-insert",
            Self::AcceptedStorage => "accepted-storage",
            Self::EventDropped => "event-dropped",
            Self::NodeStorage => "node-storage",
            Self::NodeInsert => "node-insert",
        }
    }
}
