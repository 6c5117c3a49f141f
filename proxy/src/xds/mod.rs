//! xDS: following a management server, or a file. Bytes, types, names and versions; what they mean is the
//! [`Consumer`](update::Consumer)'s business.
//!
//! Decisions are pure: [`mux`] says what to request and what a response changes, by one state machine per type
//! (state of the world or delta), tested without sockets.

mod delta;
mod interest;
pub mod kind;
pub mod mux;
mod sotw;
pub mod store;
mod ttl;
pub mod update;
