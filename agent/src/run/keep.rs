//! `keep`: the keeper's process.

use std::{path::Path, time::Duration};

use super::logging;
use crate::keeper;

/// Keeps the sockets of an instance's pods until no agent needs them any more.
pub fn keep(instance: &str, socket: &Path, patience: Duration) -> anyhow::Result<()> {
    logging::start("info")?;
    Ok(keeper::keep(instance, socket, patience)?)
}
