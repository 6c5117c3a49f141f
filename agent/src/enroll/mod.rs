//! Desired pods to enrolled pods: one reconciler.
//!
//! A pod is enrolled in this order: its listening sockets are made, its slot in the maps is filled, `sk_lookup` is
//! attached to its network namespace, it is inserted into `ENROLLED`, the proxy is told and acknowledges. It is
//! withdrawn in the reverse order, then its connections drain. What to do is decided by [`plan::plan`], a pure function
//! of what should be and what is; the rest of this module does it.

mod addresses;
mod ground;
mod hear;
mod order;
mod outcomes;
pub mod plan;
pub mod policy;
mod proxies;
mod reconciler;
mod registry;
mod show;
mod slots;
mod steps;

pub use ground::{Ground, restore_sysctls};
pub use order::{Milestones, Order, Progressing};
pub use outcomes::{Outcome, Outcomes};
pub use reconciler::{Reconciler, Settings};
pub use registry::Registry;
