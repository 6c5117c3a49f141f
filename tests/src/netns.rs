//! One network namespace, with a name under /run/netns.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Command, Stdio},
    thread,
};

use nix::sched::{CloneFlags, setns};

/// A network namespace; removed when dropped.
#[derive(Debug)]
pub struct Netns {
    name: String,
    handle: File,
}

impl Netns {
    /// Makes it, with its loopback up.
    pub fn create(name: &str) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "end-to-end tests need root: run them with sudo");
        run("ip", &["netns", "add", name]);
        let path = PathBuf::from("/run/netns").join(name);
        let handle = File::open(&path).unwrap_or_else(|error| panic!("open {}: {error}", path.display()));
        let netns = Self { name: name.to_owned(), handle };
        // Addresses work at once: no other host can have them.
        for interfaces in ["all", "default"] {
            netns.sysctl(&format!("ipv6/conf/{interfaces}/accept_dad"), "0");
        }
        netns.ip("link set lo up");
        netns
    }

    /// Its name, as `ip netns` takes it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its file.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Moves the calling thread into it; for threads that live for this only.
    pub fn enter(&self) {
        setns(&self.handle, CloneFlags::CLONE_NEWNET).expect("setns into a namespace of this test");
    }

    /// Runs `work` on a thread of its own inside the namespace. Sockets made and processes started there belong to it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let done = thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.enter();
                    work()
                })
                .join()
        });
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs `ip -batch` with these lines inside.
    pub fn ip(&self, lines: &str) {
        let mut child = Command::new("ip")
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("ip (iproute2) must be installed");
        let mut stdin = child.stdin.take().expect("stdin is piped");
        std::io::Write::write_all(&mut stdin, lines.as_bytes()).expect("ip reads its batch");
        std::io::Write::write_all(&mut stdin, b"\n").expect("ip reads its batch");
        drop(stdin);
        let status = child.wait().expect("ip ends");
        assert!(status.success(), "ip -n {} -batch failed on:\n{lines}", self.name);
    }

    /// Sets a sysctl below /proc/sys/net, such as `ipv4/ip_forward`.
    pub fn sysctl(&self, key: &str, value: &str) {
        self.run(|| {
            let path = format!("/proc/sys/net/{key}");
            fs::write(&path, value).unwrap_or_else(|error| panic!("write {value} to {path}: {error}"));
        });
    }

    /// Reads a sysctl below /proc/sys/net.
    pub fn read_sysctl(&self, key: &str) -> String {
        self.run(|| {
            let path = format!("/proc/sys/net/{key}");
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {path}: {error}")).trim().to_owned()
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let removed = Command::new("ip").args(["netns", "del", &self.name]).stderr(Stdio::null()).status();
        if !matches!(removed, Ok(status) if status.success()) && self.path().exists() {
            eprintln!("could not remove the namespace {}", self.name);
        }
    }
}

/// Runs a command to its end and panics with its output when it fails.
pub fn run(program: &str, arguments: &[&str]) {
    let output =
        Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("cannot run {program}: {error}"));
    assert!(
        output.status.success(),
        "{program} {}: {}{}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
