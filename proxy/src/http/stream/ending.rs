//! The end of a client's connection, as far as its next response has to do with it.

/// Whether a connection ends with its next response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    No,
    /// What it was accepted on drains, which the client has not been told.
    Untold,
    /// It is too old, and has to be told so with a response (`http1_safe_max_connection_duration`).
    Old,
    Draining,
}
