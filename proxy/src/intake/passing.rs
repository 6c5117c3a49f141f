//! The connections that this proxy passes on, as the handoff protocol sees them: what waits to be told to the agent, and
//! what the agent has still to answer.

use std::{
    collections::HashMap,
    net::TcpStream,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use socket2::{Protocol, SockRef};
use tokio::sync::{mpsc, oneshot, watch};
use weir_proto::handoff::v1 as handoff;

use crate::pod::{
    Direction,
    passing::{Content, Fate, Offer, Passage, Passing, Undelivered},
};

/// How many connections may be on their way at a time: none of those moves meanwhile.
const ON_THEIR_WAY: usize = 32;
/// How long another proxy has accepted before connections go over to it: one that ends at once is not to have them.
const SETTLED: Duration = Duration::from_secs(3);

/// The near end of the way to another proxy.
#[derive(Debug)]
pub struct PassingOn {
    wanted: watch::Sender<bool>,
    offers: mpsc::Receiver<Offer>,
    /// When they will be wanted.
    begin: Option<Instant>,
    with_agent: HashMap<u64, oneshot::Sender<Fate>>,
    last: u64,
    /// That one was not taken has been said.
    warned: bool,
}

impl PassingOn {
    /// The near end, and what connections see.
    pub fn new() -> (Self, Passing) {
        let ((wanted, watch), (way, offers)) = (watch::channel(false), mpsc::channel(ON_THEIR_WAY));
        let passing = Passing::new(watch, ON_THEIR_WAY, way);
        (Self { wanted, offers, begin: None, with_agent: HashMap::new(), last: 0, warned: false }, passing)
    }

    /// Another proxy accepts, and takes connections over: they go to it once it has settled.
    pub(super) fn begin(&mut self) {
        self.begin.get_or_insert_with(|| Instant::now() + SETTLED);
        self.warned = false;
    }

    /// No other proxy takes any.
    pub(super) fn end(&mut self) {
        self.begin = None;
        self.wanted.send_replace(false);
    }

    /// The next message, and its file descriptors.
    pub(super) async fn next(&mut self) -> (handoff::PassConnection, Vec<OwnedFd>) {
        if let Some(begin) = self.begin {
            tokio::time::sleep_until(begin.into()).await;
            self.wanted.send_if_modified(|wanted| !std::mem::replace(wanted, true));
        }
        loop {
            let Some(offer) = self.offers.recv().await else { return std::future::pending().await };
            let Some(content) = offer.take() else { continue };
            self.last += 1;
            self.with_agent.insert(self.last, offer.answer);
            let (connection, fds) = pack(content);
            return (handoff::PassConnection { id: self.last, connection: Some(connection) }, fds);
        }
    }

    /// The agent says what became of one.
    pub(super) fn answered(&mut self, handoff::ConnectionPassed { id, error }: handoff::ConnectionPassed) {
        let Some(answer) = self.with_agent.remove(&id) else { return };
        if !error.is_empty() && !std::mem::replace(&mut self.warned, true) {
            tracing::warn!(error, "a connection is not taken by the proxy that accepts; it goes on here");
        }
        // Its connection may have come to its end meanwhile.
        let _ = answer.send(if error.is_empty() { Fate::Taken } else { Fate::Kept(error) });
    }

    /// There is no agent any more. What was with it another proxy may have: it is given up here. The rest goes on.
    pub(super) fn lost(&mut self) {
        self.end();
        if !self.with_agent.is_empty() {
            tracing::warn!(
                connections = self.with_agent.len(),
                "the agent is away that had connections for another proxy"
            );
        }
        for (_, answer) in self.with_agent.drain() {
            let _ = answer.send(Fate::Unknown);
        }
    }
}

/// What is sent of a connection.
fn pack(content: Content) -> (handoff::PassedConnection, Vec<OwnedFd>) {
    let Content { uid, passage, sockets } = content;
    let Passage { direction, accepted, received, sent, answered, streams, undelivered } = passage;
    let mut fds = Vec::from(sockets);
    let [to_upstream, to_client] = undelivered.map(|Undelivered { buffered, pipe }| {
        let message = handoff::Undelivered {
            buffered: buffered.as_ref().map_or(0, |(_, bytes)| *bytes as u64),
            in_pipe: pipe.as_ref().map_or(0, |(_, bytes)| *bytes as u64),
        };
        fds.extend(buffered.map(|(read, _)| read));
        fds.extend(pipe.into_iter().flat_map(|(ends, _)| ends));
        message
    });
    let connection = handoff::PassedConnection {
        uid,
        direction: direction.to_handoff().into(),
        age_ns: accepted.elapsed().as_nanos() as u64,
        received,
        sent,
        answered,
        streams,
        to_upstream: Some(to_upstream),
        to_client: Some(to_client),
    };
    (connection, fds)
}

/// What a connection of another proxy cannot be carried on for.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// Of neither direction.
    #[error("connection.direction: {0} is not a direction")]
    Direction(i32),
    /// Not two sockets, and what its pipes need.
    #[error("{0} file descriptors, expected {1}")]
    Count(usize, usize),
    /// Not a TCP socket.
    #[error("not a TCP socket")]
    Socket,
}

/// The client's connection and the upstream's, and what is known of them.
pub(super) fn unpack(
    connection: handoff::PassedConnection,
    fds: Vec<OwnedFd>,
) -> Result<(Passage, [TcpStream; 2]), UnpackError> {
    let handoff::PassedConnection { direction, age_ns, received, sent, answered, streams, .. } = connection;
    let direction = Direction::from_handoff(direction).ok_or(UnpackError::Direction(direction))?;
    let undelivered = [connection.to_upstream, connection.to_client].map(Option::unwrap_or_default);
    let pipes = undelivered.iter().map(|undelivered| match (undelivered.buffered, undelivered.in_pipe) {
        (0, 0) => 0,
        (_, 0) => 1,
        (0, _) => 2,
        _ => 3,
    });
    let (count, expected) = (fds.len(), 2 + pipes.sum::<usize>());
    if count != expected {
        return Err(UnpackError::Count(count, expected));
    }
    let mut fds = fds.into_iter();
    let mut next = || fds.next().ok_or(UnpackError::Count(count, expected));
    let sockets = [tcp(next()?)?, tcp(next()?)?];
    let mut take = |handoff::Undelivered { buffered, in_pipe }| {
        let buffered = if buffered > 0 { Some((next()?, buffered as usize)) } else { None };
        let pipe = if in_pipe > 0 { Some(([next()?, next()?], in_pipe as usize)) } else { None };
        Ok(Undelivered { buffered, pipe })
    };
    let [to_upstream, to_client] = undelivered;
    let undelivered = [take(to_upstream)?, take(to_client)?];
    let now = Instant::now();
    let accepted = now.checked_sub(Duration::from_nanos(age_ns)).unwrap_or(now);
    Ok((Passage { direction, accepted, received, sent, answered, streams, undelivered }, sockets))
}

/// Checks that it is a TCP socket, and has it never block a worker.
fn tcp(socket: OwnedFd) -> Result<TcpStream, UnpackError> {
    let state = SockRef::from(&socket);
    let protocol = state.protocol().ok().flatten();
    if !matches!(protocol, Some(Protocol::TCP | Protocol::MPTCP)) || state.set_nonblocking(true).is_err() {
        return Err(UnpackError::Socket);
    }
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::{fs::File, net::TcpListener};

    use super::*;

    fn null() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    fn socket() -> OwnedFd {
        TcpListener::bind("127.0.0.1:0").unwrap().into()
    }

    #[test]
    fn file_descriptors_are_those_that_the_message_tells_of() {
        let connection = |direction: handoff::Direction| handoff::PassedConnection {
            direction: direction.into(),
            age_ns: u64::MAX,
            answered: true,
            to_upstream: Some(handoff::Undelivered { buffered: 4, in_pipe: 0 }),
            to_client: Some(handoff::Undelivered { buffered: 0, in_pipe: 3 }),
            ..Default::default()
        };
        let fds =
            |count: usize| [socket(), socket()].into_iter().chain(std::iter::repeat_with(null)).take(count).collect();
        let inbound = || connection(handoff::Direction::Inbound);
        let (passage, _) = unpack(inbound(), fds(5)).unwrap();
        assert_eq!((passage.direction, passage.answered, passage.streams), (Direction::Inbound, true, false));
        let [to_upstream, to_client] = passage.undelivered;
        assert_eq!((to_upstream.buffered.unwrap().1, to_upstream.pipe.is_some()), (4, false));
        assert_eq!((to_client.buffered.is_some(), to_client.pipe.unwrap().1), (false, 3));

        for count in [0, 2, 4, 6] {
            let error = unpack(inbound(), fds(count)).unwrap_err();
            assert_eq!(error.to_string(), format!("{count} file descriptors, expected 5"));
        }
        let error = unpack(inbound(), (0..5).map(|_| null()).collect()).unwrap_err();
        assert_eq!(error.to_string(), "not a TCP socket");
        let error = unpack(connection(handoff::Direction::Unspecified), fds(5)).unwrap_err();
        assert_eq!(error.to_string(), "connection.direction: 0 is not a direction");
    }

    fn passage() -> Passage {
        Passage {
            direction: Direction::Outbound,
            accepted: Instant::now(),
            received: 1,
            sent: 2,
            answered: false,
            streams: false,
            undelivered: Default::default(),
        }
    }

    async fn connection() -> tokio::net::TcpStream {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap()
    }

    /// Whether nothing comes of it for a while.
    async fn waits<T>(future: impl Future<Output = T>) -> bool {
        tokio::time::timeout(Duration::from_millis(10), future).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn connections_wait_until_the_other_has_settled_and_few_are_on_their_way() {
        let (mut passing_on, passing) = PassingOn::new();
        passing_on.begin();
        assert!(waits(passing.place(false)).await, "it has not accepted for long");
        // Nothing is offered yet.
        assert!(tokio::time::timeout(SETTLED * 2, passing_on.next()).await.is_err());
        let mut places = Vec::new();
        for _ in 0..ON_THEIR_WAY {
            places.push(passing.place(false).await);
        }
        assert!(waits(passing.place(false)).await);
        assert!(waits(passing.place(true)).await, "what was not taken waits for another change");
        places.pop();
        passing.place(false).await;
        passing_on.end();
        assert!(waits(passing.place(false)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_taken_stays_and_what_may_have_been_is_given_up() {
        let (mut passing_on, passing) = PassingOn::new();
        passing_on.begin();
        assert!(tokio::time::timeout(SETTLED * 2, passing_on.next()).await.is_err());
        let socket = connection().await;
        let pass =
            async || passing.pass(passing.place(false).await, "u1".to_owned(), passage(), [&socket, &socket]).await;
        let linger = || SockRef::from(&socket).linger().unwrap();

        let (fate, ()) = tokio::join!(pass(), async {
            let (message, fds) = passing_on.next().await;
            assert_eq!((message.id, fds.len()), (1, 2));
            assert_eq!(linger(), Some(Duration::ZERO), "what gets lost on the way does not look whole");
            passing_on.answered(handoff::ConnectionPassed { id: 1, error: "not here".into() });
        });
        assert_eq!((fate, linger()), (Fate::Kept("not here".to_owned()), None), "it goes on as it was");
        let (fate, ()) = tokio::join!(pass(), async {
            passing_on.next().await;
            passing_on.answered(handoff::ConnectionPassed { id: 2, error: String::new() });
        });
        assert_eq!(fate, Fate::Taken);

        // More than may be on their way, and the agent goes: of one nobody knows, the others never left.
        let all = futures_util::future::join_all(
            (0..ON_THEIR_WAY * 2).map(|_| async { tokio::time::timeout(Duration::from_secs(1), pass()).await }),
        );
        let (fates, ()) = tokio::join!(all, async {
            assert_eq!(passing_on.next().await.0.id, 3);
            passing_on.lost();
        });
        let count = |wanted: fn(&Fate) -> bool| fates.iter().flatten().filter(|fate| wanted(fate)).count();
        assert_eq!(count(|fate| *fate == Fate::Unknown), 1);
        assert_eq!(count(|fate| matches!(fate, Fate::Kept(_))), ON_THEIR_WAY - 1);
        assert_eq!(fates.iter().filter(|fate| fate.is_err()).count(), ON_THEIR_WAY, "those never had a place");

        // Without anybody to tell the agent.
        drop(passing_on);
        let (mut passing_on, passing) = PassingOn::new();
        passing_on.begin();
        assert!(tokio::time::timeout(SETTLED * 2, passing_on.next()).await.is_err());
        let place = passing.place(false).await;
        let (fate, ()) = tokio::join!(passing.pass(place, "u1".to_owned(), passage(), [&socket, &socket]), async {
            drop(passing_on);
        });
        assert!(matches!(fate, Fate::Kept(_)), "{fate:?}");
    }
}
