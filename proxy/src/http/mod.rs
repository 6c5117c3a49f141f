//! HTTP: connections, requests, routing, retries, upstream pools. Everything is per worker and single-threaded.
//!
//! A request goes down these floors, and each imports only what is below it:
//!
//! - `connection`: one client's connection, driven by hyper;
//! - `dispatch`: one request of it from head to response;
//! - `router`: forwarding it: attempts, retries, mirrors, upgrades;
//! - `filter`: what it passes before, and its response after;
//! - `call`: what it or the router asks of clusters on the way;
//! - `stream`: what is known of it: connection, route, record, reply, response;
//! - `pool`: connections to upstreams;
//! - `body`: what is sent over those;
//! - `headers`: what this hop makes of heads; `codec`: what is HTTP on the wire.

mod body;
pub(crate) mod call;
mod codec;
pub mod connection;
mod dispatch;
mod filter;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod headers;
pub mod pool;
mod router;
pub(crate) mod stream;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
