//! `cargo xtask demo`: weir between two nodes on one machine, with everything real.
//!
//! Nodes and pods are network namespaces, redirect is eBPF in this kernel, each node runs an agent and an unprivileged
//! proxy, clients are curl and servers nginx. [`lab`] makes and removes all of it, [`story`] is what the user watches,
//! [`show`] how it looks. Whatever ends the demo (its end, an error, Ctrl-C), everything is taken down again, unless
//! `--keep` asks to leave it.

mod lab;
mod process;
mod show;
mod story;

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::console;
use crate::machine::{Machine, Need};
use crate::workspace;
use lab::Lab;
use show::Show;

/// Arguments of `cargo xtask demo`.
#[derive(clap::Args)]
pub struct Args {
    /// Leave everything up at the end, to play with
    #[arg(long, conflicts_with = "down")]
    keep: bool,
    /// Take down what `--keep` left
    #[arg(long)]
    down: bool,
}

/// The signals that end the demo.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    fn catch() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// The name of the next one.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hang_up.recv() => "SIGHUP",
        }
    }
}

/// What ended the demo.
enum End {
    /// All steps ran.
    Story,
    /// A signal, by name.
    Signal(&'static str),
}

/// Runs the task.
pub fn run(args: Args) -> Result<()> {
    let mut machine = Machine::prepare(&[Need::Build, Need::Namespaces])?;
    if args.down {
        Lab::down(&machine)?;
        println!("The demo is down.");
        return Ok(());
    }
    Lab::refuse_kept()?;
    let built = workspace::build(&machine, &["--workspace", "--bins"])?;
    let weirctl = built.program("weirctl")?;
    machine.prepend_path(weirctl.parent().context("weirctl lies in a directory")?)?;

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("a runtime")?;
    let mut show = Show::default();
    // From here on a signal ends the story and not this process, so that what was made is taken down.
    let mut signals = runtime.block_on(async { Signals::catch() })?;
    // What a demo left that was killed.
    Lab::down(&machine)?;
    let lab = Lab::new(machine)?;
    let outcome = runtime.block_on(async {
        // A dropped story kills the command that it waits for.
        tokio::select! {
            told = story::tell(&lab, &mut show) => told.map(|()| End::Story),
            name = signals.next() => Ok(End::Signal(name)),
        }
    });
    finish(&lab, &show, outcome, args.keep)
}

fn finish(lab: &Lab, show: &Show, outcome: Result<End>, keep: bool) -> Result<()> {
    match &outcome {
        Err(_) => println!("{}", lab.log_tails()),
        Ok(End::Signal(name)) => println!("\n{name}: taking everything down"),
        Ok(End::Story) => {}
    }
    let kept = keep && matches!(outcome, Ok(End::Story));
    if !kept {
        Lab::down(&lab.machine)?;
    }
    match outcome? {
        End::Signal(_) => {
            println!("The demo was interrupted; nothing of it is left.");
            Err(crate::Silent("interrupted").into())
        }
        End::Story => {
            if kept {
                lab.keep()?;
                console::heading("Left up (--keep)");
                println!("{}", lab.how_to_play());
            }
            if show.close() { Ok(()) } else { Err(crate::Silent("a check of the demo failed").into()) }
        }
    }
}
