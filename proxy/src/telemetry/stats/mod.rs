//! Counters, gauges, histograms and text readouts, under Envoy's names.
//!
//! Names are interned when an object is configured: [`Scope::counter`] and its siblings give small handles. On the data
//! path a worker adds into a [`Shard`] of its own, an array indexed by handle, by a plain load and store; a reader
//! ([`Store::read`]) sums the shards. A name lives as long as a [`Scope`] that registered it: an object keeps its scope
//! beside its handles, and once the last such object is gone, the number behind its handles is cleared and given out
//! again. Nobody may use a handle after its scope.

mod codec;
mod codes;
mod distribution;
mod handles;
mod metric;
mod numbers;
pub mod process;
mod registry;
mod scope;
mod shard;
mod store;
pub mod tags;
pub mod views;

pub(crate) use self::handles::handles;
pub use self::{
    codec::CodecStats,
    codes::Codes,
    distribution::{Bin, Distribution, QUANTILES},
    metric::{Counter, Gauge, Histogram, Kind, Merged, Metric, Tagged, TextReadout, Unit, Value},
    scope::Scope,
    shard::{Shard, Shared},
    store::Store,
};
