//! The admin server: Envoy's paths, texts and status codes.
//!
//! `server` carries requests on a thread of its own; `routes` is the table of paths; each other module renders what
//! one path shows, from what is shared by all threads. What changes the process goes to the control thread as a
//! [`Command`].

mod body;
pub mod certs;
mod client_status;
mod clusters;
mod config_dump;
mod counts;
mod discovered;
mod dynamic;
mod listeners;
mod loggers;
mod managers;
mod mask;
pub mod memory;
mod query;
mod reply;
mod routes;
mod runtime;
mod server;
mod server_info;
mod shown;
mod state;
mod stats;
#[cfg(test)]
mod tests;

pub use self::{
    counts::Counts,
    server::{Listener, spawn},
    state::{Admin, Command, View},
};
