//! The CNI plugin as container runtimes run it, and agents that answer as a script says.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{IoSliceMut, Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        linux::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind, listen,
    recvmsg, send, socket,
};
use serde_json::{Value, json};

use crate::mesh::binary;

/// A plugin that hangs is ended after this; no answer of the plugin takes nearly as long.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a scripted agent looks whether it is over.
const TICK: Duration = Duration::from_millis(10);

/// What container runtimes give as the result of the plugins before, in a form of its own that must be kept.
pub const PREVIOUS: &str = r#"{ "cniVersion": "1.0.0", "interfaces": [{"name":"eth0","sandbox":"/run/netns/x"}],
  "ips": [ {"address":"10.77.1.10/24", "interface":0} ], "dns": {}, "number": 1.50 }"#;

/// A call of the plugin.
#[derive(Clone, Debug)]
pub struct Call {
    program: PathBuf,
    environment: BTreeMap<String, String>,
    /// But for the previous result.
    configuration: Value,
    /// As text; none for calls that have none.
    previous: Option<String>,
    input: Option<String>,
}

/// How a call ended.
#[derive(Debug)]
pub struct Answer {
    /// The plugin's exit status.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Call {
    /// A call as containerd makes it, for the pod `demo/web`, with an agent's socket and a list of namespaces in
    /// `directory`.
    pub fn new(command: &str, directory: &Path) -> Self {
        let variables = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", "0123456789abcdef"),
            ("CNI_NETNS", "/proc/self/ns/net"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", "/opt/cni/bin"),
        ];
        let environment = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let configuration = json!({
            "cniVersion": "1.0.0",
            "name": "net",
            "type": "weir-cni",
            "socket": directory.join("cni.sock"),
            "namespaces": directory.join("namespaces.json"),
            "ownNamespace": "weir-system",
            "wait": "2m",
        });
        let previous = (command == "ADD" || command == "CHECK").then(|| PREVIOUS.to_owned());
        let program = binary("weir-cni");
        Self { program, environment, configuration, previous, input: None }.pod("demo", "web", "uid-web")
    }

    /// Of the program at this path.
    pub fn program(mut self, path: &Path) -> Self {
        self.program = path.to_owned();
        self
    }

    /// With this entry of a list, which the runtime gives its version and name.
    pub fn entry(mut self, entry: &Value) -> Self {
        self.configuration = entry.clone();
        self.key("cniVersion", "1.0.0").key("name", "net")
    }

    /// Of this pod.
    pub fn pod(self, namespace: &str, name: &str, uid: &str) -> Self {
        let arguments = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_INFRA_CONTAINER_ID=c;\
             K8S_POD_UID={uid}"
        );
        self.env("CNI_ARGS", &arguments)
    }

    /// With a variable of the environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Without a variable of the environment.
    pub fn without(mut self, name: &str) -> Self {
        self.environment.remove(name);
        self
    }

    /// With a key of the configuration.
    pub fn key(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.configuration[key] = value.into();
        self
    }

    /// Without a previous result: as the first plugin of its list.
    pub fn first(mut self) -> Self {
        self.previous = None;
        self
    }

    /// With this on standard input, whatever it is.
    pub fn input(mut self, text: &str) -> Self {
        self.input = Some(text.to_owned());
        self
    }

    fn standard_input(&self) -> String {
        if let Some(input) = &self.input {
            return input.clone();
        }
        let text = self.configuration.to_string();
        match &self.previous {
            Some(previous) => format!("{},\"prevResult\":{previous}}}", &text[..text.len() - 1]),
            None => text,
        }
    }

    /// Runs the plugin.
    #[track_caller]
    pub fn run(&self) -> Answer {
        let mut child = Command::new(&self.program)
            .env_clear()
            .envs(&self.environment)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("weir-cni starts");
        // One that does not read its input ends before it is all written.
        let _ = child.stdin.take().expect("stdin is piped").write_all(self.standard_input().as_bytes());
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            match child.try_wait().expect("the child is ours to wait for") {
                Some(status) => break status,
                None if Instant::now() >= deadline => {
                    let _ = child.kill();
                    let _ = child.wait();
                    panic!("weir-cni did not end within {PATIENCE:?}: {self:?}");
                }
                None => thread::sleep(Duration::from_millis(2)),
            }
        };
        let (mut stdout, mut stderr) = (String::new(), String::new());
        child.stdout.take().expect("stdout is piped").read_to_string(&mut stdout).expect("UTF-8");
        child.stderr.take().expect("stderr is piped").read_to_string(&mut stderr).expect("UTF-8");
        Answer { status, stdout, stderr }
    }
}

impl Answer {
    /// Fails unless the pod passed on with its result as it was.
    #[track_caller]
    pub fn passed(&self) {
        assert!(self.status.success() && self.stdout == PREVIOUS, "{self:?}");
    }

    /// Fails unless the call ended well and without output.
    #[track_caller]
    pub fn is_silent(&self) {
        assert!(self.status.success() && self.stdout.is_empty(), "{self:?}");
    }

    /// The message of an error with this code.
    #[track_caller]
    pub fn error(&self, code: u64) -> String {
        assert_eq!(self.status.code(), Some(1), "{self:?}");
        let document: Value = serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        assert_eq!(document["code"].as_u64(), Some(code), "{self:?}");
        assert!(document["cniVersion"].is_string(), "{self:?}");
        let message = document["msg"].as_str().unwrap_or_default().to_owned();
        assert!(!message.is_empty() && !message.contains('\n'), "{self:?}");
        message
    }
}

/// What a scripted agent does next on a connection.
#[derive(Clone, Debug)]
pub enum Step {
    /// Sends this.
    Say(String),
    /// Waits.
    Pause(Duration),
    /// Says nothing more, and does not close either.
    Hang,
}

impl Step {
    /// Sends a verdict of the protocol.
    pub fn verdict(verdict: &str, reason: &str) -> Self {
        Self::Say(json!({ "version": 1, "verdict": verdict, "reason": reason }).to_string())
    }
}

/// What a plugin sent.
#[derive(Clone, Debug)]
pub struct Heard {
    /// The request.
    pub request: Value,
    /// Device and inode of the file that came with it.
    pub file: Option<(u64, u64)>,
}

/// An agent that answers as its script says; ended when dropped.
#[derive(Debug)]
pub struct Script {
    path: PathBuf,
    over: Arc<AtomicBool>,
    heard: Arc<Mutex<Vec<Heard>>>,
    serving: Option<JoinHandle<()>>,
}

impl Script {
    /// Answers each call with these steps, and closes.
    pub fn start(directory: &Path, steps: &[Step]) -> Self {
        let path = directory.join("cni.sock");
        let _ = fs::remove_file(&path);
        let listener = listener(&path, 64);
        let over = Arc::new(AtomicBool::new(false));
        let heard = Arc::default();
        let serving = {
            let (over, heard, steps) = (over.clone(), Arc::clone(&heard), steps.to_vec());
            thread::spawn(move || serve(&listener, &steps, &over, &heard))
        };
        Self { path, over, heard, serving: Some(serving) }
    }

    /// What was asked so far.
    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().expect("no script panicked").clone()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(serving) = self.serving.take() {
            let _ = serving.join();
        }
        let _ = fs::remove_file(&self.path);
    }
}

/// A socket that plugins may dial, with room for so many that nobody has accepted.
pub fn listener(path: &Path, backlog: i32) -> OwnedFd {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).expect("a socket");
    bind(listener.as_raw_fd(), &UnixAddr::new(path).expect("a short path")).expect("a free path");
    listen(&listener, Backlog::new(backlog).expect("a backlog")).expect("a listening socket");
    listener
}

fn serve(listener: &OwnedFd, steps: &[Step], over: &AtomicBool, heard: &Mutex<Vec<Heard>>) {
    let mut hanging = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let Ok(accepted) = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) else {
            thread::sleep(TICK);
            continue;
        };
        let connection = owned(accepted);
        let Some(call) = receive(&connection) else { continue };
        heard.lock().expect("no script panicked").push(call);
        for step in steps {
            match step {
                Step::Say(text) => {
                    let _ = send(connection.as_raw_fd(), text.as_bytes(), MsgFlags::MSG_NOSIGNAL);
                }
                Step::Pause(pause) => thread::sleep(*pause),
                Step::Hang => break,
            }
        }
        if matches!(steps.last(), Some(Step::Hang)) {
            hanging.push(connection);
        }
    }
}

fn receive(connection: &OwnedFd) -> Option<Heard> {
    let mut bytes = vec![0; 64 * 1024];
    let mut control = nix::cmsg_space!([RawFd; 4]);
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<UnixAddr>(connection.as_raw_fd(), &mut slices, Some(&mut control), flags).ok()?;
    let mut file = None;
    for control in message.cmsgs().ok()? {
        if let ControlMessageOwned::ScmRights(received) = control {
            for fd in received {
                let metadata = File::from(owned(fd)).metadata().ok()?;
                file = Some((metadata.st_dev(), metadata.st_ino()));
            }
        }
    }
    let received = message.bytes;
    Some(Heard { request: serde_json::from_slice(&bytes[..received]).ok()?, file })
}

fn owned(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made this file descriptor for this process; nothing else owns it.
    unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) }
}
