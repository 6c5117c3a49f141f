//! weir-agent: loads and pins the eBPF programs, enrolls pods, makes their sockets and hands them to the proxy.
//!
//! Data flows one way: `sources` say which pods there should be; `enroll` turns that, with `netns` (sockets in pods)
//! and `redirect` (eBPF programs and maps), into enrolled pods, and tells the proxies by `handoff`; `status` is what the
//! API shows of all that.

pub mod api;
pub mod causes;
pub mod cni;
pub mod config;
pub mod counts;
pub mod distance;
pub mod document;
pub mod enroll;
pub mod events;
pub mod features;
pub mod file;
pub mod handoff;
pub mod health;
pub mod keeper;
pub mod lead;
pub mod locate;
pub mod metrics;
pub mod netns;
pub mod reason;
pub mod redirect;
pub mod run;
pub mod seccomp;
pub mod sources;
pub mod status;
pub mod uninstall;
pub mod unix;
