//! What an agent leaves for its successor, so that one that cannot reach the API server knows the pods and namespaces of
//! the last good answer: `<state>/<instance>.pods.json`.
//!
//! The file is replaced at once. One that cannot be read is set aside, not deleted, and costs nothing but its content.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::objects::{Namespace, Pod};

/// Version of the format. A record of another one is set aside.
const VERSION: u32 = 1;
/// A larger file is none of an agent.
const MAX_BYTES: u64 = 64 << 20;
/// Where the kernel tells one boot from another.
const BOOT: &str = "sys/kernel/random/boot_id";

/// What an agent knew. Agents of other releases read it, too: what one of them does not know is no reason to know nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    /// The node that it is about.
    pub node: String,
    /// Boot of the machine in which it was written: cookies of network namespaces hold for one.
    pub boot: String,
    /// All namespaces.
    pub namespaces: Vec<Namespace>,
    /// The node's pods.
    pub pods: Vec<RecordedPod>,
}

/// A pod, and the network namespace that it had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedPod {
    pub pod: Pod,
    pub netns: Option<RecordedNetns>,
}

/// A network namespace: found again at its path if it has the same cookie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedNetns {
    pub path: PathBuf,
    pub cookie: u64,
}

/// Why a record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is not one.
    #[error("{}: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

impl Record {
    /// A record of what is known on this node.
    pub fn new(node: &str, boot: &str, namespaces: Vec<Namespace>, pods: Vec<RecordedPod>) -> Self {
        Self { version: VERSION, node: node.to_owned(), boot: boot.to_owned(), namespaces, pods }
    }

    /// Reads a record; none if there is none, or it is another node's.
    pub fn read(path: &Path, node: &str) -> Result<Option<Self>, Error> {
        let failed = |source| Error::Unreadable { path: path.to_owned(), source };
        let malformed = |problem: String| Error::Malformed { path: path.to_owned(), problem };
        let length = match fs::metadata(path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        if length > MAX_BYTES {
            return Err(malformed(format!("{length} bytes, expected at most {MAX_BYTES}")));
        }
        let text = fs::read(path).map_err(failed)?;
        let record: Self = serde_json::from_slice(&text).map_err(|error| malformed(error.to_string()))?;
        if record.version != VERSION {
            return Err(malformed(format!("version {}, expected {VERSION}", record.version)));
        }
        Ok((record.node == node).then_some(record))
    }

    /// Reads a record; one that cannot be used is set aside with a warning.
    pub fn recall(path: &Path, node: &str) -> Option<Self> {
        Self::read(path, node).unwrap_or_else(|error| {
            let aside = path.with_extension("json.bad");
            let moved = fs::rename(path, &aside);
            tracing::warn!(%error, aside = %aside.display(), moved = moved.is_ok(), "the record of pods is not used");
            None
        })
    }

    /// What it is in the file.
    pub fn to_text(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(self)
    }
}

/// Where an instance keeps its record.
pub fn path(state: &Path, instance: &str) -> PathBuf {
    state.join(format!("{instance}.pods.json"))
}

/// Which boot of the machine this is; empty if that cannot be told.
pub fn boot(proc: &Path) -> String {
    fs::read_to_string(proc.join(BOOT)).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::put_private;

    fn record() -> Record {
        let pod = Pod {
            uid: "u1".to_owned(),
            name: "web".to_owned(),
            labels: [("app".to_owned(), "web".to_owned())].into(),
            probe_ports: vec![8080],
            ..Pod::default()
        };
        let netns = Some(RecordedNetns { path: "/run/netns/cni-1".into(), cookie: 7 });
        let namespace = Namespace { name: "shop".to_owned(), ..Namespace::default() };
        Record::new("n1", "boot", vec![namespace], vec![RecordedPod { pod, netns }])
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = path(directory.path(), "default");
        assert_eq!(Record::read(&path, "n1").unwrap(), None, "there is none yet");
        put_private(&path, &record().to_text().unwrap()).unwrap();
        assert_eq!(Record::read(&path, "n1").unwrap(), Some(record()));
        assert_eq!(Record::read(&path, "n2").unwrap(), None, "another node's");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing else stays");
    }

    #[test]
    fn one_that_is_damaged_is_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = path(directory.path(), "default");
        let text = record().to_text().unwrap();
        for (damaged, problem) in [
            (text[..text.len() / 2].to_vec(), "EOF while parsing"),
            (b"{}".to_vec(), "missing field `version`"),
            (Vec::new(), "EOF while parsing"),
            (vec![0; 100], "expected value"),
            (
                String::from_utf8(text.clone()).unwrap().replacen("\"version\":1", "\"version\":2", 1).into(),
                "version 2, expected 1",
            ),
            (String::from_utf8(text).unwrap().replacen("\"node\"", "\"nodes\"", 1).into(), "missing field `node`"),
        ] {
            put_private(&path, &damaged).unwrap();
            let error = Record::read(&path, "n1").unwrap_err().to_string();
            assert!(error.starts_with(&path.display().to_string()) && error.contains(problem), "{error}");
            assert_eq!(Record::recall(&path, "n1"), None);
            assert!(!path.exists() && directory.path().join("default.pods.json.bad").exists());
        }
    }
}
