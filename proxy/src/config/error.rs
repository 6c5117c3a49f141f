//! Why a configuration is refused.

/// Why a configuration is refused: the field, in the spelling of the protobuf path, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}{}{message}", if path.is_empty() { "" } else { ": " })]
pub struct Error {
    /// For example `static_resources.listeners[0].filter_chains[0]`; empty: all of it.
    pub path: String,
    /// What is wrong, and what was expected.
    pub message: String,
}

impl Error {
    /// An error at `path`.
    pub fn at(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}
