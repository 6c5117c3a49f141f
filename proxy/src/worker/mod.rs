//! One current-thread runtime per core: accepts for itself, owns its connections and pools, and shares with the others
//! only immutable snapshots and atomics.

mod accept;
pub mod state;
mod threads;

pub(crate) use self::threads::local_runtime;
pub use self::{
    accept::{Source, Taken},
    state::Worker,
    threads::{Accepting, Teller, Workers},
};
