//! HTTP: connections, requests, routing, retries, upstream pools.
//!
//! `connection` speaks HTTP to the client and hands each request to `stream`, which prepares it (`request`), finds
//! its route and answers it: itself (`reply`), or by an attempt or several at an upstream (`router`, `retry`,
//! `upstream`) over this worker's `pool`. Everything is per worker and single-threaded.

mod body;
pub mod connection;
mod forwarded;
mod mutate;
pub mod pool;
mod progress;
mod record;
mod reply;
mod request;
mod response;
mod retry;
mod rewrite;
mod router;
mod stream;
#[cfg(test)]
mod tests;
mod timeouts;
mod timers;
mod upgrade;
mod upstream;

use std::future::Future;

/// Runs hyper's tasks on the worker that they belong to.
#[derive(Clone, Copy, Debug)]
struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}
