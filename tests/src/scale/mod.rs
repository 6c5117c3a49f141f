//! A proxy that follows a management server of a large mesh: what it costs to load all of it, what it costs to be told of one
//! endpoint, and what each cluster takes. Measured by `cargo xtask bench xds`, beside Envoy.

mod proxy;
mod resources;
mod servers;

use std::{
    io,
    net::TcpListener,
    path::PathBuf,
    thread::sleep,
    time::{Duration, Instant},
};

pub use self::resources::Size;
use self::{
    proxy::{Client, Proxy},
    resources::{probe, world},
};
use crate::ads::{Ads, Listen, Seen};

/// How long all of it may take.
const PATIENCE: Duration = Duration::from_secs(300);
/// Allocators and lazy parts settle.
const SETTLE: Duration = Duration::from_secs(2);
/// Between two looks at what the server has seen, or who answers.
const LOOK: Duration = Duration::from_micros(100);

/// Which proxy.
#[derive(Clone, Debug)]
pub enum Who {
    /// weir-proxy.
    Weir(PathBuf),
    /// Envoy.
    Envoy(PathBuf),
}

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct Course {
    /// Of a large mesh.
    pub size: Size,
    /// Deltas, or the state of the world.
    pub delta: bool,
    /// How often an endpoint moves.
    pub pushes: usize,
    /// The CPU that proxies stay on; none: any.
    pub cpu: Option<usize>,
}

/// What a proxy showed.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Time on the CPU from the start until everything was in force and quiet.
    pub load_cpu: Duration,
    /// Time from the start until everything was in force.
    pub load: Duration,
    /// Resident kilobytes with all of it.
    pub resident: u64,
    /// Resident kilobytes with next to nothing of it.
    pub small: u64,
    /// From a push until a request is answered by the endpoint's new place.
    pub served: Vec<Duration>,
    /// Time on the CPU for one push.
    pub push_cpu: Duration,
}

impl Shown {
    /// Kilobytes for each cluster, with what belongs to it.
    pub fn per_cluster(&self, size: Size) -> f64 {
        self.resident.saturating_sub(self.small) as f64 / size.clusters.max(1) as f64
    }
}

/// Has a proxy go through all of it.
pub fn measure(who: &Who, course: Course) -> io::Result<Shown> {
    let servers = [servers::start('1')?, servers::start('2')?];
    let small = {
        let (ads, port) = (server()?, free()?);
        ads.put(world(Size::NONE, port, servers[0]));
        let proxy = Proxy::start(who, &ads, course)?;
        until_answered(port, '1')?;
        sleep(SETTLE);
        proxy.resident()?
    };
    let (ads, port) = (server()?, free()?);
    ads.put(world(course.size, port, servers[0]));
    let began = Instant::now();
    let proxy = Proxy::start(who, &ads, course)?;
    until_answered(port, '1')?;
    let load = began.elapsed();
    sleep(SETTLE);
    let (load_cpu, resident) = (proxy.cpu()?, proxy.resident()?);
    let mut client = Client::connect(port)?;
    let mut served = Vec::new();
    for turn in 0..course.pushes {
        let at = (turn + 1) % 2;
        let mark = ads.mark();
        ads.put([probe(servers[at])]);
        let pushed = Instant::now();
        while client.ask()? != ['1', '2'][at] {
            if pushed.elapsed() > PATIENCE {
                return Err(io::Error::other("a push is not heeded"));
            }
            // A worker that is asked without a pause takes the one CPU from the thread that follows the server.
            sleep(LOOK);
        }
        served.push(pushed.elapsed());
        until_acknowledged(&ads, mark)?;
    }
    let before = proxy.cpu()?;
    for turn in 0..course.pushes {
        let mark = ads.mark();
        ads.put([probe(servers[(turn + 1) % 2])]);
        until_acknowledged(&ads, mark)?;
    }
    let push_cpu = (proxy.cpu()? - before) / u32::try_from(course.pushes.max(1)).unwrap_or(u32::MAX);
    Ok(Shown { load_cpu, load, resident, small, served, push_cpu })
}

/// A server that sends what has changed, as large ones do.
fn server() -> io::Result<Ads> {
    let ads = Ads::start(Listen::anywhere())?;
    ads.change(|world| world.partial = true);
    Ok(ads)
}

fn free() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn until_answered(port: u16, by: char) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Client::connect(port).and_then(|mut client| client.ask()) {
            Ok(answered) if answered == by => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            _ => sleep(Duration::from_millis(5)),
        }
    }
}

fn until_acknowledged(ads: &Ads, mark: usize) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !ads.has_seen(mark, |event| event.kind == "eds" && matches!(event.seen, Seen::Ack { .. })) {
        if Instant::now() > deadline {
            return Err(io::Error::other("a push is not acknowledged"));
        }
        sleep(LOOK);
    }
    Ok(())
}
