//! Maps, entry by entry, with names for what the numbers mean.

use std::net::{IpAddr, SocketAddr};

use aya::maps::{Array, HashMap, LpmTrie, Map, MapError, PerCpuArray, PerCpuHashMap, lpm_trie};
use weir_abi::{
    Endpoint, Ip, Rule,
    map::{
        CIDR_LOOKUP_BITS, CidrKey, Config, Fault, FlowKey, FlowValue, FourTuple, MAX_LISTENERS, MAX_PODS, MAX_RULES,
        PendingKey, PodConfig, PortKey, PortRule, SlotConfig, config_flag, name, pod_flag,
    },
};

use super::{Error, decode::FromBytes};
use crate::redirect::object::{LOGS, NAMES};

/// A name and a value.
pub type Field = (&'static str, String);

/// One entry of a map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: Vec<Field>,
    /// Its value, summed over the CPUs where the map is per CPU.
    pub value: Vec<Field>,
}

/// Every entry of the map `name`, which `open` opens. Array entries that mean nothing (unused slots, decisions that
/// never happened) are left out.
pub(super) fn dump(asked: &str, open: impl Fn(&str) -> Result<Map, MapError>) -> Result<Vec<Entry>, Dump> {
    let known = NAMES.into_iter().chain([LOGS]).find(|known| known.eq_ignore_ascii_case(asked));
    match known.ok_or(Dump::Unknown)? {
        name::CONFIG => {
            let map: Array<_, Bytes<{ size_of::<Config>() }>> = open(name::CONFIG)?.try_into()?;
            Ok(vec![Entry {
                key: vec![("index", "0".to_owned())],
                value: config(&Config::from_bytes(&map.get(&0, 0)?)),
            }])
        }
        name::ENROLLED => {
            hash(open(name::ENROLLED)?, |cookie: u64, value: PodConfig| (cookie, netns(cookie), pod(&value)))
        }
        name::SLOTS => slots(open(name::SLOTS)?),
        name::PORT_RULES => hash(open(name::PORT_RULES)?, |key: PortKey, value: u32| {
            ((key.slot, key.kind, key.port), port_rule(&key), present(value))
        }),
        name::EXCLUDED_CIDRS => cidrs(open(name::EXCLUDED_CIDRS)?),
        name::LISTENERS => listeners(open(name::SLOTS)?),
        name::PENDING => hash(open(name::PENDING)?, |key: PendingKey, value: Endpoint| {
            ((key.netns, key.source_ip.0, key.source_port), pending(&key), endpoint(&value))
        }),
        name::NODE_CONNECTIONS => hash(open(name::NODE_CONNECTIONS)?, |key: FourTuple, value: u32| {
            (
                (key.source_ip.0, key.source_port, key.destination_ip.0, key.destination_port),
                four_tuple(&key),
                present(value),
            )
        }),
        name::COUNTERS => counters(open(name::COUNTERS)?),
        name::FLOWS => flows(open(name::FLOWS)?),
        name::FAULTS => faults(open(name::FAULTS)?),
        name::EVENTS => Err(Dump::NotIterable(name::EVENTS, "it is a ring buffer; `weirctl event trace` reads it")),
        LOGS => {
            Err(Dump::NotIterable(LOGS, "it is a ring buffer of log records; `log = \"weir_ebpf=debug\"` shows them"))
        }
        storage => Err(Dump::NotIterable(storage, "it is socket storage, whose entries hang on their sockets")),
    }
}

/// Why there is no dump.
pub(super) enum Dump {
    /// No such map.
    Unknown,
    /// The kernel cannot iterate over it, and why.
    NotIterable(&'static str, &'static str),
    /// It could not be read.
    Map(MapError),
}

impl From<MapError> for Dump {
    fn from(error: MapError) -> Self {
        Self::Map(error)
    }
}

impl Dump {
    pub(super) fn into_error(self, asked: &str, pin: std::path::PathBuf) -> Error {
        match self {
            Self::Unknown => Error::UnknownMap(asked.to_owned()),
            Self::NotIterable(name, why) => Error::NotIterable { name, why },
            Self::Map(source) => Error::Map { name: asked.to_ascii_uppercase(), pin, source: Box::new(source) },
        }
    }
}

/// What aya reads when the type is foreign to it.
pub(super) type Bytes<const N: usize> = [u8; N];

/// Flows of every CPU summed up: decisions added, the latest time.
pub(super) fn read_flows(map: Map) -> Result<Vec<(FlowKey, FlowValue)>, MapError> {
    let map: PerCpuHashMap<_, Bytes<{ size_of::<FlowKey>() }>, Bytes<{ size_of::<FlowValue>() }>> = map.try_into()?;
    let mut flows = Vec::new();
    for item in map.iter() {
        let (key, values) = item?;
        let mut sum = FlowValue::default();
        for value in values.iter().map(FlowValue::from_bytes) {
            sum.count += value.count;
            sum.last_seen = sum.last_seen.max(value.last_seen);
        }
        flows.push((FlowKey::from_bytes(&key), sum));
    }
    Ok(flows)
}

/// One counter over all CPUs.
pub(super) fn read_counter<M: std::borrow::Borrow<aya::maps::MapData>>(
    map: &PerCpuArray<M, u64>,
    index: u32,
) -> Result<u64, MapError> {
    Ok(map.get(&index, 0)?.iter().sum())
}

/// A sort key, and the fields of an entry's key and value.
type Row<S> = (S, Vec<Field>, Vec<Field>);

fn hash<K, V, S, const KEY: usize, const VALUE: usize>(
    map: Map,
    decode: impl Fn(K, V) -> Row<S>,
) -> Result<Vec<Entry>, Dump>
where
    K: FromBytes<KEY>,
    V: FromBytes<VALUE>,
    S: Ord,
{
    let map: HashMap<_, Bytes<KEY>, Bytes<VALUE>> = map.try_into()?;
    let rows = map.iter().map(|item| item.map(|(key, value)| decode(K::from_bytes(&key), V::from_bytes(&value))));
    Ok(sorted(rows.collect::<Result<_, _>>()?))
}

fn sorted<S: Ord>(mut rows: Vec<Row<S>>) -> Vec<Entry> {
    rows.sort_by(|(one, ..), (other, ..)| one.cmp(other));
    rows.into_iter().map(|(_, key, value)| Entry { key, value }).collect()
}

fn slots(map: Map) -> Result<Vec<Entry>, Dump> {
    let used = used_slots(map)?;
    let value = |slot: &SlotConfig| {
        vec![
            ("netns", slot.netns.to_string()),
            ("flags", pod_flags(slot.flags)),
            ("listeners", slot.listeners.to_string()),
        ]
    };
    Ok(used.iter().map(|(index, slot)| Entry { key: slot_field(*index), value: value(slot) }).collect())
}

/// A socket map's entries cannot be read from outside: what is listed are those that `SLOTS` says are filled.
fn listeners(slots: Map) -> Result<Vec<Entry>, Dump> {
    let mut entries = Vec::new();
    for (index, slot) in used_slots(slots)? {
        for listener in 0..slot.listeners.min(MAX_LISTENERS) {
            entries.push(Entry {
                key: vec![("index", (index * MAX_LISTENERS + listener).to_string())],
                value: vec![("slot", index.to_string()), ("netns", slot.netns.to_string())],
            });
        }
    }
    Ok(entries)
}

fn used_slots(map: Map) -> Result<Vec<(u32, SlotConfig)>, Dump> {
    let map: Array<_, Bytes<{ size_of::<SlotConfig>() }>> = map.try_into()?;
    let mut used = Vec::new();
    for index in 0..MAX_PODS {
        let slot = SlotConfig::from_bytes(&map.get(&index, 0)?);
        if slot.flags & pod_flag::ENROLLED != 0 || slot.netns != 0 {
            used.push((index, slot));
        }
    }
    Ok(used)
}

fn cidrs(map: Map) -> Result<Vec<Entry>, Dump> {
    let map: LpmTrie<_, Bytes<{ size_of::<CidrKey>() }>, u32> = map.try_into()?;
    let mut rows = Vec::new();
    for item in map.iter() {
        let (key, value): (lpm_trie::Key<Bytes<{ size_of::<CidrKey>() }>>, u32) = item?;
        let (bits, cidr) = (key.prefix_len(), CidrKey::from_bytes(&key.data()));
        let fields = vec![("slot", cidr.slot.to_string()), ("cidr", prefix(bits, cidr.ip))];
        rows.push(((cidr.slot, !cidr.ip.is_v4(), cidr.ip.0.map(u32::from_be), bits), fields, present(value)));
    }
    Ok(sorted(rows))
}

fn counters(map: Map) -> Result<Vec<Entry>, Dump> {
    let map: PerCpuArray<_, u64> = map.try_into()?;
    let mut entries = Vec::new();
    for index in 0..MAX_PODS * MAX_RULES {
        let count = read_counter(&map, index)?;
        if count > 0 {
            let mut key = slot_field(index / MAX_RULES);
            key.push(("rule", rule(index % MAX_RULES)));
            entries.push(Entry { key, value: vec![("count", count.to_string())] });
        }
    }
    Ok(entries)
}

fn flows(map: Map) -> Result<Vec<Entry>, Dump> {
    let rows = read_flows(map)?.into_iter().map(|(key, value)| {
        let mut fields = slot_field(key.slot);
        fields.push(("rule", rule(key.rule)));
        fields.push(("original_destination", address(key.ip, key.port)));
        let value = vec![("count", value.count.to_string()), ("last_seen_ns", value.last_seen.to_string())];
        ((key.slot, key.rule, key.ip.0.map(u32::from_be), key.port), fields, value)
    });
    Ok(sorted(rows.collect()))
}

fn faults(map: Map) -> Result<Vec<Entry>, Dump> {
    let map: PerCpuArray<_, u64> = map.try_into()?;
    let entry = |fault: Fault| {
        let count = read_counter(&map, fault as u32)?;
        Ok(Entry { key: vec![("fault", fault.name().to_owned())], value: vec![("count", count.to_string())] })
    };
    Fault::ALL.into_iter().map(entry).collect()
}

fn config(config: &Config) -> Vec<Field> {
    vec![
        ("node_netns", config.node_netns.to_string()),
        ("pods_cgroup", config.pods_cgroup.to_string()),
        ("pods_cgroup_level", config.pods_cgroup_level.to_string()),
        ("flags", names(config.flags, &[(config_flag::WATCHED, "watched"), (config_flag::PROXY_READY, "proxy-ready")])),
        ("outbound_port", config.outbound_port.to_string()),
    ]
}

fn pod(pod: &PodConfig) -> Vec<Field> {
    let ips: Vec<String> = pod.ips.iter().filter(|ip| **ip != Ip::UNSPECIFIED).map(|ip| one_ip(*ip)).collect();
    vec![
        ("slot", pod.slot.to_string()),
        ("flags", pod_flags(pod.flags)),
        ("ips", ips.join(",")),
        ("redirect_v4", one_ip(pod.redirect_v4)),
        ("redirect_v6", one_ip(pod.redirect_v6)),
    ]
}

fn port_rule(key: &PortKey) -> Vec<Field> {
    const KINDS: [(PortRule, &str); 3] = [
        (PortRule::ExcludedOutbound, "excluded-outbound"),
        (PortRule::ExcludedInbound, "excluded-inbound"),
        (PortRule::Probe, "probe"),
    ];
    let kind = KINDS.into_iter().find(|(kind, _)| *kind as u16 == key.kind);
    let kind = kind.map_or_else(|| key.kind.to_string(), |(_, name)| name.to_owned());
    let mut fields = slot_field(key.slot);
    fields.extend([("kind", kind), ("port", key.port.to_string())]);
    fields
}

fn pending(key: &PendingKey) -> Vec<Field> {
    let mut fields = netns(key.netns);
    fields.push(("source", address(key.source_ip, key.source_port)));
    fields.push(("target", address(key.target_ip, key.target_port)));
    fields
}

fn endpoint(endpoint: &Endpoint) -> Vec<Field> {
    const ROLES: [&str; 3] = ["upstream", "original-destination", "real-client"];
    let role = ROLES.get(endpoint.role as usize).map_or_else(|| endpoint.role.to_string(), |role| (*role).to_owned());
    vec![("address", address(endpoint.ip, endpoint.port)), ("role", role)]
}

fn four_tuple(tuple: &FourTuple) -> Vec<Field> {
    vec![
        ("source", address(tuple.source_ip, tuple.source_port)),
        ("destination", address(tuple.destination_ip, tuple.destination_port)),
    ]
}

fn netns(cookie: u64) -> Vec<Field> {
    vec![("netns", cookie.to_string())]
}

fn slot_field(slot: u32) -> Vec<Field> {
    vec![("slot", slot.to_string())]
}

fn present(value: u32) -> Vec<Field> {
    vec![("present", value.to_string())]
}

fn rule(number: u32) -> String {
    Rule::from_number(number).map_or_else(|| number.to_string(), |rule| rule.name().to_owned())
}

fn pod_flags(flags: u32) -> String {
    let known = [
        (pod_flag::ENROLLED, "enrolled"),
        (pod_flag::FAIL_OPEN, "fail-open"),
        (pod_flag::RESERVED_OUTBOUND, "reserved-outbound"),
        (pod_flag::RESERVED_INBOUND, "reserved-inbound"),
        (pod_flag::TIME_WAIT_REUSE, "time-wait-reuse"),
    ];
    names(flags, &known)
}

/// Names of the bits that are set, bits without a name in hexadecimal.
fn names(flags: u32, known: &[(u32, &str)]) -> String {
    let mut names: Vec<String> =
        known.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| (*name).to_owned()).collect();
    let rest = known.iter().fold(flags, |rest, (bit, _)| rest & !bit);
    if rest != 0 {
        names.push(format!("{rest:#x}"));
    }
    names.join(",")
}

/// An address, "" for none.
fn one_ip(ip: Ip) -> String {
    if ip == Ip::UNSPECIFIED { String::new() } else { IpAddr::from(ip).to_string() }
}

fn address(ip: Ip, port: u32) -> String {
    SocketAddr::new(ip.into(), port as u16).to_string()
}

/// A trie's key as a CIDR: its length counts the slot's bits, and an IPv4 prefix those of `::ffff:0:0/96`.
fn prefix(bits: u32, ip: Ip) -> String {
    let bits = bits.saturating_sub(CIDR_LOOKUP_BITS - 128);
    if ip.is_v4() && bits >= 96 {
        format!("{}/{}", IpAddr::from(ip), bits - 96)
    } else {
        format!("{}/{bits}", IpAddr::from(ip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Ip {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn text(fields: &[Field]) -> String {
        fields.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn entries_read_as_an_operator_would_write_them() {
        let mut value = PodConfig { slot: 3, flags: 3, ..Default::default() };
        (value.ips[0], value.redirect_v4) = (ip("10.0.0.2"), ip("10.0.0.2"));
        value.ips[1] = ip("fd00::2");
        assert_eq!(
            text(&pod(&value)),
            "slot=3 flags=enrolled,fail-open ips=10.0.0.2,fd00::2 redirect_v4=10.0.0.2 redirect_v6="
        );
        assert_eq!(
            text(&port_rule(&PortKey { slot: 3, port: 8080, kind: PortRule::Probe as u16 })),
            "slot=3 kind=probe port=8080"
        );
        assert_eq!(
            text(&endpoint(&Endpoint { ip: ip("10.0.0.9"), port: 80, role: 2 })),
            "address=10.0.0.9:80 role=real-client"
        );
        assert_eq!(names(0x13, &[(1, "one"), (2, "two")]), "one,two,0x10");
        assert_eq!(rule(23), "steered");
        assert_eq!(rule(14), "14");
    }

    #[test]
    fn prefixes_lose_the_slot_and_the_mapping() {
        assert_eq!(prefix(32 + 96 + 8, ip("10.0.0.0")), "10.0.0.0/8");
        assert_eq!(prefix(32 + 96, ip("0.0.0.0")), "0.0.0.0/0");
        assert_eq!(prefix(32 + 10, ip("fe80::")), "fe80::/10");
    }

    #[test]
    fn maps_that_cannot_be_iterated_say_what_they_are() {
        let dump = |name| match dump(name, |_| unreachable!("not opened")) {
            Err(error) => error.into_error(name, "/pin".into()).to_string(),
            Ok(_) => panic!("dumped"),
        };
        assert_eq!(
            dump("peer"),
            "map PEER cannot be dumped: it is socket storage, whose entries hang on their sockets"
        );
        assert_eq!(dump("EVENTS"), "map EVENTS cannot be dumped: it is a ring buffer; `weirctl event trace` reads it");
        assert_eq!(
            dump("aya_logs"),
            "map AYA_LOGS cannot be dumped: it is a ring buffer of log records; `log = \"weir_ebpf=debug\"` shows them"
        );
        assert!(dump("NOPE").starts_with("no map \"NOPE\"; expected one of CONFIG, ENROLLED, "), "{}", dump("NOPE"));
    }

    #[test]
    fn every_map_of_the_abi_has_a_name_here() {
        let distinct: std::collections::BTreeSet<_> = NAMES.into_iter().collect();
        assert_eq!(distinct.len(), NAMES.len());
    }
}
