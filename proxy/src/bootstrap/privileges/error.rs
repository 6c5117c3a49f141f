//! What could not be given up.

use std::io;

/// What could not be given up. Nothing is served then.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("cannot {action}: {source}")]
    Call {
        /// What it was to do.
        action: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A capability set could not be emptied.
    #[error("cannot drop the {set} capabilities: {message}")]
    Capabilities {
        /// Which set.
        set: &'static str,
        /// Why not.
        message: String,
    },
    /// The kernel has Landlock, and refuses the domain.
    #[error("cannot enter a Landlock domain: {0}")]
    Domain(String),
    /// The system call filter was refused.
    #[error("cannot install the system call filter: {0}")]
    Filter(String),
    /// The kernel says otherwise than it should afterwards.
    #[error("privileges remain: {0}")]
    Remain(String),
}
