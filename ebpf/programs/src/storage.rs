//! Socket storage: aya's typed calls accept only `connect` contexts, these any socket.

use aya_ebpf::bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock};
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::helpers::generated::{bpf_sk_storage_delete, bpf_sk_storage_get};
use core::ffi::c_void;
use core::ptr::null_mut;

/// A socket that the kernel gave a program, never null.
pub type Socket = *mut bpf_sock;

/// A BTF map is its definition: its address is what the loader replaces by the map.
#[inline(always)]
fn map_pointer<T>(map: &'static SkStorage<T>) -> *mut c_void {
    core::ptr::from_ref(map).cast_mut().cast()
}

/// What `map` holds for `socket`.
#[inline(always)]
pub fn get<T: Copy>(map: &'static SkStorage<T>, socket: Socket) -> Option<T> {
    // SAFETY: without the create flag the helper neither reads nor writes a value.
    let stored = unsafe { bpf_sk_storage_get(map_pointer(map), socket.cast(), null_mut(), 0) }.cast::<T>();
    // SAFETY: a pointer that is not null points to a value of this map, which lives as long as the program runs.
    if stored.is_null() { None } else { Some(unsafe { *stored }) }
}

/// Whether `map` holds anything for `socket`.
#[inline(always)]
pub fn has<T>(map: &'static SkStorage<T>, socket: Socket) -> bool {
    // SAFETY: as in `get`.
    !unsafe { bpf_sk_storage_get(map_pointer(map), socket.cast(), null_mut(), 0) }.is_null()
}

/// Stores `value` for `socket`, over what was there. False when the kernel has no memory for it.
#[inline(always)]
#[must_use]
pub fn put<T: Copy>(map: &'static SkStorage<T>, socket: Socket, mut value: T) -> bool {
    let flags = BPF_SK_STORAGE_GET_F_CREATE.into();
    // SAFETY: the value is of the map's type, and lives through the call.
    let stored =
        unsafe { bpf_sk_storage_get(map_pointer(map), socket.cast(), (&raw mut value).cast(), flags) }.cast::<T>();
    if stored.is_null() {
        return false;
    }
    // SAFETY: as in `get`. An existing value is returned untouched by the helper, so write it.
    unsafe { *stored = value };
    true
}

/// Removes what `map` holds for `socket`, if anything.
#[inline(always)]
pub fn delete<T>(map: &'static SkStorage<T>, socket: Socket) {
    // SAFETY: the helper takes a map of socket storage and a socket; nothing refers to the value any more.
    unsafe { bpf_sk_storage_delete(map_pointer(map), socket.cast()) };
}
