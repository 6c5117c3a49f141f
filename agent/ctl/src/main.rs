//! weirctl: shows what weir redirects, where and why, in bpftool's grammar.
//!
//! It asks the agent over its unix socket and decides nothing itself. Works on a node and through `kubectl exec`: no
//! terminal is assumed, there are no colours, and a reader that goes away ends it quietly.

mod cli;
mod client;
mod output;
mod run;
mod show;
mod table;
mod time;
mod usage;

use std::process::ExitCode;

use cli::{Action, Invocation};
use output::Output;

/// Done.
const OK: u8 = 0;
/// The agent could not be reached, or had no answer.
const FAILED: u8 = 1;
/// The command line is wrong.
const USAGE: u8 = 2;
/// `status --check`: the agent answers, but something needs attention.
const UNHEALTHY: u8 = 3;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned());
    let invocation = match cli::parse(arguments, std::env::var_os(cli::SOCKET_VARIABLE)) {
        Ok(invocation) => invocation,
        Err(error) => {
            eprintln!("weirctl: {}\n\n{}", error.message, usage::text(error.topic));
            return ExitCode::from(USAGE);
        }
    };
    let mut output = Output::stdout(invocation.format);
    match execute(&invocation, &mut output).await {
        Ok(code) => ExitCode::from(code),
        // Whoever read it has seen enough.
        Err(run::Error::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::from(OK),
        Err(error) => {
            eprintln!("weirctl: {error}");
            // bpftool's habit. Nobody is left to tell if it cannot be written.
            let _ = output.json_error(&error.to_string());
            ExitCode::from(FAILED)
        }
    }
}

async fn execute(invocation: &Invocation, output: &mut Output) -> Result<u8, run::Error> {
    match &invocation.action {
        Action::Help(topic) => {
            output.text(usage::text(*topic))?;
            Ok(OK)
        }
        Action::Version => {
            run::version(output)?;
            Ok(OK)
        }
        Action::Ask(question) => run::ask(question, &invocation.socket, output).await,
    }
}
