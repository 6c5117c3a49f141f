//! Proxies and the backend as processes on a CPU of their own, and what they use.

use anyhow::{Context, Result, bail, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::configuration::{self, Place, Proxy, Row};
use crate::machine::{Machine, output};

/// The CPU of the proxies.
pub const CPU: usize = 0;
/// The CPU of load and backend.
pub const LOAD_CPU: usize = 1;
/// How long a proxy may take to start.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running process, ended when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    /// From its start to its first answer (or, under TLS, to its first connection).
    pub started: Duration,
}

/// A command that stays on a CPU.
pub fn on_cpu(machine: &Machine, cpu: usize, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = machine.command("taskset");
    command.args(["-c", &cpu.to_string()]).arg(program);
    command
}

impl Running {
    /// The backend, on the load's CPU.
    pub fn backend(machine: &Machine, place: &Place) -> Result<Self> {
        let files = place.directory.join("files");
        fs::create_dir_all(&files)?;
        fs::write(files.join("large"), vec![b'x'; 64 * 1024])?;
        let file = place.directory.join("backend.conf");
        fs::write(&file, configuration::backend(place))?;
        let mut command = on_cpu(machine, LOAD_CPU, "nginx");
        command.args(["-p", &place.directory.display().to_string(), "-c", &file.display().to_string()]);
        Self::start(&place.directory, "backend", command, place.backend[0], false)
    }

    /// A proxy, configured for a row.
    pub fn proxy(machine: &Machine, place: &Place, proxy: Proxy, row: &Row, port: u16) -> Result<Self> {
        if let Some(why) = configuration::cannot(proxy, row) {
            bail!("{why}");
        }
        let extension = if matches!(proxy, Proxy::Weir | Proxy::Envoy) { "yaml" } else { "conf" };
        let file = place.directory.join(format!("{}-{port}.{extension}", proxy.name()));
        fs::write(&file, configuration::of(proxy, place, row, port))?;
        let file = file.display().to_string();
        let worker = ["--concurrency", "1", "-l", "warning"];
        let mut command = match proxy {
            Proxy::Weir => {
                output(machine.command(&place.weir).args(["--mode", "validate", "-l", "error", "-c", &file]))
                    .context("not yet")?;
                let mut command = on_cpu(machine, CPU, &place.weir);
                command.args(["-c", &file]).args(worker);
                command
            }
            Proxy::Envoy => {
                let mut command = on_cpu(machine, CPU, "envoy");
                command.args(["-c", &file, "--disable-hot-restart"]).args(worker);
                command
            }
            Proxy::Haproxy => {
                let mut command = on_cpu(machine, CPU, "haproxy");
                command.args(["-db", "-f", &file]);
                command
            }
            Proxy::Nginx => {
                let mut command = on_cpu(machine, CPU, "nginx");
                command.args(["-p", &place.directory.display().to_string(), "-c", &file]);
                command
            }
        };
        command.env("RUST_BACKTRACE", "0");
        Self::start(
            &place.directory,
            proxy.name(),
            command,
            port,
            !row.tls && row.client != configuration::Client::Http2,
        )
    }

    /// Starts a process, and waits until it takes connections on a port, or answers them. What it says goes to
    /// `NAME-PORT.log`.
    pub fn start(directory: &Path, name: &str, mut command: Command, port: u16, answers: bool) -> Result<Self> {
        let log = directory.join(format!("{name}-{port}.log"));
        let output = File::create(&log)?;
        let begun = Instant::now();
        let child = command
            .stdin(Stdio::null())
            // HAProxy's access log goes there.
            .stdout(Stdio::null())
            .stderr(output)
            .spawn()
            .with_context(|| format!("{name} does not start"))?;
        let mut running = Self { child, started: Duration::ZERO };
        while !is_up(port, answers) {
            let said = || fs::read_to_string(&log).unwrap_or_default();
            if let Some(status) = running.child.try_wait()? {
                bail!("{name} ended with {status}: {}", said().trim().lines().last().unwrap_or_default());
            }
            ensure!(begun.elapsed() < PATIENCE, "{name} does not answer on port {port}: {}", said().trim());
            std::thread::sleep(Duration::from_millis(1));
        }
        running.started = begun.elapsed();
        Ok(running)
    }

    /// Asks it to end, and waits until it has.
    pub fn end(mut self) -> Result<()> {
        let id = i32::try_from(self.child.id()).context("its id")?;
        kill(Pid::from_raw(id), Signal::SIGTERM).context("SIGTERM")?;
        let status = self.child.wait().context("its end")?;
        ensure!(status.success(), "it ended with {status}");
        Ok(())
    }

    /// Time that its threads have spent on a CPU (the first field of schedstat, in nanoseconds).
    pub fn cpu(&self) -> Result<Duration> {
        let mut nanoseconds = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = fs::read_to_string(thread?.path().join("schedstat")).context("schedstat")?;
            nanoseconds += text.split(' ').next().and_then(|spent| spent.parse::<u64>().ok()).context("schedstat")?;
        }
        Ok(Duration::from_nanos(nanoseconds))
    }

    /// Its resident memory.
    pub fn resident_kilobytes(&self) -> Result<u64> {
        self.status("VmRSS")
    }

    /// Its threads.
    pub fn threads(&self) -> Result<u64> {
        self.status("Threads")
    }

    /// Its open files.
    pub fn files(&self) -> Result<u64> {
        let files = fs::read_dir(format!("/proc/{}/fd", self.child.id())).context("its open files")?;
        Ok(files.count() as u64)
    }

    /// A number of `/proc/PID/status`, proc_pid_status(5).
    fn status(&self, name: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).context("its status")?;
        status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.split_whitespace().next()?.parse().ok())
            .with_context(|| format!("no {name} in its status"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It is ours, and has not been waited for: the id is still its.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_up(port: u16, answers: bool) -> bool {
    let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { return false };
    if !answers {
        return true;
    }
    let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
    let mut answer = [0; 512];
    stream.write_all(b"GET /small HTTP/1.1\r\nhost: bench.test\r\nconnection: close\r\n\r\n").is_ok()
        && stream.read(&mut answer).is_ok_and(|length| answer[..length].starts_with(b"HTTP/1.1 200"))
}

/// Lets this process and those that it starts open as many files as they may.
pub fn raise_open_files() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).context("RLIMIT_NOFILE")?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("RLIMIT_NOFILE")
}
