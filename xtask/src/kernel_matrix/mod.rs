//! `cargo xtask kernel-matrix`: the same object, agent and proxy on the oldest kernel that weir supports and on a newer
//! one, under QEMU.
//!
//! Each kernel is Debian's own, unpacked from its package into the cache. The guest's initrd holds busybox, iproute2,
//! setpriv, weir's programs and `weir-lab` (tests/src/bin), which makes two enrolled pods and one that is not, dials each way,
//! kills and restarts agent and proxy, and prints one line per check. The host counts those lines; a panic, a hang or
//! a missing verdict is a failure and shows what the kernel said, or the end of the console. Only a guest that died of
//! QEMU's known race with patched code is booted again.

mod cpio;
mod guest;
mod initrd;
mod packages;

use anyhow::{Result, bail};
use std::path::PathBuf;
use std::time::Instant;

use crate::console::{self, Style};
use crate::machine::{Machine, Need};
use crate::workspace::{self, Built};
pub use packages::Series;

/// Arguments of `cargo xtask kernel-matrix`.
#[derive(clap::Args)]
pub struct Args {
    /// Only this series of kernels: 6.1 or 6.12
    #[arg(long, value_name = "SERIES")]
    kernel: Vec<Series>,
    /// Show the guest's console while it runs
    #[arg(long, short)]
    verbose: bool,
}

/// The programs that go into the guest.
pub struct Programs {
    agent: PathBuf,
    proxy: PathBuf,
    weirctl: PathBuf,
    lab: PathBuf,
}

impl Programs {
    /// Finds them among what cargo built.
    pub fn of(built: &Built) -> Result<Self> {
        Ok(Self {
            agent: built.program("weir-agent")?,
            proxy: built.program("weir-proxy")?,
            weirctl: built.program("weirctl")?,
            lab: built.program("weir-lab")?,
        })
    }

    fn all(&self) -> [&PathBuf; 4] {
        [&self.agent, &self.proxy, &self.weirctl, &self.lab]
    }
}

/// Runs the task.
pub fn run(args: Args) -> Result<()> {
    let machine = Machine::prepare(&[Need::Build, Need::Emulator])?;
    let built = workspace::build(&machine, &["--workspace", "--bins"])?;
    let series = if args.kernel.is_empty() { Series::ALL.to_vec() } else { args.kernel };
    let passed = run_all(&machine, &Programs::of(&built)?, &series, args.verbose);
    let failed = series.len() - passed;
    println!("\nkernel-matrix: {passed} passed, {failed} failed");
    if failed > 0 {
        bail!(crate::Silent("a kernel failed"));
    }
    Ok(())
}

/// Runs the check on every series, printing as it goes; gives how many passed.
pub fn run_all(machine: &Machine, programs: &Programs, series: &[Series], verbose: bool) -> usize {
    let mut passed = 0;
    for series in series {
        let started = Instant::now();
        let mut kernel = series.to_string();
        let outcome = check(machine, programs, *series, verbose, &mut kernel);
        let seconds = started.elapsed().as_secs();
        match outcome {
            Ok(checks) => {
                passed += 1;
                println!("{} kernel {kernel} ({seconds} s): {checks} checks", console::paint(Style::Green, "ok"));
            }
            Err(error) => {
                println!("{} kernel {kernel} ({seconds} s): {error:#}", console::paint(Style::Red, "FAILED"));
            }
        }
    }
    passed
}

/// One kernel; gives the number of checks that passed in the guest, and its release in `release`.
fn check(machine: &Machine, programs: &Programs, series: Series, verbose: bool, release: &mut String) -> Result<usize> {
    let kernel = packages::kernel(machine, series)?;
    kernel.release.clone_into(release);
    console::heading(&format!("Kernel {}", kernel.release));
    let directory = tempfile::tempdir()?;
    let archive = directory.path().join("initrd");
    initrd::write(machine, &kernel, programs, &archive)?;
    guest::boot(machine, &kernel, &archive, verbose)
}
