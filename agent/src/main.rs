//! `weir-agent`: see `--help`.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};
use weir_agent::{causes::with_causes, config, run};

/// weir's node agent: redirects the connections of enrolled pods to the proxy, by eBPF.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Enrolls pods until it is told to stop; what is redirected stays so.
    Run {
        /// agent.toml.
        #[arg(short, long, value_name = "FILE", default_value = "/etc/weir/agent.toml")]
        config: PathBuf,
    },
    /// Checks the configuration and the machine, and changes nothing.
    Check {
        /// agent.toml.
        #[arg(short, long, value_name = "FILE", default_value = "/etc/weir/agent.toml")]
        config: PathBuf,
    },
    /// Holds copies of the pods' listening sockets while no agent is there. The agent starts it.
    Keep {
        /// The instance whose agents it serves.
        #[arg(long, value_name = "NAME", value_parser = config::check_instance)]
        instance: String,
        /// Where agents dial it.
        #[arg(long, value_name = "PATH")]
        socket: PathBuf,
        /// Without an agent for so long it ends.
        #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = humantime::parse_duration)]
        patience: Duration,
    },
    /// Mounts the BPF file system where it is not mounted.
    MountBpffs {
        /// Where.
        #[arg(default_value = "/sys/fs/bpf")]
        path: PathBuf,
    },
    /// Detaches and removes everything that an agent left in the kernel. Nothing to remove is no error.
    Uninstall {
        /// agent.toml, for the instance and the place of its pins.
        #[arg(short, long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// The instance, in place of the configuration's.
        #[arg(long, value_name = "NAME", value_parser = config::check_instance)]
        instance: Option<String>,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run { config } => run::run(&config),
        Command::Check { config } => run::check(&config),
        Command::Keep { instance, socket, patience } => run::keep(&instance, &socket, patience),
        Command::MountBpffs { path } => run::mount_bpffs(&path),
        Command::Uninstall { config, instance } => run::uninstall(config.as_deref(), instance),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A line for each thing that is wrong.
            for line in with_causes(error.as_ref()).lines() {
                eprintln!("weir-agent: {line}");
            }
            ExitCode::FAILURE
        }
    }
}
