//! Sockets: dialling upstream, a connection's bytes in either direction, and where hyper runs what it does with them.

pub mod dial;
pub(crate) mod executor;
pub mod io;
pub mod proxy_header;
pub mod race;
pub(crate) mod seldom;
pub mod socket;
pub mod socket_option;
