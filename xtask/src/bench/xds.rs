//! `cargo xtask bench xds`: what it costs weir-proxy and Envoy to follow a management server of a large mesh.
//!
//! `weir-scale` of `tests/` is the server and measures: proxies are pinned to CPU 0, the server and all else to CPU 1.

use anyhow::{Context, Result, ensure};
use std::path::PathBuf;

use super::process::{LOAD_CPU, on_cpu};
use crate::console;
use crate::machine::{Machine, Need};
use crate::workspace;

/// Arguments of `cargo xtask bench xds`.
#[derive(clap::Args)]
pub struct Args {
    /// Clusters
    #[arg(long, default_value_t = 10_000)]
    clusters: usize,
    /// Endpoints of all clusters
    #[arg(long, default_value_t = 50_000)]
    endpoints: usize,
    /// Routes
    #[arg(long, default_value_t = 5_000)]
    routes: usize,
    /// How often one endpoint is moved
    #[arg(long, default_value_t = 50)]
    pushes: usize,
    /// A weir-proxy built before, instead of a release build now
    #[arg(long, value_name = "FILE")]
    weir: Option<PathBuf>,
    /// A weir-scale built before, instead of a release build now
    #[arg(long, value_name = "FILE")]
    scale: Option<PathBuf>,
}

/// Runs the task.
pub fn run(args: &Args) -> Result<()> {
    let machine = Machine::prepare(&[Need::Build, Need::Peers])?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    ensure!(cores >= 2, "proxies on one CPU and the server on another: this machine has {cores}");
    ensure!(args.clusters > 0 && args.pushes > 0, "--clusters and --pushes are at least 1");
    let weir = super::weir(&machine, args.weir.as_deref())?;
    let scale = match &args.scale {
        Some(program) => program.clone(),
        None => {
            console::note("cargo build --release -p weir-tests --bin weir-scale");
            let built = workspace::build(&machine, &["--release", "-p", "weir-tests", "--bin", "weir-scale"])?;
            built.program("weir-scale")?
        }
    };
    super::process::raise_open_files()?;
    let mut command = on_cpu(&machine, LOAD_CPU, &scale);
    command.arg("--weir").arg(weir).args(["--cpu", &super::process::CPU.to_string()]);
    for (flag, number) in [
        ("--clusters", args.clusters),
        ("--endpoints", args.endpoints),
        ("--routes", args.routes),
        ("--pushes", args.pushes),
    ] {
        command.args([flag, &number.to_string()]);
    }
    let status = command.status().context("weir-scale does not start")?;
    ensure!(status.success(), "weir-scale: {status}");
    Ok(())
}
