//! How much memory the process has, and `/memory`.

use serde_json::json;

use super::reply::Reply;
use crate::memory::{allocated, resident};

pub(super) fn answer() -> Reply {
    let (allocated, present) = (allocated(), resident());
    Reply::pretty(&json!({
        "allocated": allocated.to_string(),
        "heap_size": present.to_string(),
        "pageheap_unmapped": "0",
        "pageheap_free": present.saturating_sub(allocated).to_string(),
        "total_thread_cache": "0",
        "total_physical_bytes": present.to_string(),
    }))
}
