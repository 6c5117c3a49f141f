//! What `cargo xtask bench xds` runs: weir-proxy and Envoy follow the same large mesh, one after the other.

use std::{io, path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use weir_tests::scale::{Course, Shown, Size, Who, measure};

/// Measures what it costs weir-proxy and Envoy to follow a management server of a large mesh.
#[derive(Parser)]
struct Arguments {
    /// weir-proxy.
    #[arg(long)]
    weir: PathBuf,
    /// Envoy.
    #[arg(long, default_value = "envoy")]
    envoy: PathBuf,
    #[arg(long, default_value_t = 10_000)]
    clusters: usize,
    #[arg(long, default_value_t = 50_000)]
    endpoints: usize,
    #[arg(long, default_value_t = 5_000)]
    routes: usize,
    /// How often one endpoint moves.
    #[arg(long, default_value_t = 50)]
    pushes: usize,
    /// The CPU that proxies stay on.
    #[arg(long)]
    cpu: Option<usize>,
}

/// What weir is to keep to: seconds of CPU for the load, milliseconds from a push until it is served, part of Envoy's memory.
const LOAD: Duration = Duration::from_secs(3);
const SERVED: Duration = Duration::from_millis(5);
const MEMORY: f64 = 0.5;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> io::Result<()> {
    let Arguments { weir, envoy, clusters, endpoints, routes, pushes, cpu } = arguments;
    let size = Size { clusters: *clusters, endpoints: *endpoints, routes: *routes };
    println!("{clusters} clusters, {endpoints} endpoints, {routes} routes; {pushes} pushes of one endpoint.\n");
    println!("| | weir | Envoy | of Envoy | target |\n|---|---|---|---|---|");
    for (protocol, delta) in [("delta", true), ("state of the world", false)] {
        let course = Course { size, delta, pushes: *pushes, cpu: *cpu };
        let weir = measure(&Who::Weir(weir.clone()), course)?;
        let envoy = measure(&Who::Envoy(envoy.clone()), course)?;
        print(protocol, size, &weir, &envoy);
    }
    Ok(())
}

fn print(protocol: &str, size: Size, weir: &Shown, envoy: &Shown) {
    let row = |what: &str, of: &dyn Fn(&Shown) -> f64, digits: usize, target: &str| {
        let (weir, envoy) = (of(weir), of(envoy));
        println!("| {protocol}: {what} | {weir:.digits$} | {envoy:.digits$} | {:.2} | {target} |", weir / envoy);
    };
    let judged = |target: String, met: bool| format!("{target} {}", if met { "met" } else { "missed" });
    let load = judged("3 s".to_owned(), weir.load_cpu < LOAD);
    row("initial load, s of CPU", &|shown| shown.load_cpu.as_secs_f64(), 2, &load);
    row("initial load, s", &|shown| shown.load.as_secs_f64(), 2, "-");
    let served = judged("5 ms".to_owned(), middle(weir) < SERVED);
    row("one endpoint until it is served, ms, median", &|shown| millis(middle(shown)), 2, &served);
    row("the same, most", &|shown| millis(most(shown)), 2, "-");
    row("one endpoint, ms of CPU", &|shown| millis(shown.push_cpu), 2, "-");
    let memory = judged("0.50".to_owned(), weir.per_cluster(size) <= MEMORY * envoy.per_cluster(size));
    row("memory per cluster, kB", &|shown| shown.per_cluster(size), 1, &memory);
    row("memory of all, MB resident", &|shown| shown.resident as f64 / 1024.0, 1, "-");
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn middle(shown: &Shown) -> Duration {
    let mut served = shown.served.clone();
    served.sort();
    served.get(served.len() / 2).copied().unwrap_or_default()
}

fn most(shown: &Shown) -> Duration {
    shown.served.iter().max().copied().unwrap_or_default()
}
