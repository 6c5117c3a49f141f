//! xDS: following a management server, or a file. Bytes, types, names and versions; what they mean is the
//! [`Consumer`](update::Consumer)'s business.
//!
//! Decisions are pure: [`mux`] says what to request and what a response changes, by one state machine per type
//! (state of the world or delta), tested without sockets.
//!
//! [`client`] executes them: streams of [`transport`] over connections of [`dial`], notes of [`wishes`], what is [`saved`].

pub mod backoff;
pub mod budget;
pub mod client;
mod delta;
pub mod dial;
pub mod file;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod interest;
pub mod kind;
pub mod mux;
pub mod rate;
pub mod saved;
mod saving;
pub mod shared;
mod sotw;
pub mod source;
pub mod stats;
pub mod store;
mod subscriptions;
pub mod through;
mod told;
pub mod transport;
mod ttl;
pub mod update;
pub mod wishes;
