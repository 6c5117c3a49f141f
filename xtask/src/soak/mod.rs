//! `cargo xtask soak`: weir-proxy under everything at once for half an hour, after which it must be no larger than before.
//!
//! Clients that behave and clients that do not ([`clients`]), upstreams of which some fail ([`upstream`]), and slices of
//! full load by wrk and h2load, all at once, over one configuration ([`configuration`]). Every outcome is meant: a request
//! that ends in anything else fails the run. Resident memory, open files and threads are sampled meanwhile; [`samples`]
//! judges them. When the load is over, what it opened must be closed.

mod clients;
mod configuration;
mod http1;
mod load;
mod samples;
mod upstream;

use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

use crate::Silent;
use crate::bench::process::{self, Running};
use crate::bench::{self, certificates};
use crate::console::{self, Style};
use crate::machine::{Machine, Need};
use configuration::{Backend, Ports};
use load::{Loads, Place, Tally};
use samples::{Course, Sample};

/// Arguments of `cargo xtask soak`.
#[derive(clap::Args)]
pub struct Args {
    /// How long the load lasts
    #[arg(long, default_value_t = 30)]
    minutes: u64,
    /// A weir-proxy built before, instead of a release build now
    #[arg(long, value_name = "FILE")]
    weir: Option<PathBuf>,
}

/// Samples of a long run are so far apart.
const INTERVAL: Duration = Duration::from_secs(10);
/// There are at least so many.
const SAMPLES: u32 = 40;
/// What allocators and pools take to fill, at most; of a short run a quarter.
const WARM_UP: Duration = Duration::from_secs(300);
/// A slice of full load.
const SLICE: Duration = Duration::from_secs(3);
/// Open files that may be more after the load than before.
const FILES: u64 = 8;
/// How long the proxy may take to close what clients have left.
const PATIENCE: Duration = Duration::from_secs(90);
/// A remark about every so much.
const REMARK: Duration = Duration::from_secs(60);

/// Runs the task.
pub fn run(args: Args) -> Result<()> {
    ensure!(args.minutes > 0, "--minutes is at least 1");
    let machine = Arc::new(Machine::prepare(&[Need::Build, Need::Peers])?);
    let weir = bench::weir(&machine, args.weir.as_deref())?;
    process::raise_open_files()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(soak(machine, weir, Duration::from_secs(60 * args.minutes)))
}

/// The same load on a proxy that is somebody else's subject: nothing is judged but that it goes on. `prepare` has the
/// last word on how it is started, and it is let end by itself.
pub fn exercise(
    machine: &Arc<Machine>,
    weir: &Path,
    during: Duration,
    prepare: impl FnOnce(&mut Command),
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let stage = Stage::set(machine, weir).await?;
        let mut command = stage.command(machine);
        prepare(&mut command);
        let proxy = stage.start(command)?;
        let loads = Loads::start(stage.place.clone(), machine.clone(), SLICE.min(during / 60));
        tokio::time::sleep(during).await;
        for tally in loads.stop().await? {
            ensure!(tally.done() > 0, "{}: nothing was done", tally.name);
        }
        proxy.end()
    })
}

/// All that a run needs but the proxy.
struct Stage {
    directory: TempDir,
    place: Arc<Place>,
    weir: PathBuf,
    bootstrap: PathBuf,
    _backend: Running,
}

impl Stage {
    async fn set(machine: &Machine, weir: &Path) -> Result<Self> {
        let scratch = tempfile::tempdir().context("a directory")?;
        let directory = scratch.path();
        certificates::make(machine, directory)?;
        open_to_all(directory)?;
        let ports = bench::ports(9)?;
        let backend = ports[5..].to_vec();
        let backend = bench::configuration::Place { directory: directory.to_owned(), backend, weir: weir.to_owned() };
        let running = Running::backend(machine, &backend)?;
        let place = Arc::new(Place {
            ports: Ports { web: ports[0], tls: ports[1], mutual: ports[2], tcp: ports[3], admin: ports[4] },
            directory: directory.to_owned(),
        });
        let upstreams = upstream::start().await?;
        let nginx = Backend { plain: backend.backend[0], http2: backend.backend[2] };
        let bootstrap = directory.join("soak.json");
        fs::write(&bootstrap, configuration::bootstrap(directory, &place.ports, &nginx, &upstreams).to_string())?;
        Ok(Self { directory: scratch, place, weir: backend.weir, bootstrap, _backend: running })
    }

    fn command(&self, machine: &Machine) -> Command {
        let mut command = machine.command(&self.weir);
        command.arg("-c").arg(&self.bootstrap).args(["--concurrency", "2", "-l", "warning"]);
        command
    }

    fn start(&self, command: Command) -> Result<Running> {
        Running::start(self.directory.path(), "weir", command, self.place.ports.web, true)
    }
}

async fn soak(machine: Arc<Machine>, weir: PathBuf, during: Duration) -> Result<()> {
    let stage = Stage::set(&machine, &weir).await?;
    let place = &stage.place;
    let proxy = stage.start(stage.command(&machine))?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = used(&proxy, Duration::ZERO)?;

    let loads = Loads::start(place.clone(), machine, SLICE.min(during / 60));
    let samples = watch(&proxy, &loads, during).await;
    let tallies = loads.stop().await?;
    let samples = samples?;
    let settled = settle(&proxy, place, &before).await;
    let after = used(&proxy, during)?;
    let log = stage.directory.path().join(format!("weir-{}.log", place.ports.web));
    let said = fs::read_to_string(log).unwrap_or_default();
    let course = Course::of(&samples, WARM_UP.min(during / 4)).context("too few samples")?;
    let good = judge(&Outcome { before, after, course, tallies, settled, said });
    if good { Ok(()) } else { Err(Silent("the soak has found something").into()) }
}

/// The proxy opens its log again when it is nobody in particular.
fn open_to_all(directory: &Path) -> Result<()> {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
    let logs = directory.join(configuration::LOG).parent().map(Path::to_owned).context("a directory of logs")?;
    fs::create_dir(&logs)?;
    Ok(fs::set_permissions(&logs, fs::Permissions::from_mode(0o777))?)
}

fn used(proxy: &Running, at: Duration) -> Result<Sample> {
    Ok(Sample { at, resident: proxy.resident_kilobytes()?, files: proxy.files()?, threads: proxy.threads()? })
}

async fn watch(proxy: &Running, loads: &Loads, during: Duration) -> Result<Vec<Sample>> {
    let begun = Instant::now();
    let mut samples = Vec::new();
    let mut remarked = Duration::ZERO;
    while begun.elapsed() < during {
        tokio::time::sleep(INTERVAL.min(during / SAMPLES)).await;
        let sample = used(proxy, begun.elapsed()).context("the proxy is gone")?;
        samples.push(sample);
        if sample.at >= remarked + REMARK {
            remarked = sample.at;
            let (done, wrong) =
                loads.tallies.iter().fold((0, 0), |(done, wrong), tally| (done + tally.done(), wrong + tally.wrong()));
            let (minutes, megabytes) = (sample.at.as_secs() / 60, megabytes(sample.resident));
            console::note(&format!(
                "{minutes} min: {megabytes} MB, {} files, {done} requests, {wrong} wrong",
                sample.files
            ));
        }
    }
    Ok(samples)
}

/// Waits until nothing goes on any more and what was opened is closed; else says what is not.
async fn settle(proxy: &Running, place: &Place, before: &Sample) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let stats = clients::admin(place, "GET /stats").await?;
        let files = proxy.files()?;
        let settled = load::unsettled(&stats).and_then(|()| {
            ensure!(files <= before.files + FILES, "{files} open files, {} before the load", before.files);
            Ok(())
        });
        if settled.is_ok() || Instant::now() > deadline {
            return settled;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

struct Outcome {
    before: Sample,
    after: Sample,
    course: Course,
    tallies: Vec<Arc<Tally>>,
    settled: Result<()>,
    /// The proxy's own log, from warnings on.
    said: String,
}

/// Prints what came of it; whether all is well.
fn judge(outcome: &Outcome) -> bool {
    println!("\n| load | done | wrong |\n|---|---|---|");
    for tally in &outcome.tallies {
        println!("| {} | {} | {} |", tally.name, tally.done(), tally.wrong());
    }
    println!("\n| | resident, MB | open files | threads |\n|---|---|---|---|");
    let [first, second, third] = outcome.course.thirds;
    for (name, sample) in [
        ("before the load", outcome.before),
        ("first third after the warm-up, median", first),
        ("second third", second),
        ("last third", third),
        ("after the load", outcome.after),
    ] {
        println!("| {name} | {} | {} | {} |", megabytes(sample.resident), sample.files, sample.threads);
    }
    let course = &outcome.course;
    println!();
    let mut good = check(
        course.is_flat(),
        &format!(
            "memory: {:+.1} MB from the first third to the last (at most {:+.1}), {:+.1} MB an hour",
            course.growth() / 1024.0,
            course.bound() / 1024.0,
            course.slope / 1024.0
        ),
    );
    good &= match &outcome.settled {
        Ok(()) => check(true, "after the load nothing is open or under way, and there was no panic"),
        Err(error) => check(false, &format!("after the load: {error:#}")),
    };
    for tally in &outcome.tallies {
        good &= tally.done() > 0 || check(false, &format!("{}: nothing was done", tally.name));
        for told in tally.told() {
            good = check(false, &format!("{}: {told}", tally.name));
        }
    }
    if good {
        check(true, "every request ended as it is meant to");
    }
    for line in outcome.said.lines().take(20) {
        println!("the proxy's log: {line}");
    }
    good
}

fn check(good: bool, what: &str) -> bool {
    println!("{} {what}", if good { console::paint(Style::Green, "ok") } else { console::paint(Style::Red, "FAILED") });
    good
}

fn megabytes(kilobytes: u64) -> String {
    format!("{:.1}", kilobytes as f64 / 1024.0)
}
