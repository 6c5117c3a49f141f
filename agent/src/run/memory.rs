//! One heap for all threads.
//!
//! glibc gives threads arenas of their own, up to eight a core, and returns little of what lies free in them. Steps of
//! the reconciler (aya's copies of the object are a megabyte) and looks into pods' namespaces run on threads that change
//! all the time: sooner or later every arena has grown to the largest that was ever in use at once. With one it stays at
//! that, whatever the number of cores and of pods that came and went. Nothing here allocates so often that threads would
//! wait for one another.

/// The arenas that there may be.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 1;

/// Keeps all threads on one heap. To be called before there is a second one.
pub(super) fn share_one_heap() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: it sets a number of the allocator, and there is one thread.
        let set = unsafe { libc::mallopt(libc::M_ARENA_MAX, ARENAS) };
        if set != 1 {
            tracing::warn!("the allocator keeps a heap for each thread: memory grows with pods that come and go");
        }
    }
}
