//! The maps: names, types and sizes are those of [`weir_abi::map`].

use aya_ebpf::Global;
use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::{
    Array, HashMap, LpmTrie, LruHashMap, LruPerCpuHashMap, PerCpuArray, RingBuf, SkStorage, SockMap,
};
use aya_ebpf::macros::btf_map;
use weir_abi::Endpoint;
use weir_abi::event::Event;
use weir_abi::map::{
    CidrKey, Config, EVENTS_BYTES, Fault, FlowKey, FlowValue, FourTuple, MAX_CIDRS, MAX_ENROLLED, MAX_FLOWS,
    MAX_LISTENERS, MAX_NODE_CONNECTIONS, MAX_PENDING, MAX_PODS, MAX_PORT_RULES, MAX_RULES, PendingKey, PodConfig,
    PortKey, SlotConfig,
};

/// For maps that are mostly empty and must not take their full size.
const AS_USED: usize = BPF_F_NO_PREALLOC as usize;
const LISTENER_SLOTS: usize = (MAX_PODS * MAX_LISTENERS) as usize;
const COUNTER_SLOTS: usize = (MAX_PODS * MAX_RULES) as usize;

#[btf_map]
pub static CONFIG: Array<Config, 1> = Array::new();
#[btf_map]
pub static ENROLLED: HashMap<u64, PodConfig, MAX_ENROLLED> = HashMap::new();
#[btf_map]
pub static SLOTS: Array<SlotConfig, { MAX_PODS as usize }> = Array::new();
#[btf_map]
pub static PORT_RULES: HashMap<PortKey, u32, MAX_PORT_RULES, AS_USED> = HashMap::new();
#[btf_map]
pub static EXCLUDED_CIDRS: LpmTrie<CidrKey, u32, MAX_CIDRS> = LpmTrie::new();
#[btf_map]
pub static LISTENERS: SockMap<LISTENER_SLOTS> = SockMap::new();
#[btf_map]
pub static PEER: SkStorage<Endpoint> = SkStorage::new();
#[btf_map]
pub static ACCEPTED: SkStorage<Endpoint> = SkStorage::new();
#[btf_map]
pub static UPSTREAM: SkStorage<Endpoint> = SkStorage::new();
#[btf_map]
pub static PENDING: HashMap<PendingKey, Endpoint, MAX_PENDING, AS_USED> = HashMap::new();
#[btf_map]
pub static NODE_SOCKETS: SkStorage<FourTuple> = SkStorage::new();
#[btf_map]
pub static NODE_CONNECTIONS: LruHashMap<FourTuple, u32, MAX_NODE_CONNECTIONS> = LruHashMap::new();
#[btf_map]
pub static COUNTERS: PerCpuArray<u64, COUNTER_SLOTS> = PerCpuArray::new();
#[btf_map]
pub static FLOWS: LruPerCpuHashMap<FlowKey, FlowValue, MAX_FLOWS> = LruPerCpuHashMap::new();
#[btf_map]
pub static EVENTS: RingBuf<Event, EVENTS_BYTES> = RingBuf::new();
#[btf_map]
pub static FAULTS: PerCpuArray<u64, { Fault::COUNT }> = PerCpuArray::new();

/// The pod that an instance of `weir_sklookup` serves; the agent sets it before it loads the instance.
#[unsafe(no_mangle)]
pub static SLOT: Global<u32> = Global::new(0);
