//! What is made of a cell's value for one place where it is used.

use std::{
    fmt,
    sync::{Arc, Weak},
};

use arc_swap::ArcSwapOption;

use super::{
    feed::{Feed, Follower},
    one::{Cell, nothing_further},
    registry::Registry,
};
use crate::config::error::Error;

type Make<T> = Box<dyn Fn() -> Result<Option<T>, Error> + Send + Sync>;

/// What is made of a cell's value, and is made anew when it changes.
pub struct Slot<T> {
    current: ArcSwapOption<T>,
    make: Make<T>,
    cell: Arc<dyn Feed>,
    further: fn(&T) -> Vec<Arc<dyn Feed>>,
}

impl<T> fmt::Debug for Slot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Slot").field(&self.cell).finish()
    }
}

impl<T: Send + Sync + 'static> Slot<T> {
    /// Makes what `build` makes of the value; of none, too. A value that is there and is of no use here counts as none.
    pub fn new<A: Send + Sync + 'static>(
        registry: &Registry,
        cell: Arc<Cell<A>>,
        build: impl Fn(Option<&A>) -> Result<Option<T>, Error> + Send + Sync + 'static,
    ) -> Result<Arc<Self>, Error> {
        Self::naming(registry, cell, build, nothing_further)
    }

    /// The same of what names further cells.
    pub fn naming<A: Send + Sync + 'static>(
        registry: &Registry,
        cell: Arc<Cell<A>>,
        build: impl Fn(Option<&A>) -> Result<Option<T>, Error> + Send + Sync + 'static,
        further: fn(&T) -> Vec<Arc<dyn Feed>>,
    ) -> Result<Arc<Self>, Error> {
        let _still = registry.still();
        let first = build(cell.current().as_deref()).or_else(|_| build(None))?;
        let (from, feed) = (cell.clone(), cell.clone());
        let make = Box::new(move || build(from.current().as_deref()));
        let slot = Arc::new(Self { current: ArcSwapOption::new(first.map(Arc::new)), make, cell: feed, further });
        let follower: Weak<Self> = Arc::downgrade(&slot);
        cell.followed_by(follower);
        Ok(slot)
    }
}

impl<T> Slot<T> {
    /// What there is now.
    pub fn current(&self) -> Option<Arc<T>> {
        self.current.load_full()
    }
}

impl<T: Send + Sync> Follower for Slot<T> {
    fn prepare(&self) -> Result<Box<dyn FnOnce() + '_>, Error> {
        let made = (self.make)()?.map(Arc::new);
        Ok(Box::new(move || self.current.store(made)))
    }

    fn further(&self) -> Vec<Arc<dyn Feed>> {
        self.current().as_deref().map(self.further).unwrap_or_default()
    }
}
