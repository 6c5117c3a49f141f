//! The configurations that the repository shows are ones that the programs take.

use std::{fs, path::PathBuf, time::Duration};

use weir_tests::{mesh::binary, process::Launch};

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
    // Every key, also those that stand in comments with their default.
    let uncommented: Vec<String> = text
        .replace(place, &pods.display().to_string())
        // A sandbox may hide process 1.
        .replace("/proc/1/ns/net", "/proc/self/ns/net")
        .lines()
        .map(|line| {
            match line.strip_prefix("# ").filter(|rest| rest.contains(" = ") && !rest.contains("/sys/fs/cgroup")) {
                Some(assignment) => assignment.to_owned(),
                None => line.to_owned(),
            }
        })
        .collect();
    let configuration = directory.path().join("agent.toml");
    fs::write(&configuration, uncommented.join("\n")).expect("a file of this test");
    let outcome = Launch::new(binary("weir-agent"), directory.path())
        .args(["check", "--config", &configuration.display().to_string()])
        .output(PATIENCE);
    assert!(outcome.status.success(), "{outcome:?}");
    assert!(outcome.stdout.contains("pods.toml, 1 of them"), "{outcome:?}");
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
