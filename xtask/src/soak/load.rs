//! The loads: each does one kind of thing again and again, and tells when something else comes of it than is meant to.

use anyhow::{Context, Result, bail, ensure};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;

use super::clients;
use super::configuration::Ports;
use crate::bench::configuration::{Client, PLAIN, Row};
use crate::bench::load;
use crate::machine::Machine;

/// What is not done in this time is not done at all.
const PATIENCE: Duration = Duration::from_secs(120);
/// What went wrong is told so many times of each load.
const TOLD: usize = 3;

/// Where everything is.
#[derive(Clone, Debug)]
pub struct Place {
    /// The proxy's.
    pub ports: Ports,
    /// Certificates, and the access log.
    pub directory: PathBuf,
}

/// One time of a load; how many requests, connections or tunnels it was.
type Round = Pin<Box<dyn Future<Output = Result<u64>> + Send>>;

struct Load {
    name: &'static str,
    tasks: usize,
    pause: Duration,
    round: fn(Arc<Place>) -> Round,
}

const LOADS: [Load; 9] = [
    Load {
        name: "one connection, a request to every route",
        tasks: 4,
        pause: Duration::from_millis(20),
        round: |place| Box::pin(clients::every_route(place)),
    },
    Load {
        name: "16 MiB there and back",
        tasks: 1,
        pause: Duration::from_secs(2),
        round: |place| Box::pin(clients::large_bodies(place)),
    },
    Load {
        name: "WebSocket tunnels",
        tasks: 2,
        pause: Duration::from_millis(50),
        round: |place| Box::pin(clients::websocket(place)),
    },
    Load {
        name: "CONNECT tunnels",
        tasks: 2,
        pause: Duration::from_millis(50),
        round: |place| Box::pin(clients::connect(place)),
    },
    Load {
        name: "TCP connections",
        tasks: 2,
        pause: Duration::from_millis(50),
        round: |place| Box::pin(clients::tcp(place)),
    },
    Load {
        name: "clients that give up",
        tasks: 2,
        pause: Duration::from_millis(100),
        round: |place| Box::pin(clients::give_up(place)),
    },
    Load {
        name: "gRPC with trailers, some cancelled",
        tasks: 2,
        pause: Duration::from_millis(50),
        round: |place| Box::pin(clients::grpc(place)),
    },
    Load {
        name: "connections that idle",
        tasks: 2,
        pause: Duration::from_millis(500),
        round: |place| Box::pin(clients::idle(place)),
    },
    Load {
        name: "admin, and the log rotated",
        tasks: 1,
        pause: Duration::from_secs(2),
        round: |place| Box::pin(clients::administer(place)),
    },
];

/// Slices of full load, in turn.
const SLICES: [Row; 9] = [
    PLAIN,
    Row { name: "HTTP/1 new connections", client: Client::Http1Close, ..PLAIN },
    Row { name: "64 KiB bodies", path: "/large", ..PLAIN },
    Row { name: "TLS keepalive", tls: true, ..PLAIN },
    Row { name: "TLS new connections", tls: true, client: Client::Http1Close, ..PLAIN },
    Row { name: "mutual TLS, both ends", path: "/mutual/small", ..PLAIN },
    Row { name: "HTTP/2 to HTTP/1", client: Client::Http2, ..PLAIN },
    Row { name: "HTTP/2 to HTTP/2", client: Client::Http2, path: "/two/small", ..PLAIN },
    Row { name: "HTTP/2 under TLS", client: Client::Http2, tls: true, ..PLAIN },
];

/// What came of a load.
#[derive(Debug)]
pub struct Tally {
    /// The load.
    pub name: &'static str,
    done: AtomicU64,
    wrong: AtomicU64,
    told: Mutex<Vec<String>>,
}

impl Tally {
    fn new(name: &'static str) -> Arc<Self> {
        Arc::new(Self { name, done: AtomicU64::new(0), wrong: AtomicU64::new(0), told: Mutex::default() })
    }

    fn count(&self, outcome: Result<u64>) {
        match outcome {
            Ok(done) => drop(self.done.fetch_add(done, Relaxed)),
            Err(error) => {
                self.wrong.fetch_add(1, Relaxed);
                let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
                if told.len() < TOLD {
                    told.push(format!("{error:#}"));
                }
            }
        }
    }

    /// Requests, connections and tunnels that ended as they are meant to.
    pub fn done(&self) -> u64 {
        self.done.load(Relaxed)
    }

    /// Times that something else came of it.
    pub fn wrong(&self) -> u64 {
        self.wrong.load(Relaxed)
    }

    /// What, the first times.
    pub fn told(&self) -> Vec<String> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The running loads.
pub struct Loads {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
    /// What came of each so far.
    pub tallies: Vec<Arc<Tally>>,
}

impl Loads {
    /// Starts all of them on this runtime; slices of full load last so long.
    pub fn start(place: Arc<Place>, machine: Arc<Machine>, slice: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut loads = Self { stop: stop.clone(), tasks: JoinSet::new(), tallies: Vec::new() };
        for load in &LOADS {
            let tally = Tally::new(load.name);
            loads.tallies.push(tally.clone());
            for _ in 0..load.tasks {
                let (place, stop, tally) = (place.clone(), stop.clone(), tally.clone());
                loads.tasks.spawn(async move {
                    while !stop.load(Relaxed) {
                        let outcome = tokio::time::timeout(PATIENCE, (load.round)(place.clone())).await;
                        tally.count(outcome.context("no end").and_then(|outcome| outcome));
                        tokio::time::sleep(load.pause).await;
                    }
                });
            }
        }
        let slices: Vec<_> = SLICES.iter().map(|row| Tally::new(row.name)).collect();
        loads.tallies.extend(slices.iter().cloned());
        loads.tasks.spawn_blocking(move || {
            for (row, tally) in SLICES.iter().zip(&slices).cycle() {
                if stop.load(Relaxed) {
                    return;
                }
                let port = if row.tls { place.ports.tls } else { place.ports.web };
                tally.count(load::run(&machine, row, port, slice));
            }
        });
        loads
    }

    /// Lets them finish what they are at.
    pub async fn stop(mut self) -> Result<Vec<Arc<Tally>>> {
        self.stop.store(true, Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.context("a load")?;
        }
        Ok(self.tallies)
    }
}

/// Fails unless a status is one of those that are meant.
pub fn meant(what: &str, status: u16, meant: &[u16]) -> Result<()> {
    ensure!(meant.contains(&status), "{what}: {status}, not {meant:?}");
    Ok(())
}

/// The first line that speaks of something that is still going on, or that never was to be, in what `/stats` says.
pub fn unsettled(stats: &str) -> Result<()> {
    let going_on = ["downstream_cx_active", "downstream_rq_active", "upstream_rq_active", "total_connections"];
    for line in stats.lines() {
        let Some((name, value)) = line.split_once(": ") else { continue };
        // Who asks is a client of it.
        let is_of_admin = name.starts_with("http.admin.") || name.starts_with("listener.admin.");
        let ought_to_be_zero = going_on.iter().any(|end| name.ends_with(end)) && !is_of_admin || name == "weir.panics";
        if ought_to_be_zero && value != "0" {
            bail!("{line}");
        }
    }
    ensure!(stats.contains("weir.panics: "), "/stats does not tell of panics");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_is_found_in_statistics() {
        let quiet = "http.soak.downstream_rq_active: 0\nhttp.admin.downstream_rq_active: 1\nlistener.admin.downstream_cx_active: 1\nweir.panics: 0\n";
        unsettled(quiet).unwrap();
        assert!(unsettled(&quiet.replace("panics: 0", "panics: 1")).is_err());
        assert_eq!(
            unsettled(&quiet.replace("rq_active: 0", "rq_active: 2")).unwrap_err().to_string(),
            "http.soak.downstream_rq_active: 2"
        );
    }

    #[test]
    fn a_tally_keeps_the_first_errors() {
        let tally = Tally::new("a");
        tally.count(Ok(3));
        (0..5).for_each(|number| tally.count(Err(anyhow::anyhow!("{number}"))));
        assert_eq!((tally.done(), tally.wrong(), tally.told().len()), (3, 5, TOLD));
    }
}
