//! Why the proxy does not serve.

use std::{io, path::PathBuf};

use super::{admin_socket, config, privileges};
use crate::{
    cluster::discovery::dns,
    intake::bound,
    telemetry::{log::PatternError, writer},
};

/// Why the proxy does not serve; one line each.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bootstrap is refused.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The log's pattern is not one.
    #[error("--log-format: {0}")]
    LogFormat(#[from] PatternError),
    /// The log's file is not to be had.
    #[error("--log-path {}: {source}", path.display())]
    LogPath {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The admin server's address is not to be had.
    #[error(transparent)]
    Admin(#[from] admin_socket::BindError),
    /// A listener is not to be had.
    #[error(transparent)]
    Bind(#[from] bound::BindError),
    /// An access log is not to be had.
    #[error(transparent)]
    AccessLog(#[from] writer::OpenError),
    /// Something could not be given up.
    #[error(transparent)]
    Privileges(#[from] privileges::Error),
    /// What is accepted can't be kept.
    #[error("--state-dir {}: {source}", path.display())]
    StateDir {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Names cannot be resolved.
    #[error(transparent)]
    Discovery(#[from] dns::SetupError),
    /// A thread, a runtime or a signal handler is not to be had.
    #[error("cannot start: {0}")]
    Start(#[from] io::Error),
}
