//! How much memory the process has, and `/memory`.

use serde_json::json;

use super::reply::Reply;

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

/// Bytes of the process's own memory that are present: the allocator has no cheaper number than the kernel's.
pub fn allocated() -> u64 {
    resident().saturating_sub(statm(2))
}

/// Bytes of memory that are present, those shared with others included.
pub fn resident() -> u64 {
    statm(1)
}

/// A field of /proc/self/statm, proc(5), in bytes.
fn statm(field: usize) -> u64 {
    /// What the kernel counts in; larger on some arm64 kernels, where these numbers are low.
    const PAGE: u64 = 4096;
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split_whitespace().nth(field).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * PAGE
}
