//! `cargo xtask ebpf`: the committed object `ebpf/weir.bpf.o` from `ebpf/programs`.
//!
//! On Debian the compiler is Debian's `rustc-web`, unpacked into the cache directory (it has a prebuilt `core` for the
//! BPF target, which rustup has not); elsewhere, or with `--nightly`, a rustup nightly with rust-src. The same sources
//! and the same toolchain give the same bits in any directory, so `--check` compares bit for bit. The toolchain is
//! recorded beside the object: when the bits differ and the toolchain is another one, the check fails too, since it
//! could prove nothing, but says so.

mod build;
mod object;
mod record;
mod toolchain;

use crate::console;
use crate::machine::{Machine, Need};
use crate::workspace;
use anyhow::{Context, Result, bail};
use record::Record;
use std::fs;
use std::path::PathBuf;
use toolchain::Toolchain;

#[derive(clap::Args)]
pub struct Args {
    /// Change nothing; fail unless the sources give the committed object, bit for bit
    #[arg(long)]
    check: bool,
    /// Build with rustup's nightly, rust-src and the bpf-linker on PATH, even where Debian's compiler could be had
    #[arg(long)]
    nightly: bool,
}

impl Args {
    /// As `--check` gives them.
    pub fn check() -> Self {
        Self { check: true, nightly: false }
    }
}

/// The committed object.
fn object_path() -> PathBuf {
    workspace::root().join("ebpf/weir.bpf.o")
}

pub fn run(args: Args) -> Result<()> {
    let machine = Machine::prepare(&[Need::Build])?;
    let toolchain = Toolchain::find(&machine, args.nightly)?;
    if args.check { check(&machine, &toolchain) } else { rebuild(&machine, &toolchain) }
}

fn rebuild(machine: &Machine, toolchain: &Toolchain) -> Result<()> {
    let fresh = build::object(machine, toolchain, &build::target_directory())?;
    let record = toolchain.record(machine, &fresh)?;
    let changed = fs::read(object_path()).ok().as_ref() != Some(&fresh);
    fs::write(object_path(), &fresh).with_context(|| object_path().display().to_string())?;
    record.write()?;
    let state = if changed { "changed" } else { "as it was" };
    println!("ebpf/weir.bpf.o: {} KiB, {state} ({})", fresh.len() / 1024, record.rustc);
    Ok(())
}

fn check(machine: &Machine, toolchain: &Toolchain) -> Result<()> {
    let committed = fs::read(object_path()).with_context(|| object_path().display().to_string())?;
    let recorded = Record::read()?;
    if recorded.sha256 != record::sha256(&committed) {
        bail!(
            "ebpf/weir.bpf.o is not the object that {} was written for: run `cargo xtask ebpf` and commit both",
            record::FILE
        );
    }
    let work = tempfile::tempdir().context("temporary directory")?;
    let fresh = build::object(machine, toolchain, work.path())?;
    if fresh == committed {
        println!("ebpf/weir.bpf.o is what its sources give, bit for bit ({})", recorded.rustc);
        return Ok(());
    }
    let here = toolchain.record(machine, &fresh)?;
    let differences = recorded.toolchain_differences(&here);
    if !differences.is_empty() {
        for difference in &differences {
            console::note(difference);
        }
        bail!(
            "another compiler: the bits of ebpf/weir.bpf.o cannot be compared. {} Or rebuild it with this toolchain by \
             `cargo xtask ebpf` and commit ebpf/weir.bpf.o with {}",
            toolchain.how_to_change(machine),
            record::FILE
        );
    }
    bail!(
        "another object: ebpf/weir.bpf.o is not what its sources give; {}. Run `cargo xtask ebpf` and commit",
        object::differences(&committed, &fresh)?
    )
}
