//! The harness of weir's end-to-end tests: nodes and pods are network namespaces, everything else is a real process.
//!
//! A test makes a [`net::Net`], nodes and pods in it, starts the agent and the proxy ([`mesh`]) and drives traffic with
//! curl and nginx ([`web`]) or, for volume, with the clients and servers of [`echo`] and [`load`]. All of it needs root
//! and a kernel with eBPF, and says so instead of skipping. Every guard cleans up in `Drop`, on panic too; logs of all
//! processes are printed when the test fails.

#![warn(missing_docs)]

pub mod ads;
pub mod apiserver;
pub mod cgroup;
pub mod cluster;
pub mod cni;
pub mod echo;
pub mod figure;
pub mod leaks;
pub mod load;
pub mod mesh;
pub mod name_server;
pub mod net;
pub mod netns;
pub mod poll;
pub mod process;
pub mod scale;
pub mod sweep;
pub mod sys;
pub mod web;
pub mod weirctl;
