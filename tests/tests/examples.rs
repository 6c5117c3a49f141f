//! The configurations that the repository shows are ones that the programs take.

use std::{fs, path::PathBuf, time::Duration};

use weir_tests::{
    mesh::binary,
    process::{Launch, Outcome},
};

/// Where the part of the agent's example begins that is for Kubernetes.
const KUBERNETES: &str = "# In place of [source.file]";
const PATIENCE: Duration = Duration::from_secs(30);

fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

#[test]
fn the_agent_takes_the_example_configuration_and_pods() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let text = fs::read_to_string(repository("deploy/agent.toml")).expect("deploy/agent.toml");
    let pods = repository("deploy/pods.toml");
    let place = "/etc/weir/pods.toml";
    assert!(text.contains(place), "the example names {place}");
    let (standalone, kubernetes) = text.split_once(KUBERNETES).expect("a part for Kubernetes");
    let standalone = uncommented(standalone)
        .replace(place, &pods.display().to_string())
        // A sandbox may hide process 1.
        .replace("/proc/1/ns/net", "/proc/self/ns/net")
        // Where no kubelet has run.
        .replace("pods_cgroup = \"auto\"", "");
    let outcome = check(&directory, &standalone);
    assert!(outcome.status.success(), "{outcome:?}");
    assert!(outcome.stdout.contains("pods.toml, 1 of them"), "{outcome:?}");

    let (rest, _) = text.split_once("[source.file]").expect("a source");
    let outcome = check(&directory, &format!("{}#{}", uncommented(rest), uncommented(kubernetes)));
    // Whatever it says of this machine.
    assert!(!outcome.stderr.contains("agent.toml"), "{outcome:?}");
}

/// With every key, also those that stand in comments with their default.
fn uncommented(text: &str) -> String {
    let is_toml = |rest: &&str| rest.starts_with('[') || rest.contains(" = ") && !rest.contains("/sys/fs/cgroup");
    let lines = text.lines().map(|line| line.strip_prefix("# ").filter(is_toml).unwrap_or(line));
    lines.fold(String::new(), |text, line| text + line + "\n")
}

fn check(directory: &tempfile::TempDir, configuration: &str) -> Outcome {
    let path = directory.path().join("agent.toml");
    fs::write(&path, configuration).expect("a file of this test");
    Launch::new(binary("weir-agent"), directory.path())
        .args(["check", "--config", &path.display().to_string()])
        .output(PATIENCE)
}

#[test]
fn the_proxy_takes_the_demo_s_bootstrap() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let bootstrap = repository("xtask/src/demo/bootstrap.yaml").display().to_string();
    let outcome = Launch::new(binary("weir-proxy"), directory.path())
        .args(["-c", &bootstrap, "--mode", "validate"])
        .output(PATIENCE);
    assert!(outcome.status.success(), "{outcome:?}");
}

#[test]
fn the_proxy_takes_the_documentation_s_view() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let text = fs::read_to_string(repository("docs/use.md")).expect("docs/use.md");
    let (_, section) = text.split_once("## A namespace's own configuration").expect("a section");
    let (_, values) = section.split_once("```yaml\n").expect("an example");
    let (values, _) = values.split_once("```").expect("its end");
    let values: serde_json::Value = serde_saphyr::from_str(values).expect("YAML");
    let written = |name: &str, bootstrap: &serde_json::Value| {
        let path = directory.path().join(name);
        fs::write(&path, bootstrap.as_str().expect("a bootstrap")).expect("a file of this test");
        path.display().to_string()
    };
    let own = written("own.yaml", &values["proxy"]["bootstrap"]);
    let view = written("shop.yaml", &values["proxy"]["views"]["shop"]);
    let outcome = Launch::new(binary("weir-proxy"), directory.path())
        .args(["-c", &own, "--view", &format!("shop={view}"), "--mode", "validate"])
        .output(PATIENCE);
    assert!(outcome.status.success(), "{outcome:?}");
    assert!(outcome.stdout.ends_with(&format!("configuration '{view}' of the view shop OK\n")), "{outcome:?}");
}
