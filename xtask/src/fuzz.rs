//! `cargo xtask fuzz`: the fuzz targets of `proxy/fuzz` under libFuzzer with AddressSanitizer, on the stable compiler.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::console::{self, Style};
use crate::machine::{Machine, Need};
use crate::workspace;

/// The fuzz crate, from the workspace's root.
const DIRECTORY: &str = "proxy/fuzz";
/// Seconds that one input may take.
const INPUT_SECONDS: u64 = 10;

/// Arguments of `cargo xtask fuzz`.
#[derive(clap::Args)]
pub struct Args {
    /// Only this target
    target: Option<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

/// Runs the task.
pub fn run(args: Args) -> Result<()> {
    let directory = workspace::root().join(DIRECTORY);
    let known = targets(&directory)?;
    let wanted: Vec<&String> =
        known.iter().filter(|name| args.target.as_ref().is_none_or(|wanted| wanted == *name)).collect();
    ensure!(
        !wanted.is_empty(),
        "there is no fuzz target {}: there are {}",
        args.target.unwrap_or_default(),
        known.join(", ")
    );
    let machine = Machine::prepare(&[Need::Build, Need::Fuzz])?;
    let cargo_fuzz = machine.cargo_fuzz()?;
    let mut found = Vec::new();
    for target in &wanted {
        console::heading(&format!("{target}, {} s", args.seconds));
        let scratch = machine.cache.join("fuzz").join(target);
        let artifacts = machine.cache.join("fuzz-findings").join(target);
        fs::create_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
        fs::create_dir_all(&artifacts).with_context(|| artifacts.display().to_string())?;
        let status = machine
            .command(cargo_fuzz.join("cargo-fuzz"))
            // Sanitizers are behind a feature gate of the compiler, which this opens.
            .env("RUSTC_BOOTSTRAP", "1")
            .args(["fuzz", "run", "--fuzz-dir"])
            .arg(&directory)
            .arg(target)
            // What is found interesting goes to the first, the committed corpus is read only.
            .args([&scratch, &directory.join("corpus").join(target)])
            .arg("--")
            .arg(format!("-max_total_time={}", args.seconds))
            .arg(format!("-timeout={INPUT_SECONDS}"))
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .arg("-print_final_stats=1")
            .current_dir(workspace::root())
            .stdin(Stdio::null())
            .status()
            .context("cargo-fuzz does not start")?;
        let verdict = if status.success() {
            console::paint(Style::Green, "no finding")
        } else {
            found.push(target.as_str());
            console::paint(Style::Red, &format!("a finding, in {}", artifacts.display()))
        };
        println!("{target}: {verdict}");
    }
    ensure!(found.is_empty(), "findings in {}", found.join(", "));
    Ok(())
}

/// The targets, by the files that hold them.
fn targets(directory: &Path) -> Result<Vec<String>> {
    let path: PathBuf = directory.join("fuzz_targets");
    let mut names: Vec<String> = fs::read_dir(&path)
        .with_context(|| path.display().to_string())?
        .flatten()
        .filter_map(|entry| Some(entry.path().file_stem()?.to_string_lossy().into_owned()))
        .collect();
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_target_is_a_program_with_a_corpus() {
        let directory = workspace::root().join(DIRECTORY);
        let manifest = fs::read_to_string(directory.join("Cargo.toml")).unwrap();
        let names = targets(&directory).unwrap();
        assert!(!names.is_empty());
        for name in &names {
            assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not in the manifest");
            assert!(directory.join("corpus").join(name).is_dir(), "{name} has no corpus");
        }
        assert_eq!(manifest.matches("[[bin]]").count(), names.len());
    }
}
