//! weir's eBPF programs: they hand the connections of enrolled pods to the node's proxy.
//!
//! `weir_connect4/6` decide every outbound `connect` and rewrite the destination; `weir_sockops` moves the original
//! destination to the accepted socket; `weir_peername4/6` answer the application with it; `weir_sklookup`, one
//! instance per pod, steers what comes from outside. The decision itself is [`weir_abi::verdict`], which userspace
//! runs too: here are only the lookups it asks for and what follows from it.
//!
//! Whose connection it is follows from the network namespace's cookie, never from an address.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod connect;
mod context;
mod log;
mod maps;
mod node;
mod peername;
mod record;
mod sklookup;
mod sockops;
mod storage;
mod tables;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// What the kernel takes for GPL-compatible; `bpf_get_netns_cookie` and others ask for it.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
