//! Long-running processes that outlive this one under `--keep`: known by a file with their id and start time.

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a process may take to end by itself.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause between two looks at a process that is ending.
const POLL: Duration = Duration::from_millis(20);

/// A process, told from a later one with the same id by its start time.
#[derive(Debug, PartialEq, Eq)]
struct Record {
    pid: i32,
    /// In clock ticks since boot, field 22 of /proc/PID/stat.
    started: u64,
}

impl Record {
    fn parse(text: &str) -> Option<Self> {
        let (pid, started) = text.trim().split_once(' ')?;
        Some(Self { pid: pid.parse().ok()?, started: started.parse().ok()? })
    }

    fn is_running(&self) -> bool {
        start_time(self.pid) == Some(self.started)
    }

    /// Asks the process to end, then makes it.
    fn end(&self) {
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            if !self.is_running() {
                return;
            }
            // It may end between the question and the signal.
            let _ = kill(Pid::from_raw(self.pid), signal);
            let deadline = Instant::now() + PATIENCE;
            while self.is_running() && Instant::now() < deadline {
                std::thread::sleep(POLL);
            }
        }
    }
}

/// Starts a process with its output in `<directory>/<name>.log`, out of reach of the terminal's Ctrl-C, and records it.
pub fn start(mut command: Command, directory: &Path, name: &str) -> Result<()> {
    let log = OpenOptions::new().create(true).append(true).open(log_file(directory, name))?;
    // An unprivileged proxy opens /dev/stdout, which is this file, again.
    log.set_permissions(fs::Permissions::from_mode(0o666))?;
    let child = command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .with_context(|| format!("{name} does not start"))?;
    let pid = child.id() as i32;
    let Some(started) = start_time(pid) else { bail!("{name} ended at once: {}", log_file(directory, name).display()) };
    fs::write(directory.join(name).with_extension("pid"), format!("{pid} {started}\n"))?;
    Ok(())
}

/// Where a process's output goes.
pub fn log_file(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.log"))
}

/// Ends a process that [`start`] recorded in this directory, if it still runs.
pub fn end(directory: &Path, name: &str) {
    let file = directory.join(name).with_extension("pid");
    if let Some(record) = fs::read_to_string(&file).ok().as_deref().and_then(Record::parse) {
        record.end();
    }
}

/// Whether a process that [`start`] recorded in this directory has ended since.
pub fn has_ended(directory: &Path, name: &str) -> bool {
    let text = fs::read_to_string(directory.join(name).with_extension("pid")).ok();
    text.as_deref().and_then(Record::parse).is_some_and(|record| !record.is_running())
}

/// Ends a process by its id, whatever it is: for those left in a namespace that is the demo's own.
pub fn end_by_id(pid: i32) {
    if let Some(started) = start_time(pid) {
        Record { pid, started }.end();
    }
}

/// When a process started, unless it has ended (a zombie whose threads have ended too has).
fn start_time(pid: i32) -> Option<u64> {
    parse_start_time(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_start_time(stat: &str) -> Option<u64> {
    // The name, in parentheses, may hold spaces and parentheses itself. State is field 3 of proc_pid_stat(5), the number
    // of threads field 20, the start time field 22.
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    // A first thread that has ended leaves the process to the others: it holds files and locks until the last one ends.
    let threads: u32 = fields.get(17)?.parse().ok()?;
    if matches!(fields.first(), Some(&"Z" | &"X")) && threads <= 1 {
        return None;
    }
    fields.get(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_times_are_read_past_odd_names() {
        let stat = "42 (a) b)) S 1 42 42 0 -1 4194304 100 0 0 0 1 2 0 0 20 0 1 0 98765 1000 200 0";
        assert_eq!(parse_start_time(stat), Some(98765));
        let zombie = stat.replace(" S ", " Z ");
        assert_eq!(parse_start_time(&zombie), None);
        assert_eq!(parse_start_time(&zombie.replace(" 20 0 1 0 ", " 20 0 3 0 ")), Some(98765), "threads are left");
    }

    #[test]
    fn a_process_is_ended_once_and_another_with_its_id_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new("sleep");
        command.arg("600");
        start(command, directory.path(), "sleeper").unwrap();
        let text = fs::read_to_string(directory.path().join("sleeper.pid")).unwrap();
        let record = Record::parse(&text).unwrap();
        assert!(record.is_running());
        let other = Record { started: record.started + 1, ..record };
        other.end();
        let record = Record::parse(&text).unwrap();
        assert!(record.is_running(), "a record of an earlier process must not end a later one");
        end(directory.path(), "sleeper");
        assert!(!record.is_running());
    }
}
