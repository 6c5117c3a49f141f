//! Real Envoy and weir with the bootstrap of a file, and what is compared.

use std::{fs, path::Path};

use tempfile::TempDir;

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
        let file = file(name);
        let directory = tempfile::tempdir().expect("a directory");
        let certificates = directory.path().join("certificates");
        certificates::make(&file.certificates, &certificates);
        let side = |which| Side::prepare(which, &file, directory.path(), &certificates);
        let (mut envoy, mut weir) = (side(Which::Envoy), side(Which::Weir));
        for side in [&envoy, &weir] {
            prepare(side);
        }
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
    directory: TempDir,
}

impl Alone {
    /// The same as [`Place::start`], of weir only.
    pub async fn start(name: &str, prepare: impl Fn(&Side)) -> Self {
        let file = file(name);
        let directory = tempfile::tempdir().expect("a directory");
        let certificates = directory.path().join("certificates");
        certificates::make(&file.certificates, &certificates);
        let mut weir = Side::prepare(Which::Weir, &file, directory.path(), &certificates);
        prepare(&weir);
        weir.start(&file).await;
        Self { weir, directory }
    }

    /// A directory for files of the test.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

fn file(name: &str) -> File {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("data/conformance/{name}.yaml"));
    File::load(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A number of `/proc/PID/status`, in kB or of its own.
pub fn status(pid: u32, field: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("the proxy runs");
    let line =
        text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).expect("a field of its status");
    line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
}
