//! Pods from a TOML or YAML file, watched for changes.
//!
//! The directory is watched, not the file: editors and Kubernetes volumes put a new file in its place. A file that
//! does not parse changes nothing but the error shown.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use tokio::{
    sync::{mpsc, watch},
    time::{sleep, timeout},
};

use super::{Follower, Listing, PodNetns, PodSpec};
use crate::{document, file::watch_directory};

/// Events of one change come together; the file is read when they are over.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// Read without an event now and then: a symlink may lead out of the watched directory.
const POLL: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PodsFile {
    // Not optional: an empty file is one that is being written, and would take every pod out of the mesh.
    pods: Vec<PodSpec>,
}

/// Why a file of pods cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It does not parse.
    #[error(transparent)]
    Document(#[from] document::Error),
    /// A pod in it is not one.
    #[error("{}: pods[{index}]: {problem}", path.display())]
    Pod {
        /// The file.
        path: PathBuf,
        /// Which pod, from 0.
        index: usize,
        /// What is wrong, and what was expected.
        problem: String,
    },
}

/// Parses and checks the text of a file of pods.
pub fn parse(path: &Path, text: &str) -> Result<Vec<PodSpec>, Error> {
    let pods = document::parse::<PodsFile>(path, text)?.pods;
    let mut uids = BTreeSet::new();
    for (index, pod) in pods.iter().enumerate() {
        if let Some(problem) = problem(pod, &mut uids) {
            return Err(Error::Pod { path: path.to_owned(), index, problem });
        }
    }
    Ok(pods)
}

fn problem<'a>(pod: &'a PodSpec, uids: &mut BTreeSet<&'a str>) -> Option<String> {
    let fields = [("uid", &pod.uid), ("name", &pod.name), ("namespace", &pod.namespace)];
    if let Some((field, _)) = fields.into_iter().find(|(_, value)| value.is_empty()) {
        return Some(format!("{field}: empty, expected a name"));
    }
    if let PodNetns::Path(path) = &pod.netns
        && !path.is_absolute()
    {
        return Some(format!("netns: {path:?} is not an absolute path, expected one such as /run/netns/NAME"));
    }
    if pod.probe_ports.contains(&0) {
        return Some("probe_ports: invalid port 0, expected 1 to 65535".to_owned());
    }
    if !uids.insert(&pod.uid) {
        return Some(format!("uid: {:?} is another pod's too, expected one of its own", pod.uid));
    }
    None
}

/// Reads the file once.
pub fn read_once(path: &Path) -> Result<Vec<PodSpec>, Error> {
    let text =
        fs::read_to_string(path).map_err(|source| document::Error::Unreadable { path: path.to_owned(), source })?;
    parse(path, &text)
}

/// Reads the file, then follows its changes until the follower is dropped.
pub fn follow(path: PathBuf) -> Follower {
    let mut listing = Listing::default();
    let mut last_text = None;
    read(&path, &mut last_text, &mut listing);
    let (sender, follower) = watch::channel(listing);
    tokio::spawn(watch_file(path, last_text, sender));
    follower
}

async fn watch_file(path: PathBuf, mut last_text: Option<String>, sender: watch::Sender<Listing>) {
    let (events, mut changed) = mpsc::channel(1);
    let directory = path.parent().unwrap_or(Path::new("/")).to_owned();
    let mut watcher = None;
    loop {
        if watcher.is_none() {
            watcher = watch_directory(&directory, events.clone());
        }
        // Also before the first wait: the file may have changed while nobody watched.
        let mut listing = sender.borrow().clone();
        if read(&path, &mut last_text, &mut listing) {
            sender.send_replace(listing);
        }
        let waited = tokio::select! {
            waited = timeout(POLL, changed.recv()) => waited,
            () = sender.closed() => return,
        };
        if waited.is_ok() {
            sleep(DEBOUNCE).await;
            let _ = changed.try_recv();
        }
    }
}

/// Reads the file into `listing`; whether anything changed.
fn read(path: &Path, last_text: &mut Option<String>, listing: &mut Listing) -> bool {
    let result = match fs::read_to_string(path) {
        Ok(text) if last_text.as_ref() == Some(&text) => return false,
        Ok(text) => {
            let result = parse(path, &text);
            *last_text = Some(text);
            result
        }
        Err(source) => {
            *last_text = None;
            Err(document::Error::Unreadable { path: path.to_owned(), source }.into())
        }
    };
    match result {
        Ok(pods) => {
            tracing::info!(file = %path.display(), pods = pods.len(), "pods read");
            *listing = Listing { pods: Some(pods), ..Listing::default() };
            true
        }
        Err(error) => {
            let error = error.to_string();
            let new = listing.error != error;
            if new {
                tracing::warn!(%error, "the pods file is not usable; the pods of the last good one stay");
            }
            listing.error = error;
            new
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "[[pods]]\nuid = \"u1\"\nname = \"web\"\nnamespace = \"shop\"\nnetns = \"/run/netns/web\"\n";

    #[test]
    fn toml_and_yaml_say_the_same() {
        let toml = parse(
            Path::new("pods.toml"),
            &format!("{POD}probe_ports = [8080]\n[pods.labels]\napp = \"web\"\n[pods.annotations]\n\"a/b\" = \"c\"\n"),
        )
        .unwrap();
        let yaml = parse(
            Path::new("pods.yaml"),
            "pods:\n- uid: u1\n  name: web\n  namespace: shop\n  netns: /run/netns/web\n  probe_ports: [8080]\n  \
             labels: {app: web}\n  annotations: {a/b: c}\n",
        )
        .unwrap();
        assert_eq!(toml, yaml);
        assert_eq!(toml[0].full_name(), "shop/web");
        assert_eq!(toml[0].service_account, "default");
        assert!(parse(Path::new("pods.toml"), "pods = []").unwrap().is_empty());
    }

    #[test]
    fn bad_input_is_named() {
        let error = |text: &str| parse(Path::new("pods.toml"), text).unwrap_err().to_string();
        assert_eq!(
            error(&format!("{POD}port = 1\n")),
            "pods.toml:6:1: pods.port: unknown field `port`, expected one of `uid`, `name`, `namespace`, \
             `service_account`, `netns`, `labels`, `annotations`, `probe_ports`"
        );
        assert_eq!(
            error(&format!("{POD}probe_ports = [\"http\"]\n")),
            "pods.toml:6:16: pods.probe_ports: invalid type: string \"http\", expected u16"
        );
        assert_eq!(
            error(&format!("{POD}{POD}")),
            "pods.toml: pods[1]: uid: \"u1\" is another pod's too, expected one of its own"
        );
        assert_eq!(
            error(&POD.replace("/run/", "")),
            "pods.toml: pods[0]: netns: \"netns/web\" is not an absolute path, expected one such as /run/netns/NAME"
        );
        assert_eq!(error(&POD.replace("shop", "")), "pods.toml: pods[0]: namespace: empty, expected a name");
    }

    async fn next(follower: &mut Follower) -> Listing {
        timeout(Duration::from_secs(10), follower.changed()).await.expect("a change is noticed").unwrap();
        follower.borrow_and_update().clone()
    }

    #[tokio::test]
    async fn changes_are_followed_and_a_malformed_file_leaves_the_earlier_pods() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pods.toml");
        let replace = |text: &str| {
            let temporary = directory.path().join("pods.toml~");
            fs::write(&temporary, text).unwrap();
            fs::rename(&temporary, &path).unwrap();
        };
        let mut follower = follow(path.clone());
        let first = follower.borrow_and_update().clone();
        assert!(first.pods.is_none() && first.error.contains("No such file"), "{first:?}");

        replace(POD);
        let listing = next(&mut follower).await;
        assert_eq!((listing.pods.as_ref().map(Vec::len), listing.error.as_str()), (Some(1), ""));

        fs::write(&path, "[[pods]\n").unwrap();
        let listing = next(&mut follower).await;
        assert_eq!(listing.pods.as_ref().map(Vec::len), Some(1));
        assert!(listing.error.contains("pods.toml:1:"), "{}", listing.error);

        fs::write(&path, "# being written\n").unwrap();
        let listing = next(&mut follower).await;
        assert_eq!(listing.pods.as_ref().map(Vec::len), Some(1));
        assert!(listing.error.contains("missing field `pods`"), "{}", listing.error);

        fs::write(&path, "pods = []\n").unwrap();
        let listing = next(&mut follower).await;
        assert_eq!((listing.pods.as_ref().map(Vec::len), listing.error.as_str()), (Some(0), ""));

        fs::remove_file(&path).unwrap();
        let listing = next(&mut follower).await;
        assert_eq!(listing.pods.as_ref().map(Vec::len), Some(0));
        assert!(listing.error.contains("No such file"), "{}", listing.error);
    }
}
