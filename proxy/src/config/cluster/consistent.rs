//! Consistent hashing: Envoy's ring and Maglev's table, entry for entry.

use std::sync::Arc;

use smallvec::SmallVec;
use xxhash_rust::xxh64::xxh64;

use super::{
    balancing::{HashFunction, Hashing, Maglev, Policy, RingHash},
    endpoint::Endpoint,
    hash::{MersenneTwister, STD_HASH_SEED, murmur2},
};
use crate::wire::named::NamedAddress;

/// The tables of consistent hashing, one per priority, and the version of the cluster that they are of.
#[derive(Debug)]
pub struct Hashed {
    /// [`Cluster::version`](super::Cluster::version).
    pub version: u64,
    /// By priority.
    pub levels: Vec<Consistent>,
}

/// What hashes of one priority lead to.
#[derive(Debug)]
pub struct Consistent {
    hosts: Vec<Weighted>,
    lookup: Lookup,
    balance_factor: u32,
}

/// A host and its share of the sum of all weights.
#[derive(Clone, Debug)]
pub struct Weighted {
    /// The host.
    pub endpoint: Arc<Endpoint>,
    /// 0 to 1.
    pub share: f64,
}

#[derive(Debug)]
enum Lookup {
    /// Hashes in order, each with an index into the hosts.
    Ring(Vec<(u64, u32)>),
    /// Indices into the hosts.
    Table(Vec<u32>),
}

impl Consistent {
    /// Of the hosts of one priority; their shares sum up to 1. None if the policy is not a consistent one.
    pub fn new(policy: &Policy, hosts: Vec<Weighted>) -> Option<Self> {
        let (lookup, hashing) = match policy {
            Policy::RingHash(config) => (ring(config, &hosts), config.hashing),
            Policy::Maglev(config) => (table(config, &hosts), config.hashing),
            _ => return None,
        };
        Some(Self { hosts, lookup, balance_factor: hashing.balance_factor })
    }

    /// The host for a hash; `attempt` counts how often another one was asked for. `active` is the number of requests of
    /// the whole cluster.
    pub fn choose(&self, hash: u64, attempt: u32, active: u64) -> Option<&Arc<Endpoint>> {
        let index = match &self.lookup {
            Lookup::Ring(ring) if ring.is_empty() => return None,
            Lookup::Ring(ring) => {
                // An entry is responsible for all hashes from its predecessor's to its own.
                let at = ring.partition_point(|(entry, _)| *entry < hash) % ring.len();
                ring[(at + attempt as usize) % ring.len()].1
            }
            Lookup::Table(table) if table.is_empty() => return None,
            Lookup::Table(table) => {
                let hash = if attempt > 0 { hash ^ u64::from(attempt).wrapping_neg() } else { hash };
                table[(hash % table.len() as u64) as usize]
            }
        };
        let index = index as usize;
        if self.balance_factor == 0 {
            return self.hosts.get(index).map(|host| &host.endpoint);
        }
        self.bounded(index, hash, active)
    }

    /// Whether there is no host.
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    /// Number of entries, of those of the host with the fewest and of the one with the most. The table of a single host
    /// counts as one entry, as in Envoy.
    pub fn entries(&self) -> (u64, u64, u64) {
        if matches!(self.lookup, Lookup::Table(_)) && self.hosts.len() == 1 {
            return (1, 1, 1);
        }
        let mut counts = vec![0_u64; self.hosts.len()];
        let size = match &self.lookup {
            Lookup::Ring(ring) => {
                ring.iter().for_each(|(_, index)| counts[*index as usize] += 1);
                ring.len()
            }
            Lookup::Table(table) => {
                table.iter().for_each(|index| counts[*index as usize] += 1);
                table.len()
            }
        };
        (size as u64, counts.iter().min().copied().unwrap_or(0), counts.iter().max().copied().unwrap_or(0))
    }

    /// The host, unless it has more than its bounded share of the load: then one of the others, in an order that the
    /// hash determines (consistent hashing with bounded loads and random jumps).
    fn bounded(&self, index: usize, hash: u64, active: u64) -> Option<&Arc<Endpoint>> {
        let overload = |host: &Weighted| {
            let slots = ((active + 1) * u64::from(self.balance_factor)).div_ceil(100);
            let slots = (slots as f64 * host.share).ceil().max(1.0);
            let busy = host.endpoint.host.stats.rq_active.load(std::sync::atomic::Ordering::Relaxed);
            busy as f64 / slots
        };
        let mut least = self.hosts.get(index)?;
        let mut least_overload = overload(least);
        // Envoy lets a host have one request beyond its slots.
        if least_overload <= 1.0 {
            return Some(&least.endpoint);
        }
        let count = self.hosts.len() as u32;
        let mut order: SmallVec<[u32; 16]> = (0..count).collect();
        let mut random = MersenneTwister::new(hash as u32);
        for i in 0..count {
            let left = count - i;
            let mut drawn = left;
            while drawn >= left {
                drawn = (u64::from(random.draw()) / ((1_u64 << 32) / u64::from(left))) as u32;
            }
            order.swap(i as usize, (i + drawn) as usize);
            let other = order[i as usize] as usize;
            if other == index {
                continue;
            }
            let host = &self.hosts[other];
            let its = overload(host);
            if its <= 1.0 {
                return Some(&host.endpoint);
            }
            if its < least_overload {
                (least, least_overload) = (host, its);
            }
        }
        Some(&least.endpoint)
    }
}

fn key(endpoint: &Endpoint, hashing: Hashing) -> String {
    match &endpoint.template.hash_key {
        Some(key) => key.to_string(),
        None if hashing.use_hostname => endpoint.hostname.to_string(),
        None => NamedAddress::text(&endpoint.address),
    }
}

fn ring(config: &RingHash, hosts: &[Weighted]) -> Lookup {
    let least = hosts.iter().map(|host| host.share).fold(1.0, f64::min);
    if hosts.is_empty() || least <= 0.0 {
        return Lookup::Ring(Vec::new());
    }
    // The host with the least weight gets a whole number of entries, unless the maximum forbids it.
    let scale = ((least * config.minimum as f64).ceil() / least).min(config.maximum as f64);
    let mut ring = Vec::with_capacity(scale.ceil() as usize);
    // Running sums keep the ring stable where numbers of entries are not whole.
    let (mut current, mut target) = (0.0, 0.0);
    for (index, host) in (0_u32..).zip(hosts) {
        let mut name = key(&host.endpoint, config.hashing);
        name.push('_');
        let prefix = name.len();
        target += scale * host.share;
        let mut entry = 0_u64;
        while current < target {
            name.truncate(prefix);
            name.push_str(itoa::Buffer::new().format(entry));
            let hash = match config.function {
                HashFunction::Xx => xxh64(name.as_bytes(), 0),
                HashFunction::Murmur2 => murmur2(name.as_bytes(), STD_HASH_SEED),
            };
            ring.push((hash, index));
            entry += 1;
            current += 1.0;
        }
    }
    ring.sort_unstable();
    Lookup::Ring(ring)
}

fn table(config: &Maglev, hosts: &[Weighted]) -> Lookup {
    struct Entry {
        index: u32,
        offset: u64,
        skip: u64,
        share: f64,
        target: f64,
        next: u64,
    }
    if hosts.is_empty() {
        return Lookup::Table(Vec::new());
    }
    let size = config.table_size;
    let most = hosts.iter().map(|host| host.share).fold(0.0, f64::max);
    let mut named: Vec<(String, u32, f64)> =
        (0..).zip(hosts).map(|(index, host)| (key(&host.endpoint, config.hashing), index, host.share)).collect();
    named.sort_by(|a, b| a.0.cmp(&b.0));
    let mut entries: Vec<Entry> = named
        .into_iter()
        .map(|(name, index, share)| Entry {
            index,
            offset: xxh64(name.as_bytes(), 0) % size,
            skip: xxh64(name.as_bytes(), 1) % (size - 1) + 1,
            share,
            target: 0.0,
            next: 0,
        })
        .collect();
    const FREE: u32 = u32::MAX;
    let mut table = vec![FREE; size as usize];
    let mut filled = 0;
    // The host with the most weight takes an entry in every round, others in proportion.
    for round in 1_u32.. {
        for entry in &mut entries {
            if filled == size {
                return Lookup::Table(table);
            }
            if f64::from(round) * entry.share < entry.target {
                continue;
            }
            entry.target += most;
            loop {
                let at = ((entry.offset + entry.skip * entry.next) % size) as usize;
                entry.next += 1;
                if table[at] == FREE {
                    table[at] = entry.index;
                    break;
                }
            }
            filled += 1;
        }
    }
    Lookup::Table(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(count: u16) -> Vec<Weighted> {
        (1..=count)
            .map(|port| Weighted {
                endpoint: Arc::new(Endpoint::at(([127, 0, 0, 1], 90 + port).into())),
                share: 1.0 / f64::from(count),
            })
            .collect()
    }

    fn maglev() -> Policy {
        Policy::Maglev(Maglev { table_size: 7, hashing: Hashing::default() })
    }

    #[test]
    fn every_maglev_entry_is_filled_about_evenly() {
        let table = Consistent::new(&maglev(), hosts(6)).unwrap();
        let (size, least, most) = table.entries();
        assert_eq!((size, least, most), (7, 1, 2));
        assert!(Consistent::new(&maglev(), Vec::new()).unwrap().choose(0, 0, 0).is_none());
    }

    #[test]
    fn a_ring_leads_to_the_next_entry_and_round() {
        let config = RingHash {
            minimum: 12,
            maximum: RingHash::DEFAULT_MAXIMUM,
            function: HashFunction::Xx,
            hashing: Hashing::default(),
        };
        let ring = Consistent::new(&Policy::RingHash(config), hosts(6)).unwrap();
        let Lookup::Ring(entries) = &ring.lookup else { panic!("a ring") };
        assert_eq!(ring.entries(), (12, 2, 2));
        let host = |hash| ring.choose(hash, 0, 0).unwrap().address;
        for (hash, index) in entries {
            assert_eq!(host(*hash), ring.hosts[*index as usize].endpoint.address);
        }
        let first = ring.hosts[entries[0].1 as usize].endpoint.address;
        assert_eq!(host(entries[11].0 + 1), first);
        assert_eq!(host(0), first);
    }

    #[test]
    fn a_host_with_its_share_of_the_load_gets_no_more() {
        let bounded = Maglev { table_size: 7, hashing: Hashing { use_hostname: false, balance_factor: 100 } };
        let table = Consistent::new(&Policy::Maglev(bounded), hosts(2)).unwrap();
        let first = table.choose(1, 0, 0).unwrap().clone();
        first.host.stats.rq_active.store(4, std::sync::atomic::Ordering::Relaxed);
        let second = table.choose(1, 0, 4).unwrap();
        assert_ne!(first.address, second.address);
    }

    /// The last digits of the ports that Envoy 1.40 chose for the header values key0, key1, ... among 127.0.0.1:19402,
    /// :19403 and :19404 with the weights 1, 1 and 3, on a ring of at least 100 entries.
    const RING: &str =
        "4242243243422423442444444224443443244442424444434244442243244444442424322344243324223434242224234422";
    /// The same by Maglev's table of the default size.
    const TABLE: &str =
        "4442344444333324223444444333442433442444222242343444432344332444433444342334444242443244224442433424";

    fn chosen(policy: &Policy) -> String {
        let hosts = [(19402, 0.2), (19403, 0.2), (19404, 0.6)]
            .map(|(port, share)| Weighted { endpoint: Arc::new(Endpoint::at(([127, 0, 0, 1], port).into())), share });
        let consistent = Consistent::new(policy, hosts.into()).unwrap();
        let choose = |index: usize| {
            let hash = xxh64(format!("key{index}").as_bytes(), 0);
            consistent.choose(hash, 0, 0).unwrap().address.port()
        };
        (0..100).map(|index| (choose(index) % 10).to_string()).collect()
    }

    #[test]
    fn choices_are_envoys() {
        let ring = RingHash {
            minimum: 100,
            maximum: RingHash::DEFAULT_MAXIMUM,
            function: HashFunction::Xx,
            hashing: Hashing::default(),
        };
        assert_eq!(chosen(&Policy::RingHash(ring)), RING);
        let maglev = Maglev { table_size: Maglev::DEFAULT_TABLE_SIZE, hashing: Hashing::default() };
        assert_eq!(chosen(&Policy::Maglev(maglev)), TABLE);
    }
}
