//! Sockets: dialling upstream, a connection's bytes in either direction, and where hyper runs what it does with them; what peers
//! mean by numbers (`grpc`).

pub mod bare;
pub mod deferring;
pub mod dial;
pub(crate) mod executor;
pub mod frames;
pub(crate) mod grpc;
pub(crate) mod in_place;
pub mod io;
pub mod named;
pub mod pipe;
pub mod proxy_header;
pub mod race;
pub(crate) mod seldom;
pub mod socket;
pub mod socket_option;
pub mod within;
