//! What the data path tells of itself: counters, access logs, event logs.

pub mod access_log;
mod entry;
pub mod events;
pub mod filter;
mod flag;
pub mod format;
mod kept;
pub mod log;
pub mod stats;
mod unique;
pub mod writer;
