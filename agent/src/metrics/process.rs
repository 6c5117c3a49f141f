//! The agent's own process, by the names that every Prometheus client library uses.

use std::{fs, time::Duration};

use nix::{
    sys::resource::{Resource, getrlimit},
    unistd::{SysconfVar, sysconf},
};

/// What `/proc` says of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    /// CPU time, in user space and in the kernel, seconds.
    pub cpu: f64,
    /// Resident memory, bytes.
    pub resident: u64,
    /// Address space, bytes.
    pub address_space: u64,
    /// Open file descriptors.
    pub open_files: u64,
    /// How many there may be.
    pub max_files: u64,
    /// When it started, seconds since 1970.
    pub started: f64,
}

impl Process {
    /// Of this process now; none where `/proc` is not what it should be.
    pub fn own() -> Option<Self> {
        let unit = |variable| sysconf(variable).ok().flatten().and_then(|unit| u64::try_from(unit).ok());
        let (ticks, page) = (unit(SysconfVar::CLK_TCK)?, unit(SysconfVar::PAGE_SIZE)?);
        let boot = boot_time(&fs::read_to_string("/proc/stat").ok()?)?;
        let counted = parse(&fs::read_to_string("/proc/self/stat").ok()?, ticks, page, boot)?;
        // One of them reads the directory.
        let open_files = fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as u64;
        let (max_files, _) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
        Some(Self { open_files, max_files, ..counted })
    }
}

/// What `/proc/PID/stat` says, proc_pid_stat(5), with `ticks` a second and pages of `page` bytes.
fn parse(stat: &str, ticks: u64, page: u64, boot: Duration) -> Option<Process> {
    // The name is the only field that may hold anything, brackets too.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let seconds = |clock: u64| clock as f64 / ticks as f64;
    Some(Process {
        cpu: seconds(field(14)? + field(15)?),
        started: boot.as_secs_f64() + seconds(field(22)?),
        address_space: field(23)?,
        resident: field(24)? * page,
        ..Process::default()
    })
}

/// When the machine was started, since 1970, by `/proc/stat`.
fn boot_time(stat: &str) -> Option<Duration> {
    let seconds = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    Some(Duration::from_secs(seconds.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_from_the_last_bracket() {
        let stat = "7 (a) b 1) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 3 0 1234 1000000 25 18446744073709551615";
        let process = parse(stat, 100, 4096, Duration::from_secs(1000)).unwrap();
        assert_eq!(
            process,
            Process { cpu: 3.0, resident: 102_400, address_space: 1_000_000, started: 1012.34, ..Process::default() }
        );
        assert_eq!(parse("7 (a) S 1", 100, 4096, Duration::ZERO), None);
    }

    #[test]
    fn this_process_has_figures() {
        let process = Process::own().unwrap();
        assert!(process.resident > 0 && process.open_files > 2 && process.max_files >= process.open_files);
        let age = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64() - process.started;
        assert!((-2.0..86400.0).contains(&age), "{age}");
    }
}
