//! What the allocator takes from the kernel and gives back.
//!
//! It keeps pages that have become free, to have them at hand. It gives them back only while it is being asked for more, so
//! that a thread that falls idle after a peak would hold the peak for good.

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
