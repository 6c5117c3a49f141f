//! HTTP: connections, requests, routing, retries, upstream pools.
//!
//! `connection` speaks HTTP to the client, whose HTTP/1 bytes `framing` has judged, and hands each request to `dispatch`, which prepares it (`request`), finds
//! its route and answers its `stream`: itself (`reply`), or by an attempt or several at an upstream (`router`,
//! `attempts`, `retry`, `upstream`) over this worker's `pool`. Everything is per worker and single-threaded.

mod attempts;
mod body;
mod charge;
mod codec;
pub mod connection;
mod dispatch;
mod filter;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod headers;
mod internal_redirect;
mod mirror;
pub mod pool;
mod request;
mod retry;
mod router;
mod stream;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod timeouts;
mod upgrade;
mod watched;
