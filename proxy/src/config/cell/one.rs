//! One cell.

use std::{
    fmt,
    sync::{Arc, Weak},
    time::{Duration, SystemTime},
};

use arc_swap::{ArcSwapOption, Guard};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    asks::{Asked, Asks},
    feed::{Feed, Follower},
    notes::{Note, Notes},
    reloads::Reloads,
    subject::{Accepted, Kind, Refused, State, Subject, Told},
};
use crate::{config::error::Error, telemetry::stats::Scope};

/// Makes a value of an encoded message, or says why it can't be one.
pub type Read<T> = Box<dyn Fn(&Bytes) -> Result<T, Error> + Send + Sync>;

/// What a new cell is made of.
pub struct Making<T> {
    /// How long is waited for a first value; none: for ever.
    pub timeout: Option<Duration>,
    /// Where the statistics of its subscription are.
    pub scope: Scope,
    /// Makes values.
    pub read: Read<T>,
    /// What is counted of changes; none: nothing.
    pub reloads: Option<Reloads>,
    /// Cells that a value names.
    pub further: fn(&T) -> Vec<Arc<dyn Feed>>,
}

/// Of values that name no cell.
pub fn nothing_further<T>(_: &T) -> Vec<Arc<dyn Feed>> {
    Vec::new()
}

/// A part of the configuration that comes by itself.
pub struct Cell<T> {
    subject: Subject,
    number: u64,
    since: SystemTime,
    timeout: Option<Duration>,
    scope: Scope,
    read: Read<T>,
    reloads: Option<Reloads>,
    further: fn(&T) -> Vec<Arc<dyn Feed>>,
    asks: Asks,
    current: ArcSwapOption<T>,
    state: watch::Sender<State>,
    told: Mutex<Told>,
    followers: Mutex<Vec<Weak<dyn Follower>>>,
    notes: Arc<Notes>,
}

impl<T> Cell<T> {
    pub(super) fn new(subject: Subject, number: u64, making: Making<T>, notes: Arc<Notes>) -> Self {
        let Making { timeout, scope, read, reloads, further } = making;
        Self {
            subject,
            number,
            since: SystemTime::now(),
            timeout,
            scope,
            read,
            reloads,
            further,
            asks: Asks::default(),
            current: ArcSwapOption::empty(),
            state: watch::Sender::new(State::Sleeping),
            told: Mutex::default(),
            followers: Mutex::default(),
            notes,
        }
    }
}

impl<T> fmt::Debug for Cell<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cell").field(&self.subject).field(&*self.state.borrow()).finish()
    }
}

impl<T> Cell<T> {
    /// The value, for who uses it for a moment.
    pub fn current(&self) -> Guard<Option<Arc<T>>> {
        self.current.load()
    }

    /// What it is called.
    pub fn name(&self) -> &Arc<str> {
        &self.subject.name
    }

    /// Whoever this is makes itself anew when the value changes, for as long as it is there. Under
    /// `Registry::still`, so that no change passes unseen.
    pub fn followed_by(&self, follower: Weak<dyn Follower>) {
        let mut followers = self.followers.lock();
        followers.retain(|one| one.strong_count() > 0 && !Weak::ptr_eq(one, &follower));
        followers.push(follower);
    }

    fn failed(&self) {
        if let Some(reloads) = &self.reloads {
            reloads.failed();
        }
    }

    /// Nobody waits any longer, for this reason.
    fn give_up(&self, why: State) {
        self.state.send_if_modified(|state| {
            let waiting = *state == State::Waiting;
            if waiting {
                *state = why;
            }
            waiting
        });
    }

    /// Puts a value in place, unless one that follows can't be made with it.
    fn put(&self, value: Option<Arc<T>>) -> Result<(), Error> {
        let _changing = self.notes.changing.lock();
        let followers: Vec<_> = self.followers.lock().iter().filter_map(Weak::upgrade).collect();
        let before = self.current.swap(value);
        let prepared: Result<Vec<_>, _> = followers.iter().map(|follower| follower.prepare()).collect();
        match prepared {
            Ok(prepared) => prepared.into_iter().for_each(|put_in_force| put_in_force()),
            Err(error) => {
                self.current.store(before);
                return Err(error);
            }
        }
        Ok(())
    }
}

impl<T: Send + Sync + 'static> Cell<T> {
    /// Has whoever feeds it told of it, if it was not yet.
    pub fn want(self: &Arc<Self>) {
        let was_sleeping = self.state.send_if_modified(|state| {
            let sleeping = *state == State::Sleeping;
            if sleeping {
                *state = State::Waiting;
            }
            sleeping
        });
        if was_sleeping {
            let feed: Arc<dyn Feed> = self.clone();
            self.notes.note(&self.subject.source, Note::Wanted(Arc::downgrade(&feed)));
        }
    }
}

impl<T> Drop for Cell<T> {
    fn drop(&mut self) {
        self.notes.note(&self.subject.source, Note::Gone(self.number));
    }
}

impl<T: Send + Sync + 'static> Feed for Cell<T> {
    fn subject(&self) -> &Subject {
        &self.subject
    }

    fn number(&self) -> u64 {
        self.number
    }

    fn since(&self) -> SystemTime {
        self.since
    }

    fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    fn scope(&self) -> &Scope {
        &self.scope
    }

    fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    fn told(&self) -> Told {
        self.told.lock().clone()
    }

    fn offer(&self, body: &Bytes, version: &Arc<str>, now: SystemTime) -> Result<bool, String> {
        let known = self.told.lock().accepted.as_ref().is_some_and(|accepted| accepted.body == *body);
        if known {
            self.told.lock().refused = None;
            if let Some(reloads) = &self.reloads {
                reloads.repeated(now);
            }
            return Ok(false);
        }
        let put = (self.read)(body).and_then(|value| self.put(Some(Arc::new(value))));
        if let Err(error) = put {
            let why = error.to_string();
            self.refuse(Refused { body: body.clone(), version: version.clone(), at: now, why: why.clone() });
            return Err(why);
        }
        let accepted = Some(Accepted { body: body.clone(), version: version.clone(), at: now });
        *self.told.lock() = Told { accepted, refused: None };
        if let Some(reloads) = &self.reloads {
            reloads.reloaded(now);
        }
        self.state.send_replace(State::Ready);
        Ok(true)
    }

    fn refuse(&self, refused: Refused) {
        self.told.lock().refused = Some(refused);
        self.failed();
        self.give_up(State::Refused);
    }

    fn miss(&self, empty: bool) {
        match &self.reloads {
            Some(reloads) if empty => reloads.empty(),
            _ => self.failed(),
        }
        self.give_up(State::Refused);
    }

    fn withdraw(&self) {
        let keeps = matches!(self.subject.kind, Kind::Routes | Kind::Secret) && self.current().is_some();
        if keeps {
            return;
        }
        if let Err(error) = self.put(None) {
            tracing::warn!(name = %self.subject.name, %error, "is gone, and still used");
            return;
        }
        *self.told.lock() = Told::default();
        self.state.send_replace(State::Absent);
    }

    fn time_out(&self) {
        self.failed();
        self.give_up(State::TimedOut);
    }

    fn ask(&self, name: &Arc<str>) -> Option<Asked> {
        self.asks.ask(name, |forgotten| {
            if !forgotten.is_empty() {
                let (cell, names) = (&*self.subject.name, forgotten.len());
                tracing::info!(cell, names, "names that lead nowhere are not followed any more");
                self.notes.note(&self.subject.source, Note::Forgotten(self.number, forgotten));
            }
            self.notes.note(&self.subject.source, Note::Asked(self.number, name.clone()));
        })
    }

    fn answer(&self, name: &str, found: bool) {
        self.asks.answer(name, found);
    }

    fn further(&self) -> Vec<Arc<dyn Feed>> {
        let mut further = self.current().as_deref().map(self.further).unwrap_or_default();
        let followers: Vec<_> = self.followers.lock().iter().filter_map(Weak::upgrade).collect();
        further.extend(followers.iter().flat_map(|follower| follower.further()));
        further
    }
}
