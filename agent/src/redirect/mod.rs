//! The kernel side: the eBPF programs and maps.

pub mod inspect;
