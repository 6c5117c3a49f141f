//! The acceptance suite: runs against a cluster on which weir is installed by its chart.
//!
//! ```console
//! $ weir-cluster --kubeconfig ~/.kube/config --image registry.example/app:1 traffic opt-in upgrade
//! ```

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use weir_tests::cluster::{
    Cluster, Deeds, command::CommandLine, kubectl::Kubectl, node::Nodes, report::Report, scenario, snapshot, weir::Weir,
};

/// Shows on a real cluster that weir does what it says. Command lines are split at blanks; single quotes hold words
/// together; `{node}` stands for a node's name.
#[derive(Parser)]
struct Arguments {
    /// The cluster's kubeconfig, for all commands below [default: theirs].
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// kubectl.
    #[arg(long, default_value = "kubectl")]
    kubectl: CommandLine,
    /// `kubectl weir`.
    #[arg(long, default_value = "kubectl weir")]
    weir: CommandLine,
    /// Runs the arguments that follow it on a node, as root in the node's namespaces; such as `ssh {node}`.
    #[arg(long)]
    node_exec: Option<CommandLine>,
    /// Stops the API server.
    #[arg(long)]
    api_stop: Option<CommandLine>,
    /// Starts it again.
    #[arg(long)]
    api_start: Option<CommandLine>,
    /// Restarts a node's kubelet.
    #[arg(long)]
    kubelet_restart: Option<CommandLine>,
    /// Reboots a node, and ends when it is back.
    #[arg(long)]
    reboot: Option<CommandLine>,
    /// Installs weir; such as `helm install weir deploy/helm/weir --wait`.
    #[arg(long)]
    install: Option<CommandLine>,
    /// Uninstalls it; such as `helm uninstall weir --wait`.
    #[arg(long)]
    uninstall: Option<CommandLine>,
    /// Image of the pods, with bash, curl, nslookup and ss; its own command answers HTTP on port 8080 with the host's name.
    #[arg(long)]
    image: String,
    /// Command in that image that answers HTTP on port 8080, TCP on 8081 and gRPC health checks on 8082.
    #[arg(long)]
    probe_server: Option<String>,
    /// `weir-load`, linked statically.
    #[arg(long, default_value = "target/x86_64-unknown-linux-gnu/release/weir-load")]
    load_program: PathBuf,
    /// Requests a second of each kind of load.
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// How long the API server stays away, in seconds.
    #[arg(long, default_value_t = 300)]
    api_outage: u64,
    /// Pods of `scale`.
    #[arg(long, default_value_t = 200)]
    pods: u32,
    /// Label flips of `scale`.
    #[arg(long, default_value_t = 500)]
    flips: u32,
    /// Pods that `scale` replaces.
    #[arg(long, default_value_t = 1000)]
    replacements: u32,
    /// Writes what nodes are like to a file, for `--before`, and does nothing else.
    #[arg(long)]
    snapshot: Option<PathBuf>,
    /// The nodes share their kernel with others: look at what belongs to their own cgroups and namespaces only.
    #[arg(long)]
    shared_kernel: bool,
    /// What nodes were like before weir was ever installed, for `uninstall`.
    #[arg(long)]
    before: Option<PathBuf>,
    /// traffic, policy, opt-in, upgrade, rollback, absent, churn, disruptions, scale, reboot, uninstall [default: all, in
    /// this order].
    scenarios: Vec<String>,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("weir-cluster: {why}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: Arguments) -> Result<bool, String> {
    let wanted = arguments.scenarios.iter().map(|name| find(name)).collect::<Result<Vec<_>, _>>()?;
    let wanted = if wanted.is_empty() { scenario::ALL.to_vec() } else { wanted };
    let in_cluster = |command: CommandLine| match &arguments.kubeconfig {
        Some(path) => command.with("KUBECONFIG", &path.display().to_string()),
        None => command,
    };
    let cluster = Cluster {
        kubectl: Kubectl(in_cluster(arguments.kubectl)),
        weir: Weir(in_cluster(arguments.weir)),
        nodes: Nodes(arguments.node_exec.map(in_cluster)),
        deeds: Deeds {
            api_stop: arguments.api_stop,
            api_start: arguments.api_start,
            kubelet_restart: arguments.kubelet_restart,
            reboot: arguments.reboot,
            install: arguments.install.map(in_cluster),
            uninstall: arguments.uninstall.map(in_cluster),
        },
        image: arguments.image,
        probe_server: arguments.probe_server,
        load_program: arguments.load_program,
        rate: arguments.rate,
        api_outage: Duration::from_secs(arguments.api_outage),
        pods: arguments.pods,
        replacements: arguments.replacements,
        flips: arguments.flips,
        shared_kernel: arguments.shared_kernel,
        before: arguments.before,
    };
    if let Some(file) = arguments.snapshot {
        let text = serde_json::to_string_pretty(&snapshot::take(&cluster, &[])?).map_err(|error| error.to_string())?;
        std::fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
        return Ok(true);
    }
    let mut report = Report::default();
    for (name, scenario) in wanted {
        if let Err(why) = scenario(&cluster, &mut report) {
            report.check(name, Err(format!("went no further: {why}")));
        }
    }
    Ok(report.sum())
}

fn find(name: &str) -> Result<(&'static str, scenario::Scenario), String> {
    let known = || scenario::ALL.map(|(name, _)| name).join(", ");
    let found = scenario::ALL.into_iter().find(|(known, _)| *known == name);
    found.ok_or_else(|| format!("{name:?}: expected one of {}", known()))
}
