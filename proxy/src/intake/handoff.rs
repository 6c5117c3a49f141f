//! The proxy's side of the handoff protocol: dials the agent, takes pods and sockets from it, and keeps serving with
//! what it holds while no agent is there. `proto/handoff.proto` says what is sent when.

use std::{
    collections::HashSet,
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use prost::Message;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep},
};
use tokio_util::task::AbortOnDropHandle;
use weir_proto::handoff::v1::{
    Ack, Draining, FromAgent, FromProxy, Hello, ListenersBack, NeedSockets, Ready, TakeConnection, from_agent,
    from_proxy,
};

use crate::{
    intake::{
        passing::PassingOn,
        pods::Pods,
        seqpacket::{Connection, Packet},
    },
    pod::{
        maps::Maps,
        stash::{Family, Need},
    },
    telemetry::stats::Store,
};

/// The version of the protocol.
const VERSION: u32 = 1;
/// Pauses between attempts to reach the agent, before up to half as much again of jitter. The longest is short: dialling
/// a Unix socket costs next to nothing, the agent restarts fast, and a pod's stash of upstream sockets does not last
/// long.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(200);
/// Messages that may wait to be sent; then reading waits too.
const OUTGOING: usize = 64;
/// How often is looked whether connections that pods opened are still open.
const STOP_LOOK: Duration = Duration::from_millis(20);
/// How often a draining proxy tells how many connections it still has.
const DRAINING_INTERVAL: Duration = Duration::from_secs(1);

/// Why a session with the agent ended.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error("the agent closed the connection")]
    Closed,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("not a message of the handoff protocol: {0}")]
    Decode(#[from] prost::DecodeError),
    #[error("{message} with {fds} file descriptors")]
    FileDescriptors { message: &'static str, fds: usize },
}

/// What the client tells the rest of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// Not everything is here yet.
    #[default]
    Starting,
    /// Serving the agent's pods; stays so while the agent is away.
    Ready,
    /// A newer proxy accepts: finish, and exit after this long at the latest.
    Superseded(Duration),
    /// Told to end: nothing is accepted any more.
    Stopped,
}

/// What the client does when another proxy accepts instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Superseded {
    /// It finishes.
    Finishes,
    /// It stays with the agent, and accepts again when that sends the pods again.
    StandsBy,
}

/// How far stopping has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopping {
    No,
    /// What pods open is not accepted any more. What is opened to them is, as it may come from connections of this very
    /// process: at the latest until then.
    Outbound {
        until: Instant,
        deadline: Instant,
    },
    /// Nothing is accepted any more.
    Done,
}

/// Whether there is somebody who makes sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Agent {
    There,
    Away,
}

/// The client.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    generation: u64,
    pods: Pods,
    needs: mpsc::Receiver<Need>,
    passing: PassingOn,
    stats: Store,
    status: watch::Sender<Status>,
    superseded: Superseded,
    /// Another proxy accepts, and this one stays.
    standby: bool,
    stopping: Stopping,
}

impl Client {
    /// A client of the agent that listens at `path`. `generation` is when this process started, in nanoseconds of
    /// `CLOCK_BOOTTIME`; `needs` is what the pods' stashes ask for, `passing` has the connections that go on elsewhere.
    pub fn new(
        path: PathBuf,
        generation: u64,
        pods: Pods,
        needs: mpsc::Receiver<Need>,
        passing: PassingOn,
        stats: Store,
        status: watch::Sender<Status>,
    ) -> Self {
        let (superseded, standby, stopping) = (Superseded::Finishes, false, Stopping::No);
        Self { path, generation, pods, needs, passing, stats, status, superseded, standby, stopping }
    }

    /// The same that does this when another proxy accepts instead of it.
    pub fn when(self, superseded: Superseded) -> Self {
        Self { superseded, ..self }
    }

    /// Runs until it is dropped, or superseded. When `drain` says how long connections may drain, stops accepting, and goes
    /// on speaking with the agent: connections that drain need sockets. Must run in a `LocalSet` or a `LocalRuntime`.
    pub async fn run(mut self, mut drain: watch::Receiver<Option<Duration>>) {
        let mut pause = FIRST_PAUSE;
        let (mut missing, mut again) = (false, false);
        loop {
            self.go_on_stopping(Agent::Away).await;
            let connection = tokio::select! {
                biased;
                grace = asked(&mut drain), if self.stopping == Stopping::No => {
                    self.stop_outbound(grace).await;
                    continue;
                }
                () = std::future::pending(), if self.stopping == Stopping::Done => continue,
                // Whoever is about to end does not begin with another agent.
                connection = dial(&self.path, &mut pause, &mut missing, again), if self.stopping == Stopping::No => {
                    connection
                }
            };
            again = true;
            let session = self.session(&connection, &mut pause, &mut drain).await;
            self.passing.lost();
            if matches!(*self.status.borrow(), Status::Superseded(_)) {
                // A new agent would take us for one that serves.
                return;
            }
            if let Err(error) = session {
                tracing::warn!(%error, path = %self.path.display(), pods = self.pods.len(), "lost the agent; serving with what is held");
            }
        }
    }

    async fn stop_outbound(&mut self, grace: Duration) {
        let now = Instant::now();
        self.stopping = Stopping::Outbound { until: now + grace / 2, deadline: now + grace };
        self.pods.stop_outbound(grace).await;
    }

    /// Stops accepting what is opened to pods, if it is time.
    async fn go_on_stopping(&mut self, agent: Agent) {
        let Stopping::Outbound { until, deadline } = self.stopping else { return };
        let now = Instant::now();
        if !accepts_inbound(self.pods.outbound_open(), until.saturating_duration_since(now), agent) {
            self.pods.withdraw_all(deadline.saturating_duration_since(now)).await;
            self.stopping = Stopping::Done;
            self.status.send_replace(Status::Stopped);
        }
    }

    /// Speaks with one agent until the connection ends.
    async fn session(
        &mut self,
        connection: &Connection,
        pause: &mut Duration,
        drain: &mut watch::Receiver<Option<Duration>>,
    ) -> Result<(), SessionError> {
        // Sent apart from what is received: neither side waits for the other to read.
        let (send, outgoing) = mpsc::channel(OUTGOING);
        let send = Outgoing(send);
        tokio::select! {
            sent = write(connection, outgoing) => Ok(sent?),
            received = self.listen(connection, &send, pause, drain) => received,
        }
    }

    async fn greet(&mut self, send: &Outgoing) -> io::Result<()> {
        // Meant for an earlier agent.
        while self.needs.try_recv().is_ok() {}
        let hello = Hello {
            version: VERSION,
            generation: self.generation,
            workers: self.pods.workers() as u32,
            pods_held: self.pods.len() as u32,
            proxy_version: env!("CARGO_PKG_VERSION").into(),
            standby: self.standby,
            answers_ping: true,
            takes_connections: true,
        };
        send.send(from_proxy::Message::Hello(hello), Vec::new()).await;
        for (uid, listeners, fds) in self.pods.listeners() {
            let message = from_proxy::Message::ListenersBack(ListenersBack { uid: uid.into(), listeners });
            let fds = fds.into_iter().map(|fd| fd.try_clone_to_owned()).collect::<Result<_, _>>()?;
            send.send(message, fds).await;
        }
        Ok(())
    }

    async fn listen(
        &mut self,
        connection: &Connection,
        send: &Outgoing,
        pause: &mut Duration,
        drain: &mut watch::Receiver<Option<Duration>>,
    ) -> Result<(), SessionError> {
        self.greet(send).await?;
        let mut enrolled = HashSet::new();
        // The answer to the last Ping, while the workers are asked.
        let mut answer = None;
        let mut progress = tokio::time::interval(DRAINING_INTERVAL);
        loop {
            let packet = tokio::select! {
                packet = connection.receive() => packet?.ok_or(SessionError::Closed)?,
                need = self.needs.recv() => {
                    // A pod that this agent has not enrolled yet is asked for once it is.
                    let known = |need: &Need| enrolled.contains(&*need.uid) || self.pods.is_leaving(&need.uid);
                    if let Some(Need { uid, family, count }) = need.filter(known) {
                        let family = family.to_handoff().into();
                        let need = NeedSockets { uid: uid.to_string(), family, count };
                        send.send(from_proxy::Message::NeedSockets(need), Vec::new()).await;
                    }
                    continue;
                }
                (message, fds) = self.passing.next() => {
                    send.send(from_proxy::Message::PassConnection(message), fds).await;
                    continue;
                }
                grace = asked(drain), if self.stopping == Stopping::No => {
                    self.stop_outbound(grace).await;
                    self.go_on_stopping(Agent::There).await;
                    self.tell_draining(send).await;
                    continue;
                }
                () = sleep(STOP_LOOK), if matches!(self.stopping, Stopping::Outbound { .. }) => {
                    self.go_on_stopping(Agent::There).await;
                    continue;
                }
                _ = progress.tick() => {
                    if self.is_draining() || self.standby {
                        self.tell_draining(send).await;
                    }
                    continue;
                }
            };
            if let Some(ping) = self.handle(packet, send, &mut enrolled).await? {
                drop(answer.replace(self.answer(ping, send)));
            }
            // The agent speaks: the next loss is a new one.
            *pause = FIRST_PAUSE;
        }
    }

    /// Acknowledges a Ping once every worker has answered, apart from everything else: one that hangs is not waited for.
    fn answer(&self, ping: u64, send: &Outgoing) -> AbortOnDropHandle<()> {
        let (answered, send) = (self.pods.workers_answer(), send.clone());
        AbortOnDropHandle::new(tokio::task::spawn_local(async move {
            match answered.await {
                Ok(()) => send.send(from_proxy::Message::Ack(Ack { id: ping, error: String::new() }), Vec::new()).await,
                Err(error) => tracing::error!(%error, "the agent is not told that this proxy is well"),
            }
        }))
    }

    /// Goes on with a connection of another proxy, and acknowledges it once a worker does: one that hangs is not waited for.
    fn take_over(&mut self, id: u64, take: TakeConnection, fds: Vec<OwnedFd>, send: &Outgoing) {
        let (taken, send) = (self.pods.carry_on(take.connection, fds), send.clone());
        tokio::task::spawn_local(async move {
            let error = taken.await.err().map(|error| error.to_string()).unwrap_or_default();
            send.send(from_proxy::Message::Ack(Ack { id, error }), Vec::new()).await;
        });
    }

    /// The agent sends its pods again.
    fn accept_again(&mut self) {
        self.passing.end();
        if std::mem::take(&mut self.standby) {
            tracing::info!("no other proxy accepts; this one does again");
        }
    }

    /// Whether this proxy is about to end.
    fn is_draining(&self) -> bool {
        self.stopping != Stopping::No || matches!(*self.status.borrow(), Status::Superseded(_))
    }

    async fn tell_draining(&self, send: &Outgoing) {
        let standby = self.standby && self.stopping == Stopping::No;
        let draining = Draining { open: self.stats.open_connections(), standby };
        send.send(from_proxy::Message::Draining(draining), Vec::new()).await;
    }

    /// Does what the agent says; the id of the message if it is a Ping.
    async fn handle(
        &mut self,
        packet: Packet,
        send: &Outgoing,
        enrolled: &mut HashSet<String>,
    ) -> Result<Option<u64>, SessionError> {
        let Packet { bytes, fds } = packet;
        let FromAgent { id, message } = FromAgent::decode(&*bytes)?;
        let ack = |error: String| send.send(from_proxy::Message::Ack(Ack { id, error }), Vec::new());
        match message {
            Some(from_agent::Message::Maps(_)) => {
                let [accepted, upstream] = exactly(fds, "Maps")?;
                self.pods.set_maps(Maps::new(accepted, upstream));
            }
            Some(from_agent::Message::Enroll(_)) if self.is_draining() => {
                ack("this proxy is draining".into()).await;
            }
            Some(from_agent::Message::Enroll(enroll)) => {
                self.accept_again();
                let uid = enroll.workload.as_ref().map_or("", |workload| &workload.uid).to_owned();
                let sockets = fds.len();
                match self.pods.enroll(enroll, fds).await {
                    Ok(()) => {
                        tracing::info!(%uid, sockets, "pod enrolled");
                        ack(String::new()).await;
                    }
                    Err(error) => {
                        tracing::warn!(%uid, %error, "pod not enrolled");
                        ack(error.to_string()).await;
                    }
                }
                enrolled.insert(uid);
            }
            Some(from_agent::Message::Sockets(sockets)) => match Family::from_handoff(sockets.family()) {
                Some(family) => self.pods.sockets(&sockets.uid, family, &sockets.error, fds),
                None => tracing::warn!(uid = %sockets.uid, family = sockets.family, "upstream sockets of no family"),
            },
            Some(from_agent::Message::Withdraw(withdraw)) => {
                enrolled.remove(&withdraw.uid);
                self.pods.withdraw(&withdraw.uid, Duration::from_millis(withdraw.drain_ms)).await;
                tracing::info!(uid = %withdraw.uid, "pod withdrawn");
                ack(String::new()).await;
            }
            Some(from_agent::Message::SnapshotSent(_)) if self.is_draining() => {}
            Some(from_agent::Message::SnapshotSent(_)) => {
                self.accept_again();
                self.pods.prune(enrolled).await;
                send.send(from_proxy::Message::Ready(Ready {}), Vec::new()).await;
                tracing::info!(pods = self.pods.len(), "serving the agent's pods");
                self.status.send_if_modified(|status| {
                    let first = *status == Status::Starting;
                    if first {
                        *status = Status::Ready;
                    }
                    first
                });
            }
            Some(from_agent::Message::Drain(drain)) => {
                let deadline = Duration::from_millis(drain.deadline_ms);
                tracing::info!(?deadline, "another proxy accepts; draining");
                self.pods.withdraw_all(deadline).await;
                enrolled.clear();
                if drain.pass_connections {
                    self.passing.begin();
                }
                match self.superseded {
                    _ if self.stopping != Stopping::No => {}
                    Superseded::Finishes => drop(self.status.send_replace(Status::Superseded(deadline))),
                    Superseded::StandsBy => {
                        self.standby = true;
                        // Nobody may accept already: the agent is to know at once that this one can.
                        self.tell_draining(send).await;
                    }
                }
            }
            Some(from_agent::Message::TakeConnection(_)) if self.is_draining() => {
                ack("this proxy is draining".into()).await;
            }
            Some(from_agent::Message::TakeConnection(take)) => {
                self.take_over(id, take, fds, send);
            }
            Some(from_agent::Message::ConnectionPassed(passed)) => self.passing.answered(passed),
            Some(from_agent::Message::Ping(_)) => return Ok(Some(id)),
            None => tracing::warn!(id, "the agent sent a message that this version does not know"),
        }
        Ok(None)
    }
}

/// Whether a proxy that is about to end still accepts what is opened to pods: while `open` connections that pods opened may
/// need it, for the time that is `left`, and only with an agent. Without one there are no sockets to dial with once the
/// stashes are empty: what comes then waits for the next proxy.
fn accepts_inbound(open: usize, left: Duration, agent: Agent) -> bool {
    open > 0 && !left.is_zero() && agent == Agent::There
}

/// Dials until the agent is there; `again` after a pause.
async fn dial(path: &Path, pause: &mut Duration, missing: &mut bool, again: bool) -> Connection {
    if again {
        sleep(*pause).await;
    }
    loop {
        match Connection::dial(path).await {
            Ok(connection) => {
                *missing = false;
                return connection;
            }
            Err(error) => {
                if !std::mem::replace(missing, true) {
                    tracing::warn!(%error, path = %path.display(), "the agent is not there; trying again");
                }
            }
        }
        let jitter = pause.mul_f64(fastrand::f64() / 2.0);
        sleep(*pause + jitter).await;
        *pause = (*pause * 2).min(LONGEST_PAUSE);
    }
}

/// Resolves when connections are to drain, with how long they may.
async fn asked(drain: &mut watch::Receiver<Option<Duration>>) -> Duration {
    match drain.wait_for(Option::is_some).await.map(|grace| *grace) {
        Ok(Some(grace)) => grace,
        // Nobody will ask.
        _ => std::future::pending().await,
    }
}

/// What waits to be sent to the agent.
#[derive(Clone)]
struct Outgoing(mpsc::Sender<(FromProxy, Vec<OwnedFd>)>);

impl Outgoing {
    async fn send(&self, message: from_proxy::Message, fds: Vec<OwnedFd>) {
        // The other end lives as long as the session.
        let _ = self.0.send((FromProxy { message: Some(message) }, fds)).await;
    }
}

async fn write(connection: &Connection, mut outgoing: mpsc::Receiver<(FromProxy, Vec<OwnedFd>)>) -> io::Result<()> {
    while let Some((message, fds)) = outgoing.recv().await {
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        connection.send(&message.encode_to_vec(), &fds).await?;
    }
    Ok(())
}

fn exactly<const N: usize>(fds: Vec<OwnedFd>, message: &'static str) -> Result<[OwnedFd; N], SessionError> {
    fds.try_into().map_err(|fds: Vec<OwnedFd>| SessionError::FileDescriptors { message, fds: fds.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_opened_to_pods_is_accepted_for_a_while_and_only_with_an_agent() {
        let left = Duration::from_secs(1);
        assert!(accepts_inbound(1, left, Agent::There));
        assert!(!accepts_inbound(0, left, Agent::There), "nothing is left that could need it");
        assert!(!accepts_inbound(1, Duration::ZERO, Agent::There), "its time is over");
        // The agent stepped down for the one of the next pod, whose proxy accepts as well, or soon will.
        assert!(!accepts_inbound(1, left, Agent::Away), "nobody makes sockets to dial with");
    }
}
