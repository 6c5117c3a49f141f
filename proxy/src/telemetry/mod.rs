//! What the data path tells of itself: counters, access logs, event logs.

pub mod events;
pub mod log;
pub mod stats;
pub mod writer;
