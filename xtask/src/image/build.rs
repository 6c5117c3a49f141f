//! Static programs for a platform, the same bits wherever the sources lie.
//!
//! They are linked statically with the GNU C library, whose archive Debian's libc6-dev has: since glibc 2.34 it finds
//! names by `files` and `dns` without loading anything at run time.

use anyhow::{Context, Result, bail, ensure};
use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::{elf, sbom};
use crate::machine::{Machine, output};
use crate::profile;
use crate::workspace;

/// An architecture that images are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Architecture {
    #[value(name = "x86_64")]
    X86_64,
    #[value(name = "aarch64")]
    Aarch64,
}

impl Architecture {
    pub const ALL: [Self; 2] = [Self::X86_64, Self::Aarch64];

    /// Rust's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// OCI's name.
    pub fn in_oci(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// `e_machine` of elf(5).
    fn machine(self) -> u16 {
        match self {
            Self::X86_64 => 62,
            Self::Aarch64 => 183,
        }
    }

    pub fn is_native(self) -> bool {
        self.name() == env::consts::ARCH
    }

    /// This machine's.
    pub fn native() -> Result<Self> {
        let found = Self::ALL.into_iter().find(|architecture| architecture.is_native());
        found.with_context(|| format!("no images are made for {}", env::consts::ARCH))
    }

    pub fn target(self) -> String {
        format!("{}-unknown-linux-gnu", self.name())
    }

    /// The C compiler and linker for it.
    fn compiler(self) -> String {
        if self.is_native() { "cc".to_owned() } else { format!("{}-linux-gnu-gcc", self.name()) }
    }

    /// What to install before programs for it can be built; none: all is there.
    pub fn missing(self, machine: &Machine) -> Result<Option<String>> {
        let mut wanted = Vec::new();
        let rustc = env::var_os("RUSTC").map_or_else(|| PathBuf::from("rustc"), PathBuf::from);
        let libraries = output(machine.command(rustc).args(["--print", "target-libdir", "--target", &self.target()]))?;
        if !Path::new(libraries.trim()).exists() {
            wanted.push(format!("rustup target add {}", self.target()));
        }
        if machine.find(&self.compiler()).is_none() {
            let package = self.name().replace('_', "-");
            let library = self.in_oci();
            wanted.push(format!("apt-get install gcc-{package}-linux-gnu libc6-dev-{library}-cross"));
        }
        Ok(if wanted.is_empty() { None } else { Some(wanted.join(" && ")) })
    }
}

/// What the compiler goes by.
#[derive(Clone, Debug)]
pub enum By {
    /// The code alone.
    Code,
    /// A record of what ran ([`profile`]).
    Record(PathBuf),
    /// The code, and has it count what runs, for a record in this directory.
    Counting(PathBuf),
}

/// Builds `packages` as they are shipped, and gives the directory of their programs.
pub fn release(machine: &Machine, architecture: Architecture, packages: &[&str]) -> Result<PathBuf> {
    let directory = target_directory();
    let by = profile::recorded(machine, architecture, &directory)?.map_or(By::Code, By::Record);
    // Each by itself: what a library's functions are called depends on its features, and those on who else is built.
    let mut programs = PathBuf::new();
    for package in packages {
        programs = build(machine, architecture, &by, &directory, package)?;
        if let By::Record(record) = &by
            && *package == profile::PROGRAM
        {
            profile::check(&programs, record)?;
        }
    }
    Ok(programs)
}

/// Builds a package in a target directory, and gives the directory of its programs.
pub fn build(
    machine: &Machine,
    architecture: Architecture,
    by: &By,
    directory: &Path,
    package: &str,
) -> Result<PathBuf> {
    let target = architecture.target();
    let mut cargo = machine.command(workspace::cargo());
    cargo.args(["build", "--locked", "--release", "--target", &target, "-p", package]);
    let status = cargo
        .current_dir(workspace::root())
        .env("CARGO_TARGET_DIR", directory)
        .env_remove("RUSTFLAGS")
        .env("CARGO_ENCODED_RUSTFLAGS", rust_flags(by).join("\x1f"))
        .env(format!("CFLAGS_{}", target.replace('-', "_")), c_flags(directory).join(" "))
        .env(
            format!("CARGO_TARGET_{}_LINKER", target.replace('-', "_").to_uppercase()),
            OsString::from(architecture.compiler()),
        )
        .status()
        .context("cargo does not start")?;
    ensure!(status.success(), "the programs for {target} do not build");
    Ok(directory.join(target).join("release"))
}

/// A built program, proved to be static.
pub fn program(directory: &Path, name: &str, architecture: Architecture) -> Result<Vec<u8>> {
    let path = directory.join(name);
    let content = fs::read(&path).with_context(|| path.display().to_string())?;
    elf::check_static(&content, architecture.machine()).with_context(|| path.display().to_string())?;
    Ok(content)
}

/// The bill of materials of an image called `name` with the programs of `packages`.
pub fn materials(machine: &Machine, architecture: Architecture, name: &str, packages: &[&str]) -> Result<String> {
    let mut tree = machine.command(workspace::cargo());
    tree.args(["tree", "--locked", "--edges", "normal,no-proc-macro", "--prefix", "none", "--no-dedupe"])
        .args(["--target", &architecture.target(), "--format", sbom::FORMAT])
        .current_dir(workspace::root());
    for package in packages {
        tree.args(["-p", package]);
    }
    let crates = sbom::components(&output(&mut tree)?)?;
    let rustc = output(machine.command("rustc").arg("-V"))?;
    let Some(rust) = rustc.split(' ').nth(1) else { bail!("rustc -V names no version: {rustc:?}") };
    let mut linked = vec![("rust-std", rust)];
    let glibc = output(machine.command("getconf").arg("GNU_LIBC_VERSION")).unwrap_or_default();
    // The one that this machine runs with; that of a cross compiler is not known.
    if let Some(version) = glibc.trim().strip_prefix("glibc ").filter(|_| architecture.is_native()) {
        linked.push(("glibc", version));
    }
    Ok(sbom::document(name, env!("CARGO_PKG_VERSION"), &crates, &linked))
}

/// Where cargo builds.
pub fn target_directory() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace::root().join("target"), PathBuf::from)
}

/// Directories whose names must not show in programs, and what stands for them.
fn prefixes() -> Vec<(PathBuf, &'static str)> {
    let home = env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let cargo = env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from);
    vec![(cargo, "/cargo"), (workspace::root().to_owned(), "/weir")]
}

fn rust_flags(by: &By) -> Vec<String> {
    // Names of functions stay, for backtraces and for the record to be compared with; lines go: they are two thirds of the bytes.
    let mut flags: Vec<String> =
        ["-C", "target-feature=+crt-static", "-C", "strip=debuginfo"].map(str::to_owned).to_vec();
    match by {
        By::Code => {}
        By::Record(file) => {
            flags.push(format!("-Cprofile-use={}", file.display()));
            // Functions that have changed since: hundreds, and there is nothing to do about it but another record.
            flags.push("-Cllvm-args=-no-pgo-warn-mismatch".to_owned());
        }
        By::Counting(directory) => flags.push(format!("-Cprofile-generate={}", directory.display())),
    }
    flags.extend(prefixes().iter().map(|(path, name)| format!("--remap-path-prefix={}={name}", path.display())));
    flags
}

fn c_flags(target: &Path) -> Vec<String> {
    let mut prefixes = prefixes();
    prefixes.push((target.to_owned(), "/target"));
    prefixes.iter().map(|(path, name)| format!("-ffile-prefix-map={}={name}", path.display())).collect()
}
