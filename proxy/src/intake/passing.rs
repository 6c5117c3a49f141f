//! The connections that this proxy passes on, as the handoff protocol sees them: what waits to be told to the agent, and
//! what the agent has still to answer.

use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot, watch};
use weir_proto::handoff::v1 as handoff;

use crate::{
    pod::{
        Direction, Pod,
        passing::{Passage, Passed, Passing},
    },
    tcp::copy::Undelivered,
};

/// How many may be with the agent at a time: each is two file descriptors of every process on the way.
const WITH_AGENT: usize = 32;

/// The near end of the way to another proxy.
#[derive(Debug)]
pub struct PassingOn {
    wanted: watch::Sender<bool>,
    waiting: mpsc::Receiver<Passed>,
    with_agent: HashMap<u64, oneshot::Sender<Result<(), String>>>,
    last: u64,
}

impl PassingOn {
    /// The near end, and what connections see.
    pub fn new() -> (Self, Passing) {
        let ((wanted, watch), (way, waiting)) = (watch::channel(false), mpsc::channel(WITH_AGENT));
        (Self { wanted, waiting, with_agent: HashMap::new(), last: 0 }, Passing::new(watch, way))
    }

    /// Whether another proxy takes connections over.
    pub(super) fn want(&self, wanted: bool) {
        self.wanted.send_replace(wanted);
    }

    /// The next message, and its file descriptors, when the agent may have it.
    pub(super) async fn next(&mut self) -> (handoff::PassConnection, Vec<OwnedFd>) {
        if self.with_agent.len() >= WITH_AGENT {
            std::future::pending::<()>().await;
        }
        let Some(Passed { pod, passage, sockets, answer }) = self.waiting.recv().await else {
            return std::future::pending().await;
        };
        self.last += 1;
        self.with_agent.insert(self.last, answer);
        let (connection, fds) = pack(&pod, passage, sockets);
        (handoff::PassConnection { id: self.last, connection: Some(connection) }, fds)
    }

    /// The agent says what became of one.
    pub(super) fn answered(&mut self, handoff::ConnectionPassed { id, error }: handoff::ConnectionPassed) {
        if let Some(answer) = self.with_agent.remove(&id) {
            // Its connection may have come to its end meanwhile.
            let _ = answer.send(if error.is_empty() { Ok(()) } else { Err(error) });
        }
    }

    /// There is no agent any more. What was with it another proxy may have: it is given up here. The rest goes on.
    pub(super) fn lost(&mut self) {
        self.want(false);
        self.with_agent.clear();
        while let Ok(passed) = self.waiting.try_recv() {
            let _ = passed.answer.send(Err("the agent is away".to_owned()));
        }
    }
}

/// What is sent of a connection.
fn pack(pod: &Pod, passage: Passage, sockets: [OwnedFd; 2]) -> (handoff::PassedConnection, Vec<OwnedFd>) {
    let Passage { direction, accepted, received, sent, undelivered } = passage;
    let mut fds = Vec::from(sockets);
    let [to_upstream, to_client] = undelivered.map(|Undelivered { bytes, pipe, in_pipe }| {
        fds.extend(pipe.into_iter().flatten());
        handoff::Undelivered { bytes: bytes.into(), in_pipe: in_pipe as u64 }
    });
    let connection = handoff::PassedConnection {
        uid: pod.uid.clone(),
        direction: direction.to_handoff().into(),
        age_ns: accepted.elapsed().as_nanos() as u64,
        received,
        sent,
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
    /// Not two sockets, and two for each pipe.
    #[error("{0} file descriptors, expected {1}")]
    Count(usize, usize),
}

/// The client's connection and the upstream's, and what is known of them.
pub(super) fn unpack(
    connection: handoff::PassedConnection,
    fds: Vec<OwnedFd>,
) -> Result<(Passage, [OwnedFd; 2]), UnpackError> {
    let handoff::PassedConnection { direction, age_ns, received, sent, to_upstream, to_client, .. } = connection;
    let direction = Direction::from_handoff(direction).ok_or(UnpackError::Direction(direction))?;
    let undelivered = [to_upstream, to_client].map(Option::unwrap_or_default);
    let expected = 2 + 2 * undelivered.iter().filter(|undelivered| undelivered.in_pipe > 0).count();
    let count = fds.len();
    let mut fds = fds.into_iter();
    let mut two = || Some([fds.next()?, fds.next()?]);
    let sockets = two().filter(|_| count == expected).ok_or(UnpackError::Count(count, expected))?;
    let undelivered = undelivered.map(|handoff::Undelivered { bytes, in_pipe }| Undelivered {
        bytes: bytes.into(),
        pipe: if in_pipe > 0 { two() } else { None },
        in_pipe: in_pipe as usize,
    });
    let now = Instant::now();
    let accepted = now.checked_sub(Duration::from_nanos(age_ns)).unwrap_or(now);
    Ok((Passage { direction, accepted, received, sent, undelivered }, sockets))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn null() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn file_descriptors_are_those_that_the_message_tells_of() {
        let bytes = |bytes: &'static [u8], in_pipe| Some(handoff::Undelivered { bytes: bytes.into(), in_pipe });
        let connection = |direction: handoff::Direction| handoff::PassedConnection {
            direction: direction.into(),
            age_ns: u64::MAX,
            to_upstream: bytes(b"left", 0),
            to_client: bytes(b"", 3),
            ..Default::default()
        };
        let fds = |count| (0..count).map(|_| null()).collect();
        let (passage, _) = unpack(connection(handoff::Direction::Inbound), fds(4)).unwrap();
        assert_eq!(passage.direction, Direction::Inbound);
        let [to_upstream, to_client] = passage.undelivered;
        assert_eq!((&*to_upstream.bytes, to_upstream.pipe.is_some(), to_upstream.in_pipe), (&b"left"[..], false, 0));
        assert_eq!((to_client.pipe.is_some(), to_client.in_pipe), (true, 3));

        for count in [0, 2, 3, 5, 6] {
            let error = unpack(connection(handoff::Direction::Inbound), fds(count)).unwrap_err();
            assert_eq!(error.to_string(), format!("{count} file descriptors, expected 4"));
        }
        let error = unpack(connection(handoff::Direction::Unspecified), fds(4)).unwrap_err();
        assert_eq!(error.to_string(), "connection.direction: 0 is not a direction");
    }

    #[tokio::test]
    async fn what_is_with_an_agent_that_goes_is_given_up_and_the_rest_stays() {
        let (mut passing_on, passing) = PassingOn::new();
        assert!(tokio::time::timeout(Duration::from_millis(10), passing.wanted()).await.is_err());
        passing_on.want(true);
        passing.wanted().await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let local = crate::pod::PodLocal::new(
            crate::pod::stash::Stash::new("u1".into(), mpsc::channel(1).0),
            Default::default(),
            passing.clone(),
            crate::telemetry::stats::Store::new(1).shared(),
            1,
        );
        let pod = std::sync::Arc::new(Pod {
            uid: "u1".into(),
            name: "web".into(),
            namespace: "shop".into(),
            service_account: String::new(),
            labels: HashMap::new(),
            ips: Vec::new(),
            local: std::sync::Arc::new(local),
        });
        let pass = || {
            let undelivered = Default::default();
            let (direction, accepted) = (Direction::Outbound, Instant::now());
            let passage = Passage { direction, accepted, received: 1, sent: 2, undelivered };
            passing.pass(pod.clone(), passage, [&socket, &socket])
        };
        let linger = || socket2::SockRef::from(&socket).linger().unwrap();

        let (refused, ()) = tokio::join!(pass(), async {
            let (message, fds) = passing_on.next().await;
            assert_eq!((message.id, fds.len()), (1, 2));
            assert_eq!(linger(), Some(Duration::ZERO), "what gets lost on the way does not look whole");
            passing_on.answered(handoff::ConnectionPassed { id: 1, error: "not here".into() });
        });
        assert_eq!(refused, Err("not here".to_owned()));
        assert_eq!(linger(), None, "it goes on as it was");

        let (first, second, ()) = tokio::join!(pass(), pass(), async {
            assert_eq!(passing_on.next().await.0.id, 2);
            passing_on.lost();
        });
        assert_eq!((first, second), (Ok(()), Err("the agent is away".to_owned())));
        assert!(tokio::time::timeout(Duration::from_millis(10), passing.wanted()).await.is_err());
    }
}
