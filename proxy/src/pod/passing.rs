//! Passing connections on: when another proxy accepts instead of this one, those whose bytes pass as they are go on there,
//! and none of them ends. The sockets go as file descriptors, and with them what was read of them and not delivered.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Instant,
};

use tokio::{
    net::TcpStream,
    sync::{mpsc, oneshot, watch},
};

use crate::{
    pod::{Direction, Pod},
    tcp::copy::Undelivered,
    wire::linger::close_by_reset,
};

/// What is known of a connection that another proxy is to carry on.
#[derive(Debug)]
pub struct Passage {
    /// Which of its pod's sockets accepted it.
    pub direction: Direction,
    /// When.
    pub accepted: Instant,
    /// Bytes so far from the client.
    pub received: u64,
    /// Bytes so far to it.
    pub sent: u64,
    /// What was read and not delivered: towards the upstream, and from it.
    pub undelivered: [Undelivered; 2],
}

/// A connection on its way to the agent.
#[derive(Debug)]
pub struct Passed {
    /// Its pod.
    pub pod: Arc<Pod>,
    /// What is known of it.
    pub passage: Passage,
    /// The client's connection, and the upstream's.
    pub sockets: [OwnedFd; 2],
    /// What becomes of it; dropped: the other has it, or had.
    pub answer: oneshot::Sender<Result<(), String>>,
}

/// The way to another proxy, as connections see it.
#[derive(Clone, Debug)]
pub struct Passing {
    wanted: watch::Receiver<bool>,
    way: mpsc::Sender<Passed>,
}

impl Passing {
    /// Connections go to `way` while they are `wanted` elsewhere.
    pub fn new(wanted: watch::Receiver<bool>, way: mpsc::Sender<Passed>) -> Self {
        Self { wanted, way }
    }

    /// Nobody will ever want them.
    pub fn never() -> Self {
        Self { wanted: watch::channel(false).1, way: mpsc::channel(1).0 }
    }

    /// Resolves once another proxy takes connections over.
    pub async fn wanted(&self) {
        if self.wanted.clone().wait_for(|wanted| *wanted).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Hands a connection to the other proxy. Error: why that did not take it; it is to go on here.
    pub async fn pass(
        &self,
        pod: Arc<Pod>,
        passage: Passage,
        [downstream, upstream]: [&TcpStream; 2],
    ) -> Result<(), String> {
        let sockets = [copy_of(downstream), copy_of(upstream)];
        let [Ok(client), Ok(server)] = sockets else { return Err("out of file descriptors".to_owned()) };
        // Neither end may take what gets lost on the way for the whole.
        close_by_reset(downstream, true);
        close_by_reset(upstream, true);
        let (answer, answered) = oneshot::channel();
        let passed = Passed { pod, passage, sockets: [client, server], answer };
        let result = match self.way.send(passed).await {
            Ok(()) => answered.await.unwrap_or(Ok(())),
            Err(_) => Err("nobody speaks with the agent".to_owned()),
        };
        if result.is_err() {
            close_by_reset(downstream, false);
            close_by_reset(upstream, false);
        }
        result
    }
}

fn copy_of(socket: &TcpStream) -> io::Result<OwnedFd> {
    socket.as_fd().try_clone_to_owned()
}
