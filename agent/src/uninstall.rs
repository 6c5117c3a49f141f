//! What weir leaves on a node, and taking it away.
//!
//! An agent that ends leaves everything: a crash is not an uninstall. Told that weir is to go, it takes its entry out of
//! the container runtime's configuration first, so that no pod is held for an agent that is not there; then it withdraws
//! every pod and lets its connections drain; then links and pins, the keeper, and the files go, and last the CNI plugin,
//! as a runtime that has read the entry runs it once more. Every step may be repeated.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
};

use nix::sys::socket::SockType;
use weir_abi::map::PodConfig;

use crate::{
    cni::install::Place,
    config::{Config, Source},
    enroll, file, keeper, lead, netns,
    redirect::pins::Pins,
    sources, unix,
};

/// weir's namespace where nothing says otherwise; the CNI entry that is taken out does not depend on it.
const NAMESPACE: &str = "weir-system";

/// What an agent of this configuration leaves on the node, but for the pins.
#[derive(Debug)]
pub struct Remains {
    cni: Option<Place>,
    keeper: Option<keeper::Settings>,
    sockets: Vec<(PathBuf, SockType)>,
    files: Vec<PathBuf>,
    /// Removed if they are empty then.
    directories: Vec<PathBuf>,
}

impl Remains {
    /// By the configuration. `cni` is the place of the CNI plugin that is kept in place by now, if it is.
    pub fn new(config: &Config, cgroup2: &Path, cni: Option<Place>) -> Self {
        let own_namespace = match &config.source {
            Source::Kubernetes(source) => &source.namespace,
            Source::File(_) => NAMESPACE,
        };
        let cni = cni.or_else(|| config.cni.clone().map(|cni| Place::new(cni, own_namespace)));
        let keeper = config.keeper.as_ref().map(|keeper| {
            keeper::Settings::new(&config.instance, &keeper.socket, cgroup2.join(&keeper.cgroup), keeper.patience)
        });
        let place = lead::Place::new(&config.pins(), config.state(), &config.instance);
        let mut sockets = vec![
            (config.paths.handoff.clone(), SockType::SeqPacket),
            (config.paths.api.clone(), SockType::Stream),
            (place.socket, SockType::SeqPacket),
        ];
        sockets.extend(config.cni.as_ref().map(|cni| (cni.socket.clone(), SockType::SeqPacket)));
        let record = sources::kubernetes::record_path(config.state(), &config.instance);
        // Put aside by an agent that could not read it.
        let unreadable = record.with_extension("json.bad");
        let mut files = vec![place.lineage, record, unreadable];
        files.extend(config.seccomp.as_ref().map(|seccomp| seccomp.profile.clone()));
        let sockets_of_keeper = config.keeper.as_ref().map(|keeper| &keeper.socket);
        let inside = sockets.iter().map(|(path, _)| path).chain(&files).chain(sockets_of_keeper);
        let mut directories: Vec<PathBuf> = inside.filter_map(|path| path.parent().map(Path::to_owned)).collect();
        directories.sort();
        directories.dedup();
        Self { cni, keeper, sockets, files, directories }
    }

    /// First: no pod is held any more. Blocks.
    pub fn close_cni(&self) -> Result<(), String> {
        let Some(cni) = &self.cni else { return Ok(()) };
        cni.remove_entry().map_err(|error| error.to_string())
    }

    /// The keeper, unless an agent sees to it.
    pub async fn dismiss_keeper(&self) -> Result<(), String> {
        match &self.keeper {
            Some(keeper) => keeper::dismiss(keeper).await,
            None => Ok(()),
        }
    }

    /// The rest, once nothing is redirected: what could not be removed. Blocks.
    pub fn sweep(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut note = |removed: Result<(), String>| problems.extend(removed.err());
        if let Some(cni) = &self.cni {
            note(cni.remove_state().map_err(|error| error.to_string()));
        }
        for (path, kind) in &self.sockets {
            // Another instance's, in spite of the configuration.
            if unix::listener_at(path, *kind).is_none() && is_socket(path) {
                note(remove(path));
            }
        }
        for path in &self.files {
            note(remove(path));
        }
        for path in &self.directories {
            // It is somebody else's too, or a mount point, or not there.
            let _ = fs::remove_dir(path);
        }
        if let Some(cni) = &self.cni {
            note(cni.remove_program().map_err(|error| error.to_string()));
        }
        problems
    }
}

/// Undoes what was changed of the sysctls of pods' namespaces, for those that the pins say are enrolled still. What went
/// wrong. Blocks.
pub fn restore_sysctls(pins: &Pins, proc: &Path) -> Result<(), String> {
    let enrolled: HashMap<u64, PodConfig> = pins.enrolled().map_err(|error| error.to_string())?.into_iter().collect();
    if enrolled.is_empty() {
        return Ok(());
    }
    let mut problem = Ok(());
    for netns in netns::all(proc) {
        // One that is gone by now needs nothing.
        let Some(pod) = netns.look().ok().and_then(|contents| enrolled.get(&contents.cookie)) else { continue };
        if let Err(error) = enroll::restore_sysctls(&netns, proc, pod.flags) {
            problem = Err(error.to_string());
        }
    }
    problem
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

fn remove(path: &Path) -> Result<(), String> {
    for path in std::iter::once(path.to_owned()).chain(file::left_unfinished(path)) {
        file::remove(&path).map_err(|error| format!("cannot remove {}: {error}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_agents_left_half_written_or_put_aside_goes_too() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("run");
        fs::create_dir(&state).unwrap();
        let path = directory.path().join("agent.toml");
        let text = format!(
            "state = {state:?}\n[source.kubernetes]\n[paths]\nhandoff = {:?}\napi = {:?}\n",
            state.join("handoff.sock"),
            state.join("agent.sock")
        );
        fs::write(&path, text).unwrap();
        let config = Config::read(&path).unwrap();
        let (record, lineage) = ("default.pods.json", "default.lineage");
        let place = lead::Place::new(&config.pins(), config.state(), &config.instance);
        assert_eq!(place.lineage, state.join(lineage));
        for name in [record, lineage] {
            for left in [name.to_owned(), format!(".weir-{name}.tmp"), format!(".weir-{name}.4711.tmp")] {
                fs::write(state.join(left), "").unwrap();
            }
        }
        fs::write(state.join(format!("{record}.bad")), "").unwrap();
        let remains = Remains::new(&config, Path::new("/sys/fs/cgroup"), None);
        assert_eq!(remains.sweep(), [""; 0]);
        let left: Vec<_> = fs::read_dir(&state).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        assert!(!state.exists(), "{left:?}");
    }
}
