//! What the data path tells of itself: counters, access logs, event logs.

pub mod access_log;
mod demand;
mod entry;
pub mod events;
pub mod filter;
mod flag;
pub mod format;
mod header_name;
mod kept;
pub mod log;
pub mod stats;
mod unique;
mod view;
mod wanted;
pub mod writer;
