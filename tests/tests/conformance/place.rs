//! Real Envoy and weir with the bootstrap of a file, and what is compared.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tempfile::TempDir;
use tokio::net::TcpListener;

use super::pair::{
    case::File,
    certificates,
    side::{Side, Which},
};

/// Both proxies, their scripted servers and files.
#[derive(Debug)]
pub struct Place {
    pub envoy: Side,
    pub weir: Side,
    directory: TempDir,
}

impl Place {
    /// Reads `tests/data/conformance/NAME.yaml` and starts both proxies with its bootstrap. `prepare` is called with
    /// each side before that.
    pub async fn start(name: &str, prepare: impl Fn(&Side)) -> Self {
        let (file, directory) = laid(name);
        let (mut envoy, mut weir) =
            (side(Which::Envoy, &file, &directory, &prepare), side(Which::Weir, &file, &directory, &prepare));
        tokio::join!(envoy.start(&file), weir.start(&file));
        Self { envoy, weir, directory }
    }

    pub fn sides(&self) -> [&Side; 2] {
        [&self.envoy, &self.weir]
    }

    /// A directory for files of the test.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

/// weir alone, where Envoy is no reference.
#[derive(Debug)]
pub struct Alone {
    pub weir: Side,
    _directory: TempDir,
}

impl Alone {
    /// The same as [`Place::start`], of weir only.
    pub async fn start(name: &str, prepare: impl Fn(&Side)) -> Self {
        let (file, directory) = laid(name);
        let mut weir = side(Which::Weir, &file, &directory, &prepare);
        weir.start(&file).await;
        Self { weir, _directory: directory }
    }
}

/// A file of these tests, and a directory with its certificates.
fn laid(name: &str) -> (File, TempDir) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("data/conformance/{name}.yaml"));
    let file = File::load(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let directory = tempfile::tempdir().expect("a directory");
    certificates::make(&file.certificates, &certificates_in(&directory));
    (file, directory)
}

fn certificates_in(directory: &TempDir) -> PathBuf {
    directory.path().join("certificates")
}

fn side(which: Which, file: &File, directory: &TempDir, prepare: impl Fn(&Side)) -> Side {
    let side = Side::prepare(which, file, directory.path(), &certificates_in(directory));
    prepare(&side);
    side
}

/// A server's socket at a port that the bootstrap names.
pub fn listen(side: &Side, port: &str) -> TcpListener {
    let listener = std::net::TcpListener::bind(side.address(port)).expect("the upstream's port");
    listener.set_nonblocking(true).expect("a socket that tokio takes");
    TcpListener::from_std(listener).expect("a listener")
}

/// Listens, for the rest of the test, on a port that nothing is sent to.
pub fn occupy(side: &Side, port: &str) {
    let listener = listen(side, port);
    tokio::spawn(async move {
        let _listener = listener;
        std::future::pending::<()>().await;
    });
}

/// The most memory that the proxy has needed since `settle`, over what it needed then, in kB.
#[derive(Debug)]
pub struct Memory {
    pid: u32,
    before: u64,
}

impl Memory {
    /// Forgets earlier peaks.
    pub fn settle(side: &Side) -> Self {
        let pid = side.pid();
        // CLEAR_REFS_MM_HIWATER_RSS of proc(5).
        fs::write(format!("/proc/{pid}/clear_refs"), "5").expect("root may reset the peak of memory");
        Self { pid, before: status(pid, "VmRSS") }
    }

    /// In kB.
    pub fn growth(&self) -> u64 {
        status(self.pid, "VmHWM").saturating_sub(self.before)
    }
}

/// A number of `/proc/PID/status`, in kB or of its own.
pub fn status(pid: u32, field: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("the proxy runs");
    let line =
        text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).expect("a field of its status");
    line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
}
