//! Why the listener filters refuse a connection.

use super::peek::Stuck;

/// Why the listener filters refuse a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("timed out")]
    TooSlow,
    #[error("the ClientHello is too large")]
    TooLarge,
    #[error("the client is gone")]
    Gone,
    #[error("the socket cannot be read")]
    Unreadable,
    #[error("there is no PROXY header that is allowed")]
    NoHeader,
    #[error("the configuration of a filter has not come")]
    NotConfigured,
}

impl From<Stuck> for Refused {
    fn from(stuck: Stuck) -> Self {
        match stuck {
            Stuck::Closed => Self::Gone,
            Stuck::Failed | Stuck::Full => Self::Unreadable,
        }
    }
}
