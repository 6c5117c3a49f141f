//! The compiler and linker of the eBPF object, fetched into the cache directory where that is possible.
//!
//! Each piece is made aside and renamed when it is whole, so that its presence is its stamp: an interrupted run goes on
//! where it was.

use super::record::{self, Record};
use crate::console;
use crate::machine::{self, Machine, is_debian, output, run};
use crate::workspace;
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The linker's version on crates.io; it is built against [`LLVM`].
const BPF_LINKER: &str = "0.13.0";
/// The major version of LLVM that both `rustc-web` and the linker use.
const LLVM: &str = "22";
/// The compiler's package, and those of its standard library but for the one that bears the version in its name.
const COMPILER_PACKAGES: [&str; 3] = ["rustc-web", "libstd-rust-web-dev", "libstd-rust-web-dev-bpf"];
/// The target of the object: eBPF, little endian.
pub const TARGET: &str = "bpfel-unknown-none";

/// Where the compiler comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Debian's packages, unpacked into the cache directory.
    Debian,
    /// rustup's nightly, which builds `core` from rust-src.
    Nightly,
}

/// A compiler, a linker and a strip that work together.
#[derive(Debug)]
pub struct Toolchain {
    /// Where the compiler comes from.
    pub source: Source,
    /// The compiler, to be run by cargo as `RUSTC`; with a nightly, cargo finds it.
    pub rustc: Option<PathBuf>,
    /// Directory whose paths must not show in the object.
    pub sysroot: PathBuf,
    /// bpf-linker.
    pub linker: PathBuf,
    /// llvm-objcopy.
    pub objcopy: PathBuf,
}

impl Toolchain {
    /// Finds the toolchain, fetching what is missing: Debian's where there is an apt with its packages, else rustup's
    /// nightly.
    pub fn find(machine: &Machine, nightly: bool) -> Result<Self> {
        if nightly {
            return Self::nightly(machine);
        }
        if is_debian() && machine.find("apt-get").is_some() {
            return Self::debian(machine);
        }
        console::note("not Debian: building with rustup's nightly");
        Self::nightly(machine)
    }

    fn debian(machine: &Machine) -> Result<Self> {
        let sysroot = compiler_directory(machine);
        if !sysroot.exists() {
            fetch_compiler(machine, &sysroot).context("fetching Debian's rustc-web")?;
        }
        let objcopy = PathBuf::from(format!("/usr/lib/llvm-{LLVM}/bin/llvm-objcopy"));
        if !objcopy.exists() || !Path::new(&format!("/usr/lib/llvm-{LLVM}/include/llvm-c")).exists() {
            install_llvm(machine)?;
        }
        let rustc = write_wrapper(machine, &sysroot)?;
        let linker = machine.cache.join("tools/bin/bpf-linker");
        if !linker.exists() {
            install_linker(machine)?;
        }
        Ok(Self { source: Source::Debian, rustc: Some(rustc), sysroot, linker, objcopy })
    }

    fn nightly(machine: &Machine) -> Result<Self> {
        ensure!(
            machine.find("rustup").is_some(),
            "no rustup on PATH: on Debian 12 leave out --nightly, elsewhere install rustup, then \
             `rustup toolchain install nightly --component rust-src`"
        );
        let sysroot = output(
            machine.command("rustup").args(["run", "nightly", "rustc", "--print", "sysroot"]).env_remove("RUSTC"),
        )
        .context("rustup has no nightly: `rustup toolchain install nightly --component rust-src`")?;
        let sysroot = PathBuf::from(sysroot.trim());
        ensure!(
            sysroot.join("lib/rustlib/src/rust/library/core").exists(),
            "the nightly has no rust-src: `rustup component add rust-src --toolchain nightly`"
        );
        let linker = machine
            .find("bpf-linker")
            .context("no bpf-linker on PATH: `cargo install bpf-linker` (its README says against which LLVM)")?;
        let objcopy = find_objcopy(machine, &sysroot).context(
            "no llvm-objcopy: install LLVM's tools, or `rustup component add llvm-tools --toolchain nightly`",
        )?;
        Ok(Self { source: Source::Nightly, rustc: None, sysroot, linker, objcopy })
    }

    /// What made `object`, to be kept beside it.
    pub fn record(&self, machine: &Machine, object: &[u8]) -> Result<Record> {
        let mut rustc = match &self.rustc {
            Some(rustc) => Command::new(rustc),
            None => {
                let mut rustup = machine.command("rustup");
                rustup.args(["run", "nightly", "rustc"]).env_remove("RUSTC");
                rustup
            }
        };
        let verbose = output(rustc.arg("-vV"))?;
        let line = |prefix: &str| verbose.lines().find_map(|line| line.strip_prefix(prefix)).map(str::to_owned);
        Ok(Record {
            rustc: verbose.lines().next().unwrap_or_default().to_owned(),
            llvm: line("LLVM version: ").context("rustc -vV names no LLVM version")?,
            linker: output(Command::new(&self.linker).arg("--version"))?.trim().to_owned(),
            sha256: record::sha256(object),
        })
    }

    /// What to do to compare with another version of the compiler.
    pub fn how_to_change(&self, machine: &Machine) -> String {
        match self.source {
            Source::Debian => format!(
                "If Debian offers the recorded one, remove {} and check again; it offers one version at a time, \
                 snapshot.debian.org keeps the others: unpack them there with dpkg-deb -x.",
                compiler_directory(machine).display()
            ),
            Source::Nightly => "Check without --nightly on Debian 12.".to_owned(),
        }
    }
}

fn compiler_directory(machine: &Machine) -> PathBuf {
    machine.cache.join("rustweb")
}

/// Downloads and unpacks the compiler; nothing is installed into the system.
fn fetch_compiler(machine: &Machine, directory: &Path) -> Result<()> {
    let partial = tempfile::Builder::new()
        .prefix("rustweb.")
        .tempdir_in(&machine.cache)
        .with_context(|| machine.cache.display().to_string())?;
    console::note("downloading Debian's rustc-web with core for eBPF (90 MB, unpacked 380 MB)");
    if download(machine, partial.path()).is_err() {
        // The lists are missing, or older than the archive.
        machine.apt_update().context("the package lists must be refreshed; as root: apt-get update")?;
        download(machine, partial.path())?;
    }
    let packages: Vec<PathBuf> = fs::read_dir(partial.path())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .collect();
    for package in packages {
        run(machine.command("dpkg-deb").arg("-x").arg(&package).arg(partial.path()))?;
        fs::remove_file(package)?;
    }
    // 0700 is a temporary directory's; others may build too.
    fs::set_permissions(partial.path(), fs::Permissions::from_mode(0o755))?;
    // Another run may have been faster: theirs is as good.
    match fs::rename(partial.path(), directory) {
        Err(_) if directory.exists() => Ok(()),
        renamed => renamed.with_context(|| directory.display().to_string()),
    }
}

fn download(machine: &Machine, into: &Path) -> Result<()> {
    let depends = output(machine.command("apt-cache").args(["depends", "libstd-rust-web-dev"]))?;
    let versioned = versioned_library(&depends).context("apt knows no libstd-rust-web-dev: is this Debian 12?")?;
    run(machine.command("apt-get").args(["download", "-qq", versioned]).args(COMPILER_PACKAGES).current_dir(into))
}

/// The name of the library's package, which bears the compiler's version.
fn versioned_library(depends: &str) -> Option<&str> {
    depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: ")).find(|name| {
        name.strip_prefix("libstd-rust-web-").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    })
}

fn install_llvm(machine: &Machine) -> Result<()> {
    let packages = [format!("llvm-{LLVM}"), format!("llvm-{LLVM}-dev")];
    let packages = packages.each_ref().map(String::as_str);
    ensure!(
        nix::unistd::geteuid().is_root(),
        "not root, so install LLVM {LLVM} first: apt-get install {}",
        packages.join(" ")
    );
    console::note(&format!("apt-get install {} (750 MB)", packages.join(" ")));
    if machine.apt_install(&packages).is_err() {
        machine.apt_update()?;
        machine.apt_install(&packages)?;
    }
    Ok(())
}

/// A script that runs the unpacked compiler with its own libraries.
fn write_wrapper(machine: &Machine, sysroot: &Path) -> Result<PathBuf> {
    let libraries = fs::read_dir(sysroot.join("usr/lib"))
        .with_context(|| sysroot.display().to_string())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.to_string_lossy().ends_with("-linux-gnu"));
    let Some(libraries) = libraries else {
        bail!("{} holds no libraries: remove it and run again", sysroot.display());
    };
    let wrapper = machine.cache.join("rustc-web");
    let script = format!(
        "#!/bin/sh\nexport LD_LIBRARY_PATH='{}'\nexec '{}' \"$@\"\n",
        libraries.display(),
        sysroot.join("usr/bin/rustc").display()
    );
    // Not written again when it is the same: another run may be executing it.
    if fs::read_to_string(&wrapper).ok().as_ref() != Some(&script) {
        fs::write(&wrapper, script).with_context(|| wrapper.display().to_string())?;
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))?;
    }
    machine::output(Command::new(&wrapper).arg("-V"))
        .with_context(|| format!("the compiler in {} does not run: remove it and run again", sysroot.display()))?;
    Ok(wrapper)
}

fn install_linker(machine: &Machine) -> Result<()> {
    console::note(&format!("cargo install bpf-linker {BPF_LINKER} (once; a minute or two)"));
    run(machine
        .command(workspace::cargo())
        .args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked"])
        .args(["--no-default-features", "--features", &format!("llvm-{LLVM}"), "--root"])
        .arg(machine.cache.join("tools"))
        // Without it the build looks for LLVM in the linker's default path and fails on -lLLVM.
        .env("LLVM_PREFIX", format!("/usr/lib/llvm-{LLVM}"))
        .env("CARGO_TARGET_DIR", machine.cache.join("build/bpf-linker"))
        .current_dir(&machine.cache))?;
    // Some 300 MB that nothing needs any more; an old tree would only slow the next version down.
    let _ = fs::remove_dir_all(machine.cache.join("build/bpf-linker"));
    Ok(())
}

fn find_objcopy(machine: &Machine, sysroot: &Path) -> Option<PathBuf> {
    let of_rustup = fs::read_dir(sysroot.join("lib/rustlib"))
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path().join("bin/llvm-objcopy")))
        .find(|path| path.exists());
    of_rustup.or_else(|| machine.find("llvm-objcopy")).or_else(|| machine.find(&format!("llvm-objcopy-{LLVM}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_that_bears_the_version_is_found() {
        let depends =
            "libstd-rust-web-dev\n  Depends: libstd-rust-web-1.96\n    libstd-rust-web-dev\n  Depends: libc6\n";
        assert_eq!(versioned_library(depends), Some("libstd-rust-web-1.96"));
        assert_eq!(versioned_library("N: Unable to locate package libstd-rust-web-dev\n"), None);
    }
}
