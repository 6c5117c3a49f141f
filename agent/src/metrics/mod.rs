//! What a Prometheus server is told of the agent and its node, at `/metrics` of the health server.
//!
//! The reconciler is asked nothing: figures are read from the status board, from the kernel's maps and from `Counts`, on a
//! thread that may block. One reading at a time, and what is younger than a second is given again, so that whoever reaches
//! the port costs the agent no more than one reading a second. An agent that does not lead says of the node nothing, or
//! while one takes over from another pods would be counted twice.
//!
//! No label names a pod, a namespace or an address: the number of series depends on nothing that users make.

mod exposition;
mod node;
mod process;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::body::Bytes;
use parking_lot::Mutex;
use prometheus_client::{collector::Collector, encoding::DescriptorEncoder, metrics::counter::Counter, registry::Unit};
use weir_abi::map::Fault;

pub use self::{
    exposition::Format,
    node::{Figures, Heard, Led},
};
use self::{exposition::Sheet, process::Process};
use crate::counts::Counts;

/// For so long a reading is given again.
const FRESH: Duration = Duration::from_secs(1);

/// The metrics of this agent. A clone is the same.
#[derive(Clone, Default)]
pub struct Metrics {
    /// What its parts count.
    pub counts: Counts,
    led: Arc<Mutex<Option<Arc<Led>>>>,
    errors: Counter,
    latest: Arc<tokio::sync::Mutex<Option<Reading>>>,
}

/// Both texts of one reading.
struct Reading {
    at: Instant,
    open_metrics: Bytes,
    plain: Bytes,
}

/// While it is held, the agent is shown as the one that leads.
pub struct Leads(Metrics);

impl Drop for Leads {
    fn drop(&mut self) {
        *self.0.led.lock() = None;
    }
}

impl Metrics {
    /// The agent leads, and its node's figures are to be had there.
    pub fn lead(&self, led: Led) -> Leads {
        *self.led.lock() = Some(Arc::new(led));
        Leads(self.clone())
    }

    /// What is told now; none if it cannot be written.
    pub async fn text(&self, format: Format) -> Option<Bytes> {
        let mut latest = self.latest.clone().lock_owned().await;
        let metrics = self.clone();
        // The lock goes along: whoever asks and does not wait for the answer does not start another reading.
        let reading = tokio::task::spawn_blocking(move || {
            if latest.as_ref().is_none_or(|reading| reading.at.elapsed() >= FRESH) {
                *latest = metrics.read().inspect_err(|_| tracing::error!("the metrics cannot be written")).ok();
            }
            latest.as_ref().map(|reading| match format {
                Format::OpenMetrics => reading.open_metrics.clone(),
                Format::Text => reading.plain.clone(),
            })
        });
        reading.await.ok().flatten()
    }

    fn read(&self) -> Result<Reading, fmt::Error> {
        let led = self.led.lock().clone();
        let node = led.map(|led| {
            let (figures, read) = led.figures();
            if let Err(error) = read {
                self.errors.inc();
                tracing::debug!(%error, "what the kernel counted cannot be read; the metrics keep what they had");
            }
            figures
        });
        let told = Told { counts: self.counts.clone(), errors: self.errors.get(), node, process: Process::own() };
        let open_metrics = exposition::open_metrics(told)?;
        let plain = exposition::plain(&open_metrics)?.into();
        Ok(Reading { at: Instant::now(), open_metrics: open_metrics.into(), plain })
    }
}

/// Everything that is told at a time.
#[derive(Debug)]
struct Told {
    counts: Counts,
    errors: u64,
    node: Option<Figures>,
    process: Option<Process>,
}

impl Collector for Told {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut sheet = Sheet(encoder);
        sheet.info("weir_build", "Version of the agent.", [("version", env!("CARGO_PKG_VERSION"))])?;
        let leads = f64::from(u8::from(self.node.is_some()));
        sheet.gauge("weir_leader", None, "Whether this agent is the one that enrols the node's pods.", leads)?;
        if let Some(node) = &self.node {
            pods(&mut sheet, node)?;
            kernel(&mut sheet, node)?;
        }
        counts(&mut sheet, &self.counts)?;
        let help = "Readings of these metrics for which the kernel's maps could not be read.";
        sheet.counter("weir_metrics_errors", help, self.errors)?;
        self.process.as_ref().map_or(Ok(()), |process| own(&mut sheet, process))
    }
}

fn pods(sheet: &mut Sheet<'_>, node: &Figures) -> fmt::Result {
    let by = |label: &'static str, tally: &node::Tally| {
        tally.iter().map(|(kind, count)| ([(label, *kind)], *count)).collect::<Vec<_>>()
    };
    sheet.gauges("weir_pods", "Pods of the node by state.", by("state", &node.pods))?;
    let help =
        "Pending pods by whose it is to change that: their owner's, nobody's yet, the container runtime's, weir's.";
    sheet.gauges("weir_pods_pending", help, by("cause", &node.pending))?;
    let help = "Pending pods that have been so for long enough to count against the node.";
    sheet.gauge("weir_pods_overdue", None, help, node.overdue as f64)?;
    sheet.gauges("weir_proxies", "Connected proxies by state.", by("state", &node.proxies))?;
    sheet.gauge("weir_proxies_hung", None, "Connected proxies that do not answer.", node.hung as f64)?;
    let help = "Parts of the agent that do not do what they are there for.";
    sheet.gauges("weir_problems", help, by("part", &node.problems))?;
    let well = f64::from(u8::from(node.source_well));
    sheet.gauge("weir_source_connected", None, "Whether the source of pods (the API server) is followed.", well)?;
    match node.heard {
        Some(heard) => {
            let help = "When the API server last answered or told a change.";
            let unit = Some(&Unit::Seconds);
            sheet.gauge("weir_source_last_sync_timestamp", unit, help, heard.as_secs_f64().floor())
        }
        None => Ok(()),
    }
}

fn kernel(sheet: &mut Sheet<'_>, node: &Figures) -> fmt::Result {
    let decisions = node.decisions.iter().map(|(rule, count)| {
        let labels = [("action", rule.action().name()), ("direction", rule.direction().name()), ("rule", rule.name())];
        (labels, *count)
    });
    let help = "What became of enrolled pods' connections in the kernel, since this agent leads.";
    sheet.counters("weir_redirect_decisions", help, decisions)?;
    let faults = node.faults.iter().filter(|(fault, _)| *fault != Fault::EventDropped);
    let help = "Connections that the kernel had no room to keep track of, since this agent leads.";
    sheet.counters("weir_kernel_faults", help, faults.map(|(fault, count)| ([("fault", fault.name())], *count)))?;
    let lost = node.faults.iter().find(|(fault, _)| *fault == Fault::EventDropped).map_or(0, |(_, count)| *count);
    let help = "Records of `weirctl event trace` that nobody took in time, since this agent leads.";
    sheet.counter("weir_event_records_lost", help, lost)
}

fn counts(sheet: &mut Sheet<'_>, counts: &Counts) -> fmt::Result {
    let enrolments = [([("outcome", "done")], counts.redirected.get()), ([("outcome", "failed")], counts.failed.get())];
    sheet.counters("weir_enrolments", "Attempts to redirect a pod; what failed is tried again.", enrolments)?;
    let help = "Time from the beginning of a pod's enrolment until the proxy acknowledged it.";
    sheet.histogram("weir_enrolment_duration", help, &counts.enrolment)?;
    let help = "Pods whose listening sockets were sent to a proxy.";
    sheet.counter("weir_handoff_pods", help, counts.pods_sent.get())?;
    let help = "Times that a proxy began to accept in the place of another.";
    sheet.counter("weir_proxy_takeovers", help, counts.takeovers.get())?;
    let help = "Sockets made in pods for the proxy to dial with.";
    sheet.counter("weir_upstream_sockets", help, counts.upstream_sockets.get())?;
    let help = "Requests of the proxy for such sockets that failed.";
    sheet.counter("weir_upstream_socket_failures", help, counts.upstream_failures.get())?;
    let help = "Kubernetes events that were more than may be written.";
    sheet.counter("weir_kubernetes_events_dropped", help, counts.events_dropped.get())
}

fn own(sheet: &mut Sheet<'_>, process: &Process) -> fmt::Result {
    let bytes = Some(&Unit::Bytes);
    sheet.seconds("process_cpu", "CPU time of the agent, in user space and in the kernel.", process.cpu)?;
    sheet.gauge("process_resident_memory", bytes, "Resident memory of the agent.", process.resident as f64)?;
    sheet.gauge("process_virtual_memory", bytes, "Address space of the agent.", process.address_space as f64)?;
    sheet.gauge("process_open_fds", None, "Open file descriptors of the agent.", process.open_files as f64)?;
    sheet.gauge("process_max_fds", None, "How many there may be.", process.max_files as f64)?;
    sheet.gauge("process_start_time", Some(&Unit::Seconds), "When the agent started, since 1970.", process.started)
}
