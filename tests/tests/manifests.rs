//! What weir asks of a cluster, read from the manifests: nothing that the API server does not know, and no privilege
//! beyond those named here. Needs helm 3 or 4 on PATH, or the one that `cargo xtask manifests` keeps.

use std::{
    collections::BTreeSet,
    env, fs,
    path::PathBuf,
    process::{Command, Output},
    time::Duration,
};

use k8s_openapi::{
    api::{
        apps::v1::DaemonSet,
        batch::v1::Job,
        core::v1::{ConfigMap, Namespace, ServiceAccount},
        rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
    },
    serde::{Serialize, de::DeserializeOwned},
};
use serde_json::{Value, json};
use weir_tests::{mesh::binary, process::Launch};

/// Values that switch everything on.
const EVERYTHING: [&str; 10] = [
    "podMonitor.enabled=true",
    "bpffs.mount=true",
    "proxy.bootstrap=static_resources: {}",
    "proxy.views.shop=static_resources: {}",
    "proxy.concurrency=2",
    "agent.workers=2",
    "image.pullSecrets={registry}",
    "nodeSelector.zone=a",
    "podLabels.team=mesh",
    "affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution=null",
];

fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Runs helm: `cargo xtask test` has it on PATH, others may have it where that keeps it.
fn helm(arguments: &[&str]) -> Output {
    let mut path = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect::<Vec<_>>();
    let cache = env::var_os("WEIR_CACHE").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache/weir")));
    let kept = cache.and_then(|cache| fs::read_dir(cache).ok()).into_iter().flatten().flatten();
    path.extend(kept.map(|entry| entry.path()).filter(|path| path.join("helm").is_file()));
    Command::new("helm")
        .args(arguments)
        .current_dir(repository(""))
        .env("PATH", env::join_paths(&path).expect("paths"))
        .output()
        .unwrap_or_else(|error| panic!("helm does not start ({error}): run `cargo xtask manifests` once"))
}

/// The chart's objects with these values, hooks among them.
fn chart(values: &[&str]) -> Vec<Value> {
    let mut arguments = vec!["template", "weir", "deploy/helm/weir"];
    arguments.extend(values.iter().flat_map(|value| ["--set", *value]));
    let output = helm(&arguments);
    assert!(output.status.success(), "{output:?}");
    documents(&String::from_utf8(output.stdout).expect("UTF-8"))
}

fn committed() -> String {
    fs::read_to_string(repository("deploy/weir.yaml")).expect("deploy/weir.yaml")
}

fn documents(text: &str) -> Vec<Value> {
    format!("\n{text}")
        .split("\n---\n")
        .map(|document| serde_saphyr::from_str::<Option<Value>>(document).expect(document))
        .filter_map(|document| document.filter(|document| !document.is_null()))
        .collect()
}

fn one<'a>(documents: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found: Vec<&Value> =
        documents.iter().filter(|document| document["kind"] == kind && document["metadata"]["name"] == name).collect();
    assert_eq!(found.len(), 1, "{kind} {name}");
    found[0]
}

fn agent(daemon_set: &Value) -> &Value {
    named(&daemon_set["spec"]["template"]["spec"]["initContainers"], "agent")
}

fn proxy(daemon_set: &Value) -> &Value {
    named(&daemon_set["spec"]["template"]["spec"]["containers"], "proxy")
}

fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    list.as_array().expect(name).iter().find(|entry| entry["name"] == name).unwrap_or_else(|| panic!("no {name}"))
}

fn strings(list: &Value) -> BTreeSet<&str> {
    list.as_array().expect("a list").iter().map(|entry| entry.as_str().expect("a string")).collect()
}

/// The fields of `given` that are not in `kept`, or differ there.
fn lost(path: &str, given: &Value, kept: &Value, found: &mut Vec<String>) {
    match (given, kept) {
        (Value::Object(given), Value::Object(kept)) => {
            for (name, value) in given {
                lost(&format!("{path}.{name}"), value, kept.get(name).unwrap_or(&Value::Null), found);
            }
        }
        (Value::Array(given), Value::Array(kept)) if given.len() == kept.len() => {
            for (index, (given, kept)) in given.iter().zip(kept).enumerate() {
                lost(&format!("{path}[{index}]"), given, kept, found);
            }
        }
        _ if given == kept => {}
        _ => found.push(format!("{path}: {given} became {kept}")),
    }
}

/// Fails if a field of the object is none of the type's.
fn strict<T: DeserializeOwned + Serialize>(object: &Value) {
    let name = format!("{} {}", object["kind"], object["metadata"]["name"]);
    let typed: T = serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut found = Vec::new();
    lost("", object, &serde_json::to_value(&typed).expect("JSON"), &mut found);
    assert!(found.is_empty(), "{name}: {found:#?}");
}

/// The fields of a PodMonitor that the chart may set, as its CRD has them (prometheus-operator 0.50 and newer).
fn strict_pod_monitor(monitor: &Value) {
    let fields = |value: &Value, known: &[&str]| {
        let fields = value.as_object().unwrap_or_else(|| panic!("{value} is no object"));
        let unknown: Vec<&String> = fields.keys().filter(|field| !known.contains(&field.as_str())).collect();
        assert!(unknown.is_empty(), "{unknown:?} in {value}");
    };
    let each =
        |value: &Value, known: &[&str]| value.as_array().into_iter().flatten().for_each(|one| fields(one, known));
    fields(monitor, &["apiVersion", "kind", "metadata", "spec"]);
    fields(&monitor["metadata"], &["name", "namespace", "labels", "annotations"]);
    let spec = &monitor["spec"];
    fields(spec, &["jobLabel", "selector", "namespaceSelector", "podMetricsEndpoints"]);
    fields(&spec["selector"], &["matchLabels"]);
    fields(&spec["namespaceSelector"], &["matchNames"]);
    let endpoint = ["port", "path", "honorLabels", "interval", "scrapeTimeout", "relabelings", "metricRelabelings"];
    each(&spec["podMetricsEndpoints"], &endpoint);
    let relabeling = ["sourceLabels", "separator", "targetLabel", "regex", "modulus", "replacement", "action"];
    for endpoint in spec["podMetricsEndpoints"].as_array().expect("endpoints") {
        each(&endpoint["relabelings"], &relabeling);
        each(&endpoint["metricRelabelings"], &relabeling);
    }
}

fn check_types(objects: &[Value]) {
    for object in objects {
        let check = match (object["apiVersion"].as_str(), object["kind"].as_str()) {
            (Some("v1"), Some("Namespace")) => strict::<Namespace>,
            (Some("v1"), Some("ServiceAccount")) => strict::<ServiceAccount>,
            (Some("v1"), Some("ConfigMap")) => strict::<ConfigMap>,
            (Some("apps/v1"), Some("DaemonSet")) => strict::<DaemonSet>,
            (Some("batch/v1"), Some("Job")) => strict::<Job>,
            (Some("rbac.authorization.k8s.io/v1"), Some("ClusterRole")) => strict::<ClusterRole>,
            (Some("rbac.authorization.k8s.io/v1"), Some("ClusterRoleBinding")) => strict::<ClusterRoleBinding>,
            (Some("rbac.authorization.k8s.io/v1"), Some("Role")) => strict::<Role>,
            (Some("rbac.authorization.k8s.io/v1"), Some("RoleBinding")) => strict::<RoleBinding>,
            (Some("monitoring.coreos.com/v1"), Some("PodMonitor")) => strict_pod_monitor,
            other => panic!("an object that this test does not know: {other:?}"),
        };
        check(object);
    }
}

#[test]
fn every_field_is_one_that_the_api_server_knows() {
    check_types(&documents(&committed()));
    check_types(&chart(&[]));
    check_types(&chart(&EVERYTHING));
}

#[test]
fn a_field_of_no_type_would_be_noticed() {
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a", "label": {"b": "c"}}});
    let outcome = std::panic::catch_unwind(|| strict::<Namespace>(&object));
    let message = *outcome.expect_err("metadata.label is no field").downcast::<String>().expect("a message");
    assert!(message.contains(".metadata.label: "), "{message}");
}

#[test]
fn the_committed_manifests_are_the_chart_s_without_its_hooks() {
    let is_hook = |object: &Value| !object["metadata"]["annotations"]["helm.sh/hook"].is_null();
    let (hooks, objects): (Vec<Value>, Vec<Value>) = chart(&[]).into_iter().partition(is_hook);
    assert_eq!(documents(&committed()), objects);
    let kinds: Vec<&str> = hooks.iter().filter_map(|hook| hook["kind"].as_str()).collect();
    assert_eq!(kinds, ["ServiceAccount", "Role", "RoleBinding", "Job"]);
    assert!(hooks.iter().all(|hook| hook["metadata"]["annotations"]["helm.sh/hook"] == "pre-delete"));
}

#[test]
fn the_chart_has_the_workspace_s_version() {
    let text = fs::read_to_string(repository("deploy/helm/weir/Chart.yaml")).expect("Chart.yaml");
    let chart: Value = serde_saphyr::from_str(&text).expect("YAML");
    assert_eq!((&chart["version"], &chart["appVersion"]), (&json!(env!("CARGO_PKG_VERSION")), &chart["version"]));
}

#[test]
fn the_agent_has_four_capabilities_and_no_more() {
    let objects = chart(&[]);
    let context = &agent(one(&objects, "DaemonSet", "weir"))["securityContext"];
    assert_eq!(
        context,
        &json!({
            "runAsUser": 0,
            "runAsGroup": 0,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN", "SYS_ADMIN", "BPF", "SYS_PTRACE"]},
            "seccompProfile": {"type": "RuntimeDefault"},
            "appArmorProfile": {"type": "Unconfined"},
        })
    );
}

#[test]
fn the_proxy_has_nothing() {
    for values in [&[][..], &EVERYTHING] {
        let objects = chart(values);
        let daemon_set = one(&objects, "DaemonSet", "weir");
        let proxy = proxy(daemon_set);
        assert_eq!(
            proxy["securityContext"],
            json!({
                "runAsNonRoot": true,
                "runAsUser": 65532,
                "runAsGroup": 65532,
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "Localhost", "localhostProfile": "weir/proxy.json"},
            })
        );
        // Neither does it write anywhere but where it keeps what it was sent, nor has it a token.
        let mounts = proxy["volumeMounts"].as_array().expect("mounts");
        let names = |read_only: bool| -> BTreeSet<&str> {
            let mounts = mounts.iter().filter(|mount| (mount["readOnly"] == true) == read_only);
            mounts.filter_map(|mount| mount["name"].as_str()).collect()
        };
        let configured = !values.is_empty();
        let (read, written): (&[_], &[_]) =
            if configured { (&["run", "bootstrap"], &["proxy-state"]) } else { (&["run"], &[]) };
        assert_eq!(names(true), read.iter().copied().collect());
        assert_eq!(names(false), written.iter().copied().collect());
        assert_eq!(daemon_set["spec"]["template"]["spec"]["automountServiceAccountToken"], false);
    }
}

#[test]
fn a_namespace_s_view_is_a_file_that_the_proxy_is_told_of() {
    for values in [&["proxy.views.shop=node: {}", "proxy.views.a-1=x"][..], &EVERYTHING] {
        let objects = chart(values);
        let files = &one(&objects, "ConfigMap", "weir-proxy")["data"];
        let daemon_set = one(&objects, "DaemonSet", "weir");
        let command: Vec<_> = proxy(daemon_set)["command"].as_array().expect("a command").iter().collect();
        let told = command.windows(2).filter(|pair| *pair[0] == "--view").map(|pair| pair[1].as_str().expect("text"));
        let told: Vec<_> = told.collect();
        assert_eq!(told.len(), values.iter().filter(|value| value.starts_with("proxy.views.")).count(), "{told:?}");
        for one in told {
            let (name, path) = one.split_once("=/etc/weir/").expect("a file");
            assert_eq!(path, format!("view-{name}.yaml"));
            assert!(files[path].is_string(), "{files}");
        }
        assert_eq!(named(&proxy(daemon_set)["volumeMounts"], "bootstrap")["mountPath"], "/etc/weir");
        assert_eq!(command.iter().any(|word| **word == "-c"), files["bootstrap.yaml"].is_string());
    }
    let hash = |values: &[&str]| {
        let objects = chart(values);
        one(&objects, "DaemonSet", "weir")["spec"]["template"]["metadata"]["annotations"]["weir.dev/config"].clone()
    };
    assert_ne!(hash(&["proxy.views.shop=a"]), hash(&["proxy.views.shop=b"]));
    let refused = helm(&["template", "weir", "deploy/helm/weir", "--set", "proxy.views.Shop=a"]);
    assert!(
        !refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("'Shop' does not match"),
        "{refused:?}"
    );
}

#[test]
fn what_management_servers_sent_outlives_the_proxy_s_container() {
    for values in [&["proxy.bootstrap=node: {}"][..], &["proxy.views.shop=node: {}"], &EVERYTHING] {
        let objects = chart(values);
        let daemon_set = one(&objects, "DaemonSet", "weir");
        let proxy = proxy(daemon_set);
        let command: Vec<_> =
            proxy["command"].as_array().expect("a command").iter().filter_map(Value::as_str).collect();
        let told = command.windows(2).find(|pair| pair[0] == "--state-dir").expect("a directory")[1];
        let mount = named(&proxy["volumeMounts"], "proxy-state");
        // In the mount's own directory everybody may write, and move what others wrote.
        let below = told.strip_prefix(mount["mountPath"].as_str().expect("a path")).expect("it is in the volume");
        assert!(below.len() > 1 && below.starts_with('/'), "{told}");
        let volume = named(&daemon_set["spec"]["template"]["spec"]["volumes"], "proxy-state");
        assert_eq!(volume["emptyDir"], json!({"sizeLimit": "1Gi"}));
    }
    let limit = |limit: &str| {
        let limit = format!("proxy.stateSizeLimit={limit}");
        helm(&["template", "weir", "deploy/helm/weir", "--set", "proxy.bootstrap=node: {}", "--set", &limit])
    };
    assert!(String::from_utf8_lossy(&limit("200Mi").stdout).contains("sizeLimit: 200Mi"));
    let refused = limit("much");
    assert!(
        !refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("'much' does not match"),
        "{refused:?}"
    );
    // A proxy that follows nobody keeps nothing.
    let objects = chart(&[]);
    let daemon_set = one(&objects, "DaemonSet", "weir").to_string();
    assert!(!daemon_set.contains("state-dir") && !daemon_set.contains("proxy-state"), "{daemon_set}");
}

#[test]
fn only_the_container_that_mounts_the_bpf_file_system_is_privileged() {
    let privileged = |objects: &[Value]| -> Vec<String> {
        let pods = objects.iter().map(|object| &object["spec"]["template"]["spec"]);
        pods.flat_map(|pod| ["initContainers", "containers", "ephemeralContainers"].map(|list| &pod[list]))
            .filter_map(Value::as_array)
            .flatten()
            .filter(|container| !container["securityContext"]["privileged"].is_null())
            .map(|container| container["name"].to_string())
            .collect()
    };
    assert_eq!(privileged(&chart(&[])), Vec::<String>::new());
    assert_eq!(privileged(&chart(&EVERYTHING)), ["\"mount-bpffs\""]);
}

#[test]
fn of_the_host_s_namespaces_only_process_ids_are_shared() {
    for object in chart(&EVERYTHING) {
        let pod = &object["spec"]["template"]["spec"];
        assert!(pod["hostNetwork"].is_null() && pod["hostIPC"].is_null() && pod["hostUsers"].is_null(), "{pod}");
        let expected = if object["kind"] == "DaemonSet" { json!(true) } else { Value::Null };
        assert_eq!(pod["hostPID"], expected, "{}", object["kind"]);
        assert!(!object.to_string().contains("hostPort"), "{object}");
    }
}

/// Host path, mount path, whether it is read-only, propagation.
fn host_mounts(daemon_set: &Value, container: &Value) -> BTreeSet<(String, String, bool, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let volumes = &daemon_set["spec"]["template"]["spec"]["volumes"];
    let mounts = container["volumeMounts"].as_array().expect("mounts");
    let of_host = mounts.iter().filter_map(|mount| {
        let volume = named(volumes, mount["name"].as_str().expect("a name"));
        let path = volume["hostPath"]["path"].as_str()?;
        let read_only = mount["readOnly"] == true;
        Some((path.to_owned(), text(&mount["mountPath"]), read_only, text(&mount["mountPropagation"])))
    });
    of_host.collect()
}

fn mounts(list: &[(&str, &str, bool, &str)]) -> BTreeSet<(String, String, bool, String)> {
    let owned = |(host, mount, read_only, propagation): &(&str, &str, bool, &str)| {
        ((*host).to_owned(), (*mount).to_owned(), *read_only, (*propagation).to_owned())
    };
    list.iter().map(owned).collect()
}

#[test]
fn of_the_host_s_files_only_these_are_mounted() {
    let agents = [
        ("/run/weir", "/run/weir", false, ""),
        ("/sys/fs/bpf", "/sys/fs/bpf", false, "HostToContainer"),
        ("/proc/sys/net", "/host/proc/sys/net", false, ""),
        ("/run/netns", "/run/netns", true, "HostToContainer"),
        ("/var/lib/kubelet/seccomp", "/host/var/lib/kubelet/seccomp", false, ""),
        ("/sys/fs/cgroup", "/host/cgroup", false, ""),
        ("/etc/cni/net.d", "/host/etc/cni/net.d", false, ""),
        ("/opt/cni/bin", "/host/opt/cni/bin", false, ""),
        ("/var/lib/weir", "/host/var/lib/weir", false, ""),
    ];
    let objects = chart(&[]);
    let daemon_set = one(&objects, "DaemonSet", "weir");
    assert_eq!(host_mounts(daemon_set, agent(daemon_set)), mounts(&agents));
    assert_eq!(host_mounts(daemon_set, proxy(daemon_set)), mounts(&[("/run/weir", "/run/weir", true, "")]));

    // Without plugin and keeper, too: what an agent before put there has to be taken out.
    let objects = chart(&["cni.enabled=false", "keeper.enabled=false"]);
    let daemon_set = one(&objects, "DaemonSet", "weir");
    assert_eq!(host_mounts(daemon_set, agent(daemon_set)), mounts(&agents));
    let configuration = &one(&objects, "ConfigMap", "weir")["data"]["agent.toml"];
    let configuration: toml::Table = toml::from_str(configuration.as_str().expect("text")).expect("TOML");
    for part in ["cni", "keeper"] {
        assert_eq!(configuration[part]["enabled"], toml::Value::Boolean(false), "{configuration}");
    }
}

#[test]
fn the_agent_reads_pods_namespaces_and_nodes_and_writes_events() {
    let objects = chart(&[]);
    assert_eq!(
        one(&objects, "ClusterRole", "weir")["rules"],
        json!([
            {"apiGroups": [""], "resources": ["pods", "namespaces", "nodes"], "verbs": ["get", "list", "watch"]},
            {"apiGroups": ["", "events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]},
        ])
    );
    let subjects = json!([{"kind": "ServiceAccount", "name": "weir", "namespace": "weir-system"}]);
    assert_eq!(one(&objects, "ClusterRoleBinding", "weir")["subjects"], subjects);
    let cluster_wide =
        objects.iter().filter(|object| object["kind"].as_str().is_some_and(|kind| kind.starts_with("ClusterRole")));
    assert_eq!(cluster_wide.count(), 2, "one role, one binding");
}

#[test]
fn the_uninstaller_may_annotate_its_own_namespace_and_see_what_is_in_it() {
    let objects = chart(&[]);
    assert_eq!(
        one(&objects, "Role", "weir-uninstall")["rules"],
        json!([
            {"apiGroups": [""], "resources": ["namespaces"], "resourceNames": ["weir-system"], "verbs": ["patch"]},
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
            {"apiGroups": ["apps"], "resources": ["daemonsets"], "resourceNames": ["weir"], "verbs": ["get"]},
        ])
    );
    let pod = &one(&objects, "Job", "weir-uninstall")["spec"]["template"]["spec"];
    assert!(pod["volumes"].is_null());
    assert_eq!(
        pod["containers"][0]["securityContext"],
        json!({
            "runAsNonRoot": true,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        })
    );
}

#[test]
fn a_successor_starts_before_its_predecessor_ends() {
    let objects = chart(&[]);
    let daemon_set = one(&objects, "DaemonSet", "weir");
    assert_eq!(
        daemon_set["spec"]["updateStrategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}})
    );
    let agent = agent(daemon_set);
    assert_eq!(agent["restartPolicy"], "Always");
    assert_eq!(agent["startupProbe"]["failureThreshold"], 120);
    for (probe, path) in [("startupProbe", "started"), ("readinessProbe", "ready"), ("livenessProbe", "live")] {
        assert_eq!(agent[probe]["httpGet"], json!({"path": format!("/healthz/{path}"), "port": "health"}));
    }
    assert_eq!(agent["ports"], json!([{"name": "health", "containerPort": 15021}]));
    let pod = &daemon_set["spec"]["template"]["spec"];
    assert_eq!(pod["priorityClassName"], "system-node-critical");
    assert_eq!(pod["tolerations"], json!([{"operator": "Exists"}]));
}

#[test]
fn a_namespace_that_weir_s_pods_may_run_in_is_made_unless_the_release_lives_there() {
    let objects = chart(&[]);
    let labels = &one(&objects, "Namespace", "weir-system")["metadata"]["labels"];
    assert_eq!(labels["pod-security.kubernetes.io/enforce"], "privileged");
    let output = helm(&["template", "weir", "deploy/helm/weir", "--namespace", "weir-system"]);
    let objects = documents(&String::from_utf8(output.stdout).expect("UTF-8"));
    assert!(objects.iter().all(|object| object["kind"] != "Namespace"));
    let namespaces: BTreeSet<&str> =
        objects.iter().filter_map(|object| object["metadata"]["namespace"].as_str()).collect();
    assert_eq!(namespaces, BTreeSet::from(["weir-system"]));
}

#[test]
fn a_pod_monitor_is_there_when_it_is_asked_for() {
    assert!(chart(&[]).iter().all(|object| object["kind"] != "PodMonitor"));
    let objects = chart(&["podMonitor.enabled=true"]);
    let monitor = one(&objects, "PodMonitor", "weir");
    let daemon_set = one(&objects, "DaemonSet", "weir");
    assert_eq!(monitor["metadata"]["namespace"], "weir-system");
    let expected = json!({
        "jobLabel": "app.kubernetes.io/name",
        "selector": {"matchLabels": daemon_set["spec"]["selector"]["matchLabels"]},
        "namespaceSelector": {"matchNames": [daemon_set["metadata"]["namespace"]]},
        "podMetricsEndpoints": [{
            "port": agent(daemon_set)["ports"][0]["name"],
            "path": "/metrics",
            "honorLabels": false,
            "relabelings": [{"sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "node"}],
        }],
    });
    assert_eq!(monitor["spec"], expected);
}

#[test]
fn a_pod_monitor_is_as_its_values_say() {
    let objects = chart(&[
        "podMonitor.enabled=true",
        "podMonitor.namespace=monitoring",
        "podMonitor.labels.release=prometheus",
        "podMonitor.annotations.team=mesh",
        "podMonitor.interval=1m30s",
        "podMonitor.scrapeTimeout=90s",
        "podMonitor.honorLabels=true",
        "podMonitor.relabelings=null",
        "podMonitor.metricRelabelings[0].action=drop",
        "podMonitor.metricRelabelings[0].sourceLabels={__name__}",
        "podMonitor.metricRelabelings[0].regex=process_.*",
    ]);
    check_types(&objects);
    let monitor = one(&objects, "PodMonitor", "weir");
    assert_eq!(monitor["metadata"]["namespace"], "monitoring");
    assert_eq!(monitor["metadata"]["labels"]["release"], "prometheus");
    assert_eq!(monitor["metadata"]["annotations"], json!({"team": "mesh"}));
    let endpoint = json!({
        "port": "health",
        "path": "/metrics",
        "honorLabels": true,
        "interval": "1m30s",
        "scrapeTimeout": "90s",
        "metricRelabelings": [{"action": "drop", "sourceLabels": ["__name__"], "regex": "process_.*"}],
    });
    assert_eq!(monitor["spec"]["podMetricsEndpoints"], json!([endpoint]));
    assert_eq!(monitor["spec"]["namespaceSelector"], json!({"matchNames": ["weir-system"]}));
}

/// As `helm upgrade --reuse-values` has them: those of a release that knew nothing of the newer ones.
#[test]
fn values_of_an_earlier_chart_are_enough() {
    let objects = chart(&["podMonitor=null", "proxy.accessLogFile=null"]);
    check_types(&objects);
    assert!(objects.iter().all(|object| object["kind"] != "PodMonitor"));
    let nothing = ["namespace", "interval", "scrapeTimeout", "honorLabels", "relabelings", "metricRelabelings"];
    let mut values = nothing.map(|value| format!("podMonitor.{value}=null")).to_vec();
    values.push("podMonitor.enabled=true".to_owned());
    let objects = chart(&values.iter().map(String::as_str).collect::<Vec<_>>());
    check_types(&objects);
    one(&objects, "PodMonitor", "weir");
}

#[test]
fn a_scrape_may_not_take_longer_than_until_the_next_one() {
    for (interval, timeout) in [("1m", "61s"), ("500ms", "1s"), ("1m30s", "2m")] {
        let values =
            format!("podMonitor.enabled=true,podMonitor.interval={interval},podMonitor.scrapeTimeout={timeout}");
        let output = helm(&["template", "weir", "deploy/helm/weir", "--set", &values]);
        let text = String::from_utf8_lossy(&output.stderr);
        let message =
            format!("podMonitor.scrapeTimeout: expected no more than podMonitor.interval ({interval}), got {timeout}");
        assert!(!output.status.success() && text.contains(&message), "{text}");
    }
}

/// What `weir-agent check` says of a configuration, if it does not like it; what it says of this machine is not asked.
fn problem_of(configuration: &str) -> Option<String> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("agent.toml");
    fs::write(&path, configuration).expect("a file of this test");
    let outcome = Launch::new(binary("weir-agent"), directory.path())
        .args(["check", "--config", &path.display().to_string()])
        .output(Duration::from_secs(30));
    outcome.stderr.contains("agent.toml:").then_some(outcome.stderr)
}

#[test]
fn the_agent_takes_the_chart_s_configuration() {
    let exclusions = [
        "redirect.excludeOutboundCidrs={10.0.0.0/8,fd00::/8}",
        "redirect.excludeOutboundPorts={25,587}",
        "redirect.excludeInboundPorts={9100}",
        "agent.healthAddress=::",
        "enroll.istioLabels=true",
        "keeper.patience=1m30s",
    ];
    for values in [&[][..], &EVERYTHING, &exclusions, &["cni.enabled=false", "keeper.enabled=false"]] {
        let objects = chart(values);
        let configuration = one(&objects, "ConfigMap", "weir")["data"]["agent.toml"].as_str().expect("text");
        assert_eq!(problem_of(configuration), None, "{configuration}");
    }
    let problem = problem_of("wrokers = 1\n[source.kubernetes]\n").expect("no such key");
    assert!(problem.contains("unknown field `wrokers`"), "{problem}");
}

#[test]
fn every_capability_and_mount_says_what_fails_without_it() {
    let text = committed();
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let mut explained = BTreeSet::new();
    for (index, line) in lines.iter().enumerate() {
        let next = lines.get(index + 1).copied().unwrap_or_default();
        let privilege = match line.strip_prefix("- ") {
            Some(name) if next.starts_with("mountPath: ") => name,
            Some(name @ ("NET_ADMIN" | "SYS_ADMIN" | "BPF" | "SYS_PTRACE")) => name,
            _ if *line == "hostPID: true" => line,
            _ => continue,
        };
        assert!(lines[index - 1].starts_with("# "), "line {}: {line} has no comment", index + 1);
        explained.insert(privilege);
    }
    let objects = documents(&text);
    let agent = agent(one(&objects, "DaemonSet", "weir"));
    for capability in strings(&agent["securityContext"]["capabilities"]["add"]) {
        assert!(explained.contains(capability), "{capability}");
    }
    for mount in agent["volumeMounts"].as_array().expect("mounts") {
        let name = format!("name: {}", mount["name"].as_str().expect("a name"));
        assert!(explained.contains(name.as_str()), "{name}");
    }
    assert!(explained.contains("hostPID: true"));
}

#[test]
fn a_grace_period_that_is_over_before_the_proxy_has_drained_is_refused() {
    let output = helm(&["template", "weir", "deploy/helm/weir", "--set", "proxy.drainSeconds=60"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{output:?}");
    assert!(
        text.contains("terminationGracePeriodSeconds: expected more than proxy.drainSeconds (60), got 60"),
        "{text}"
    );
}

#[test]
fn an_uninstall_that_gives_up_before_connections_have_drained_is_refused() {
    for (drain, timeout, least) in [("4m", 240, Some(272)), ("1m28s1ms", 120, Some(121)), ("1m28s", 120, None)] {
        let values = format!("redirect.drain={drain},uninstall.timeoutSeconds={timeout}");
        let output = helm(&["template", "weir", "deploy/helm/weir", "--set", &values]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), least.is_none(), "{output:?}");
        let expected = least.map(|least| {
            format!(
                "uninstall.timeoutSeconds: expected at least {least}, which is 32 s more than redirect.drain ({drain}), \
                 got {timeout}"
            )
        });
        assert!(expected.is_none_or(|expected| text.contains(&expected)), "{text}");
    }
}

#[test]
fn values_that_nothing_reads_are_refused() {
    for (value, message) in [
        ("agent.logs=debug", "at '/agent': additional properties 'logs' not allowed"),
        ("namespace=Weir_System", "at '/namespace': 'Weir_System' does not match pattern"),
        ("agent.workers=17", "at '/agent/workers': maximum: got 17, want 16"),
        ("cni.enabled=maybe", "at '/cni/enabled': got string, want boolean"),
        ("cni.confDir=net.d", "at '/cni/confDir': 'net.d' does not match pattern"),
        ("keeper.patience=forever", "at '/keeper/patience': 'forever' does not match pattern"),
        ("keeper.patience=0s", "at '/keeper/patience': '0s' does not match pattern"),
        ("agent.log=weir_agent=loud", "at '/agent/log': 'weir_agent=loud' does not match pattern"),
        ("redirect.excludeInboundPorts={15006}", "at '/redirect/excludeInboundPorts/0': 'not' failed"),
        ("redirect.drain=30", "at '/redirect/drain': got number, want string"),
        (
            "redirect.excludeOutboundPorts={70000}",
            "at '/redirect/excludeOutboundPorts/0': maximum: got 70,000, want 65,535",
        ),
        (
            "redirect.excludeOutboundCidrs={10.0.0.1}",
            "at '/redirect/excludeOutboundCidrs/0': '10.0.0.1' does not match pattern",
        ),
        (
            "redirect.excludeOutboundCidrs={10.0.0.0/33}",
            "at '/redirect/excludeOutboundCidrs/0': '10.0.0.0/33' does not match pattern",
        ),
        (
            "redirect.excludeOutboundCidrs={fd00::/8,1.2.3/8}",
            "at '/redirect/excludeOutboundCidrs/1': '1.2.3/8' does not match pattern",
        ),
        (
            "redirect.excludeOutboundCidrs={:::/8}",
            "at '/redirect/excludeOutboundCidrs/0': ':::/8' does not match pattern",
        ),
        ("image.pullPolicy=never", "at '/image/pullPolicy': value must be one of 'Always', 'IfNotPresent', 'Never'"),
        ("image.agentDigest=sha256:12", "at '/image/agentDigest': 'sha256:12' does not match pattern"),
        ("proxy.logLevel=loud", "at '/proxy/logLevel': value must be one of"),
        ("agent.resources.requests.gpu=1", "at '/agent/resources/requests': additional properties 'gpu' not allowed"),
        ("agent=null", "missing property 'agent'"),
        ("podMonitor.enabled=1", "at '/podMonitor/enabled': got number, want boolean"),
        ("podMonitor.interval=30", "at '/podMonitor/interval': got number, want string"),
        ("podMonitor.interval=soon", "at '/podMonitor/interval': 'soon' does not match pattern"),
        ("podMonitor.scrapeTimeout=0s", "at '/podMonitor/scrapeTimeout': '0s' does not match pattern"),
        ("podMonitor.selector=a", "at '/podMonitor': additional properties 'selector' not allowed"),
        ("podMonitor.relabelings[0].target=a", "additional properties 'target' not allowed"),
        ("podMonitor.relabelings[0].action=remove", "at '/podMonitor/relabelings/0/action': value must be one of"),
        (r"podLabels.app\.kubernetes\.io/name=other", "invalid propertyName 'app.kubernetes.io/name'"),
    ] {
        for command in ["template", "lint"] {
            let mut arguments = vec![command];
            arguments.extend(["weir"].iter().filter(|_| command == "template"));
            arguments.extend(["deploy/helm/weir", "--set", value]);
            let output = helm(&arguments);
            let text =
                [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
            assert!(!output.status.success(), "helm {command} takes {value}");
            assert!(text.contains(message), "helm {command} --set {value}: {text}");
        }
    }
}
