//! A kernel in memory.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::atomic::{AtomicBool, Ordering},
};

use futures_util::{StreamExt, stream::BoxStream};
use ipnet::IpNet;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use weir_abi::{
    Rule,
    event::Event,
    map::{
        CidrKey, Config, Fault, FlowKey, FlowValue, OUTBOUND_PORT, PodConfig, PortKey, SlotConfig, config_flag,
        pod_flag,
    },
};

use super::{Entry, Error, Kernel, MapFacts, ProgramFacts};

#[derive(Default)]
pub(crate) struct Fake {
    pub config: Config,
    pub pods: HashMap<u64, PodConfig>,
    pub slots: HashMap<u32, SlotConfig>,
    pub ports: HashSet<PortKey>,
    pub cidrs: Vec<(u32, IpNet)>,
    pub counters: HashMap<(u32, Rule), u64>,
    pub faults: Mutex<HashMap<&'static str, u64>>,
    pub flows: Vec<(FlowKey, FlowValue)>,
    pub programs: Vec<ProgramFacts>,
    pub dumps: HashMap<&'static str, Vec<Entry>>,
    pub broken: AtomicBool,
    pub watched: AtomicBool,
    pub ring: Mutex<Option<mpsc::Sender<Vec<Event>>>>,
}

impl Fake {
    pub fn with_pod(netns: u64, slot: u32, ips: &[&str]) -> Self {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap().into();
        let mut pod = PodConfig { slot, flags: pod_flag::ENROLLED, ..Default::default() };
        for (i, text) in ips.iter().enumerate() {
            pod.ips[i] = ip(text);
            if pod.ips[i].is_v4() { pod.redirect_v4 = pod.ips[i] } else { pod.redirect_v6 = pod.ips[i] }
        }
        Self {
            config: Config {
                node_netns: 1,
                pods_cgroup: 77,
                flags: config_flag::PROXY_READY,
                outbound_port: OUTBOUND_PORT.into(),
                ..Default::default()
            },
            pods: HashMap::from([(netns, pod)]),
            slots: HashMap::from([(slot, SlotConfig { netns, flags: pod_flag::ENROLLED, listeners: 2 })]),
            ..Default::default()
        }
    }
}

impl Kernel for Fake {
    fn config(&self) -> Result<Config, Error> {
        Ok(self.config)
    }
    fn enrolled(&self, netns: u64) -> Result<Option<PodConfig>, Error> {
        Ok(self.pods.get(&netns).copied())
    }
    fn slot(&self, slot: u32) -> Result<SlotConfig, Error> {
        Ok(self.slots.get(&slot).copied().unwrap_or_default())
    }
    fn has_port_rule(&self, key: &PortKey) -> Result<bool, Error> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(Error::UnknownMap("broken".to_owned()));
        }
        Ok(self.ports.contains(key))
    }
    fn is_excluded_cidr(&self, key: &CidrKey) -> Result<bool, Error> {
        let ip: IpAddr = key.ip.into();
        Ok(self.cidrs.iter().any(|(slot, net)| *slot == key.slot && net.contains(&ip)))
    }
    fn counters(&self, slot: u32) -> Result<Vec<(Rule, u64)>, Error> {
        Ok(Rule::ALL.map(|rule| (rule, self.counters.get(&(slot, rule)).copied().unwrap_or_default())).into())
    }
    fn decisions(&self, slots: &[u32]) -> Result<Vec<(Rule, u64)>, Error> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(Error::UnknownMap("broken".to_owned()));
        }
        let of = |rule, slot: &u32| self.counters.get(&(*slot, rule)).copied().unwrap_or_default();
        Ok(Rule::ALL.into_iter().map(|rule| (rule, slots.iter().map(|slot| of(rule, slot)).sum())).collect())
    }
    fn faults(&self) -> Result<Vec<(Fault, u64)>, Error> {
        let faults = self.faults.lock();
        Ok(Fault::ALL.map(|fault| (fault, faults.get(fault.name()).copied().unwrap_or_default())).into())
    }
    fn flows(&self) -> Result<Vec<(FlowKey, FlowValue)>, Error> {
        Ok(self.flows.clone())
    }
    fn programs(&self) -> Result<Vec<ProgramFacts>, Error> {
        Ok(self.programs.clone())
    }
    fn maps(&self) -> Result<Vec<MapFacts>, Error> {
        Ok(Vec::new())
    }
    fn dump(&self, name: &str) -> Result<Vec<Entry>, Error> {
        self.dumps.get(name).cloned().ok_or_else(|| Error::UnknownMap(name.to_owned()))
    }
    fn count_runs(&self) -> Result<bool, Error> {
        Ok(false)
    }
    fn set_watched(&self, watched: bool) -> Result<(), Error> {
        self.watched.store(watched, Ordering::SeqCst);
        Ok(())
    }
    fn events(&self) -> Result<BoxStream<'static, Vec<Event>>, Error> {
        let (sender, receiver) = mpsc::channel(16);
        *self.ring.lock() = Some(sender);
        Ok(ReceiverStream::new(receiver).boxed())
    }
}
