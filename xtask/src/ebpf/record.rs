//! The record beside the object: what made it. Lines of `name = value`.

use crate::workspace;
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::fmt::{self, Write as _};
use std::fs;

/// The record's path below the workspace.
pub const FILE: &str = "ebpf/weir.bpf.toolchain";

/// What made an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// First line of `rustc -vV`.
    pub rustc: String,
    /// The compiler's LLVM.
    pub llvm: String,
    /// What `bpf-linker --version` says.
    pub linker: String,
    /// Digest of the object, in hexadecimal.
    pub sha256: String,
}

impl Record {
    /// Reads the committed record.
    pub fn read() -> Result<Self> {
        let path = workspace::root().join(FILE);
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Self::parse(&text).context(FILE)
    }

    /// Writes the record into the workspace.
    pub fn write(&self) -> Result<()> {
        let path = workspace::root().join(FILE);
        fs::write(&path, self.to_string()).with_context(|| path.display().to_string())
    }

    /// How the toolchain of `here` differs from this one, a line each.
    pub fn toolchain_differences(&self, here: &Self) -> Vec<String> {
        [("rustc", &self.rustc, &here.rustc), ("llvm", &self.llvm, &here.llvm), ("linker", &self.linker, &here.linker)]
            .into_iter()
            .filter(|(_, recorded, here)| recorded != here)
            .map(|(name, recorded, here)| format!("{name}: the object was made by {recorded}, here is {here}"))
            .collect()
    }

    fn parse(text: &str) -> Result<Self> {
        let mut record =
            Self { rustc: String::new(), llvm: String::new(), linker: String::new(), sha256: String::new() };
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (name, value) = line.split_once(" = ").with_context(|| format!("`{line}` is not `name = value`"))?;
            let field = match name {
                "rustc" => &mut record.rustc,
                "llvm" => &mut record.llvm,
                "linker" => &mut record.linker,
                "sha256" => &mut record.sha256,
                _ => bail!("unknown name `{name}`: expected rustc, llvm, linker or sha256"),
            };
            value.clone_into(field);
        }
        for (name, value) in [("rustc", &record.rustc), ("llvm", &record.llvm), ("linker", &record.linker)] {
            if value.is_empty() {
                bail!("no line `{name} = ...`");
            }
        }
        Ok(record)
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# What made weir.bpf.o; written by `cargo xtask ebpf`, read by `cargo xtask ebpf --check`.")?;
        let Self { rustc, llvm, linker, sha256 } = self;
        writeln!(f, "rustc = {rustc}\nllvm = {llvm}\nlinker = {linker}\nsha256 = {sha256}")
    }
}

/// The SHA-256 digest of `bytes`, in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            rustc: "rustc 1.96.0".into(),
            llvm: "22.1.8".into(),
            linker: "bpf-linker 0.13.0".into(),
            sha256: "00".into(),
        }
    }

    #[test]
    fn a_record_survives_the_round_trip() {
        assert_eq!(Record::parse(&record().to_string()).unwrap(), record());
    }

    #[test]
    fn a_bad_record_is_refused_with_its_line() {
        let error = |text: &str| Record::parse(text).unwrap_err().to_string();
        assert_eq!(error("rustc 1.96"), "`rustc 1.96` is not `name = value`");
        assert_eq!(error("gcc = 12"), "unknown name `gcc`: expected rustc, llvm, linker or sha256");
        assert_eq!(error("rustc = a\nllvm = b\n"), "no line `linker = ...`");
    }

    #[test]
    fn another_toolchain_is_told_from_another_object() {
        let mut here = record();
        here.sha256 = "11".into();
        assert!(record().toolchain_differences(&here).is_empty());
        here.rustc = "rustc 1.97.0".into();
        assert_eq!(
            record().toolchain_differences(&here),
            ["rustc: the object was made by rustc 1.96.0, here is rustc 1.97.0"]
        );
    }

    #[test]
    fn the_committed_record_is_of_the_committed_object() {
        let object = fs::read(workspace::root().join("ebpf/weir.bpf.o")).unwrap();
        assert_eq!(Record::read().unwrap().sha256, sha256(&object), "run `cargo xtask ebpf` and commit both");
    }
}
