//! Program contexts, field by field.
//!
//! The verifier accepts only a plain load or store of a whole field at a constant offset from the context. LLVM may
//! merge the loads of two branches into one at a computed offset, which is refused ("dereference of modified ctx
//! ptr"); so every field is read by itself, volatile and before any branch that selects between fields.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::bpf_get_netns_cookie;

/// `AF_INET`, as contexts hold it.
pub const AF_INET: u32 = 2;
/// `SOCK_STREAM`.
pub const SOCK_STREAM: u32 = 1;

/// Reads one field of a context: `field!(pointer.path)`.
macro_rules! field {
    ($context:ident . $($path:tt)+) => {
        // SAFETY: the kernel gave the context pointer, and the field is within it; volatile keeps the load whole and
        // where it stands.
        unsafe { core::ptr::read_volatile(&raw const (*$context).$($path)+) }
    };
}

/// Writes one field of a context: `set_field!(pointer.path, value)`.
macro_rules! set_field {
    ($context:ident . $head:ident $([$index:literal])?, $value:expr) => {
        // SAFETY: as for reading; the program type may write this field, or the verifier refuses the program.
        unsafe { core::ptr::write_volatile(&raw mut (*$context).$head $([$index])?, $value) }
    };
}

pub(crate) use {field, set_field};

/// The cookie of the network namespace of the context's socket.
#[inline(always)]
pub fn netns_cookie(context: &impl EbpfContext) -> u64 {
    // SAFETY: the helper takes the context that the program was given.
    unsafe { bpf_get_netns_cookie(context.as_ptr()) }
}

/// A port as `bpf_sock_addr` and `bpf_sk_lookup` hold it (16 bits in network byte order) in host byte order.
#[inline(always)]
pub fn port_from_network(field: u32) -> u32 {
    u16::from_be(field as u16) as u32
}

/// The reverse of [`port_from_network`].
#[inline(always)]
pub fn port_to_network(port: u32) -> u32 {
    (port as u16).to_be() as u32
}
