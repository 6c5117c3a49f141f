//! `weir-agent`: see `--help`.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use weir_agent::{config, run};

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
        Command::Uninstall { config, instance } => run::uninstall(config.as_deref(), instance),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A line for each thing that is wrong.
            for line in run::describe(&error).lines() {
                eprintln!("weir-agent: {line}");
            }
            ExitCode::FAILURE
        }
    }
}
