//! `cargo xtask profile`: records which code of weir-proxy runs under load, for compilers that go by it
//! (profile-guided optimisation, rustc's `-C profile-use`): what runs often is inlined and lies together, what never does
//! is small and lies apart. The load is that of `cargo xtask bench proxy`, which is what must be fast, and that of
//! `cargo xtask soak`, which is there so that what a proxy does every day is not taken for what never runs.
//!
//! The record is committed (`proxy/profile`), so that the same sources give the same programs. A compiler goes by the names
//! of functions: what has changed since the record was made is optimised as if there were none. It is of use to the version
//! of rustc that made it; others build without.

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use crate::bench::{
    certificates,
    configuration::{self, Place, Proxy, ROWS},
    load, ports,
    process::{self, CPU, Running, on_cpu},
};
use crate::console;
use crate::image::build::{self, Architecture, By};
use crate::machine::{Machine, Need, output};
use crate::soak;
use crate::workspace;

/// The records, from the workspace's root: for each architecture the counts, and the compiler that they are for.
const DIRECTORY: &str = "proxy/profile";
/// What is recorded.
pub const PROGRAM: &str = "weir-proxy";
/// A record is packed seldom, and cloned by everyone.
const ZSTD_LEVEL: i32 = 19;

/// Arguments of `cargo xtask profile`.
#[derive(clap::Args)]
pub struct Args {
    /// Seconds of load for each row of `cargo xtask bench proxy`
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Minutes of the load of `cargo xtask soak`
    #[arg(long, default_value_t = 1)]
    minutes: u64,
}

/// Runs the task.
pub fn run(args: &Args) -> Result<()> {
    let machine = Arc::new(Machine::prepare(&[Need::Build, Need::Peers])?);
    let architecture = Architecture::native()?;
    let merge = llvm_profdata(&machine)?;
    process::raise_open_files()?;
    let scratch = tempfile::tempdir().context("a directory")?;
    console::note("weir-proxy, built to count what runs");
    let target = build::target_directory().join("profile");
    // The program has its name in it: one that changed would have all built anew.
    let raw = target.join("counts");
    fs::create_dir_all(&raw)?;
    for old in fs::read_dir(&raw)? {
        fs::remove_file(old?.path())?;
    }
    let built = build::build(&machine, architecture, &By::Counting(raw.clone()), &target, PROGRAM)?;
    let place = Place { directory: scratch.path().to_owned(), backend: ports(4)?, weir: built.join(PROGRAM) };
    certificates::make(&machine, &place.directory)?;
    let _backend = Running::backend(&machine, &place)?;
    for row in &ROWS {
        console::note(row.name);
        let port = ports(1)?[0];
        let file = place.directory.join(format!("{port}.yaml"));
        fs::write(&file, configuration::of(Proxy::Weir, &place, row, port))?;
        let mut command = on_cpu(&machine, CPU, &place.weir);
        command.arg("-c").arg(&file).args(["--concurrency", "1", "-l", "warning"]);
        counts(&mut command, &raw);
        let running = Running::start(&place.directory, "counting", command, port, false)?;
        load::run(&machine, row, port, Duration::from_secs(args.seconds)).context(row.name)?;
        running.end()?;
    }
    console::note("everything at once");
    soak::exercise(&machine, &place.weir, Duration::from_secs(60 * args.minutes), |command| counts(command, &raw))?;
    let files = fs::read_dir(&raw)?.map(|file| Ok(file?.path())).collect::<Result<Vec<_>>>()?;
    ensure!(files.len() > ROWS.len(), "weir-proxy has left {} records of {} runs", files.len(), ROWS.len());
    let record = Record::of(architecture);
    fs::create_dir_all(record.counts.parent().unwrap_or(&record.counts))?;
    // With those that never ran: that, too, is worth knowing.
    let merged = scratch.path().join("merged");
    output(machine.command(merge).args(["merge", "-o"]).arg(&merged).args(&files))?;
    let packed = zstd::encode_all(&fs::read(&merged)?[..], ZSTD_LEVEL)?;
    fs::write(&record.counts, &packed)?;
    fs::write(&record.compiler, compiler(&machine)?)?;
    println!("{}: {} KiB of {} runs", record.counts.display(), packed.len() / 1024, files.len());
    Ok(())
}

/// Has a weir-proxy leave its counts in a directory.
fn counts(command: &mut Command, directory: &Path) {
    // It writes them as it ends: it must be let.
    command.args(["--user", "0"]);
    // A file for each: merging as they end takes calls that the proxy's own filter of system calls knows nothing of.
    command.env("LLVM_PROFILE_FILE", directory.join("%p.profraw"));
}

/// A record's files.
struct Record {
    counts: PathBuf,
    compiler: PathBuf,
}

impl Record {
    fn of(architecture: Architecture) -> Self {
        let file = |extension| workspace::root().join(DIRECTORY).join(architecture.name()).with_extension(extension);
        Self { counts: file("profdata.zst"), compiler: file("rustc") }
    }
}

/// What builds for an architecture go by, if there is a record for this compiler.
pub fn recorded(machine: &Machine, architecture: Architecture, target: &Path) -> Result<Option<PathBuf>> {
    let record = Record::of(architecture);
    let Ok(made_by) = fs::read_to_string(&record.compiler) else {
        console::note(&format!("{DIRECTORY} has nothing for {}: built without it", architecture.name()));
        return Ok(None);
    };
    let here = compiler(machine)?;
    if made_by != here {
        console::note(&format!("{DIRECTORY} is for {}, and this is {}: built without it", made_by.trim(), here.trim()));
        return Ok(None);
    }
    let packed = fs::read(&record.counts).with_context(|| record.counts.display().to_string())?;
    // cargo knows flags, not what is in the files that they name.
    let name: String = Sha256::digest(&packed).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let path = target.join(format!("{name}.profdata"));
    if !path.exists() {
        fs::create_dir_all(target)?;
        let counts = zstd::decode_all(&packed[..]).with_context(|| record.counts.display().to_string())?;
        fs::write(&path, counts).with_context(|| path.display().to_string())?;
    }
    Ok(Some(path))
}

/// Says so if a record is not of a program as it is built now. Names of functions have in them what their crate is built of:
/// with another dependency, feature or version of weir-proxy, a record knows none of them.
pub fn check(programs: &Path, record: &Path) -> Result<()> {
    let read = |path: &Path| fs::read(path).with_context(|| path.display().to_string());
    let (program, record) = (read(&programs.join(PROGRAM))?, read(record)?);
    let (built, recorded) = (functions(&program), functions(&record));
    // Without its symbols, or with names of another form, there is nothing to compare, and it would fit whatever it is.
    ensure!(!built.is_empty() && !recorded.is_empty(), "no functions of {PROGRAM} in what is built, or in {DIRECTORY}");
    let known = built.intersection(&recorded).count();
    if 2 * known < built.len() {
        console::note(&format!(
            "{DIRECTORY} knows {known} of {} functions of {PROGRAM}: `cargo xtask profile` makes a record of them as they are",
            built.len()
        ));
    }
    Ok(())
}

/// The names in a file of functions that [`PROGRAM`] has of its own, as compilers write them
/// (`_ZN10weir_proxy4main17h0123456789abcdefE`).
fn functions(content: &[u8]) -> HashSet<&str> {
    const HASH: usize = "17h0123456789abcdefE".len();
    let krate = PROGRAM.replace('-', "_");
    content
        .split(|byte| !(byte.is_ascii_alphanumeric() || b"_.$".contains(byte)))
        .filter_map(|word| {
            let word = std::str::from_utf8(word).ok()?;
            let name = &word[word.find("_ZN")?..];
            name.get(..name.rfind("17h")? + HASH)
        })
        .filter(|name| name.contains(&krate))
        .collect()
}

/// `rustc 1.95.0 (59807616e 2026-04-14)`.
fn compiler(machine: &Machine) -> Result<String> {
    output(machine.command("rustc").arg("-V"))
}

/// LLVM's tool for records, as new as the compiler's LLVM.
fn llvm_profdata(machine: &Machine) -> Result<PathBuf> {
    let about = output(machine.command("rustc").arg("-vV"))?;
    let field = |name: &str| about.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
    let sysroot = output(machine.command("rustc").args(["--print", "sysroot"]))?;
    let with_rustc = Path::new(sysroot.trim()).join("lib/rustlib").join(field("host:")).join("bin/llvm-profdata");
    let major = field("LLVM version:").split('.').next().unwrap_or_default();
    let installed = machine.find(&format!("llvm-profdata-{major}"));
    Some(with_rustc).filter(|path| path.exists()).or(installed).with_context(|| {
        format!("no llvm-profdata: `rustup component add llvm-tools` or `apt-get install llvm-{major}` brings it")
    })
}

#[cfg(test)]
mod tests {
    use super::functions;

    #[test]
    fn finds_the_names_of_functions_in_programs_and_records() {
        let own = "_ZN10weir_proxy6intake5bound6listen17h0123456789abcdefE";
        let other = "_ZN5tokio7runtime4task3raw4poll17h0123456789abcdefE";
        let program = format!("\0{other}\0{own}\0_ZN10weir_proxy\0");
        let record = format!("\u{1}weir_proxy.79309583607ac188-cgu.0;{own}/j\u{2}{other}.llvm.1\u{3}{own}.llvm.17");
        for content in [program, record] {
            assert_eq!(functions(content.as_bytes()).into_iter().collect::<Vec<_>>(), [own], "{content:?}");
        }
    }
}
