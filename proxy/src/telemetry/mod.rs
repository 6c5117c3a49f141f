//! What the data path tells of itself: counters, access logs, event logs.

pub mod access_log;
pub mod events;
pub mod format;
mod format_tls;
mod format_write;
pub mod log;
pub mod stats;
pub mod writer;
