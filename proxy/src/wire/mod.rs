//! Sockets towards upstream.

pub mod dial;
