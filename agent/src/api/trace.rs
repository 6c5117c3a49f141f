//! Live events: one reader of the ring buffer, and watchers that each get what they asked for.
//!
//! The kernel writes events only while somebody watches. A [`Watch`] is what keeps the flag up: dropped with the
//! response stream, also when the client was killed, the last one takes the flag down. A watcher that reads too slowly
//! loses events, and is told how many; it never holds up the others.

use std::{
    collections::HashMap,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use futures_util::{Stream, StreamExt};
use parking_lot::Mutex;
use tokio::{sync::mpsc, task::JoinHandle};
use weir_abi::{
    Endpoint, Ip, Rule,
    event::{Event, EventKind},
    map::{Fault, PodConfig},
    verdict::{Action, Direction},
};
use weir_proto::agent::v1 as pb;

use super::{clock::Clock, pods::Names};
use crate::{
    redirect::inspect::{Error, Kernel, listener},
    status::SharedBoard,
};

/// Events that one watcher may lag behind.
const LAG: usize = 4096;
/// What `--verdict` takes beside actions and rules.
const CLOSE: &str = "close";

/// Which events a watcher wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Those of the pod with this uid; none: of all.
    pub pod: Option<String>,
    /// Those of this kind.
    pub verdict: Verdict,
}

/// Which decisions a watcher wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// All, and connections' ends.
    #[default]
    Any,
    /// Decisions with this outcome.
    Action(Action),
    /// Decisions by this rule.
    Rule(Rule),
    /// Connections' ends.
    Close,
}

impl std::str::FromStr for Verdict {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const ACTIONS: [Action; 4] = [Action::Redirect, Action::Steer, Action::Pass, Action::Refuse];
        if text.is_empty() {
            return Ok(Self::Any);
        }
        if text == CLOSE {
            return Ok(Self::Close);
        }
        if let Some(action) = ACTIONS.into_iter().find(|action| action.name() == text) {
            return Ok(Self::Action(action));
        }
        Rule::ALL.into_iter().find(|rule| rule.name() == text).map(Self::Rule).ok_or_else(|| {
            let rules = Rule::ALL.map(Rule::name).join(", ");
            format!("verdict: {text:?}: expected redirect, steer, pass, refuse, close or a rule ({rules})")
        })
    }
}

impl Verdict {
    fn wants(self, kind: u32, rule: Rule) -> bool {
        let decision = kind == EventKind::Decision as u32;
        match self {
            Self::Any => true,
            Self::Action(action) => decision && rule.action() == action,
            Self::Rule(wanted) => decision && rule == wanted,
            Self::Close => !decision,
        }
    }
}

/// Where events come in and watchers are.
pub struct Hub {
    kernel: Arc<dyn Kernel>,
    board: SharedBoard,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    watchers: HashMap<u64, Watcher>,
    /// Counts watchers up, to name them.
    named: u64,
    /// Reads the ring buffer; started by the first watcher, and never stopped: see the reader.
    reader: Option<JoinHandle<()>>,
    /// Events that the ring buffer had no room for, as last read.
    dropped: u64,
}

struct Watcher {
    filter: Filter,
    sender: mpsc::Sender<pb::Event>,
    /// What it lost and was not told yet. Told with the next event that it takes: as it loses only while others wait for
    /// it, there is a next one.
    lost: Arc<AtomicU64>,
}

impl Hub {
    /// A hub without watchers.
    pub fn new(kernel: Arc<dyn Kernel>, board: SharedBoard) -> Arc<Self> {
        Arc::new(Self { kernel, board, state: Mutex::default() })
    }

    /// Starts to watch: events are written when this returns.
    pub fn watch(self: &Arc<Self>, filter: Filter) -> Result<Watch, Error> {
        let mut state = self.state.lock();
        if state.reader.as_ref().is_none_or(JoinHandle::is_finished) {
            let mut events = self.kernel.events()?;
            let hub = Arc::downgrade(self);
            state.reader = Some(tokio::spawn(async move {
                while let Some(batch) = events.next().await {
                    let Some(hub) = hub.upgrade() else { return };
                    hub.publish(&batch);
                }
            }));
        }
        if state.watchers.is_empty() {
            state.dropped = self.dropped();
            self.kernel.set_watched(true)?;
        }
        state.named += 1;
        let name = state.named;
        let (sender, receiver) = mpsc::channel(LAG);
        let lost = Arc::new(AtomicU64::new(0));
        state.watchers.insert(name, Watcher { filter, sender, lost: lost.clone() });
        Ok(Watch { hub: self.clone(), name, receiver, lost })
    }

    /// How many watch.
    pub fn watchers(&self) -> usize {
        self.state.lock().watchers.len()
    }

    /// Stops the writing of events and ends every watcher's stream.
    pub fn switch_off(&self) {
        let mut state = self.state.lock();
        state.watchers.clear();
        self.unset_flag();
    }

    fn leave(&self, name: u64) {
        let mut state = self.state.lock();
        if state.watchers.remove(&name).is_some() && state.watchers.is_empty() {
            self.unset_flag();
        }
    }

    /// Under the lock, so that a new watcher's flag is not taken down by the last one's leaving.
    fn unset_flag(&self) {
        if let Err(error) = self.kernel.set_watched(false) {
            tracing::warn!(%error, "events are still written though nobody watches");
        }
    }

    fn dropped(&self) -> u64 {
        let faults = self.kernel.faults().unwrap_or_default();
        faults.iter().find(|(fault, _)| *fault == Fault::EventDropped).map_or(0, |(_, count)| *count)
    }

    fn publish(&self, batch: &[Event]) {
        let mut state = self.state.lock();
        if state.watchers.is_empty() {
            return;
        }
        let mut context = Naming::new(self);
        let dropped = self.dropped();
        let lost = dropped.saturating_sub(std::mem::replace(&mut state.dropped, dropped));
        for watcher in state.watchers.values() {
            watcher.lost.fetch_add(lost, Ordering::Relaxed);
        }
        for event in batch {
            let Some(rule) = Rule::from_number(event.rule) else { continue };
            let message = context.message(event, rule);
            for watcher in state.watchers.values() {
                let pod = watcher.filter.pod.as_deref();
                let wanted =
                    watcher.filter.verdict.wants(event.kind, rule) && pod.is_none_or(|pod| pod == message.pod_uid);
                // A watcher that left is removed by its guard.
                if wanted && watcher.sender.try_send(message.clone()).is_err() {
                    watcher.lost.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}

/// What a batch of events needs to be told with names.
struct Naming<'a> {
    kernel: &'a dyn Kernel,
    names: Names,
    clock: Clock,
    outbound_port: u32,
    pods: HashMap<u64, Option<PodConfig>>,
}

impl<'a> Naming<'a> {
    fn new(hub: &'a Hub) -> Self {
        let config = hub.kernel.config().unwrap_or_default();
        Self {
            kernel: &*hub.kernel,
            names: Names::of(&hub.board.read(), config.node_netns),
            clock: Clock::now(),
            outbound_port: config.outbound_port,
            pods: HashMap::new(),
        }
    }

    fn message(&mut self, event: &Event, rule: Rule) -> pb::Event {
        let decision = event.kind == EventKind::Decision as u32;
        let pod = self.names.of_netns(event.netns, event.slot);
        let config =
            self.pods.entry(event.netns).or_insert_with(|| self.kernel.enrolled(event.netns).unwrap_or_default());
        let destination = Endpoint { ip: event.destination_ip, port: event.destination_port, role: 0 };
        let listener = decision.then(|| listener(rule, config.as_ref(), self.outbound_port, &destination)).flatten();
        let source_chosen = event.source_ip != Ip::UNSPECIFIED && event.source_port != 0;
        let source = source_chosen.then(|| SocketAddr::new(event.source_ip.into(), event.source_port as u16));
        let peer = match rule.direction() {
            Direction::Outbound => event.destination_ip,
            Direction::Inbound => event.source_ip,
        };
        pb::Event {
            time: self.clock.unix_ns(event.time),
            kind: if decision { "decision" } else { CLOSE }.to_owned(),
            pod_uid: pod.uid,
            pod: pod.name,
            direction: rule.direction().name().to_owned(),
            action: if decision { rule.action().name() } else { CLOSE }.to_owned(),
            rule: rule.name().to_owned(),
            source: source.map_or_else(String::new, |address| address.to_string()),
            destination: destination.socket_addr().to_string(),
            peer_pod: self.names.of_ip(peer.into()).map_or_else(String::new, |pod| pod.name.clone()),
            pid: event.pid,
            comm: comm(&event.comm),
            bytes_sent: event.bytes_sent,
            bytes_received: event.bytes_received,
            rtt_us: event.rtt_us,
            retransmits: event.retransmits,
            lost: 0,
            listener: listener.map_or_else(String::new, |address| address.to_string()),
        }
    }
}

/// A process's name, up to its NUL. Processes name themselves: control characters do not reach a terminal.
fn comm(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// One watcher's events, until it is dropped.
pub struct Watch {
    hub: Arc<Hub>,
    name: u64,
    receiver: mpsc::Receiver<pb::Event>,
    lost: Arc<AtomicU64>,
}

impl Stream for Watch {
    type Item = Result<pb::Event, tonic::Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let event = std::task::ready!(self.receiver.poll_recv(context));
        Poll::Ready(event.map(|event| Ok(pb::Event { lost: self.lost.swap(0, Ordering::Relaxed), ..event })))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.hub.leave(self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::tests::{board, pod},
        redirect::inspect::fake::Fake,
    };
    use std::{net::IpAddr, sync::atomic::Ordering};

    fn hub() -> (Arc<Fake>, Arc<Hub>) {
        let kernel = Arc::new(Fake::with_pod(11, 4, &["10.0.0.4"]));
        let board = board(vec![pod("u1", "default/web", 11, 4), pod("u2", "default/client", 12, 5)]);
        let hub = Hub::new(kernel.clone(), Arc::new(parking_lot::RwLock::new(board)));
        (kernel, hub)
    }

    fn event(netns: u64, rule: Rule) -> Event {
        let ip = |text: &str| Ip::from(text.parse::<IpAddr>().unwrap());
        let mut comm = [0; 16];
        comm[..5].copy_from_slice(b"cu\x1brl");
        Event {
            time: 1,
            netns,
            kind: EventKind::Decision as u32,
            rule: rule as u32,
            destination_ip: ip("10.0.0.5"),
            destination_port: 80,
            pid: 123,
            comm,
            ..Default::default()
        }
    }

    #[tokio::test]
    async fn events_are_written_only_while_somebody_watches() {
        let (kernel, hub) = hub();
        let watched = || kernel.watched.load(Ordering::SeqCst);
        assert!(!watched());
        let one = hub.watch(Filter::default()).unwrap();
        let other = hub.watch(Filter::default()).unwrap();
        assert!(watched() && hub.watchers() == 2);
        drop(one);
        assert!(watched());
        drop(other);
        assert!(!watched() && hub.watchers() == 0);
        let _again = hub.watch(Filter::default()).unwrap();
        assert!(watched());
    }

    #[tokio::test]
    async fn each_watcher_gets_what_it_asked_for() {
        let (kernel, hub) = hub();
        let mut all = hub.watch(Filter::default()).unwrap();
        let mut web = hub.watch(Filter { pod: Some("u1".to_owned()), verdict: Verdict::Any }).unwrap();
        let mut refused = hub.watch(Filter { pod: None, verdict: Verdict::Action(Action::Refuse) }).unwrap();
        let ring = kernel.ring.lock().clone().unwrap();
        ring.send(vec![event(12, Rule::NoListener), event(11, Rule::Redirected)]).await.unwrap();

        let first = all.next().await.unwrap().unwrap();
        assert_eq!((first.pod.as_str(), first.rule.as_str()), ("default/client", "no-listener"));
        assert_eq!(all.next().await.unwrap().unwrap().pod, "default/web");
        assert_eq!(refused.next().await.unwrap().unwrap().rule, "no-listener");
        let redirected = web.next().await.unwrap().unwrap();
        assert_eq!((redirected.action.as_str(), redirected.direction.as_str()), ("redirect", "outbound"));
        assert_eq!(redirected.destination, "10.0.0.5:80");
        assert_eq!(redirected.listener, "10.0.0.4:15001");
        assert_eq!(redirected.peer_pod, "default/client");
        assert_eq!((redirected.pid, redirected.comm.as_str(), redirected.source.as_str()), (123, "cu?rl", ""));
    }

    #[tokio::test]
    async fn a_slow_watcher_is_told_what_it_lost() {
        let (kernel, hub) = hub();
        let mut slow = hub.watch(Filter::default()).unwrap();
        hub.publish(&vec![event(11, Rule::Redirected); LAG + 7]);
        kernel.faults.lock().insert(Fault::EventDropped.name(), 3);
        // The last ones lost are told by one that was waiting.
        assert_eq!(slow.next().await.unwrap().unwrap().lost, 7);
        for _ in 1..LAG {
            assert_eq!(slow.next().await.unwrap().unwrap().lost, 0);
        }
        hub.publish(&[event(11, Rule::Redirected)]);
        assert_eq!(slow.next().await.unwrap().unwrap().lost, 3);
    }

    #[test]
    fn verdicts_are_actions_rules_or_close() {
        assert_eq!("refuse".parse(), Ok(Verdict::Action(Action::Refuse)));
        assert_eq!("node-probe".parse(), Ok(Verdict::Rule(Rule::NodeProbe)));
        assert_eq!("close".parse(), Ok(Verdict::Close));
        let error = "drop".parse::<Verdict>().unwrap_err();
        assert!(
            error.starts_with(
                "verdict: \"drop\": expected redirect, steer, pass, refuse, close or a rule (not-enrolled, "
            ),
            "{error}"
        );
    }
}
