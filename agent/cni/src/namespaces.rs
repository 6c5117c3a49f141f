//! The list of enrolled namespaces that the agent keeps on the node for the time when no agent answers.

use std::{
    collections::BTreeSet,
    io::{self, Read},
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::open;

/// Name of the file in the directory for weir's state on the node.
pub const FILE: &str = "namespaces.json";

/// The file. Further keys may come; none changes its meaning.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// Names of the namespaces whose pods are enrolled unless they say otherwise.
    pub enrolled: BTreeSet<String>,
}

/// Why the file says nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("{0}")]
    Unreadable(#[from] io::Error),
    /// It is not what it must be.
    #[error("{0}, expected an object such as {{\"enrolled\":[\"demo\"]}}")]
    Malformed(#[from] serde_json::Error),
}

impl Namespaces {
    /// Reads the file; one that is not there lists none.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let mut bytes = Vec::new();
        match open::regular(path).and_then(|mut file| file.read_to_end(&mut bytes)) {
            Ok(_) => Ok(serde_json::from_slice(&bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error.into()),
        }
    }

    /// The file's content.
    pub fn document(&self) -> String {
        // A set of strings always serialises.
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_was_written_is_read_and_further_keys_do_not_matter() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        assert_eq!(Namespaces::read(&path).unwrap(), Namespaces::default());
        let namespaces = Namespaces { enrolled: ["shop", "demo"].map(str::to_owned).into() };
        fs::write(&path, namespaces.document()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"enrolled\":[\"demo\",\"shop\"]}\n");
        assert_eq!(Namespaces::read(&path).unwrap(), namespaces);
        fs::write(&path, "{\"enrolled\":[\"demo\"],\"since\":7}").unwrap();
        assert!(Namespaces::read(&path).unwrap().enrolled.contains("demo"));
    }

    #[test]
    fn what_is_malformed_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        fs::write(&path, "[").unwrap();
        let error = Namespaces::read(&path).unwrap_err().to_string();
        assert!(error.ends_with("expected an object such as {\"enrolled\":[\"demo\"]}"), "{error}");
        let error = Namespaces::read(directory.path()).unwrap_err().to_string();
        assert_eq!(error, "it is not a regular file");
    }
}
