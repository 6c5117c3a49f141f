//! What is to be said on one stream, and what is made of what is heard there: all types of an aggregated stream, or the
//! one type of a stream of its own.
//!
//! Requests go out in the order in which types were first subscribed to, which is the order in which they depend on one
//! another. While an update is applied, requests for what it may refer to wait ([`Kind::holds`]), and its own
//! acknowledgement comes after them; an acknowledgement may also be [held](Mux::hold) until what was applied is warm.
//!
//! No clock, no socket: the caller says what happened and when, and sends what [`Mux::next_request`] gives.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Instant, SystemTime},
};

use weir_proto::envoy::{
    config::core::v3::Node,
    service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryResponse},
};

use super::{
    delta::{self, Delta},
    interest::Interest,
    kind::{Kind, Protocol, shortened},
    sotw::{self, Read, Sotw, SotwRequest},
    store::{Content, Store},
    ttl::Lives,
    update::{Origin, Refused, Resource, Update},
};

/// A request of either protocol.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// State of the world.
    Sotw(SotwRequest),
    /// Delta.
    Delta(DeltaDiscoveryRequest),
}

/// A response of either protocol.
#[derive(Clone, Debug, PartialEq)]
pub enum Response {
    /// State of the world.
    Sotw(DiscoveryResponse),
    /// Delta.
    Delta(DeltaDiscoveryResponse),
}

impl Response {
    /// What the server calls itself, if it says so.
    pub fn control_plane(&self) -> Option<&str> {
        let control_plane = match self {
            Self::Sotw(response) => &response.control_plane,
            Self::Delta(response) => &response.control_plane,
        };
        control_plane.as_ref().map(|control_plane| control_plane.identifier.as_str())
    }
}

/// What a response comes to.
#[derive(Clone, Debug, PartialEq)]
pub enum Received {
    /// To be applied, then [judged](Mux::judged), before anything else is received.
    Update(Update),
    /// It can't be read, and is rejected whole.
    Malformed(Kind, String),
    /// It is of a type, by its URL, that nobody asked for, and not answered.
    Unasked(String),
}

/// The client's side of one stream, over all its connections.
#[derive(Debug)]
pub struct Mux {
    protocol: Protocol,
    store: Arc<Store>,
    node: Node,
    /// `set_node_on_first_message_only`.
    node_once: bool,
    node_sent: bool,
    open: bool,
    /// In the order of their first subscription.
    lines: Vec<Line>,
    /// Types that may have something to say, by when they came to it.
    queue: VecDeque<Kind>,
    held: [u32; Kind::ALL.len()],
    judging: Option<Judging>,
}

/// One type.
#[derive(Debug)]
struct Line {
    kind: Kind,
    interest: Interest,
    state: State,
    lives: Lives,
    /// Names that are wanted and stand for resources of other names (virtual hosts).
    aliases: HashMap<Arc<str>, Arc<str>>,
}

#[derive(Debug)]
enum State {
    Sotw(Sotw),
    Delta(Delta),
}

/// A response that is being applied.
#[derive(Debug)]
struct Judging {
    kind: Kind,
    nonce: String,
    heartbeats: Vec<Resource>,
    faults: Vec<(Arc<str>, String)>,
}

impl Line {
    fn due(&self) -> bool {
        match &self.state {
            State::Sotw(sotw) => sotw.due(),
            State::Delta(delta) => delta.due(),
        }
    }
}

impl Mux {
    /// A stream that nothing is wanted of yet.
    pub fn new(protocol: Protocol, node: Node, node_once: bool, store: Arc<Store>) -> Self {
        Self {
            protocol,
            store,
            node,
            node_once,
            node_sent: false,
            open: false,
            lines: Vec::new(),
            queue: VecDeque::new(),
            held: [0; Kind::ALL.len()],
            judging: None,
        }
    }

    /// The protocol it speaks.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// What became of its resources.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// A name is wanted; none: everything of the type.
    pub fn subscribe(&mut self, kind: Kind, name: Option<&Arc<str>>) {
        if let Some(name) = name {
            self.store.requested(kind, name);
        }
        let line = self.line_or_new(kind);
        if !line.interest.add(name) {
            return;
        }
        match &mut line.state {
            State::Sotw(sotw) => sotw.interest_changed(&line.interest),
            State::Delta(delta) => delta.wanted(name),
        }
        if name.is_none() {
            self.store.requested_all(kind, true);
        }
        self.enqueue(kind);
    }

    /// It is no longer wanted, by one of those who did.
    pub fn unsubscribe(&mut self, kind: Kind, name: Option<&Arc<str>>) {
        let Some(line) = self.lines.iter_mut().find(|line| line.kind == kind) else { return };
        if !line.interest.remove(name) {
            return;
        }
        match &mut line.state {
            State::Sotw(sotw) => sotw.interest_changed(&line.interest),
            State::Delta(delta) => delta.unwanted(name, &line.interest),
        }
        match name {
            Some(name) if !line.interest.has(name) => {
                self.store.forget(kind, name);
                line.lives.clear(name);
                // What it stood for goes with the last name for it.
                let resource = line.aliases.remove(name);
                let others = |resource: &Arc<str>| {
                    line.interest.has(resource) || line.aliases.values().any(|other| other == resource)
                };
                if let Some(resource) = resource.filter(|resource| !others(resource)) {
                    self.store.forget(kind, &resource);
                    line.lives.clear(&resource);
                    if let State::Delta(delta) = &mut line.state {
                        delta.forget(&resource);
                    }
                }
            }
            Some(name) => {
                // It may have come with everything, and stays then.
                line.aliases.remove(name);
                if self.store.unnamed(kind, name) {
                    line.lives.clear(name);
                    if let State::Delta(delta) = &mut line.state {
                        delta.forget(name);
                    }
                }
            }
            None => {
                self.store.requested_all(kind, false);
                self.store.retain(kind, |name| line.interest.names_it(name));
            }
        }
        self.enqueue(kind);
    }

    /// Requests of a type, its acknowledgements among them, wait until they are [released](Self::release) as often.
    pub fn hold(&mut self, kind: Kind) {
        self.held[kind as usize] += 1;
    }

    /// See [`hold`](Self::hold).
    pub fn release(&mut self, kind: Kind) {
        let held = &mut self.held[kind as usize];
        *held = held.saturating_sub(1);
    }

    /// A connection is there.
    pub fn opened(&mut self) {
        self.open = true;
        self.node_sent = false;
        self.queue.clear();
        for line in &mut self.lines {
            match &mut line.state {
                State::Sotw(sotw) => sotw.opened(&line.interest),
                State::Delta(delta) => delta.opened(&line.interest),
            }
            self.queue.push_back(line.kind);
        }
    }

    /// The connection is gone. What is in force stays. What was received and not [judged](Self::judged) comes again.
    pub fn lost(&mut self) {
        self.open = false;
        if let Some(judging) = self.judging.take() {
            self.let_go(judging.kind);
        }
    }

    /// How many types have something to say, be it held or not.
    pub fn pending(&self) -> usize {
        self.lines.iter().filter(|line| line.due()).count()
    }

    /// There is a request that could be sent now.
    pub fn ready(&self) -> bool {
        self.open && self.queue.iter().any(|kind| self.free(*kind))
    }

    /// What is to be sent next.
    pub fn next_request(&mut self) -> Option<Request> {
        if !self.open {
            return None;
        }
        let at = self.queue.iter().position(|kind| self.free(*kind))?;
        let kind = self.queue.remove(at)?;
        let node = (!(self.node_once && self.node_sent)).then(|| self.node.clone());
        self.node_sent = true;
        let line = self.lines.iter_mut().find(|line| line.kind == kind)?;
        let request = match &mut line.state {
            State::Sotw(sotw) => {
                let mut request = sotw.request(kind, &mut line.interest);
                request.request.node = node;
                Request::Sotw(request)
            }
            State::Delta(delta) => {
                Request::Delta(DeltaDiscoveryRequest { node, ..delta.request(kind, &line.interest) })
            }
        };
        if line.due() {
            self.queue.push_front(kind);
        }
        Some(request)
    }

    /// A response came.
    pub fn received(&mut self, response: Response, now: SystemTime) -> Received {
        let (type_url, nonce) = match &response {
            Response::Sotw(response) => (&response.type_url, response.nonce.clone()),
            Response::Delta(response) => (&response.type_url, response.nonce.clone()),
        };
        let kind = Kind::of(type_url);
        let Some(line) = self.lines.iter_mut().find(|line| Some(line.kind) == kind) else {
            return Received::Unasked(type_url.clone());
        };
        let kind = line.kind;
        let read = match (response, &mut line.state) {
            (Response::Sotw(response), State::Sotw(_)) => sotw::read(kind, response, &line.interest),
            (Response::Delta(response), State::Delta(delta)) => {
                delta::read(kind, response, &line.interest, |name| delta.version(name))
            }
            _ => Err("a response of the other protocol".to_owned()),
        };
        let read = read.and_then(|Read { mut content, heartbeats }| {
            let faults = std::mem::take(&mut content.faults);
            Ok((self.store.changes(kind, content, Origin::Server)?, heartbeats, faults))
        });
        match read {
            Ok((update, heartbeats, faults)) => {
                self.judging = Some(Judging { kind, nonce, heartbeats, faults });
                self.hold(kind);
                kind.holds().iter().for_each(|held| self.hold(*held));
                Received::Update(update)
            }
            Err(why) => {
                let why = shortened(why);
                self.store.refused(kind, &why, now);
                match &mut line.state {
                    State::Sotw(sotw) => sotw.judged(nonce, &Arc::default(), Some(why.clone())),
                    State::Delta(delta) => delta.judged(nonce, None, &HashSet::new(), Some(why.clone())),
                }
                self.enqueue(kind);
                Received::Malformed(kind, why)
            }
        }
    }

    /// What [`received`](Self::received) gave was applied, or not. Gives what the server is told if not all of it was.
    pub fn judged(
        &mut self,
        update: &Update,
        verdict: &Result<(), Refused>,
        now: Instant,
        time: SystemTime,
    ) -> Option<String> {
        let Judging { nonce, heartbeats, faults, .. } = self.judging.take()?;
        let kind = update.kind;
        let told = Refused::told(verdict, kind, &faults);
        self.store.settle(update, verdict, told.as_deref(), time);
        if let Some(line) = self.lines.iter_mut().find(|line| line.kind == kind) {
            let all = matches!(verdict, Err(Refused::All(_)));
            let refused: HashSet<&str> = match verdict {
                Err(Refused::Some(some)) => some.iter().map(|(name, _)| &**name).collect(),
                _ => HashSet::new(),
            };
            if !all {
                for resource in update.added.iter().chain(&update.unchanged).chain(&heartbeats) {
                    line.lives.set(&resource.name, resource.ttl, now);
                }
                let came = update.added.iter().chain(&update.unchanged);
                for resource in came.filter(|resource| !resource.is_absent()) {
                    for alias in resource.aliases.iter().filter(|alias| **alias != *resource.name) {
                        if line.interest.names_it(alias) {
                            line.aliases.insert(alias.as_str().into(), resource.name.clone());
                            // It is known by the name of what it stands for.
                            self.store.forget(kind, alias);
                        }
                    }
                }
                update.removed.iter().for_each(|name| line.lives.clear(name));
            }
            match &mut line.state {
                State::Sotw(sotw) => sotw.judged(nonce, &update.version, told.clone()),
                State::Delta(delta) => {
                    delta.judged(nonce, (!all).then_some(update), &refused, told.clone());
                }
            }
        }
        self.let_go(kind);
        self.enqueue(kind);
        told
    }

    /// When the first resource is over that does not come again.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.lines.iter().filter_map(|line| line.lives.next()).min()
    }

    /// What is over, to be applied. The store knows it already.
    pub fn expired(&mut self, now: Instant, time: SystemTime) -> Vec<Update> {
        let mut updates = Vec::new();
        for line in &mut self.lines {
            let removed = line.lives.over(now);
            if removed.is_empty() {
                continue;
            }
            if let State::Delta(delta) = &mut line.state {
                removed.iter().for_each(|name| delta.forget(name));
            }
            let content = Content { removed, ..Content::default() };
            // Nothing is added: it can't be too much.
            let Ok(update) = self.store.changes(line.kind, content, Origin::Expiry) else { continue };
            self.store.settle(&update, &Ok(()), None, time);
            updates.push(update);
        }
        updates
    }

    /// What was accepted before this process was started and has been applied again.
    pub fn restored(&mut self, update: &Update, verdict: &Result<(), Refused>, time: SystemTime) {
        let told = Refused::told(verdict, update.kind, &[]);
        self.store.settle(update, verdict, told.as_deref(), time);
        let names = update.added.iter().map(|resource| &resource.name);
        let names: Vec<_> = names.filter(|name| self.store.accepted(update.kind, name).is_some()).cloned().collect();
        if let State::Delta(delta) = &mut self.line_or_new(update.kind).state {
            delta.restore(names);
        }
    }

    /// Ends what a response holds while it is applied.
    fn let_go(&mut self, kind: Kind) {
        kind.holds().iter().for_each(|held| self.release(*held));
        self.release(kind);
    }

    fn free(&self, kind: Kind) -> bool {
        self.held[kind as usize] == 0 && self.lines.iter().any(|line| line.kind == kind && line.due())
    }

    fn enqueue(&mut self, kind: Kind) {
        if !self.queue.contains(&kind) {
            self.queue.push_back(kind);
        }
    }

    fn line_or_new(&mut self, kind: Kind) -> &mut Line {
        let at = self.lines.iter().position(|line| line.kind == kind).unwrap_or_else(|| {
            let state = match self.protocol {
                Protocol::Sotw => State::Sotw(Sotw::default()),
                Protocol::Delta => State::Delta(Delta::default()),
            };
            self.lines.push(Line {
                kind,
                interest: Interest::default(),
                state,
                lives: Lives::default(),
                aliases: HashMap::new(),
            });
            self.lines.len() - 1
        });
        &mut self.lines[at]
    }
}

#[cfg(test)]
mod tests;
