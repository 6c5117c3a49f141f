//! weir-cni on the host: its program, and its entry in the runtime's CNI configuration.
//!
//! The runtime takes the first file of its directory, by name. weir adds its entry to that file once it is there, puts
//! it back when the owner of the file writes it anew, and takes exactly it out again. A file that is not what it should
//! be is left alone.

pub mod conflist;
mod follow;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::{Mutex, MutexGuard};
use weir_cni::{
    config::{Settings, TYPE},
    namespaces::FILE,
};

use self::conflist::Malformed;
use crate::{
    config,
    file::{self, Ownership, put},
};

pub use self::follow::{follow, follow_namespaces, take_out};

/// What container runtimes read as configurations.
const EXTENSIONS: [&str; 3] = ["conf", "conflist", "json"];
/// How the name of a list ends that weir made from a configuration that is none. It sorts right before that: a digit
/// comes before the letters of [`EXTENSIONS`].
const MADE: &str = "00-weir.conflist";
/// More than any configuration has, in bytes.
const LONGEST: u64 = 1 << 20;

/// Why the plugin could not be put in place or taken out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The network's own plugin is not there yet.
    #[error("cni.conf_dir: {} has no CNI configuration yet", .0.display())]
    NoConfiguration(PathBuf),
    /// The runtime's configuration is not what it must be.
    #[error("{}: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: Malformed,
    },
    /// It is something else than a file.
    #[error("{}: expected a regular file; weir leaves it alone", .0.display())]
    NotAFile(PathBuf),
    /// Its owner wrote it while weir did; it is looked at again.
    #[error("{} was changed meanwhile", .0.display())]
    Changed(PathBuf),
    /// A file could not be read, written or removed.
    #[error("{key}: cannot {action} {}: {source}", path.display())]
    Io {
        /// Key of the configuration that says where.
        key: &'static str,
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another takes the entry out again whenever it is put in.
    #[error(
        "{}: something takes weir's entry out again and again; if that is Cilium, set cni.exclusive=false in its \
         chart", .0.display()
    )]
    Contested(PathBuf),
    /// It was taken out meanwhile, by this agent.
    #[error("the CNI plugin was taken out")]
    TakenOut,
}

/// Where the plugin stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Not yet in place: the network's own plugin is not there.
    Waiting(String),
    /// In place: this file has the entry.
    Installed(PathBuf),
    /// Not in place, and why.
    Failed(String),
}

impl State {
    /// The file that has the entry.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Installed(file) => Some(file),
            Self::Waiting(_) | Self::Failed(_) => None,
        }
    }

    /// Why no file has it.
    pub fn problem(&self) -> Option<&str> {
        match self {
            Self::Installed(_) => None,
            Self::Waiting(reason) | Self::Failed(reason) => Some(reason),
        }
    }
}

/// The plugin's place on the host. A clone is the same place.
#[derive(Clone, Debug)]
pub struct Place {
    cni: config::Cni,
    entry: String,
    /// Held while something is put in place. True from when the plugin was taken out: nothing is put in place any more.
    taken_out: Arc<Mutex<bool>>,
}

impl Place {
    /// By the configuration; `own_namespace` is weir's own, whose pods are never held.
    pub fn new(cni: config::Cni, own_namespace: &str) -> Self {
        let settings = Settings {
            socket: cni.socket.clone(),
            namespaces: cni.host_state_dir.join(FILE),
            own_namespace: own_namespace.to_owned(),
            ..Settings::default()
        };
        Self { cni, entry: settings.entry(), taken_out: Arc::default() }
    }

    /// The installed program.
    pub fn program(&self) -> PathBuf {
        self.cni.bin_dir.join(TYPE)
    }

    /// The list of enrolled namespaces, as the agent sees it.
    pub fn namespaces(&self) -> PathBuf {
        self.cni.state_dir.join(FILE)
    }

    /// Puts the program in place, unless the same is there. Blocks.
    pub fn install_program(&self) -> Result<(), Error> {
        let _placing = self.placing()?;
        let program = self.program();
        let own = fs::read(&self.cni.binary).map_err(failed("cni.binary", "read", &self.cni.binary))?;
        let mode = Ownership::mode(0o755);
        let present = fs::symlink_metadata(&program).is_ok_and(|found| {
            found.is_file() && Ownership::of(&found).mode == mode.mode && found.len() == own.len() as u64
        });
        if present && fs::read(&program).is_ok_and(|present| present == own) {
            return Ok(());
        }
        put(&program, &own, mode).map_err(failed("cni.bin_dir", "write", &program))?;
        tracing::info!(program = %program.display(), "CNI plugin installed");
        Ok(())
    }

    /// Puts the entry into the configuration that the runtime goes by, and takes it out of all others. The file that
    /// has it, and whether anything was changed. Blocks.
    pub fn install_entry(&self) -> Result<(PathBuf, bool), Error> {
        let _placing = self.placing()?;
        let main = self.main()?.ok_or_else(|| Error::NoConfiguration(self.cni.conf_dir.clone()))?;
        let (text, metadata) = self.read(&main)?;
        let malformed = |problem| self.malformed(&main, problem);
        let is_list = main.extension().is_some_and(|extension| extension == "conflist");
        let (target, wanted) = if is_list {
            (main.clone(), conflist::with_entry(&text, &self.entry).map_err(malformed)?)
        } else {
            let list = conflist::list_of(&text, &self.entry).map_err(malformed)?;
            (main.with_extension(MADE), list)
        };
        let present = if is_list { Some(text) } else { fs::read_to_string(&target).ok() };
        let changes = present.as_ref() != Some(&wanted);
        if changes {
            if is_list {
                self.unchanged(&main, &metadata)?;
            }
            self.write(&target, &wanted, &metadata)?;
            tracing::info!(file = %target.display(), "CNI entry added");
        }
        self.clean(Some(&target))?;
        Ok((target, changes))
    }

    /// An entry that is there already, in a list of a version in which the plugin cannot be run, would stop every pod of the
    /// node, weir's own too: it is taken out.
    fn malformed(&self, main: &Path, problem: Malformed) -> Error {
        let kept = if matches!(problem, Malformed::Version { .. }) { self.clean(None).err() } else { None };
        kept.unwrap_or_else(|| Error::Malformed { path: main.to_owned(), problem })
    }

    /// Takes the entry out of every file. From then on nothing is put in place here any more. Blocks.
    pub fn remove_entry(&self) -> Result<(), Error> {
        *self.taken_out.lock() = true;
        self.clean(None)
    }

    /// Removes the list of enrolled namespaces, and its directory if that is empty. Blocks.
    pub fn remove_state(&self) -> Result<(), Error> {
        let path = self.namespaces();
        for path in [Some(path.clone()), file::unfinished(&path)].into_iter().flatten() {
            file::remove(&path).map_err(failed("cni.state_dir", "remove", &path))?;
        }
        // It is somebody else's too, or a mount point, or not there.
        let _ = fs::remove_dir(&self.cni.state_dir);
        Ok(())
    }

    /// Removes the program: last, as a runtime that has read the entry runs it. Blocks.
    pub fn remove_program(&self) -> Result<(), Error> {
        let path = self.program();
        for path in [Some(path.clone()), file::unfinished(&path)].into_iter().flatten() {
            file::remove(&path).map_err(failed("cni.bin_dir", "remove", &path))?;
        }
        Ok(())
    }

    /// Removes everything, in the order in which nothing is missed by anyone. Blocks.
    pub fn remove(&self) -> Result<(), Error> {
        self.remove_entry()?;
        self.remove_state()?;
        self.remove_program()
    }

    fn placing(&self) -> Result<MutexGuard<'_, bool>, Error> {
        let taken_out = self.taken_out.lock();
        if *taken_out { Err(Error::TakenOut) } else { Ok(taken_out) }
    }

    /// The names in the directory of configurations, in the runtime's order.
    fn names(&self) -> Result<Vec<PathBuf>, Error> {
        let directory = &self.cni.conf_dir;
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(failed("cni.conf_dir", "read", directory)(source)),
        };
        let mut names: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// The configuration that the runtime would go by without weir.
    fn main(&self) -> Result<Option<PathBuf>, Error> {
        let read = |path: &PathBuf| {
            let known = path.extension().is_some_and(|found| EXTENSIONS.iter().any(|known| found == *known));
            known && !is_made(path) && !path.is_dir()
        };
        Ok(self.names()?.into_iter().find(read))
    }

    fn read(&self, path: &Path) -> Result<(String, fs::Metadata), Error> {
        let failed = |source| failed("cni.conf_dir", "read", path)(source);
        let metadata = fs::symlink_metadata(path).map_err(failed)?;
        if !metadata.is_file() || metadata.len() > LONGEST {
            return Err(Error::NotAFile(path.to_owned()));
        }
        Ok((fs::read_to_string(path).map_err(failed)?, metadata))
    }

    fn write(&self, path: &Path, text: &str, like: &fs::Metadata) -> Result<(), Error> {
        put(path, text.as_bytes(), Ownership::of(like)).map_err(failed("cni.conf_dir", "write", path))
    }

    /// Fails if the file is not what was read: what its owner wrote since must not be lost.
    fn unchanged(&self, path: &Path, read: &fs::Metadata) -> Result<(), Error> {
        use std::os::linux::fs::MetadataExt;
        let of = |found: &fs::Metadata| (found.st_ino(), found.st_mtime(), found.st_mtime_nsec(), found.len());
        match fs::symlink_metadata(path) {
            Ok(now) if of(&now) == of(read) => Ok(()),
            _ => Err(Error::Changed(path.to_owned())),
        }
    }

    /// Takes the entry out of every file but one, also out of such that another has put aside under another name: they
    /// may be put back when weir is long gone. Removes lists that weir made.
    fn clean(&self, except: Option<&Path>) -> Result<(), Error> {
        for path in self.names()?.into_iter().filter(|path| Some(path.as_path()) != except) {
            if is_made(&path) || file::is_unfinished(&path) {
                file::remove(&path).map_err(failed("cni.conf_dir", "remove", &path))?;
                continue;
            }
            let Ok((text, metadata)) = self.read(&path) else { continue };
            if !conflist::has_entry(&text) {
                continue;
            }
            let without =
                conflist::without_entry(&text).map_err(|problem| Error::Malformed { path: path.clone(), problem })?;
            self.unchanged(&path, &metadata)?;
            self.write(&path, &without, &metadata)?;
            tracing::info!(file = %path.display(), "CNI entry taken out");
        }
        Ok(())
    }
}

fn is_made(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.ends_with(&format!(".{MADE}")))
}

fn failed<'a>(key: &'static str, action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::Io { key, action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests;
