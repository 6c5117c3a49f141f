//! A management server by hand: `cargo run -p weir-tests --bin ads -- DIR`.

use std::{io, net::SocketAddr, path::PathBuf, process::ExitCode, thread::sleep, time::Duration};

use clap::Parser;
use weir_tests::ads::{Ads, Listen, directory::Directory};

/// How often the directory is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Serves the resources of a directory by xDS, as they change, and runs its script.
///
/// Files `*.yaml`, `*.json` and `*.pb` are DiscoveryResponses; `script.yaml` says what goes wrong when. Every request and
/// response is written as a line of JSON.
#[derive(Parser)]
struct Arguments {
    /// Where the files are.
    directory: PathBuf,
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:18000")]
    listen: SocketAddr,
    /// Listen on a Unix socket instead.
    #[arg(long)]
    pipe: Option<PathBuf>,
    /// Begins every version.
    #[arg(long, default_value = "")]
    prefix: String,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<(), String> {
    let Arguments { directory, listen, pipe, prefix } = arguments;
    let mut directory = Directory::new(&directory);
    let listen = pipe.map_or(Listen::Tcp(listen), Listen::Pipe);
    let ads = Ads::start(listen.clone()).map_err(|error| format!("{listen:?}: {error}"))?;
    ads.log(io::stdout());
    ads.change(|world| world.prefix = prefix);
    let mut steps = directory.script()?.into_iter().peekable();
    let mut waited = Duration::ZERO;
    loop {
        match directory.look() {
            Ok(Some(resources)) => ads.replace(resources),
            Ok(None) => {}
            // What was read last is served on.
            Err(why) => eprintln!("{why}"),
        }
        while let Some(step) = steps.next_if(|step| step.wait() <= waited) {
            eprintln!("{step:?}");
            step.act(&ads);
            waited = Duration::ZERO;
        }
        sleep(LOOK);
        waited += LOOK;
    }
}
