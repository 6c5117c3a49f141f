//! What the proxy tells of itself: counters, its own log, event logs; and the thread that writes files.

pub mod events;
pub mod log;
pub mod stats;
pub mod writer;
