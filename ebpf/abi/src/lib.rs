//! Keys, values and events that weir's eBPF programs and userspace share, and the redirect verdict.
//!
//! Every type that crosses the kernel boundary is `#[repr(C)]` with its size asserted beside it, has no padding
//! (maps compare keys bytewise) and is read and written whole. [`verdict`] is compiled into the eBPF programs and
//! into userspace, so that `weirctl redirect show --to` cannot disagree with the kernel.
#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod addr;
pub mod event;
pub mod map;
pub mod verdict;

pub use addr::{Endpoint, Ip};
pub use verdict::{Action, Rule};

/// IANA protocol number of TCP.
pub const IPPROTO_TCP: u32 = 6;
/// Linux's protocol number of Multipath TCP (`IPPROTO_MPTCP`).
pub const IPPROTO_MPTCP: u32 = 262;
