//! The guest's root file system: busybox, iproute2, setpriv, weir's programs, their libraries, a few modules, an init script.

use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::Programs;
use super::cpio::Archive;
use super::packages::Kernel;
use crate::machine::{self, Machine};

/// What runs as process 1.
const INIT: &str = include_str!("init.sh");
/// Applets of busybox that [`INIT`] and a shell on the console use. `ip` is iproute2's: busybox's lacks `netns`.
const APPLETS: [&str; 8] = ["sh", "mount", "mkdir", "insmod", "poweroff", "sleep", "cat", "uname"];

/// Writes the archive. It is not compressed: unpacking costs the emulated machine more than reading.
pub fn write(machine: &Machine, kernel: &Kernel, programs: &Programs, to: &Path) -> Result<()> {
    let work = tempfile::tempdir()?;
    let mut files = Files::default();
    files.add("bin/busybox", &machine.find("busybox").context("busybox is not installed")?);
    let ip = machine.find("ip").context("iproute2 is not installed")?;
    files.add_with_libraries(machine, "sbin/ip", &ip)?;
    // The agent runs under the capabilities that the chart gives it.
    let setpriv = machine.find("setpriv").context("util-linux is not installed")?;
    files.add_with_libraries(machine, "bin/setpriv", &setpriv)?;
    let mut load = String::new();
    for module in &kernel.modules {
        let name = module.file_name().context("a module without a name")?.to_string_lossy();
        files.add(&format!("modules/{name}"), module);
        load.push_str(&format!("/modules/{name}\n"));
    }
    for program in programs.all() {
        let name = program.file_name().context("a program without a name")?;
        let stripped = work.path().join(name);
        machine::run(machine.command("strip").arg("-o").arg(&stripped).arg(program))?;
        files.add_with_libraries(machine, &format!("bin/{}", name.to_string_lossy()), &stripped)?;
    }

    let mut archive = Archive::new(BufWriter::new(File::create(to)?));
    for directory in files.directories() {
        archive.directory(&directory)?;
    }
    for applet in APPLETS {
        archive.symlink(&format!("bin/{applet}"), "busybox")?;
    }
    archive.file("modules/order", 0o644, load.as_bytes())?;
    archive.file("init", 0o755, INIT.as_bytes())?;
    for (name, source) in &files.0 {
        let content = fs::read(source).with_context(|| source.display().to_string())?;
        archive.file(name, 0o755, &content)?;
    }
    archive.finish()?.flush().context("the initrd")
}

/// Files of the archive: name in it, source on this machine.
#[derive(Default)]
struct Files(Vec<(String, PathBuf)>);

impl Files {
    fn add(&mut self, name: &str, source: &Path) {
        if !self.0.iter().any(|(known, _)| known == name) {
            self.0.push((name.to_owned(), source.to_owned()));
        }
    }

    fn add_with_libraries(&mut self, machine: &Machine, name: &str, source: &Path) -> Result<()> {
        self.add(name, source);
        let text = machine::output(machine.command("ldd").arg(source))?;
        for library in libraries(&text) {
            self.add(library.trim_start_matches('/'), Path::new(library));
        }
        Ok(())
    }

    /// The directories that the files and the mounts need, parents first.
    fn directories(&self) -> BTreeSet<String> {
        let mut directories: BTreeSet<String> =
            ["bin", "sbin", "proc", "sys", "dev", "run", "tmp", "etc"].map(str::to_owned).into();
        for (name, _) in &self.0 {
            let parents = Path::new(name).ancestors().skip(1).map(|parent| parent.display().to_string());
            directories.extend(parents.filter(|parent| !parent.is_empty()));
        }
        directories
    }
}

/// Absolute paths in the output of ldd.
fn libraries(ldd: &str) -> impl Iterator<Item = &str> {
    ldd.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_ldd() {
        let ldd = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                   \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        assert_eq!(
            libraries(ldd).collect::<Vec<_>>(),
            ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]
        );
        assert_eq!(libraries("\tstatically linked\n").count(), 0);
    }
}
