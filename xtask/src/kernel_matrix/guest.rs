//! Booting a kernel under QEMU and reading its verdict off the serial console.

use anyhow::{Context, Result, bail, ensure};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::packages::Kernel;
use crate::machine::Machine;

/// How long a guest may take. A quiet machine needs less than a minute; QEMU interprets every instruction.
const TIMEOUT: Duration = Duration::from_secs(600);
/// Memory of the guest, in MiB: the initrd is held twice while it is unpacked.
const MEMORY_MIB: &str = "1536";
/// Lines of the console that a failure shows: its end, or what follows the first words of a kernel that failed itself.
const SHOWN: usize = 40;
/// How often a guest is booted that QEMU breaks.
const BOOTS: usize = 3;
/// What Linux says when QEMU, a thread for each CPU, runs an instruction that the other CPU is just patching (a static key
/// behind its int3): once in some hundred boots, bugzilla.redhat.com 2216496. No program in the guest can cause it.
const EMULATOR_FAULT: &str = "int3: 0000 [#1]";
/// How a kernel begins to tell of a failure of its own.
const KERNEL_FAULTS: [&str; 5] = ["BUG: ", "Oops: ", "int3: ", "general protection fault", "Kernel panic"];

/// A guest's lines, as `weir-lab` (tests/src/bin/weir-lab.rs) writes them.
const OK: &str = "lab: ok ";
const FAILED: &str = "lab: FAILED ";
const VERDICT: &str = "lab: verdict ";

/// Boots the kernel and gives the number of checks that passed; an error if one failed or there is no verdict. A guest
/// that QEMU broke is booted anew.
pub fn boot(machine: &Machine, kernel: &Kernel, initrd: &Path, verbose: bool) -> Result<usize> {
    for _ in 1..BOOTS {
        let console = run(machine, kernel, initrd, verbose)?;
        if !console.broken_by_emulator() {
            return console.judge();
        }
        println!("    QEMU ran code that its other CPU was patching; once more:\n{}", console.excerpt());
    }
    run(machine, kernel, initrd, verbose)?.judge()
}

/// Boots the kernel and gives what the guest wrote until it was off.
fn run(machine: &Machine, kernel: &Kernel, initrd: &Path, verbose: bool) -> Result<Console> {
    // KVM is not chosen even where /dev/kvm exists: nested virtualisation may offer the file and fail.
    let child = machine
        .command("qemu-system-x86_64")
        .args(["-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", MEMORY_MIB])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(initrd)
        .args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable"])
        .args(["-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio", "-display", "none"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("qemu-system-x86_64 does not start")?;
    let mut console = Console::default();
    let timed_out = follow(child, verbose, &mut console)?;
    if timed_out {
        bail!("no verdict after {} s\n{}", TIMEOUT.as_secs(), console.excerpt());
    }
    Ok(console)
}

/// Reads the console until the guest is off; tells whether it had to be stopped.
fn follow(mut child: Child, verbose: bool, console: &mut Console) -> Result<bool> {
    let stdout = child.stdout.take().context("the console is not piped")?;
    let stderr = child.stderr.take().context("QEMU's errors are not piped")?;
    let (lines, received) = mpsc::channel();
    for pipe in [Box::new(stdout) as Box<dyn std::io::Read + Send>, Box::new(stderr)] {
        let lines = lines.clone();
        thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                if lines.send(plain(&String::from_utf8_lossy(&line))).is_err() {
                    return;
                }
            }
        });
    }
    drop(lines);
    let deadline = Instant::now() + TIMEOUT;
    let timed_out = loop {
        match received.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                if verbose || line.starts_with("lab: ") {
                    println!("    {line}");
                }
                console.lines.push(line);
            }
            Err(RecvTimeoutError::Disconnected) => break false,
            Err(RecvTimeoutError::Timeout) => break true,
        }
    };
    if timed_out {
        child.kill().context("QEMU cannot be stopped")?;
    }
    child.wait().context("QEMU")?;
    Ok(timed_out)
}

/// A line without the escape sequences that the firmware clears its screen with.
fn plain(line: &str) -> String {
    let mut parts = line.trim_end().split('\x1b');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| c.is_ascii_alphabetic()).map_or(part.len(), |at| at + 1);
        text.push_str(&part[end..]);
    }
    text
}

/// What a guest wrote.
#[derive(Default)]
struct Console {
    lines: Vec<String>,
}

impl Console {
    fn judge(&self) -> Result<usize> {
        let passed = self.starting_with(OK).count();
        let failed: Vec<&str> = self.starting_with(FAILED).collect();
        ensure!(failed.is_empty(), "{}\n{}", failed.join("; "), self.excerpt());
        let verdict = self.starting_with(VERDICT).last();
        ensure!(verdict == Some("passed"), "the guest ended without a verdict\n{}", self.excerpt());
        ensure!(passed > 0, "the guest checked nothing\n{}", self.excerpt());
        Ok(passed)
    }

    fn starting_with<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        self.lines.iter().filter_map(move |line| line.strip_prefix(prefix))
    }

    /// Whether the first thing that the kernel complains of is QEMU's doing.
    fn broken_by_emulator(&self) -> bool {
        self.kernel_fault().is_some_and(|at| self.lines[at].contains(EMULATOR_FAULT))
    }

    /// The line where the kernel begins to tell of a failure of its own.
    fn kernel_fault(&self) -> Option<usize> {
        self.lines.iter().position(|line| KERNEL_FAULTS.iter().any(|words| line.contains(words)))
    }

    /// The lines that tell most about a failure.
    fn excerpt(&self) -> String {
        let from = self.kernel_fault().unwrap_or_else(|| self.lines.len().saturating_sub(SHOWN));
        let lines: Vec<_> = self.lines[from..].iter().take(SHOWN).map(|line| format!("    | {line}")).collect();
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console(text: &str) -> Console {
        Console { lines: text.lines().map(str::to_owned).collect() }
    }

    #[test]
    fn escape_sequences_are_dropped() {
        assert_eq!(plain("\x1bc\x1b[?7l\x1b[2Jguest: up\r"), "guest: up");
        assert_eq!(plain("[    6.5] reboot"), "[    6.5] reboot");
    }

    #[test]
    fn a_guest_passes_only_with_checks_and_a_verdict() {
        assert_eq!(console("lab: ok a\nlab: ok b\nlab: verdict passed").judge().unwrap(), 2);
        assert!(
            console("lab: ok a\nlab: FAILED b: no\nlab: verdict passed")
                .judge()
                .unwrap_err()
                .to_string()
                .starts_with("b: no")
        );
        let panic = console("lab: ok a\nKernel panic - not syncing").judge().unwrap_err().to_string();
        assert!(panic.starts_with("the guest ended without a verdict") && panic.contains("Kernel panic"));
        assert!(console("lab: verdict passed").judge().is_err());
        assert!(console("").judge().is_err());
    }

    #[test]
    fn a_failure_shows_the_kernels_first_words_else_the_end() {
        let talk = "lab: waiting\n".repeat(100);
        let fault = "[    3.8] int3: 0000 [#1] PREEMPT SMP";
        let shown = console(&format!("{talk}{fault}\n{talk}the end")).excerpt();
        assert!(shown.starts_with(&format!("    | {fault}")) && !shown.contains("the end"), "{shown}");
        let shown = console(&format!("{talk}the end")).excerpt();
        assert!(shown.ends_with("the end") && shown.lines().count() == SHOWN, "{shown}");
    }

    #[test]
    fn only_an_int3_that_comes_first_is_the_emulators() {
        let int3 = "[    3.8] Oops: int3: 0000 [#1] PREEMPT SMP";
        assert!(console(&format!("lab: ok a\n{int3}")).broken_by_emulator());
        assert!(!console(&format!("[    3.7] BUG: unable to handle page fault\n{int3}")).broken_by_emulator());
        assert!(!console("lab: ok a\nlab: verdict passed").broken_by_emulator());
    }
}
