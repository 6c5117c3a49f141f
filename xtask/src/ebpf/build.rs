//! Building the object so that the same sources and toolchain give the same bits anywhere.

use super::object;
use super::toolchain::{Source, TARGET, Toolchain};
use crate::machine::{Machine, run};
use crate::workspace;
use anyhow::{Context, Result, ensure};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

/// The crates that may use unstable features on a stable compiler: inline assembly for eBPF.
const UNSTABLE_CRATES: &str = "aya_ebpf,weir";
/// Name of the program's crate, and so of what the linker writes.
const BINARY: &str = "weir";
/// What separates flags in `CARGO_ENCODED_RUSTFLAGS`.
const FLAG_SEPARATOR: &str = "\x1f";

/// Where a build that may reuse an earlier one's pieces goes.
pub fn target_directory() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace::root().join("target"), PathBuf::from).join("ebpf")
}

/// Builds the object below `target` and gives its bytes.
pub fn object(machine: &Machine, toolchain: &Toolchain, target: &Path) -> Result<Vec<u8>> {
    let programs = workspace::root().join("ebpf/programs");
    // First, because flags must name the directories that sources are unpacked into.
    run(cargo(machine, toolchain).args(["fetch", "--quiet", "--locked"]).current_dir(&programs))
        .context("the dependencies of ebpf/programs")?;
    let mut build = cargo(machine, toolchain);
    build
        .args(["build", "--quiet", "--release", "--locked", "--target", TARGET, "--target-dir"])
        .arg(target)
        .env("CARGO_ENCODED_RUSTFLAGS", flags(toolchain)?)
        .current_dir(&programs)
        .stdin(Stdio::null());
    match toolchain.source {
        Source::Debian => build.env("RUSTC_BOOTSTRAP", UNSTABLE_CRATES),
        Source::Nightly => build.arg("-Zbuild-std=core"),
    };
    let status = build.status().context("cargo does not start")?;
    ensure!(status.success(), "ebpf/programs does not build");

    let linked = target.join(TARGET).join("release").join(BINARY);
    let bytes = read(&linked)?;
    object::expect_ebpf(&bytes)?;
    let stripped = target.join("weir.bpf.o");
    let mut objcopy = Command::new(&toolchain.objcopy);
    // DWARF is only the source of BTF, and names directories.
    objcopy.arg("--strip-debug");
    for (name, without_hash) in object::hashed_symbols(&bytes)? {
        objcopy.arg(format!("--redefine-sym={name}={without_hash}"));
    }
    run(objcopy.arg(&linked).arg(&stripped))?;
    read(&stripped)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| path.display().to_string())
}

/// cargo for this toolchain, untouched by what the caller's environment says of other builds.
fn cargo(machine: &Machine, toolchain: &Toolchain) -> Command {
    let mut cargo = match &toolchain.rustc {
        Some(rustc) => {
            let mut cargo = machine.command(workspace::cargo());
            cargo.env("RUSTC", rustc);
            cargo
        }
        None => {
            let mut cargo = machine.command("rustup");
            cargo.args(["run", "nightly", "cargo"]).env_remove("RUSTC").env_remove("RUSTUP_TOOLCHAIN");
            cargo
        }
    };
    for (name, _) in env::vars_os() {
        let name_text = name.to_string_lossy();
        let changes_the_build =
            ["CARGO_PROFILE_", "CARGO_BUILD_", "CARGO_TARGET_"].iter().any(|prefix| name_text.starts_with(prefix))
                || matches!(&*name_text, "RUSTFLAGS" | "RUSTC_WRAPPER" | "RUSTC_WORKSPACE_WRAPPER");
        if changes_the_build {
            cargo.env_remove(&name);
        }
    }
    cargo
}

fn flags(toolchain: &Toolchain) -> Result<OsString> {
    let mut flags: Vec<OsString> = vec![
        "-Cdebuginfo=2".into(),
        joined("-Clinker=", &toolchain.linker),
        "-Clink-arg=--btf".into(),
        // Which registers a traced function's arguments lie in; these programs trace none, so one for all machines.
        "--cfg=bpf_target_arch=\"x86_64\"".into(),
        "--check-cfg=cfg(bpf_target_arch,values(\"x86_64\"))".into(),
        remap(&workspace::root().join("ebpf"), "/weir/ebpf"),
        remap(&toolchain.sysroot, "/rust"),
    ];
    let registry = cargo_home()?.join("registry/src");
    for index in fs::read_dir(&registry).with_context(|| registry.display().to_string())? {
        flags.push(remap(&index?.path(), "/cargo"));
    }
    Ok(flags.join(FLAG_SEPARATOR.as_ref()))
}

fn remap(directory: &Path, to: &str) -> OsString {
    let mut flag = joined("--remap-path-prefix=", directory);
    flag.push("=");
    flag.push(to);
    flag
}

fn joined(flag: &str, path: &Path) -> OsString {
    let mut joined = OsString::from(flag);
    joined.push(path);
    joined
}

fn cargo_home() -> Result<PathBuf> {
    if let Some(home) = env::var_os("CARGO_HOME") {
        return Ok(home.into());
    }
    Ok(PathBuf::from(env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?).join(".cargo"))
}
