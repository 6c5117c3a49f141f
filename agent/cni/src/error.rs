//! The errors that the plugin tells the container runtime.

use serde::Serialize;

/// Error codes of the CNI specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Code {
    /// The configuration is of a version that the plugin does not know.
    IncompatibleVersion = 1,
    /// A variable of the environment is missing or not what it must be.
    Environment = 4,
    /// Something could not be read.
    Io = 5,
    /// The configuration is not JSON.
    Decoding = 6,
    /// The configuration is not what it must be.
    Configuration = 7,
    /// What is wrong will pass: the call is to be repeated.
    TryAgainLater = 11,
    /// The first of a plugin's own; here: the pod is not redirected although it should be.
    NotRedirected = 100,
}

/// An error for the container runtime.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// Which one.
    pub code: Code,
    /// What is wrong, for the pod's events.
    pub message: String,
}

impl Error {
    /// An error with this code.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// The document that the runtime expects on standard output.
    pub fn document(&self, cni_version: &str) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Document<'a> {
            cni_version: &'a str,
            code: u32,
            msg: &'a str,
        }
        let document = Document { cni_version, code: self.code as u32, msg: &self.message };
        // Strings and a number always serialise.
        serde_json::to_string(&document).unwrap_or_default()
    }
}
