//! Counters, gauges, histograms and text readouts, under Envoy's names.
//!
//! Names are interned when an object is configured: [`Scope::counter`] and its siblings give small handles. On the data
//! path a worker adds into a [`Shard`] of its own, an array indexed by handle, by a plain load and store; a reader
//! ([`Store::read`]) sums the shards. A name lives as long as a [`Scope`] that registered it: an object keeps its scope
//! beside its handles, and once the last such object is gone, the number behind its handles is cleared and given out
//! again. Nobody may use a handle after its scope.

mod codes;
mod distribution;
mod handles;
pub mod process;
mod registry;
mod shard;
mod store;
pub mod tags;

pub(crate) use self::handles::handles;
pub use self::{
    codes::Codes,
    distribution::{Bin, Distribution, QUANTILES},
    registry::{Scope, Unit},
    shard::{Shard, Shared},
    store::{Kind, Merged, Metric, Store, Tagged, Value},
};

/// A number that only grows. The default one counts nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter(pub(super) u32);

/// A number that goes up and down: workers add to it, or the control thread sets it. The default one is nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauge(pub(super) u32);

/// A distribution of values. The default one records nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram(pub(super) u32);

/// A text, set by the control thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TextReadout(pub(super) u32);
