//! weir-cni, a chained CNI plugin: a pod of an enrolled namespace is enrolled before its first process runs.
//!
//! The container runtime runs it after the plugin that makes the pod's interface. It asks the agent ([`ask`]) over a
//! socket ([`protocol`]) and changes nothing itself. While no agent answers it goes by the list of enrolled namespaces
//! that the agent keeps on the node ([`namespaces`]): their pods are held, all others pass at once. A pod that is held
//! longer than the configuration says gets an error, and the kubelet tries again.
//!
//! The plugin is small and has no runtime: it is run for every pod of the node, also where weir is of no concern.

#![warn(missing_docs)]

pub mod ask;
pub mod call;
pub mod config;
pub mod error;
pub mod namespaces;
pub mod open;
pub mod plugin;
pub mod protocol;
