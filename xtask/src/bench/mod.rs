//! `cargo xtask bench proxy`: what a request costs weir-proxy, Envoy, nginx and HAProxy, side by side.
//!
//! Every proxy has one worker, pinned to CPU 0; the backend (nginx) and the load tool share CPU 1. Rounds alternate
//! between the proxies, so that what else the machine does meets all of them alike. What is measured is the proxy's time
//! on the CPU (`/proc/PID/task/*/schedstat`) divided by the requests that the load tool counted: neither throughput nor
//! latency, which tell more about the machine. A row whose configuration a proxy refuses says so.

pub mod certificates;
pub mod configuration;
pub mod load;
pub mod process;
mod table;
mod xds;

use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::console;
use crate::image::{self, build::Architecture};
use crate::machine::{Machine, Need};
use configuration::{Place, Proxy, ROWS};
use process::Running;

/// Arguments of `cargo xtask bench`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// CPU per request, memory and start-up time of weir-proxy, Envoy, nginx and HAProxy
    Proxy(ProxyArgs),
    /// What it costs weir-proxy and Envoy to follow a management server of a large mesh
    Xds(xds::Args),
}

/// Arguments of `cargo xtask bench proxy`.
#[derive(clap::Args)]
pub struct ProxyArgs {
    /// Only rows whose name contains this; the one with the access log takes along the one before
    row: Option<String>,
    /// Alternating rounds
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Seconds of load per round and proxy
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// A weir-proxy built before, instead of a release build now
    #[arg(long, value_name = "FILE")]
    weir: Option<PathBuf>,
}

/// What one proxy showed in one row.
#[derive(Clone, Debug)]
pub enum Shown {
    /// Nanoseconds on the CPU per request, one a round.
    Cost(Vec<f64>),
    /// Why there is none.
    None(String),
}

/// What one proxy weighs.
#[derive(Clone, Debug, Default)]
pub struct Weight {
    /// Resident kilobytes after the start.
    pub idle: u64,
    /// Resident kilobytes with [`CONNECTIONS`] idle connections that have had a request each.
    pub connected: u64,
    /// From the start of the process to its first answer, one a start.
    pub start: Vec<Duration>,
}

/// Idle connections of the memory row.
const CONNECTIONS: usize = 1000;
/// Starts that are timed.
const STARTS: usize = 7;

/// Runs the task.
pub fn run(args: Args) -> Result<()> {
    let args = match args.what {
        What::Proxy(args) => args,
        What::Xds(args) => return xds::run(&args),
    };
    let machine = Machine::prepare(&[Need::Build, Need::Peers])?;
    ensure!(args.rounds > 0 && args.seconds > 0, "--rounds and --seconds are at least 1");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    ensure!(cores >= 2, "proxies on one CPU and load on another: this machine has {cores}");
    let weir = weir(&machine, args.weir.as_deref())?;
    process::raise_open_files()?;
    let directory = tempfile::tempdir().context("a directory")?;
    let place = Place { directory: directory.path().to_owned(), backend: ports(4)?, weir };
    certificates::make(&machine, directory.path())?;
    let _backend = Running::backend(&machine, &place)?;

    let mut costs: BTreeMap<(usize, Proxy), Shown> = BTreeMap::new();
    for rows in in_turns(args.row.as_deref()) {
        for index in &rows {
            let name = ROWS[*index].name;
            console::note(&format!("{name}: {} rounds of {} s for each proxy", args.rounds, args.seconds));
        }
        costs.extend(measure(&machine, &place, &rows, &args)?);
    }
    let mut weights = BTreeMap::new();
    if args.row.is_none() {
        console::note("memory and start-up time");
        for proxy in Proxy::ALL {
            weights.insert(proxy, weigh(&machine, &place, proxy)?);
        }
    }
    table::print(&costs, &weights);
    Ok(())
}

/// The proxy's program: one that was built before, or a release build.
pub fn weir(machine: &Machine, built: Option<&Path>) -> Result<PathBuf> {
    if let Some(program) = built {
        return Ok(program.to_owned());
    }
    console::note("weir-proxy, as it is shipped");
    Ok(image::build::release(machine, Architecture::native()?, &["weir-proxy"])?.join("weir-proxy"))
}

/// Ports that nothing listens on.
pub fn ports(count: usize) -> Result<Vec<u16>> {
    let held: Vec<_> = (0..count)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<Result<_, _>>()
        .context("free ports")?;
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

/// The rows whose names contain `wanted`, by their numbers; those together that are measured in turns: the one with the
/// access log takes along the one before, which it is compared with.
fn in_turns(wanted: Option<&str>) -> Vec<Vec<usize>> {
    let mut together: Vec<Vec<usize>> = Vec::new();
    for (index, row) in ROWS.iter().enumerate() {
        if wanted.is_some_and(|wanted| !row.name.contains(wanted)) {
            continue;
        }
        match together.last_mut() {
            Some(rows) if row.log && rows.last() == index.checked_sub(1).as_ref() => rows.push(index),
            _ if row.log => together.push(vec![index - 1, index]),
            _ => together.push(vec![index]),
        }
    }
    together
}

/// All proxies run, once for each row, and take turns under load.
fn measure(machine: &Machine, place: &Place, rows: &[usize], args: &ProxyArgs) -> Result<Vec<((usize, Proxy), Shown)>> {
    let mut running = Vec::new();
    let mut shown = Vec::new();
    for (index, proxy) in Proxy::ALL.into_iter().flat_map(|proxy| rows.iter().map(move |index| (*index, proxy))) {
        let (row, port) = (&ROWS[index], ports(1)?[0]);
        match Running::proxy(machine, place, proxy, row, port) {
            Ok(process) => {
                if row.tls {
                    console::note(&format!("{} agrees on {}", proxy.name(), load::suite(machine, port)?));
                }
                running.push(((index, proxy), process, port, Vec::new()));
            }
            Err(error) => shown.push(((index, proxy), Shown::None(format!("{error:#}")))),
        }
    }
    // One round more, that warms up and does not count.
    for round in 0..=args.rounds {
        for ((index, proxy), process, port, costs) in &mut running {
            let row = &ROWS[*index];
            let before = process.cpu()?;
            let requests = load::run(machine, row, *port, Duration::from_secs(args.seconds))
                .with_context(|| format!("{}: {}", row.name, proxy.name()))?;
            let spent = process.cpu()?.saturating_sub(before);
            if round > 0 {
                costs.push(spent.as_nanos() as f64 / requests as f64);
            }
        }
    }
    shown.extend(running.into_iter().map(|(of, _, _, costs)| (of, Shown::Cost(costs))));
    Ok(shown)
}

fn weigh(machine: &Machine, place: &Place, proxy: Proxy) -> Result<Weight> {
    let row = &ROWS[0];
    let mut weight = Weight::default();
    for _ in 0..STARTS {
        let port = ports(1)?[0];
        let process = Running::proxy(machine, place, proxy, row, port)?;
        weight.start.push(process.started);
    }
    let port = ports(1)?[0];
    let process = Running::proxy(machine, place, proxy, row, port)?;
    // Allocators and lazy parts settle.
    std::thread::sleep(Duration::from_secs(1));
    weight.idle = process.resident_kilobytes()?;
    let held = load::hold(port, CONNECTIONS).with_context(|| proxy.name())?;
    std::thread::sleep(Duration::from_secs(1));
    weight.connected = process.resident_kilobytes()?;
    drop(held);
    Ok(weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_access_log_is_measured_in_turns_with_the_row_before() {
        let all = in_turns(None);
        assert_eq!(all[0], [0, 1]);
        assert_eq!(all.concat(), (0..ROWS.len()).collect::<Vec<_>>());
        assert_eq!(in_turns(Some("access log")), [[0, 1]]);
        assert_eq!(in_turns(Some("64 KiB")), [[3]]);
    }
}
