//! What the proxy tells of itself: counters, its own log, panics, event logs; and the thread that writes files.

pub mod events;
pub mod log;
pub mod panics;
pub mod stats;
pub mod unknown_fields;
pub mod writer;
