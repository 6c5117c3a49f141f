//! weir-proxy: the L4/L7 data plane.
//!
//! The data path reads in one direction: `worker -> listener -> (http | tcp) -> cluster -> tls -> wire`. `intake` gives
//! workers their listening sockets; a connection that they accept is a `downstream`, of a `pod` or not. `access_log` and
//! `telemetry` are at the edges. `config` turns protobuf into the model off the data path; `matcher` is what configurations
//! match with, `cel` their expressions, `jwt` tokens and their keys. `bootstrap` has the privileges and the control thread, `admin` answers about all of
//! it. `xds` follows management servers, and `dynamic` puts in force what they send.

pub mod access_log;
pub mod admin;
pub mod bootstrap;
pub mod cel;
pub mod cluster;
pub mod config;
pub mod downstream;
pub mod drain;
pub mod dynamic;
pub mod filter_state;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod http;
pub mod intake;
pub mod jwt;
pub mod lifecycle;
mod linger;
pub mod listener;
pub mod matcher;
pub mod memory;
pub mod options;
pub mod overload;
pub mod pod;
pub mod queue;
pub mod runtime;
pub mod tcp;
pub mod telemetry;
pub mod tls;
pub mod view;
pub mod wire;
pub mod worker;
pub mod xds;
