//! `cargo xtask deny`: licences, sources and duplicates of the dependencies, by cargo-deny.
//!
//! The advisories check is left out: it needs a database that cannot be reached from everywhere.

use anyhow::{Context, Result, ensure};

use crate::machine::{Machine, Need};
use crate::workspace;

/// Arguments of `cargo xtask deny`.
#[derive(clap::Args)]
pub struct Args {}

/// Runs the task.
pub fn run(_: Args) -> Result<()> {
    let mut machine = Machine::prepare(&[Need::Build])?;
    let bin = machine.cargo_deny()?;
    machine.prepend_path(&bin)?;
    let status = machine
        .command("cargo-deny")
        .args(["check", "licenses", "bans", "sources"])
        .current_dir(workspace::root())
        .status()
        .context("cargo-deny does not start")?;
    ensure!(status.success(), "cargo-deny found something (deny.toml says what is allowed)");
    Ok(())
}
