//! What the allocator takes from the kernel and gives back, and how much that is.
//!
//! It keeps pages that have become free, to have them at hand. It gives them back only while it is being asked for more, so
//! that a thread that falls idle after a peak would hold the peak for good.

use nix::unistd::{SysconfVar, sysconf};

/// Takes pages of the usual size only, also where the kernel gives everybody huge ones: those are resident as a whole,
/// however little lies in them.
pub fn take_small_pages() {
    // A kernel without huge pages does not know it.
    let _ = nix::sys::prctl::set_thp_disable(true);
}

/// Gives back the pages that hold nothing: those of the calling thread and those that belong to none.
pub fn give_back() {
    // SAFETY: it takes no pointers, and may be called from any thread at any time.
    unsafe { libmimalloc_sys::mi_collect(true) }
}

/// Bytes of the process's own memory that are present, if the kernel tells: the allocator has no cheaper number than its.
pub fn own() -> Option<u64> {
    Some(statm(1)?.saturating_sub(statm(2)?))
}

/// The same; 0: it is not known.
pub fn allocated() -> u64 {
    own().unwrap_or(0)
}

/// Bytes of memory that are present, those shared with others included; 0: it is not known.
pub fn resident() -> u64 {
    statm(1).unwrap_or(0)
}

/// A field of /proc/self/statm, proc(5), in bytes.
fn statm(field: usize) -> Option<u64> {
    let page = sysconf(SysconfVar::PAGE_SIZE).ok()??;
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(field)?.parse().ok()?;
    pages.checked_mul(u64::try_from(page).ok()?)
}
