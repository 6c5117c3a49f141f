//! Processes as guards: started in a namespace and a cgroup, logged to a file, ended by their id.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File, OpenOptions},
    io::Read,
    os::unix::{fs::OpenOptionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::netns::Netns;

/// How long a process may take to end when asked to.
const PATIENCE: Duration = Duration::from_secs(5);
/// Lines of a log that are shown when a test fails.
const SHOWN: usize = 60;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A command about to be started.
#[derive(Debug)]
#[must_use]
pub struct Launch<'a> {
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(String, String)>,
    netns: Option<&'a Netns>,
    cgroup: Option<PathBuf>,
    confinement: Option<Vec<OsString>>,
    directory: PathBuf,
}

/// How a process that ran to its end fared.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit status.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl<'a> Launch<'a> {
    /// A program; its log will lie in `directory`.
    pub fn new(program: impl AsRef<Path>, directory: &Path) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            netns: None,
            cgroup: None,
            confinement: None,
            directory: directory.to_owned(),
        }
    }

    /// Its arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// A flag with a path.
    pub fn arg_path(self, flag: &str, path: &Path) -> Self {
        self.args([flag]).args([path])
    }

    /// A variable of its environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The network namespace it starts in.
    pub fn netns(mut self, netns: &'a Netns) -> Self {
        self.netns = Some(netns);
        self
    }

    /// The cgroup it starts in.
    pub fn cgroup(mut self, cgroup: &Path) -> Self {
        self.cgroup = Some(cgroup.to_owned());
        self
    }

    /// It has these capabilities only, in this supplementary group, and can get no others, as a container. Capabilities are
    /// named as setpriv(1) names them.
    pub fn confined(mut self, capabilities: &[&str], group: u32) -> Self {
        let bounding: String = capabilities.iter().map(|capability| format!(",+{capability}")).collect();
        let arguments = [
            "setpriv".to_owned(),
            "--no-new-privs".to_owned(),
            format!("--groups={group}"),
            "--inh-caps=-all".to_owned(),
            format!("--bounding-set=-all{bounding}"),
            "--".to_owned(),
        ];
        self.confinement = Some(arguments.map(OsString::from).to_vec());
        self
    }

    fn command(&self) -> Command {
        let mut words = self.confinement.clone().unwrap_or_default();
        words.push(self.program.clone().into_os_string());
        let mut command = match &self.cgroup {
            // The shell moves itself before it becomes the program: the program never runs anywhere else.
            Some(cgroup) => {
                let mut shell = Command::new("sh");
                shell.arg("-c").arg(format!("echo 0 > {}/cgroup.procs && exec \"$0\" \"$@\"", cgroup.display()));
                shell.arg(&words[0]);
                shell
            }
            None => Command::new(&words[0]),
        };
        command.args(&words[1..]);
        command.args(&self.arguments).envs(self.environment.iter().cloned()).stdin(Stdio::null());
        command
    }

    fn spawn(&self, mut command: Command) -> Child {
        let spawned = match self.netns {
            // A child starts in the namespace of the thread that made it.
            Some(netns) => netns.run(move || command.spawn()),
            None => command.spawn(),
        };
        spawned.unwrap_or_else(|error| panic!("cannot run {}: {error}", self.program.display()))
    }

    fn name(&self) -> String {
        self.program.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Starts it, its output going to a log file.
    pub fn start(self) -> Process {
        let name = self.name();
        let log = self.directory.join(format!("{name}-{}.log", COUNT.fetch_add(1, Ordering::Relaxed)));
        // World-writable: an unprivileged process may open /dev/stdout again.
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o666)
            .open(&log)
            .unwrap_or_else(|error| panic!("open {}: {error}", log.display()));
        fs::set_permissions(&log, std::os::unix::fs::PermissionsExt::from_mode(0o666)).expect("chmod of a log");
        let mut command = self.command();
        command.stdout(file.try_clone().expect("dup of a log")).stderr(file);
        let child = self.spawn(command);
        Process { name, child, log, ended: None }
    }

    /// Runs it to its end; panics when that takes longer than `within`.
    #[track_caller]
    pub fn output(self, within: Duration) -> Outcome {
        let mut command = self.command();
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.spawn(command);
        let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
        let deadline = Instant::now() + within;
        let status = loop {
            match child.try_wait().expect("the child is ours to wait for") {
                Some(status) => break Some(status),
                None if Instant::now() >= deadline => {
                    let _ = child.kill();
                    let _ = child.wait();
                    break None;
                }
                None => thread::sleep(Duration::from_millis(5)),
            }
        };
        let (stdout, stderr) = (stdout.join().unwrap_or_default(), stderr.join().unwrap_or_default());
        match status {
            Some(status) => Outcome { status, stdout, stderr },
            None => panic!(
                "{} {:?} did not end within {within:?}\nstdout: {stdout}\nstderr: {stderr}",
                self.program.display(),
                self.arguments
            ),
        }
    }
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    let mut pipe = pipe.expect("the pipe was asked for");
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// A running process; ended when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        let mut bytes = Vec::new();
        if let Ok(mut file) = File::open(&self.log) {
            let _ = file.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Its exit status, once it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("the child is ours to wait for");
        }
        self.ended
    }

    /// Sends a signal, unless it has ended.
    pub fn signal(&mut self, signal: Signal) {
        if self.ended().is_none() {
            let _ = kill(Pid::from_raw(self.child.id() as i32), signal);
        }
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill9(&mut self) {
        self.signal(Signal::SIGKILL);
        if self.ended.is_none() {
            self.ended = Some(self.child.wait().expect("the child is ours to wait for"));
        }
    }

    /// Waits for its end.
    pub fn wait(&mut self, within: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + within;
        while self.ended().is_none() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        self.ended
    }

    /// Asks it to end (SIGTERM), and kills it when it does not.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        if self.wait(PATIENCE).is_none() {
            eprintln!("{} (pid {}) did not end within {PATIENCE:?} of SIGTERM", self.name, self.pid());
            self.kill9();
        }
        self.ended.unwrap_or_else(|| ExitStatus::from_raw(0))
    }

    /// Open file descriptors.
    pub fn open_fds(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).map(|fds| fds.count()).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.terminate();
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let skipped = lines.len().saturating_sub(SHOWN);
            eprintln!("--- log of {} (pid {}, {skipped} lines before)", self.name, self.pid());
            for line in &lines[skipped..] {
                eprintln!("    {line}");
            }
        }
    }
}
