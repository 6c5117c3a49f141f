//! The end of a body of HTTP/2 that nobody needs any more. hyper sends one in a task of its own until the body ends, whatever
//! has become of the response, and holds the stream as long. So whoever uses the stream ends that task ([`Sending::end`]),
//! which resets the stream and lets go of the client's body.
//!
//! Invariant: hyper's tasks are told apart by when they begin. A request's own begins in the turn of the connection's driver
//! that takes the request ([`Beginnings::during`]), right after its body was asked for the first time.

use std::{
    cell::{Cell, RefCell},
    pin::pin,
    rc::Rc,
};

use futures_util::future::select;
use tokio::sync::Notify;

use crate::telemetry::panics;

/// Whether a body is still to be sent.
#[derive(Debug)]
pub(in crate::http) struct Sending {
    over: Cell<bool>,
    ended: Notify,
    beginnings: Rc<Beginnings>,
}

impl Sending {
    /// Over a connection with these beginnings.
    pub fn new(beginnings: &Rc<Beginnings>) -> Rc<Self> {
        Rc::new(Self { over: Cell::new(false), ended: Notify::new(), beginnings: beginnings.clone() })
    }

    /// No more of it is wanted.
    pub fn end(&self) {
        self.over.set(true);
        self.ended.notify_one();
    }

    /// Whether it has been ended.
    pub fn is_over(&self) -> bool {
        self.over.get()
    }

    /// Its body is asked for.
    pub fn begins(self: &Rc<Self>) {
        if self.beginnings.open.get() {
            *self.beginnings.newest.borrow_mut() = Some(self.clone());
        }
    }
}

/// What the driver of a connection has begun to send in its turn.
#[derive(Debug, Default)]
pub(in crate::http) struct Beginnings {
    open: Cell<bool>,
    newest: RefCell<Option<Rc<Sending>>>,
}

impl Beginnings {
    /// Gives the driver its turn.
    pub fn during<T>(&self, turn: impl FnOnce() -> T) -> T {
        self.open.set(true);
        let output = turn();
        self.open.set(false);
        *self.newest.borrow_mut() = None;
        output
    }
}

/// Runs hyper's tasks of a connection on the thread that they belong to.
#[derive(Clone, Debug)]
pub(in crate::http) struct Executor {
    /// The connection's number.
    pub connection: u64,
    pub beginnings: Rc<Beginnings>,
}

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        let newest = self.beginnings.newest.borrow_mut().take();
        match newest {
            None => panics::spawn_for(self.connection, future),
            Some(sending) => panics::spawn_for(self.connection, async move {
                select(pin!(sending.ended.notified()), pin!(future)).await;
            }),
        };
    }
}
