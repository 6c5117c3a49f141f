//! weir-agent: loads and pins the eBPF programs, enrolls pods, makes their sockets and hands them to the proxy.

pub mod status;
