//! HTTP: connections, requests, routing, retries, upstream pools.
//!
//! `connection` speaks HTTP to the client, whose HTTP/1 bytes `framing` has judged, and hands each request to `dispatch`, which prepares it (`request`), finds
//! its route and answers its `stream`: itself (`reply`), or by an attempt or several at an upstream (`router`,
//! `attempts`, `retry`, `upstream`) over this worker's `pool`. Everything is per worker and single-threaded.

mod activity;
mod attempts;
mod body;
mod charge;
mod codec;
pub mod connection;
mod dispatch;
mod downstream;
mod filter;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod headers;
mod internal_redirect;
mod mirror;
pub mod pool;
mod record;
mod reply;
mod request;
mod response_body;
mod retry;
mod router;
mod stream;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod timeouts;
mod timers;
mod upgrade;
mod upgraded;
mod upstream;
mod watched;
