//! The workspace: its root, and building it.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::machine::Machine;

/// The workspace's root directory.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}

/// A test program that cargo built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestProgram {
    /// The program.
    pub executable: PathBuf,
    /// Directory of its package, which tests run in.
    pub package_directory: PathBuf,
    /// Name of the target, as in `tests/NAME.rs`.
    pub name: String,
    /// Whether it is a library's or program's own unit tests rather than a file of `tests/`.
    pub is_unit: bool,
}

/// What a build gave.
#[derive(Debug, Default)]
pub struct Built {
    /// Test programs, in cargo's order.
    pub tests: Vec<TestProgram>,
    /// Programs, by path.
    pub programs: Vec<PathBuf>,
}

impl Built {
    /// The program of this name.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        self.programs
            .iter()
            .find(|path| path.file_name().is_some_and(|file| file == name))
            .cloned()
            .with_context(|| format!("cargo built no program {name}"))
    }

    fn add(&mut self, message: &Value) {
        let Some(executable) = message["executable"].as_str().map(PathBuf::from) else { return };
        if message["profile"]["test"] == Value::Bool(true) {
            let manifest = PathBuf::from(message["manifest_path"].as_str().unwrap_or_default());
            self.tests.push(TestProgram {
                executable,
                package_directory: manifest.parent().unwrap_or(root()).to_owned(),
                name: message["target"]["name"].as_str().unwrap_or_default().to_owned(),
                is_unit: message["target"]["kind"][0] != "test",
            });
        } else {
            self.programs.push(executable);
        }
    }
}

/// Builds what `arguments` of `cargo build` say, with cargo's own progress on standard error.
pub fn build(machine: &Machine, arguments: &[&str]) -> Result<Built> {
    let mut child = machine
        .command(cargo())
        .arg("build")
        .args(arguments)
        .args(["--message-format", "json-render-diagnostics"])
        .current_dir(root())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cargo does not start")?;
    let stdout = child.stdout.take().context("cargo's output is not piped")?;
    let mut built = Built::default();
    for line in BufReader::new(stdout).lines() {
        let line = line.context("cargo's output")?;
        if let Ok(message) = serde_json::from_str::<Value>(&line)
            && message["reason"] == "compiler-artifact"
        {
            built.add(&message);
        }
    }
    let status = child.wait().context("cargo")?;
    ensure!(status.success(), "the workspace does not build (cargo build {})", arguments.join(" "));
    Ok(built)
}

/// The cargo that runs this task.
pub fn cargo() -> PathBuf {
    std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn artifacts_are_told_apart() {
        let mut built = Built::default();
        built.add(&json!({"executable": "/t/debug/weirctl", "profile": {"test": false}, "target": {"name": "weirctl", "kind": ["bin"]}}));
        built.add(&json!({"executable": null, "profile": {"test": false}}));
        built.add(&json!({"executable": "/t/debug/deps/redirect-1", "profile": {"test": true}, "manifest_path": "/w/tests/Cargo.toml",
            "target": {"name": "redirect", "kind": ["test"]}}));
        assert_eq!(built.program("weirctl").unwrap(), PathBuf::from("/t/debug/weirctl"));
        assert!(built.program("weir").is_err());
        assert_eq!(built.tests.len(), 1);
        assert!(!built.tests[0].is_unit);
        assert_eq!(built.tests[0].package_directory, PathBuf::from("/w/tests"));
    }
}
