//! Sockets: dialling upstream, and a connection's bytes in either direction.

pub mod dial;
pub mod io;
pub mod proxy_header;
pub mod race;
pub mod socket;
