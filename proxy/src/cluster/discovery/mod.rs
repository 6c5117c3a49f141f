//! Where endpoints come from while a cluster is in force.

pub mod dns;
pub mod forward;
pub mod original;
