//! Typed handles of the maps that the agent writes.

use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
};

use aya::{
    Ebpf,
    maps::{
        Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, PerCpuHashMap, PerCpuValues, SkStorage, SockMap,
        lpm_trie,
    },
    util::nr_cpus,
};
use ipnet::IpNet;
use weir_abi::{
    Endpoint, Ip,
    map::{
        CidrKey, Config, FlowKey, FlowValue, MAX_LISTENERS, MAX_PODS, MAX_RULES, PodConfig, PortKey, SlotConfig, name,
    },
};

use super::{Error, bytes::ToBytes, inspect::decode::FromBytes};

const CONFIG: usize = size_of::<Config>();
const POD: usize = size_of::<PodConfig>();
const SLOT: usize = size_of::<SlotConfig>();
const PORT_KEY: usize = size_of::<PortKey>();
const CIDR_KEY: usize = size_of::<CidrKey>();
const ENDPOINT: usize = size_of::<Endpoint>();
const FLOW_KEY: usize = size_of::<FlowKey>();
const FLOW: usize = size_of::<FlowValue>();

/// Bits of the slot, which come before those of the address.
const SLOT_BITS: u32 = 32;
/// Bits before those of an IPv4 address in its mapped form.
const MAPPED_BITS: u32 = 96;

/// Ports and CIDRs of one pod that are treated apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodRules {
    /// A port, and a value of [`weir_abi::map::PortRule`].
    pub ports: BTreeSet<(u16, u16)>,
    /// Outbound CIDRs that are left alone.
    pub cidrs: BTreeSet<IpNet>,
}

/// `CONFIG`.
pub(super) struct ConfigMap {
    map: Array<MapData, [u8; CONFIG]>,
    fd: OwnedFd,
}

impl ConfigMap {
    /// Takes it from the loaded object.
    pub(super) fn take(object: &mut Ebpf) -> Result<Self, Error> {
        let Some(Map::Array(map)) = object.map(name::CONFIG) else { return Err(Error::NoMap(name::CONFIG)) };
        let fd = map.fd().as_fd().try_clone_to_owned();
        let fd = fd.map_err(|error| map_error(name::CONFIG)(MapError::IoError(error)))?;
        Ok(Self { map: take(object, name::CONFIG)?, fd })
    }

    /// The map that a file descriptor is of.
    pub(super) fn open(fd: OwnedFd) -> Result<Self, Error> {
        let copy = fd.try_clone().map_err(MapError::IoError);
        let open = |copy| Map::from_map_data(MapData::from_fd(copy)?)?.try_into();
        let map = copy.and_then(open).map_err(map_error(name::CONFIG))?;
        Ok(Self { map, fd })
    }

    /// A copy of its file descriptor.
    pub(super) fn fd(&self) -> io::Result<OwnedFd> {
        self.fd.try_clone()
    }

    pub(super) fn get(&self) -> Result<Config, Error> {
        self.map.get(&0, 0).map(|bytes| Config::from_bytes(&bytes)).map_err(map_error(name::CONFIG))
    }

    pub(super) fn set(&mut self, config: &Config) -> Result<(), Error> {
        self.map.set(0, config.to_bytes(), 0).map_err(map_error(name::CONFIG))
    }
}

/// The two socket-storage maps that the proxy is given, and the agent's use of one of them.
pub(super) struct SocketMaps {
    upstream: SkStorage<MapData, [u8; ENDPOINT]>,
    upstream_fd: OwnedFd,
    accepted_fd: OwnedFd,
}

impl SocketMaps {
    /// Takes them from the loaded object.
    pub(super) fn take(object: &mut Ebpf) -> Result<Self, Error> {
        let copy = |object: &Ebpf, name: &'static str| {
            let Some(Map::SkStorage(map)) = object.map(name) else { return Err(Error::NoMap(name)) };
            let copied = map.fd().as_fd().try_clone_to_owned();
            copied.map_err(|error| map_error(name)(MapError::IoError(error)))
        };
        let (upstream_fd, accepted_fd) = (copy(object, name::UPSTREAM)?, copy(object, name::ACCEPTED)?);
        Ok(Self { upstream: take(object, name::UPSTREAM)?, upstream_fd, accepted_fd })
    }

    /// `ACCEPTED` and `UPSTREAM`.
    pub(super) fn fds(&self) -> (&OwnedFd, &OwnedFd) {
        (&self.accepted_fd, &self.upstream_fd)
    }

    /// Tags an upstream socket.
    pub(super) fn tag(&mut self, socket: &impl AsRawFd, tag: &Endpoint) -> Result<(), Error> {
        self.upstream.insert(socket, tag.to_bytes(), 0).map_err(map_error(name::UPSTREAM))
    }
}

/// Every pod that is enrolled by a pinned map, with its cookie; none if there is no such pin.
pub(super) fn pinned_enrolled(pin: &Path) -> Result<Vec<(u64, PodConfig)>, Error> {
    if !pin.exists() {
        return Ok(Vec::new());
    }
    let read = || -> Result<Vec<(u64, PodConfig)>, MapError> {
        let map: HashMap<_, u64, [u8; POD]> = Map::from_map_data(MapData::from_pin(pin)?)?.try_into()?;
        map.iter().map(|entry| entry.map(|(cookie, pod)| (cookie, PodConfig::from_bytes(&pod)))).collect()
    };
    read().map_err(|source| Error::Pinned { pin: pin.to_owned(), source: Box::new(source) })
}

/// The maps that hold pods.
pub(super) struct PodMaps {
    enrolled: HashMap<MapData, u64, [u8; POD]>,
    slots: Array<MapData, [u8; SLOT]>,
    port_rules: HashMap<MapData, [u8; PORT_KEY], u32>,
    cidrs: LpmTrie<MapData, [u8; CIDR_KEY], u32>,
    listeners: SockMap<MapData>,
    counters: PerCpuArray<MapData, u64>,
    flows: PerCpuHashMap<MapData, [u8; FLOW_KEY], [u8; FLOW]>,
    /// Possible CPUs: how many values a counter has.
    cpus: usize,
}

impl PodMaps {
    /// Takes them from the loaded object.
    pub(super) fn take(object: &mut Ebpf) -> Result<Self, Error> {
        let cpus = nr_cpus().map_err(|(path, source)| Error::Io { action: "read", path: path.into(), source })?;
        Ok(Self {
            enrolled: take(object, name::ENROLLED)?,
            slots: take(object, name::SLOTS)?,
            port_rules: take(object, name::PORT_RULES)?,
            cidrs: take(object, name::EXCLUDED_CIDRS)?,
            listeners: take(object, name::LISTENERS)?,
            counters: take(object, name::COUNTERS)?,
            flows: take(object, name::FLOWS)?,
            cpus,
        })
    }

    /// Every enrolled pod, with its cookie.
    pub(super) fn enrolled(&self) -> Result<Vec<(u64, PodConfig)>, Error> {
        let pods = self.enrolled.iter().map(|entry| entry.map(|(cookie, pod)| (cookie, PodConfig::from_bytes(&pod))));
        pods.collect::<Result<_, _>>().map_err(map_error(name::ENROLLED))
    }

    pub(super) fn enroll(&mut self, cookie: u64, pod: &PodConfig) -> Result<(), Error> {
        self.enrolled.insert(cookie, pod.to_bytes(), 0).map_err(map_error(name::ENROLLED))
    }

    pub(super) fn unenroll(&mut self, cookie: u64) -> Result<(), Error> {
        absent_is_fine(self.enrolled.remove(&cookie)).map_err(map_error(name::ENROLLED))
    }

    pub(super) fn set_slot(&mut self, slot: u32, config: &SlotConfig) -> Result<(), Error> {
        self.slots.set(slot, config.to_bytes(), 0).map_err(map_error(name::SLOTS))
    }

    /// Puts a slot's listening sockets in, and takes those beyond them out.
    pub(super) fn set_listeners(&mut self, slot: u32, sockets: &[impl AsRawFd]) -> Result<(), Error> {
        let first = slot * MAX_LISTENERS;
        for (index, socket) in (first..first + MAX_LISTENERS).zip(sockets) {
            self.listeners.set(index, socket, 0).map_err(map_error(name::LISTENERS))?;
        }
        for index in first + sockets.len() as u32..first + MAX_LISTENERS {
            absent_is_fine(self.listeners.clear_index(&index)).map_err(map_error(name::LISTENERS))?;
        }
        Ok(())
    }

    /// Slots that are filled, or that have ports or CIDRs.
    pub(super) fn used_slots(&self) -> Result<BTreeSet<u32>, Error> {
        let mut used = BTreeSet::new();
        for slot in 0..MAX_PODS {
            let bytes = self.slots.get(&slot, 0).map_err(map_error(name::SLOTS))?;
            if SlotConfig::from_bytes(&bytes) != SlotConfig::default() {
                used.insert(slot);
            }
        }
        for key in self.port_rules.keys() {
            used.insert(PortKey::from_bytes(&key.map_err(map_error(name::PORT_RULES))?).slot);
        }
        for key in self.cidrs.keys() {
            used.insert(CidrKey::from_bytes(&key.map_err(map_error(name::EXCLUDED_CIDRS))?.data()).slot);
        }
        Ok(used)
    }

    /// The ports and CIDRs of a slot, as the kernel has them.
    pub(super) fn rules(&self, slot: u32) -> Result<PodRules, Error> {
        let mut rules = PodRules::default();
        for key in self.port_rules.keys() {
            let key = PortKey::from_bytes(&key.map_err(map_error(name::PORT_RULES))?);
            if key.slot == slot {
                rules.ports.insert((key.port, key.kind));
            }
        }
        for key in self.cidrs.keys() {
            let key = key.map_err(map_error(name::EXCLUDED_CIDRS))?;
            let data = CidrKey::from_bytes(&key.data());
            if data.slot == slot {
                rules.cidrs.extend(network(key.prefix_len(), data.ip));
            }
        }
        Ok(rules)
    }

    /// Turns a slot's rules from `from` into `to`; first what is added, then what goes.
    pub(super) fn change_rules(&mut self, slot: u32, from: &PodRules, to: &PodRules) -> Result<(), Error> {
        let port = |(port, kind): (u16, u16)| PortKey { slot, port, kind }.to_bytes();
        for rule in to.ports.difference(&from.ports) {
            self.port_rules.insert(port(*rule), 1, 0).map_err(map_error(name::PORT_RULES))?;
        }
        for cidr in to.cidrs.difference(&from.cidrs) {
            self.cidrs.insert(&trie_key(slot, cidr), 1, 0).map_err(map_error(name::EXCLUDED_CIDRS))?;
        }
        for rule in from.ports.difference(&to.ports) {
            absent_is_fine(self.port_rules.remove(&port(*rule))).map_err(map_error(name::PORT_RULES))?;
        }
        for cidr in from.cidrs.difference(&to.cidrs) {
            absent_is_fine(self.cidrs.remove(&trie_key(slot, cidr))).map_err(map_error(name::EXCLUDED_CIDRS))?;
        }
        Ok(())
    }

    /// Forgets what was counted for a slot, so that its next pod starts from nothing; the decisions, by the rule's number.
    pub(super) fn clear_counts(&mut self, slot: u32) -> Result<Vec<u64>, Error> {
        let mut counted = Vec::with_capacity(MAX_RULES as usize);
        for index in slot * MAX_RULES..(slot + 1) * MAX_RULES {
            let zero = PerCpuValues::try_from(vec![0; self.cpus])
                .map_err(|error| map_error(name::COUNTERS)(MapError::IoError(error)))?;
            let values = self.counters.get(&index, 0).map_err(map_error(name::COUNTERS))?;
            counted.push(values.iter().sum());
            self.counters.set(index, zero, 0).map_err(map_error(name::COUNTERS))?;
        }
        // Of a slot, or of none any more: the least recently used go while the keys are read.
        let keys: Vec<[u8; FLOW_KEY]> = self.flows.keys().filter_map(Result::ok).collect();
        for key in keys.iter().filter(|key| FlowKey::from_bytes(key).slot == slot) {
            absent_is_fine(self.flows.remove(key)).map_err(map_error(name::FLOWS))?;
        }
        Ok(counted)
    }
}

fn take<T: TryFrom<Map, Error = MapError>>(object: &mut Ebpf, name: &'static str) -> Result<T, Error> {
    let map = object.take_map(name).ok_or(Error::NoMap(name))?;
    map.try_into().map_err(map_error(name))
}

fn map_error(name: &'static str) -> impl Fn(MapError) -> Error {
    move |source| Error::Map { name, source: Box::new(source) }
}

/// Removing what is not there is not an error. The kernel says ENOENT, or EINVAL for an empty index of a sockmap.
fn absent_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if matches!(error.io_error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) =>
        {
            Ok(())
        }
        result => result,
    }
}

fn trie_key(slot: u32, cidr: &IpNet) -> lpm_trie::Key<[u8; CIDR_KEY]> {
    let prefix = u32::from(cidr.prefix_len()) + if cidr.addr().is_ipv4() { MAPPED_BITS } else { 0 };
    lpm_trie::Key::new(SLOT_BITS + prefix, CidrKey { slot, ip: cidr.network().into() }.to_bytes())
}

/// The CIDR of a trie key; none for a prefix that the agent never writes.
fn network(prefix: u32, ip: Ip) -> Option<IpNet> {
    let address = IpAddr::from(ip);
    let bits = prefix.checked_sub(SLOT_BITS + if address.is_ipv4() { MAPPED_BITS } else { 0 })?;
    IpNet::new(address, u8::try_from(bits).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cidrs_survive_the_round_trip() {
        for text in ["0.0.0.0/0", "10.0.0.0/8", "192.0.2.7/32", "::/0", "fd00::/8", "2001:db8::1/128"] {
            let cidr: IpNet = text.parse().unwrap();
            let key = trie_key(7, &cidr);
            let data = CidrKey::from_bytes(&key.data());
            assert_eq!((data.slot, network(key.prefix_len(), data.ip)), (7, Some(cidr)), "{text}");
        }
        assert_eq!(trie_key(0, &"10.0.0.0/8".parse().unwrap()).prefix_len(), 32 + 96 + 8);
        assert_eq!(network(16, Ip::UNSPECIFIED), None);
    }
}
