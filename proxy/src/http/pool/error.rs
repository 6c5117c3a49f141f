//! Why there is no connection.

use std::io;

use crate::wire::dial::ConnectError;

/// Why there is no connection.
#[derive(Debug)]
pub(in crate::http) enum PoolError {
    /// There are as many requests as there may be.
    Overflow,
    /// As many wait for a connection as may.
    NoWaiting,
    /// It could not be made.
    Connect(ConnectError),
    /// It was made and HTTP could not be started on it.
    Handshake,
}

impl PoolError {
    /// The same, for another who waited for the same connection.
    pub fn again(&self) -> Self {
        match self {
            Self::Overflow => Self::Overflow,
            Self::NoWaiting => Self::NoWaiting,
            Self::Handshake => Self::Handshake,
            Self::Connect(ConnectError::Timeout) => Self::Connect(ConnectError::Timeout),
            Self::Connect(ConnectError::Local(reason)) => Self::Connect(ConnectError::Local(reason.clone())),
            Self::Connect(ConnectError::Tls(reason)) => Self::Connect(ConnectError::Tls(reason.clone())),
            Self::Connect(ConnectError::Io(error)) => Self::Connect(ConnectError::Io(same(error))),
            Self::Connect(ConnectError::Pipe { path, source }) => {
                Self::Connect(ConnectError::Pipe { path: path.clone(), source: same(source) })
            }
        }
    }
}

/// An error once more.
fn same(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}
