//! On a host of files.

use std::{
    os::unix::fs::{PermissionsExt, symlink},
    sync::Arc,
};

use super::*;

const BRIDGE: &str =
    "{\n  \"cniVersion\": \"1.0.0\",\n  \"name\": \"net\",\n  \"plugins\": [\n    {\"type\": \"bridge\"}\n  ]\n}";

/// A host's directories and a program to install.
struct Host {
    directory: tempfile::TempDir,
    place: Place,
}

impl Host {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in ["net.d", "bin"] {
            fs::create_dir(at(name)).unwrap();
        }
        fs::write(at("weir-cni"), "the program").unwrap();
        let cni = config::Cni {
            enabled: true,
            conf_dir: at("net.d"),
            bin_dir: at("bin"),
            binary: at("weir-cni"),
            socket: "/run/weir/cni.sock".into(),
            state_dir: at("state"),
            host_state_dir: "/var/lib/weir".into(),
        };
        let place = Place::new(cni, "weir-system");
        Self { directory, place }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join("net.d").join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.file(name), text).unwrap();
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap()
    }

    /// All files and what is in them.
    fn snapshot(&self) -> Vec<(PathBuf, u32, Vec<u8>)> {
        let mut files = Vec::new();
        for directory in ["net.d", "bin", "state"] {
            let Ok(entries) = fs::read_dir(self.directory.path().join(directory)) else { continue };
            for entry in entries.flatten() {
                let mode = entry.metadata().unwrap().permissions().mode();
                files.push((entry.path(), mode, fs::read(entry.path()).unwrap_or_default()));
            }
        }
        files.sort();
        files
    }

    fn error(&self) -> String {
        self.place.install_entry().unwrap_err().to_string()
    }
}

#[test]
fn what_was_installed_is_taken_out_without_a_trace() {
    let host = Host::new();
    host.write("10-net.conflist", BRIDGE);
    host.write("99-loopback.conf", "{\"type\":\"loopback\"}");
    fs::set_permissions(host.file("10-net.conflist"), fs::Permissions::from_mode(0o640)).unwrap();
    let before = host.snapshot();

    host.place.install_program().unwrap();
    assert_eq!(host.place.install_entry().unwrap(), (host.file("10-net.conflist"), true));
    host.place.write_namespaces(["demo".to_owned()].into()).unwrap();
    assert_eq!(host.place.install_entry().unwrap(), (host.file("10-net.conflist"), false));
    let text = host.text("10-net.conflist");
    let entry = "{\"type\":\"weir-cni\",\"socket\":\"/run/weir/cni.sock\",\"namespaces\":\
                 \"/var/lib/weir/namespaces.json\",\"ownNamespace\":\"weir-system\",\"wait\":\"10s\"}";
    assert_eq!(text, BRIDGE.replace("bridge\"}", &format!("bridge\"}},\n    {entry}")));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&host.file("10-net.conflist")), 0o640);
    assert_eq!((mode(&host.place.program()), mode(&host.place.namespaces())), (0o755, 0o644));
    assert_eq!(fs::read(host.place.program()).unwrap(), b"the program");

    host.place.remove().unwrap();
    assert_eq!(host.snapshot(), before);
    assert!(!host.directory.path().join("state").exists());
    // What follows the configuration at that time does not bring it back.
    assert!(matches!(host.place.install_program(), Err(Error::TakenOut)));
    assert!(matches!(host.place.install_entry(), Err(Error::TakenOut)));
    assert!(matches!(host.place.write_namespaces(Default::default()), Err(Error::TakenOut)));
    assert_eq!(host.snapshot(), before);
    // Again, and where there never was anything.
    host.place.remove().unwrap();
    fs::remove_dir_all(host.directory.path().join("net.d")).unwrap();
    host.place.remove().unwrap();
}

#[test]
fn a_list_of_a_version_in_which_the_plugin_cannot_be_run_loses_the_entry_that_its_owner_kept() {
    let host = Host::new();
    host.write("10-net.conflist", BRIDGE);
    host.place.install_entry().unwrap();
    let several = |text: &str| text.replace("\"1.0.0\"", "\"1.0.0\",\n  \"cniVersions\": [\"1.0.0\", \"2.0.0\"]");
    host.write("10-net.conflist", &several(&host.text("10-net.conflist")));
    assert!(host.error().contains("10-net.conflist: cniVersions: \"2.0.0\" is not known, expected one of 0.3.0, "));
    assert_eq!(host.text("10-net.conflist"), several(BRIDGE));
}

#[test]
fn the_first_file_by_name_gets_the_entry() {
    let host = Host::new();
    assert_eq!(
        host.error(),
        format!("cni.conf_dir: {} has no CNI configuration yet", host.directory.path().join("net.d").display())
    );
    // Nothing that a runtime would read.
    host.write("00-calico-kubeconfig", "{}");
    host.write("01-old.conflist.cilium_bak", BRIDGE);
    fs::create_dir(host.file("02-directory.conflist")).unwrap();
    assert!(matches!(host.place.install_entry(), Err(Error::NoConfiguration(_))));
    host.write("20-net.conflist", BRIDGE);
    host.place.install_entry().unwrap();
    assert!(conflist::has_entry(&host.text("20-net.conflist")));
    // Another network comes before it, and later goes again, having put the first aside meanwhile.
    host.write("10-net.conflist", BRIDGE);
    host.place.install_entry().unwrap();
    assert!(conflist::has_entry(&host.text("10-net.conflist")));
    assert_eq!(host.text("20-net.conflist"), BRIDGE);

    fs::rename(host.file("10-net.conflist"), host.file("10-net.conflist.cilium_bak")).unwrap();
    host.place.remove().unwrap();
    assert_eq!(host.text("10-net.conflist.cilium_bak"), BRIDGE);
}

#[test]
fn a_configuration_that_is_no_list_gets_one_right_before_it() {
    let host = Host::new();
    let configuration = "{\"cniVersion\":\"0.3.1\",\"name\":\"multus\",\"type\":\"multus\"}";
    host.write("00-multus.conf", configuration);
    host.write("10-net.conflist", BRIDGE);
    let before = host.snapshot();
    let made = host.file("00-multus.00-weir.conflist");
    assert_eq!(host.place.install_entry().unwrap(), (made.clone(), true));
    assert!(made < host.file("00-multus.conf"));
    assert_eq!(host.place.install_entry().unwrap(), (made.clone(), false));
    assert_eq!(host.text("00-multus.conf"), configuration);
    // Its owner changes it.
    host.write("00-multus.conf", &configuration.replace("\"name\"", "\"x\":1,\"name\""));
    assert_eq!(host.place.install_entry().unwrap(), (made.clone(), true));
    assert!(host.text("00-multus.00-weir.conflist").contains("\"x\":1"));
    // And takes it away.
    fs::remove_file(host.file("00-multus.conf")).unwrap();
    assert_eq!(host.place.install_entry().unwrap().0, host.file("10-net.conflist"));
    assert!(!made.exists());
    host.write("00-multus.conf", configuration);
    host.place.install_entry().unwrap();
    host.place.remove().unwrap();
    assert_eq!(host.snapshot(), before);
}

#[test]
fn what_is_not_as_it_should_be_is_left_alone_and_named() {
    let host = Host::new();
    let path = host.file("10-net.conflist");
    host.write("10-net.conflist", "{\"plugins\":");
    assert_eq!(
        host.error(),
        format!("{}: not a JSON object: EOF while parsing a value at line 1 column 11", path.display())
    );
    assert_eq!(host.text("10-net.conflist"), "{\"plugins\":");
    fs::rename(&path, host.file("elsewhere")).unwrap();
    symlink(host.file("elsewhere"), &path).unwrap();
    assert_eq!(host.error(), format!("{}: expected a regular file; weir leaves it alone", path.display()));
    fs::remove_file(&path).unwrap();
    fs::write(&path, b"\xff").unwrap();
    assert_eq!(
        host.error(),
        format!("cni.conf_dir: cannot read {}: stream did not contain valid UTF-8", path.display())
    );
    fs::remove_file(host.directory.path().join("weir-cni")).unwrap();
    let error = host.place.install_program().unwrap_err().to_string();
    let binary = host.directory.path().join("weir-cni");
    assert_eq!(error, format!("cni.binary: cannot read {}: No such file or directory (os error 2)", binary.display()));
}

#[test]
fn another_program_is_replaced_and_the_same_is_left() {
    use std::os::linux::fs::MetadataExt;
    let host = Host::new();
    let inode = || fs::metadata(host.place.program()).unwrap().st_ino();
    host.place.install_program().unwrap();
    let first = inode();
    host.place.install_program().unwrap();
    assert_eq!(inode(), first);
    fs::write(host.directory.path().join("weir-cni"), "another pr.").unwrap();
    host.place.install_program().unwrap();
    assert_eq!(fs::read(host.place.program()).unwrap(), b"another pr.");
    assert_ne!(inode(), first);
    fs::set_permissions(host.place.program(), fs::Permissions::from_mode(0o644)).unwrap();
    host.place.install_program().unwrap();
    assert_eq!(fs::metadata(host.place.program()).unwrap().permissions().mode() & 0o777, 0o755);
}

/// Waits until it is in place, or not.
async fn wait(state: &mut tokio::sync::watch::Receiver<State>, what: impl FnMut(&State) -> bool) {
    let waited = tokio::time::timeout(std::time::Duration::from_secs(60), state.wait_for(what)).await;
    waited.expect("not within a minute").unwrap();
}

#[tokio::test]
async fn the_entry_comes_after_the_file_and_again_when_that_is_written_anew() {
    let host = Host::new();
    let stop = tokio_util::sync::CancellationToken::new();
    let mut state = follow(host.place.clone(), stop.clone());
    wait(&mut state, |state| matches!(state, State::Waiting(_))).await;
    host.write("10-net.conflist", BRIDGE);
    let file = host.file("10-net.conflist");
    wait(&mut state, |state| *state == State::Installed(file.clone())).await;
    for _ in 0..2 {
        host.write("10-net.conflist", &BRIDGE.replace("bridge", "another"));
        let again = async {
            while !conflist::has_entry(&host.text("10-net.conflist")) {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(60), again).await.unwrap();
    }
    host.write("10-net.conflist", "");
    wait(&mut state, |state| matches!(state, State::Failed(_))).await;
    stop.cancel();
    state.wait_for(|_| false).await.unwrap_err();
}

/// Waits until the list of namespaces says this.
async fn wait_list(path: &Path, expected: &str) {
    let written = async {
        while fs::read_to_string(path).unwrap_or_default() != expected {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), written).await.unwrap();
}

#[tokio::test]
async fn the_list_of_namespaces_follows_what_is_enrolled() {
    let host = Host::new();
    let stop = tokio_util::sync::CancellationToken::new();
    let (sender, namespaces) = tokio::sync::watch::channel(None);
    let following = follow_namespaces(host.place.clone(), namespaces, stop.clone());
    let path = host.place.namespaces();
    for (known, expected) in
        [(vec!["demo", "shop"], "{\"enrolled\":[\"demo\",\"shop\"]}\n"), (vec![], "{\"enrolled\":[]}\n")]
    {
        let known = known.into_iter().map(|name| (name.to_owned(), true)).chain([("other".to_owned(), false)]);
        sender.send_replace(Some(Arc::new(known.collect())));
        wait_list(&path, expected).await;
    }
    stop.cancel();
    following.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_list_of_namespaces_is_put_back() {
    let host = Host::new();
    let stop = tokio_util::sync::CancellationToken::new();
    let known = [("demo".to_owned(), true)].into();
    let (_sender, namespaces) = tokio::sync::watch::channel(Some(Arc::new(known)));
    let following = follow_namespaces(host.place.clone(), namespaces, stop.clone());
    let (path, expected) = (host.place.namespaces(), "{\"enrolled\":[\"demo\"]}\n");
    wait_list(&path, expected).await;
    // With its directory, as by a hand that cleans up.
    fs::remove_dir_all(path.parent().unwrap()).unwrap();
    wait_list(&path, expected).await;
    for malformed in ["", "[", "{\"enrolled\":[]}"] {
        fs::write(&path, malformed).unwrap();
        wait_list(&path, expected).await;
    }
    stop.cancel();
    following.await.unwrap();
}
