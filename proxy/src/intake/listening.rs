//! The listeners of all configurations, in the order in which they came: where they are bound, and whether they accept.
//!
//! They are bound before they accept, and accept once all that the process starts with is there; what comes then accepts at
//! once. A listener that is changed keeps its sockets, unless it is to have others.

use std::{io, net::SocketAddr, sync::Arc};

use parking_lot::Mutex;

use super::{
    bound::BoundListener,
    claims::{Claim, Claims},
};
use crate::{
    config::listener::{Listener, TrafficDirection},
    drain::DrainWatch,
    view::ViewId,
    wire::named::NamedAddress,
    worker::{Accepting, Source, Teller},
};

/// The listeners of the configuration.
#[derive(Debug)]
pub struct Listening {
    workers: Teller,
    drain: DrainWatch,
    inbound_drain: DrainWatch,
    state: Mutex<State>,
    claims: Claims,
}

#[derive(Debug, Default)]
struct State {
    started: bool,
    /// Nothing, or nothing inbound, is accepted any more.
    stopped: Option<Stopped>,
    all: Vec<Entry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopped {
    Inbound,
    All,
}

#[derive(Debug)]
struct Entry {
    view: ViewId,
    name: Arc<str>,
    inbound: bool,
    addresses: Vec<String>,
    /// Sockets that wait for the start.
    waiting: Vec<BoundListener>,
    accepting: Option<Accepting>,
}

impl Entry {
    fn is(&self, view: ViewId, name: &str) -> bool {
        self.view == view && *self.name == *name
    }
}

impl State {
    fn entry(&mut self, view: ViewId, name: &str) -> Option<&mut Entry> {
        self.all.iter_mut().find(|entry| entry.is(view, name))
    }

    fn stopped(&self, inbound: bool) -> bool {
        match self.stopped {
            Some(Stopped::All) => true,
            Some(Stopped::Inbound) => inbound,
            None => false,
        }
    }
}

impl Listening {
    /// None yet. What is accepted follows `inbound_drain` if its listener is for inbound traffic, else `drain`.
    pub fn new(workers: Teller, drain: DrainWatch, inbound_drain: DrainWatch) -> Self {
        Self { workers, drain, inbound_drain, state: Mutex::default(), claims: Claims::default() }
    }

    /// What workers are told something by.
    pub fn teller(&self) -> &Teller {
        &self.workers
    }

    /// Whether listeners of this direction that come are not accepted from any more.
    pub fn is_stopped(&self, direction: TrafficDirection) -> bool {
        self.state.lock().stopped(direction == TrafficDirection::Inbound)
    }

    /// Takes the addresses that a listener of a view is to be bound at. Error: one that another view has.
    pub fn claim(&self, view: ViewId, listener: &Listener) -> Result<Claim, SocketAddr> {
        self.claims.claim(view, listener)
    }

    /// A listener is there, with its sockets, in the place of one of its name if there is one. It accepts, if others do.
    pub async fn open(&self, view: ViewId, listener: &Listener, bound: Vec<BoundListener>) -> io::Result<()> {
        if self.put(view, listener, bound) { self.accept(view, &listener.name).await } else { Ok(()) }
    }

    /// The same of one that is not to accept yet. Whether others do.
    pub fn put(&self, view: ViewId, listener: &Listener, bound: Vec<BoundListener>) -> bool {
        let addresses = match listener.bind {
            true => bound.iter().map(|bound| NamedAddress::text(&bound.address)).collect(),
            false => listener.addresses.iter().map(NamedAddress::text).collect(),
        };
        let inbound = listener.direction == TrafficDirection::Inbound;
        let name = listener.name.clone();
        let entry = Entry { view, name: name.clone(), inbound, addresses, waiting: bound, accepting: None };
        let mut state = self.state.lock();
        if state.stopped(inbound) {
            return false;
        }
        match state.entry(view, &name) {
            Some(other) => {
                let old = std::mem::replace(other, entry);
                other.accepting = old.accepting;
            }
            None => state.all.push(entry),
        }
        state.started
    }

    /// A listener is gone. Its sockets are closed when this returns.
    pub async fn close(&self, view: ViewId, name: &str) {
        let gone = {
            let mut state = self.state.lock();
            let at = state.all.iter().position(|entry| entry.is(view, name));
            at.map(|at| state.all.remove(at))
        };
        if let Some(accepting) = gone.and_then(|entry| entry.accepting) {
            accepting.stop().await;
        }
    }

    /// Accepts from all that is bound.
    pub async fn start(&self) -> io::Result<()> {
        let all: Vec<_> = {
            let mut state = self.state.lock();
            state.started = true;
            state.all.iter().map(|entry| (entry.view, entry.name.clone())).collect()
        };
        for (view, name) in all {
            self.accept(view, &name).await?;
        }
        Ok(())
    }

    /// Accepts from the sockets of a listener that wait for it, and then no more from those that it had.
    async fn accept(&self, view: ViewId, name: &Arc<str>) -> io::Result<()> {
        let (waiting, inbound) = {
            let mut state = self.state.lock();
            let Some(entry) = state.entry(view, name) else { return Ok(()) };
            (std::mem::take(&mut entry.waiting), entry.inbound)
        };
        if waiting.is_empty() {
            return Ok(());
        }
        let drain = if inbound { &self.inbound_drain } else { &self.drain };
        let accepting = Accepting::none();
        for BoundListener { address, sockets, .. } in waiting {
            for (index, socket) in sockets.into_iter().enumerate() {
                let source = Source::Bound { view, listener: name.clone(), drain: drain.clone() };
                self.workers.accept(index, socket, source, &accepting).await?;
            }
            tracing::info!(listener = %name, address = %NamedAddress::text(&address), "listening");
        }
        let old = {
            let mut state = self.state.lock();
            match state.entry(view, name) {
                Some(entry) => entry.accepting.replace(accepting),
                // It was closed meanwhile.
                None => Some(accepting),
            }
        };
        if let Some(old) = old {
            old.stop().await;
        }
        Ok(())
    }

    /// Accepts no more, or no more of what is inbound. Gives how many listeners that were.
    pub async fn stop(&self, inbound_only: bool) -> usize {
        let stopped: Vec<_> = {
            let mut state = self.state.lock();
            if state.stopped != Some(Stopped::All) {
                state.stopped = Some(if inbound_only { Stopped::Inbound } else { Stopped::All });
            }
            let concerned = state.all.iter_mut().filter(|entry| entry.inbound || !inbound_only);
            concerned.map(|entry| (std::mem::take(&mut entry.waiting), entry.accepting.take())).collect()
        };
        let count = stopped.len();
        for (_, accepting) in stopped {
            if let Some(accepting) = accepting {
                accepting.stop().await;
            }
        }
        count
    }

    /// Every listener's name with the addresses that it has, of a view.
    pub fn addresses(&self, view: ViewId) -> Vec<(String, Vec<String>)> {
        let state = self.state.lock();
        state
            .all
            .iter()
            .filter(|entry| entry.view == view)
            .map(|entry| (entry.name.to_string(), entry.addresses.clone()))
            .collect()
    }
}
