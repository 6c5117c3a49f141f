//! One context being made.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use weir_proto::envoy::extensions::transport_sockets::tls::v3::secret::Type;

use crate::{
    config::{
        cell::{Cell, Registry},
        convert::{context::Context, secrets::Secrets},
        error::Error,
        tls::{Loaded, Shown},
    },
    telemetry::stats::Scope,
};

/// What contexts are made of, whenever they are.
#[derive(Clone)]
pub(super) struct Ground {
    stats: Scope,
    cells: Arc<Registry>,
    secrets: Arc<Secrets>,
}

/// A context that was made, unless secrets are missing.
pub(super) struct Made<C> {
    pub loaded: Option<Loaded<C>>,
    /// Those that come by themselves.
    pub secrets: Vec<Arc<Cell<Type>>>,
    pub ignored: Vec<String>,
}

/// One context being made: what it reads, and what of that is to be followed.
pub(super) struct Loading {
    pub cx: Context,
    /// Files to follow.
    pub files: Vec<PathBuf>,
    pub shown: Shown,
    /// Secrets that come by themselves.
    pub secrets: Vec<Arc<Cell<Type>>>,
    /// One of them has not come: the rest is looked at, but nothing is made.
    pub missing: bool,
}

impl Ground {
    pub fn of(cx: &Context) -> Self {
        Self { stats: cx.stats.clone(), cells: cx.cells.clone(), secrets: cx.secrets.clone() }
    }

    /// Makes a context, of the secrets that there are; `make` gives none if one is missing.
    pub fn load<C>(&self, make: impl FnOnce(&mut Loading) -> Result<Option<C>, Error>) -> Result<Made<C>, Error> {
        let Self { stats, cells, secrets } = self.clone();
        let cx = Context { stats, cells, secrets, ..Context::default() };
        let mut loading =
            Loading { cx, files: Vec::new(), shown: Shown::default(), secrets: Vec::new(), missing: false };
        let context = make(&mut loading)?;
        let Loading { cx, files, shown, secrets, .. } = loading;
        let loaded = context.map(|context| Loaded { context, files, shown });
        Ok(Made { loaded, secrets, ignored: cx.ignored })
    }
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
