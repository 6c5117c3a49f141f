//! One context being made.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::config::{
    convert::{context::Context, secrets::Secrets},
    tls::Shown,
};

/// One context being made: what it reads, and what of that is to be followed.
pub(super) struct Loading {
    pub cx: Context,
    pub secrets: Arc<Secrets>,
    /// Files to follow.
    pub files: Vec<PathBuf>,
    pub shown: Shown,
}

impl Loading {
    /// Notes a file that was read.
    pub fn follow(&mut self, path: &str) {
        let path = Path::new(path);
        if !path.as_os_str().is_empty() && !self.files.iter().any(|known| known == path) {
            self.files.push(path.to_owned());
        }
    }
}
