//! weir-proxy: the L4/L7 data plane.
//!
//! The data path reads in one direction: `intake -> listener -> (http | tcp) -> cluster -> tls -> wire`, with `telemetry` at
//! the edges. `config` turns protobuf into the model off the data path. `worker` owns the threads, `bootstrap` the
//! flags and the privileges.

pub mod admin;
pub mod bootstrap;
pub mod cluster;
pub mod config;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod http;
pub mod intake;
pub mod listener;
pub mod runtime;
pub mod tcp;
pub mod telemetry;
pub mod tls;
pub mod wire;
pub mod worker;
