//! Listeners that come, change and go.
//!
//! A new listener is bound before it is acknowledged, so that what it can't have is told. One that is changed keeps its
//! sockets, unless it is to have others: connections that come take the new one, those that are open go on with the old one
//! and drain. Where only filter chains have changed, the others stay what they are, and their connections with them.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use hashbrown::HashMap;
use weir_proto::envoy::config::{core::v3::TrafficDirection, listener::v3 as proto};

use super::{
    acts::Act,
    common::Common,
    read,
    stats::ListenerCounts,
    status::Version,
    tls_files::{self, Followed},
    wait::{Unsettled, Wait},
};
use crate::{
    config::{
        convert::Kept,
        listener::{FilterChain, Listener},
        snapshot::{Lacks, Snapshot},
    },
    intake::{
        bound::{self, BoundListener},
        claims::Claim,
        listening::Listening,
    },
    telemetry::stats::Store as Stats,
    view::ViewId,
    wire::named::NamedAddress,
    xds::{
        kind::Kind,
        update::{Refused, Resource, Update},
    },
};

/// One listener.
#[derive(Debug)]
struct One {
    listener: Arc<Listener>,
    version: Version,
    _files: Option<Followed>,
    /// Its addresses are no other view's.
    _claim: Claim,
}

impl One {
    fn message(&self) -> proto::Listener {
        read::message(&self.version.body).unwrap_or_default()
    }
}

/// A listener that waits for what it names.
#[derive(Debug)]
struct Warming {
    number: u64,
    one: One,
    /// Its sockets; none: those that the one of its name has.
    bound: Option<Vec<BoundListener>>,
    in_place: bool,
}

/// What drains.
#[derive(Debug)]
struct Draining {
    number: u64,
    name: Arc<str>,
    /// The whole listener, or so many filter chains of it.
    chains: Option<usize>,
    _files: Option<Followed>,
}

/// The listeners of a view.
#[derive(Debug)]
pub(super) struct Listeners {
    /// Of the bootstrap.
    fixed: Arc<Snapshot>,
    /// In force, in the order in which they came.
    active: Vec<One>,
    warming: Vec<Warming>,
    draining: Vec<Draining>,
    /// Refused ones of which nothing is in force.
    lacking: HashMap<Arc<str>, Lacks>,
    /// To drain once something else is in force.
    retired: Vec<Arc<FilterChain>>,
    numbers: u64,
    listening: Arc<Listening>,
    drain_time: Duration,
    counts: ListenerCounts,
}

impl Listeners {
    pub(super) fn new(fixed: &Arc<Snapshot>, stats: &Stats, listening: Arc<Listening>, drain_time: Duration) -> Self {
        Self {
            fixed: fixed.clone(),
            active: Vec::new(),
            warming: Vec::new(),
            draining: Vec::new(),
            lacking: HashMap::new(),
            retired: Vec::new(),
            numbers: 0,
            listening,
            drain_time,
            counts: ListenerCounts::new(stats),
        }
    }

    /// How many are not warm.
    pub(super) fn cold(&self) -> usize {
        self.warming.len()
    }

    /// Takes what it can of an update.
    pub(super) fn update(&mut self, common: &mut Common, update: &Update) -> Result<(), Refused> {
        let mut refused = Vec::new();
        let mut changed = false;
        let messages = match read::messages::<proto::Listener>(&update.added) {
            Ok(messages) => messages,
            Err(why) => {
                for resource in &update.added {
                    changed |= self.lack(&resource.name, lacks(None));
                }
                if changed {
                    self.publish(common);
                }
                return Err(why);
            }
        };
        if update.whole {
            let lacking = self.lacking.len();
            self.lacking.retain(|name, _| update.added.iter().any(|resource| resource.name == *name));
            changed |= self.lacking.len() < lacking;
        }
        // An address that one leaves another may take.
        for name in &update.removed {
            changed |= self.remove(common, name);
        }
        for (resource, message) in messages {
            let lacks = lacks(message.as_ref().ok());
            let taken = message.and_then(|message| self.take(common, resource, &message));
            match taken {
                Ok(taken) => changed |= taken | self.lacking.remove(&resource.name).is_some(),
                Err(why) => {
                    changed |= self.lack(&resource.name, lacks);
                    refused.push((resource.name.clone(), why));
                }
            }
        }
        if changed {
            self.publish(common);
        }
        self.counts.are(self.in_force(), self.warming.len());
        read::verdict(refused)
    }

    /// A listener was refused. Whether that changes anything: one of its name that is in force stays.
    fn lack(&mut self, name: &Arc<str>, lacks: Lacks) -> bool {
        let there = self.position(name).is_some() || self.fixed.listener(name).is_some();
        !there && self.lacking.insert(name.clone(), lacks) != Some(lacks)
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.active.iter().position(|one| *one.listener.name == *name)
    }

    /// Whether a listener that is to be there changes anything; or why it can't be.
    fn take(&mut self, common: &mut Common, resource: &Resource, message: &proto::Listener) -> Result<bool, String> {
        let name = &resource.name;
        if name.is_empty() {
            return Err("a listener that may change needs a name".to_owned());
        }
        if self.fixed.listener(name).is_some() {
            tracing::debug!(listener = %name, "is of the bootstrap and stays what it is");
            return Ok(false);
        }
        let warming = self.warming.iter().position(|warming| warming.one.listener.name == *name);
        let old = self.position(name).and_then(|at| self.active.get(at));
        let latest = warming.and_then(|at| self.warming.get(at)).map(|warming| &warming.one).or(old);
        if latest.is_some_and(|latest| latest.version.body == resource.body) {
            return Ok(false);
        }
        let before = old.map(One::message);
        let in_place = before.as_ref().is_some_and(|before| but_for_chains(before) == but_for_chains(message));
        let kept = match (&before, old) {
            (Some(before), Some(old)) if in_place => chains(before, &old.listener),
            _ => Vec::new(),
        };
        let listener = common.converter.listener(message, kept).map_err(|error| error.to_string())?;
        if self.listening.is_stopped(listener.direction) {
            tracing::info!(listener = %name, "is not taken: nothing is accepted any more");
            return Ok(false);
        }
        self.refuse_twins(&listener)?;
        let claim = self.claim(common.view, &listener)?;
        let rebound = before.as_ref().is_none_or(|before| sockets(before) != sockets(message));
        let bound = match rebound {
            true => self.bind(&listener)?,
            false => Vec::new(),
        };
        self.counts.came(latest.is_some());
        if let Some(at) = warming {
            self.warming.remove(at);
        }
        let listener = Arc::new(listener);
        let version = Version { body: resource.body.clone(), version: resource.version.clone(), at: SystemTime::now() };
        self.numbers += 1;
        let cells = Unsettled::of(&listener.waits);
        let files = tls_files::of_listener(&listener);
        let one = One { listener, version, _files: files, _claim: claim };
        let warming = Warming { number: self.numbers, one, bound: rebound.then_some(bound), in_place };
        if cells.is_empty() {
            self.put(common, warming);
            return Ok(true);
        }
        common.status.show(Kind::Listener, name, |shown| shown.warming = Some(warming.one.version.clone()));
        self.warming.push(warming);
        common.waits.leave(Wait::Settled(self.numbers, cells));
        Ok(false)
    }

    /// What a listener waited for is settled.
    pub(super) fn settled(&mut self, common: &Common, number: u64) {
        let Some(at) = self.warming.iter().position(|warming| warming.number == number) else { return };
        let warming = self.warming.remove(at);
        self.put(common, warming);
        self.publish(common);
        self.counts.are(self.in_force(), self.warming.len());
    }

    fn in_force(&self) -> usize {
        self.fixed.listeners().len() + self.active.len()
    }

    /// No two listeners have an address in common.
    fn refuse_twins(&self, listener: &Listener) -> Result<(), String> {
        let own = self.active.iter().chain(self.warming.iter().map(|warming| &warming.one));
        let others = self.fixed.listeners().iter().chain(own.map(|one| &one.listener));
        for other in others.filter(|other| other.name != listener.name) {
            let shared =
                |address: &&SocketAddr| (address.port() != 0 || !listener.bind) && other.addresses.contains(address);
            if listener.addresses.iter().any(|address| shared(&address)) {
                let all: Vec<_> = listener.addresses.iter().map(NamedAddress::text).collect();
                return Err(format!(
                    "error adding listener: '{}' has duplicate address '{}' as existing listener, to check if the listener \
                     has duplicated addresses with other listeners or 'enable_reuse_port' is set to 'false' for the listener",
                    listener.name,
                    all.join(",")
                ));
            }
        }
        Ok(())
    }

    /// Nor has a listener of another view one of its addresses, where it is to be bound there.
    fn claim(&self, view: ViewId, listener: &Listener) -> Result<Claim, String> {
        self.listening.claim(view, listener).map_err(|taken| {
            let (name, taken) = (&listener.name, NamedAddress::text(&taken));
            format!(
                "error adding listener: '{name}' has duplicate address '{taken}' as existing listener of another view"
            )
        })
    }

    fn bind(&self, listener: &Listener) -> Result<Vec<BoundListener>, String> {
        bound::bind_listener(listener, self.listening.teller().workers()).map_err(|error| {
            self.counts.failed();
            error.told()
        })
    }

    /// A listener is there, in the place of an old one if there is one.
    fn put(&mut self, common: &Common, warming: Warming) {
        let Warming { one, bound, in_place, .. } = warming;
        let listener = one.listener.clone();
        self.lacking.remove(&listener.name);
        self.counts.created(self.listening.teller().workers());
        common.status.show(Kind::Listener, &listener.name, |shown| {
            shown.warming = None;
            shown.active = Some(one.version.clone());
        });
        match self.position(&listener.name).and_then(|at| self.active.get_mut(at)) {
            Some(place) => {
                let old = std::mem::replace(place, one);
                if in_place {
                    self.counts.updated_in_place();
                }
                self.retire(common, old, Some(&listener), in_place);
            }
            None => self.active.push(one),
        }
        if let Some(bound) = bound {
            common.acts.leave(Act::Open(common.view, listener, bound));
        }
    }

    /// A listener is gone. Whether there was one.
    fn remove(&mut self, common: &Common, name: &Arc<str>) -> bool {
        let before = self.warming.len();
        self.warming.retain(|warming| warming.one.listener.name != *name);
        let was_warming = self.warming.len() < before;
        let at = self.position(name);
        if at.is_some() || was_warming {
            self.counts.removed();
            common.status.show(Kind::Listener, name, |shown| (shown.active, shown.warming) = (None, None));
        }
        let was_lacking = self.lacking.remove(name).is_some();
        let Some(at) = at else { return was_lacking };
        let old = self.active.remove(at);
        common.acts.leave(Act::Close(common.view, name.clone()));
        self.retire(common, old, None, false);
        true
    }

    /// Has the connections drain of what is not in force any more.
    fn retire(&mut self, common: &Common, old: One, new: Option<&Arc<Listener>>, in_place: bool) {
        let stays =
            |chain: &Arc<FilterChain>| new.is_some_and(|new| new.chains().any(|other| Arc::ptr_eq(other, chain)));
        let before = self.retired.len();
        self.retired.extend(old.listener.chains().filter(|chain| !stays(chain)).cloned());
        let gone = self.retired.len() - before;
        if in_place && gone == 0 {
            return;
        }
        self.numbers += 1;
        let name = old.listener.name.clone();
        let chains = in_place.then_some(gone);
        if !in_place {
            common.status.show(Kind::Listener, &name, |shown| shown.draining = Some(old.version));
        }
        self.draining.push(Draining { number: self.numbers, name, chains, _files: old._files });
        self.count_draining();
        common.waits.leave(Wait::Drained(self.numbers, self.drain_time));
    }

    /// What drained is gone.
    pub(super) fn drained(&mut self, common: &Common, number: u64) {
        let Some(at) = self.draining.iter().position(|draining| draining.number == number) else { return };
        let Draining { name, chains, .. } = self.draining.remove(at);
        let last = !self.draining.iter().any(|other| other.name == name && other.chains.is_none());
        if chains.is_none() && last {
            common.status.show(Kind::Listener, &name, |shown| shown.draining = None);
        }
        self.count_draining();
    }

    fn count_draining(&self) {
        let listeners = self.draining.iter().filter(|draining| draining.chains.is_none()).count();
        self.counts.drain(listeners, self.draining.iter().filter_map(|draining| draining.chains).sum());
    }

    /// Puts in force what is there.
    fn publish(&mut self, common: &Common) {
        let fixed = self.fixed.listeners().iter();
        let all: Vec<_> = fixed.chain(self.active.iter().map(|one| &one.listener)).cloned().collect();
        let lacks = self.lacking.values().fold(Lacks::default(), |all, one| all.and(*one));
        let next = common.snapshot.load().with_listeners(all, lacks);
        common.snapshot.store(Arc::new(next));
        for chain in self.retired.drain(..) {
            if let Some(drain) = &chain.drain {
                drain.start(Some(self.drain_time));
            }
        }
    }
}

/// Which connections of pods a listener may have been for; any, if it can't be read.
fn lacks(message: Option<&proto::Listener>) -> Lacks {
    let inbound = message.is_none_or(|message| message.traffic_direction() == TrafficDirection::Inbound);
    let outbound = message.is_none_or(|message| message.traffic_direction() != TrafficDirection::Inbound);
    Lacks { outbound, inbound }
}

/// What a listener says of all but its filter chains.
fn but_for_chains(message: &proto::Listener) -> proto::Listener {
    proto::Listener { filter_chains: Vec::new(), default_filter_chain: None, ..message.clone() }
}

/// What a listener says of its sockets.
fn sockets(message: &proto::Listener) -> proto::Listener {
    #[expect(deprecated, reason = "published configurations use it")]
    let deprecated_v1 = message.deprecated_v1;
    #[expect(deprecated, reason = "as above")]
    proto::Listener {
        address: message.address.clone(),
        additional_addresses: message.additional_addresses.clone(),
        bind_to_port: message.bind_to_port,
        deprecated_v1,
        transparent: message.transparent,
        freebind: message.freebind,
        socket_options: message.socket_options.clone(),
        tcp_fast_open_queue_length: message.tcp_fast_open_queue_length,
        tcp_backlog_size: message.tcp_backlog_size,
        enable_reuse_port: message.enable_reuse_port,
        enable_mptcp: message.enable_mptcp,
        tcp_keepalive: message.tcp_keepalive,
        traffic_direction: message.traffic_direction,
        ..proto::Listener::default()
    }
}

/// The filter chains of a listener with what they were made from.
fn chains(message: &proto::Listener, listener: &Listener) -> Vec<Kept> {
    let messages = message.filter_chains.iter().chain(&message.default_filter_chain);
    messages.cloned().zip(listener.chains().cloned()).collect()
}
