//! Protobuf becomes a validated, immutable model here, once and off the data path.
//!
//! The model's types ([`listener`], [`http`], [`route`], [`cluster`], ...) hold nothing invalid and nothing of protobuf;
//! [`convert`] makes them. A [`Snapshot`] is one configuration in force, swapped whole.
//!
//! Modules here import each other by their own paths; what is named at this level is for those above.

pub mod cell;
pub mod cluster;
pub mod convert;
pub mod error;
pub mod filter;
pub mod filter_state;
pub mod grpc_service;
pub mod headers;
pub mod heads;
pub mod http;
pub mod http1;
pub mod http2;
pub mod listener;
pub mod local_reply;
pub mod network;
pub mod overload;
pub mod rbac;
pub mod reload;
pub mod request;
pub mod retry;
pub mod route;
pub mod snapshot;
pub mod tcp;
pub mod template;
pub mod tls;
pub mod views;

pub use self::{
    cluster::Cluster,
    convert::{Built, from_bootstrap, of_view},
    error::Error,
    listener::Listener,
    snapshot::Snapshot,
};
