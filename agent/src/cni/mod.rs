//! Pods are held until they are enrolled: the agent's side of the CNI plugin, and putting that in place.
//!
//! The container runtime runs `weir-cni` for each new sandbox, before the pod's first process. The plugin asks
//! `server` whether the pod is to be enrolled, and waits until it is. `install` puts the plugin into the runtime's
//! configuration and takes it out again.

pub mod install;
mod server;

pub use server::{Admission, Admit, Answers, Server};
