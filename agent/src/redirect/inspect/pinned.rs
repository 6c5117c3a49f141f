//! [`Kernel`] over the pins of one instance.

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use aya::{
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, lpm_trie},
    sys::{Stats, enable_stats},
};
use futures_util::stream::BoxStream;
use parking_lot::Mutex;
use weir_abi::{
    Rule,
    event::Event,
    map::{
        CIDR_LOOKUP_BITS, CidrKey, Config, Fault, FlowKey, FlowValue, MAX_RULES, PodConfig, PortKey, SlotConfig,
        config_flag, name,
    },
};

use super::{
    Entry, Error, Kernel, MapFacts, ProgramFacts,
    decode::FromBytes,
    dump::{self, Bytes, read_counter, read_flows},
    events, facts,
};
use crate::redirect::{ConfigHandle, bytes::ToBytes};

/// How long the kernel counts runs after it was asked to: counting costs tens of nanoseconds a run.
const COUNT_RUNS: Duration = Duration::from_secs(60);
/// Where the administrator switches it on for good.
const STATS_SYSCTL: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// The pins of one instance.
pub struct Pinned {
    directory: PathBuf,
    config: ConfigHandle,
    /// While open, the kernel counts runs; until when it stays open.
    counting: Arc<Mutex<Option<(OwnedFd, Instant)>>>,
}

impl Pinned {
    /// Looks at the pins in `directory` (`maps/`, `programs/`, `links/`), and sets its flag through `config`.
    pub fn new(directory: PathBuf, config: ConfigHandle) -> Self {
        Self { directory, config, counting: Arc::default() }
    }

    fn pin(&self, name: &str) -> PathBuf {
        self.directory.join("maps").join(name)
    }

    fn map<T>(&self, name: &str, read: impl FnOnce(Map) -> Result<T, MapError>) -> Result<T, Error> {
        let pin = self.pin(name);
        open(&pin).and_then(read).map_err(|source| Error::Map { name: name.to_owned(), pin, source: Box::new(source) })
    }
}

fn open(pin: &Path) -> Result<Map, MapError> {
    MapData::from_pin(pin).and_then(Map::from_map_data)
}

/// A lookup's answer, none for a key that is not there.
fn found<T>(result: Result<T, MapError>) -> Result<Option<T>, MapError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Kernel for Pinned {
    fn config(&self) -> Result<Config, Error> {
        self.map(name::CONFIG, |map| {
            let map: Array<_, Bytes<{ size_of::<Config>() }>> = map.try_into()?;
            Ok(Config::from_bytes(&map.get(&0, 0)?))
        })
    }

    fn enrolled(&self, netns: u64) -> Result<Option<PodConfig>, Error> {
        self.map(name::ENROLLED, |map| {
            let map: HashMap<_, u64, Bytes<{ size_of::<PodConfig>() }>> = map.try_into()?;
            Ok(found(map.get(&netns, 0))?.map(|bytes| PodConfig::from_bytes(&bytes)))
        })
    }

    fn slot(&self, slot: u32) -> Result<SlotConfig, Error> {
        self.map(name::SLOTS, |map| {
            let map: Array<_, Bytes<{ size_of::<SlotConfig>() }>> = map.try_into()?;
            Ok(SlotConfig::from_bytes(&map.get(&slot, 0)?))
        })
    }

    fn has_port_rule(&self, key: &PortKey) -> Result<bool, Error> {
        self.map(name::PORT_RULES, |map| {
            let map: HashMap<_, Bytes<{ size_of::<PortKey>() }>, u32> = map.try_into()?;
            Ok(found(map.get(&key.to_bytes(), 0))?.is_some())
        })
    }

    fn is_excluded_cidr(&self, key: &CidrKey) -> Result<bool, Error> {
        self.map(name::EXCLUDED_CIDRS, |map| {
            let map: LpmTrie<_, Bytes<{ size_of::<CidrKey>() }>, u32> = map.try_into()?;
            Ok(found(map.get(&lpm_trie::Key::new(CIDR_LOOKUP_BITS, key.to_bytes()), 0))?.is_some())
        })
    }

    fn counters(&self, slot: u32) -> Result<Vec<(Rule, u64)>, Error> {
        self.decisions(&[slot])
    }

    fn decisions(&self, slots: &[u32]) -> Result<Vec<(Rule, u64)>, Error> {
        self.map(name::COUNTERS, |map| {
            let map: PerCpuArray<_, u64> = map.try_into()?;
            let of = |rule: Rule| {
                let counts = slots.iter().map(|slot| read_counter(&map, slot * MAX_RULES + rule as u32));
                Ok((rule, counts.sum::<Result<u64, _>>()?))
            };
            Rule::ALL.into_iter().map(of).collect()
        })
    }

    fn faults(&self) -> Result<Vec<(Fault, u64)>, Error> {
        self.map(name::FAULTS, |map| {
            let map: PerCpuArray<_, u64> = map.try_into()?;
            Fault::ALL.into_iter().map(|fault| Ok((fault, read_counter(&map, fault as u32)?))).collect()
        })
    }

    fn flows(&self) -> Result<Vec<(FlowKey, FlowValue)>, Error> {
        self.map(name::FLOWS, read_flows)
    }

    fn programs(&self) -> Result<Vec<ProgramFacts>, Error> {
        facts::programs(&self.directory.join("programs"), &self.directory.join("links"))
    }

    fn maps(&self) -> Result<Vec<MapFacts>, Error> {
        facts::maps(&self.directory.join("maps"))
    }

    fn dump(&self, asked: &str) -> Result<Vec<Entry>, Error> {
        dump::dump(asked, |name| open(&self.pin(name)))
            .map_err(|error| error.into_error(asked, self.pin(&asked.to_ascii_uppercase())))
    }

    fn count_runs(&self) -> Result<bool, Error> {
        let mut counting = self.counting.lock();
        let until = Instant::now() + COUNT_RUNS;
        if let Some((_, end)) = counting.as_mut() {
            *end = until;
            return Ok(true);
        }
        let always = std::fs::read_to_string(STATS_SYSCTL).is_ok_and(|text| text.trim() == "1");
        if always {
            return Ok(true);
        }
        *counting = Some((enable_stats(Stats::RunTime).map_err(|error| Error::Statistics(Box::new(error)))?, until));
        let shared = self.counting.clone();
        tokio::spawn(async move {
            loop {
                let end = {
                    let mut counting = shared.lock();
                    match counting.as_ref() {
                        Some((_, end)) if *end > Instant::now() => *end,
                        _ => {
                            *counting = None;
                            return;
                        }
                    }
                };
                tokio::time::sleep_until(end.into()).await;
            }
        });
        Ok(false)
    }

    fn set_watched(&self, watched: bool) -> Result<(), Error> {
        self.config.set_flag(config_flag::WATCHED, watched).map_err(|error| Error::Watched(Box::new(error)))
    }

    fn events(&self) -> Result<BoxStream<'static, Vec<Event>>, Error> {
        events::stream(self.pin(name::EVENTS))
    }
}
