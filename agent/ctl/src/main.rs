//! weirctl: shows what weir redirects, where and why, in bpftool's grammar.
//!
//! On a node it asks the agent over its unix socket. As `kubectl weir`, it asks the weirctl of each node through the API
//! server, and prints what they say with the same code. It decides nothing itself. No terminal is assumed, there are no
//! colours, and a reader that goes away ends it quietly.

mod admin;
mod agent;
mod answer;
mod cli;
mod cluster;
mod complete;
mod grammar;
mod node;
mod output;
mod pages;
mod proxy;
mod question;
mod show;
mod stop;
mod table;
mod time;
mod usage;
mod xds;
mod yaml;

use std::{io, path::PathBuf, process::ExitCode};

use admin::Admin;
use cli::{Action, Invocation, Name};
use cluster::Outcome;
use node::Node;
use output::Output;

/// Done.
const OK: u8 = 0;
/// The agent could not be reached, or had no answer.
const FAILED: u8 = 1;
/// The command line is wrong.
const USAGE: u8 = 2;
/// `status --check`: the agent answers, but something needs attention.
const UNHEALTHY: u8 = 3;

/// Why nothing was shown.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Node(#[from] node::Error),
    #[error(transparent)]
    Admin(#[from] admin::Error),
    #[error(transparent)]
    Cluster(#[from] cluster::Error),
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
    #[error("man: {}: {source}", directory.display())]
    Man { directory: PathBuf, source: io::Error },
}

impl Error {
    /// What may help on a node.
    fn hint(&self) -> &'static str {
        match self {
            Self::Node(node::Error::Unreachable(_)) => " (another socket: --socket PATH)",
            Self::Admin(admin::Error::Unreachable { .. }) => " (another address: --admin ADDRESS)",
            _ => "",
        }
    }

    /// Whether whoever read the answer has seen enough.
    fn is_broken_pipe(&self) -> bool {
        let (Self::Output(error)
        | Self::Node(node::Error::Output(error))
        | Self::Cluster(cluster::Error::Output(error))) = self
        else {
            return false;
        };
        error.kind() == io::ErrorKind::BrokenPipe
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let name = arguments.next().map_or(Name::Weirctl, |path| Name::of(path.as_ref()));
    let arguments = arguments.map(|argument| argument.to_string_lossy().into_owned());
    if name == Name::Completer {
        let words: Vec<String> = arguments.collect();
        let written = Output::stdout(name.typed(), output::Format::Plain, false).text(complete::complete(&words));
        return ExitCode::from(if written.is_ok() { OK } else { FAILED });
    }
    let invocation = match cli::parse(name, arguments, std::env::var_os(cli::SOCKET_VARIABLE)) {
        Ok(invocation) => invocation,
        Err(error) => {
            eprintln!("{}: {}\n\n{}", name.typed(), error.message, usage::text(name, error.topic));
            return ExitCode::from(USAGE);
        }
    };
    let mut output = Output::stdout(name.typed(), invocation.format, invocation.notes);
    match execute(name, invocation, &mut output).await {
        Ok(code) => ExitCode::from(code),
        Err(error) if error.is_broken_pipe() => ExitCode::from(OK),
        Err(error) => {
            // From a cluster, it is whoever runs this here who reads it.
            let hint = if output.is_plain() { error.hint() } else { "" };
            output.complain(format_args!("{error}{hint}"));
            // bpftool's habit. Nobody is left to tell if it cannot be written.
            let _ = output.json_error(&error.to_string());
            ExitCode::from(FAILED)
        }
    }
}

async fn execute(name: Name, invocation: Invocation, output: &mut Output) -> Result<u8, Error> {
    let outcome = match invocation.action {
        Action::Help(object) => {
            output.text(usage::text(name, object))?;
            Outcome::Done
        }
        Action::Version => {
            let version = env!("CARGO_PKG_VERSION");
            let json = || Ok(serde_json::json!({ "version": version }));
            output.answer(format_args!("{} {version}\n", name.typed()), json)?;
            Outcome::Done
        }
        Action::Completion(shell) => {
            output.text(pages::completion(name, shell)?)?;
            Outcome::Done
        }
        Action::Man(directory) => {
            pages::manual(&directory).map_err(|source| Error::Man { directory, source })?;
            Outcome::Done
        }
        Action::Ask { question, socket, timeout } => {
            if let Some(place) = question.admin() {
                let answer = Admin::at(place.unwrap_or(admin::DEFAULT), timeout).answer(&question).await?;
                answer.print(output)?;
                return Ok(OK);
            }
            let well = Node::connect(&socket, timeout).await?.ask(&question, output).await?;
            if well { Outcome::Done } else { Outcome::Unhealthy }
        }
        Action::AskCluster { question, cluster } => cluster::ask(&question, &cluster, output).await?,
        Action::Versions(cluster) => cluster::versions(&cluster, output).await?,
        Action::Uninstall { cluster, wait } => cluster::uninstall(&cluster, wait, output).await?,
    };
    Ok(match outcome {
        Outcome::Done => OK,
        Outcome::Incomplete => FAILED,
        Outcome::Unhealthy => UNHEALTHY,
    })
}
