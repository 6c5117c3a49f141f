//! One connected proxy.

use std::{
    collections::HashSet,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use prost::Message;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use weir_abi::map::{MAX_LISTENERS, MAX_PODS};
use weir_proto::handoff::v1::{self as handoff, FromProxy, from_proxy};

use super::{
    UpstreamSockets, VERSION,
    channel::{Channel, MAX_PACKET_BYTES, Packet},
    needs::Needs,
    proxy::{Outgoing, Proxy, ProxyId},
    pulse::{Acked, Pulse},
};
use crate::unix::{self, Peer};

/// How long a proxy may take for Hello and what follows it.
const HELLO: Duration = Duration::from_secs(5);
/// How long a proxy may take to make room for one message.
const SEND: Duration = Duration::from_secs(5);
/// Sockets of a pod that a proxy can hold: outbound of each family and inbound, each for every worker.
const MAX_HANDED_BACK: usize = 3 * MAX_LISTENERS as usize;

/// Listening sockets of a pod that a proxy held for an earlier agent.
#[derive(Debug)]
pub struct ListenersHandedBack {
    /// The pod.
    pub uid: String,
    /// What each is said to be, and the socket. Not to be believed unseen.
    pub listeners: Vec<(handoff::Listener, Arc<OwnedFd>)>,
}

impl ListenersHandedBack {
    /// Pairs what a message says with the file descriptors beside it. Where there are more of one than of the other, what
    /// is missing is made anew.
    pub fn pair(uid: String, listeners: Vec<handoff::Listener>, fds: Vec<OwnedFd>) -> Self {
        Self { uid, listeners: listeners.into_iter().zip(fds.into_iter().map(Arc::new)).collect() }
    }
}

/// What a proxy does.
#[derive(Debug)]
pub enum Event {
    /// It said Hello, and handed back what it held.
    Connected {
        /// The connection.
        proxy: Proxy,
        /// Hello.
        hello: handoff::Hello,
        /// Its process.
        peer: Peer,
        /// What it held.
        handed_back: Vec<ListenersHandedBack>,
    },
    /// It answers a message.
    Acked {
        /// Which proxy.
        proxy: ProxyId,
        /// The message's id.
        id: u64,
        /// Empty: done.
        error: String,
    },
    /// It accepts.
    Ready(ProxyId),
    /// It drains.
    Draining {
        /// Which proxy.
        proxy: ProxyId,
        /// Connections still open.
        open: u64,
        /// Whether it stays, and can accept again.
        standby: bool,
    },
    /// It has owed an answer for too long: it hangs, or part of it.
    Unanswered {
        /// Which proxy.
        proxy: ProxyId,
        /// Since when.
        since: Instant,
    },
    /// It answers again.
    Answers(ProxyId),
    /// It passes a connection on.
    Passes {
        /// Which proxy.
        proxy: ProxyId,
        /// The connection.
        pass: handoff::PassConnection,
        /// Its sockets. Not to be believed unseen.
        fds: Vec<OwnedFd>,
    },
    /// The connection is over.
    Gone(ProxyId),
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("the proxy closed the connection")]
    Closed,
    #[error("no longer wanted")]
    Dropped,
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("not a message of the handoff protocol: {0}")]
    Decode(#[from] prost::DecodeError),
    #[error("the proxy speaks version {0} of the handoff protocol, the agent version {VERSION}")]
    Version(u32),
    #[error("expected {expected}, got {got}")]
    Unexpected { expected: &'static str, got: &'static str },
    #[error("no {0} within {HELLO:?}")]
    Late(&'static str),
    #[error("the proxy took no message for {SEND:?}")]
    Stuck,
    #[error("the proxy says that it holds {0} pods, more than a node can have")]
    TooMany(u32),
    #[error("the proxy hands back {0} sockets of one pod, more than the {MAX_HANDED_BACK} that it can have")]
    TooManySockets(usize),
    #[error("the proxy hands a pod's sockets back twice")]
    Twice,
    #[error("the proxy asks for more upstream sockets at a time than a node's pods can use")]
    Greedy,
    #[error("the agent is stopping")]
    Stopping,
}

/// Serves one proxy until either side ends it; tells `events`.
pub(super) async fn serve(
    id: ProxyId,
    channel: Channel,
    events: mpsc::Sender<Event>,
    sockets: Arc<dyn UpstreamSockets>,
) -> Ended {
    let peer = unix::peer(&channel.socket());
    let (hello, handed_back) = match greeting(&channel).await {
        Ok(greeting) => greeting,
        Err(ended) => return ended,
    };
    let (proxy, outgoing) = Proxy::new(id);
    let stuck = CancellationToken::new();
    // Weak, so that the connection ends when whoever decides drops the proxy.
    let needs = Needs::new(proxy.downgrade(), sockets, stuck.clone());
    let pulse = Pulse::new(proxy.downgrade(), hello.answers_ping);
    let connected = Event::Connected { proxy, hello, peer, handed_back };
    if events.send(connected).await.is_err() {
        return Ended::Stopping;
    }
    let ended = tokio::select! {
        ended = write(id, &channel, outgoing, &events) => ended,
        ended = read(id, &channel, &events, &needs, pulse) => ended,
        () = stuck.cancelled() => Ended::Stuck,
    };
    let _ = events.send(Event::Gone(id)).await;
    ended
}

/// Hello and the ListenersBack that it announces.
async fn greeting(channel: &Channel) -> Result<(handoff::Hello, Vec<ListenersHandedBack>), Ended> {
    let deadline = Instant::now() + HELLO;
    let next = async |what: &'static str| {
        let packet = timeout_at(deadline, channel.receive()).await.map_err(|_| Ended::Late(what))??;
        let Packet { bytes, fds } = packet.ok_or(Ended::Closed)?;
        Ok::<_, Ended>((FromProxy::decode(&*bytes)?.message, fds))
    };
    let hello = match next("Hello").await? {
        (Some(from_proxy::Message::Hello(hello)), _) => hello,
        (other, _) => return Err(Ended::Unexpected { expected: "Hello", got: name(other.as_ref()) }),
    };
    if hello.version != VERSION {
        return Err(Ended::Version(hello.version));
    }
    if hello.pods_held > MAX_PODS {
        return Err(Ended::TooMany(hello.pods_held));
    }
    let (mut handed_back, mut uids) = (Vec::new(), HashSet::new());
    for _ in 0..hello.pods_held {
        match next("ListenersBack").await? {
            (Some(from_proxy::Message::ListenersBack(back)), fds) => {
                if fds.len() > MAX_HANDED_BACK {
                    return Err(Ended::TooManySockets(fds.len()));
                }
                if !uids.insert(back.uid.clone()) {
                    return Err(Ended::Twice);
                }
                handed_back.push(ListenersHandedBack::pair(back.uid, back.listeners, fds));
            }
            (other, _) => return Err(Ended::Unexpected { expected: "ListenersBack", got: name(other.as_ref()) }),
        }
    }
    Ok((hello, handed_back))
}

async fn write(
    id: ProxyId,
    channel: &Channel,
    mut outgoing: mpsc::Receiver<Outgoing>,
    events: &mpsc::Sender<Event>,
) -> Ended {
    while let Some(Outgoing { message, fds, _in_flight }) = outgoing.recv().await {
        let bytes = message.encode_to_vec();
        if bytes.len() > MAX_PACKET_BYTES {
            // Sent, it would end the connection, and the next one again: one pod would keep all others from the proxy.
            let error = format!(
                "its description takes {} bytes, more than the {MAX_PACKET_BYTES} of a packet: it has too many labels \
                 or addresses",
                bytes.len()
            );
            if events.send(Event::Acked { proxy: id, id: message.id, error }).await.is_err() {
                return Ended::Stopping;
            }
            continue;
        }
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(|fd| fd.as_fd()).collect();
        match timeout(SEND, channel.send(&bytes, &fds)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error.into(),
            Err(_) => return Ended::Stuck,
        }
    }
    Ended::Dropped
}

async fn read(id: ProxyId, channel: &Channel, events: &mpsc::Sender<Event>, needs: &Needs, mut pulse: Pulse) -> Ended {
    loop {
        let packet = tokio::select! {
            // What is there is read first: whether an answer is owed is looked at only then.
            biased;
            packet = channel.receive() => packet,
            () = pulse.due() => {
                if let Some(since) = pulse.look()
                    && events.send(Event::Unanswered { proxy: id, since }).await.is_err()
                {
                    return Ended::Stopping;
                }
                continue;
            }
        };
        let (message, fds) = match packet {
            Ok(Some(Packet { bytes, fds })) => match FromProxy::decode(&*bytes) {
                Ok(message) => (message.message, fds),
                Err(error) => return error.into(),
            },
            Ok(None) => return Ended::Closed,
            Err(error) => return error.into(),
        };
        let event = match message {
            Some(from_proxy::Message::Ack(ack)) => match pulse.acked(ack.id) {
                Acked::Other => Event::Acked { proxy: id, id: ack.id, error: ack.error },
                Acked::Ping => continue,
                Acked::Again => Event::Answers(id),
            },
            Some(from_proxy::Message::Ready(_)) => Event::Ready(id),
            Some(from_proxy::Message::Draining(handoff::Draining { open, standby })) => {
                Event::Draining { proxy: id, open, standby }
            }
            Some(from_proxy::Message::PassConnection(pass)) => Event::Passes { proxy: id, pass, fds },
            Some(from_proxy::Message::NeedSockets(need)) => {
                if !needs.answer(need) {
                    return Ended::Greedy;
                }
                continue;
            }
            Some(other) => {
                return Ended::Unexpected { expected: "another message after the greeting", got: name(Some(&other)) };
            }
            None => {
                tracing::warn!(proxy = id.0, "the proxy sent a message that this version does not know");
                continue;
            }
        };
        if events.send(event).await.is_err() {
            return Ended::Stopping;
        }
    }
}

fn name(message: Option<&from_proxy::Message>) -> &'static str {
    match message {
        Some(from_proxy::Message::Hello(_)) => "Hello",
        Some(from_proxy::Message::ListenersBack(_)) => "ListenersBack",
        Some(from_proxy::Message::Ack(_)) => "Ack",
        Some(from_proxy::Message::NeedSockets(_)) => "NeedSockets",
        Some(from_proxy::Message::Ready(_)) => "Ready",
        Some(from_proxy::Message::Draining(_)) => "Draining",
        Some(from_proxy::Message::PassConnection(_)) => "PassConnection",
        None => "a message that this version does not know",
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::{BoxFuture, FutureExt};
    use weir_proto::handoff::v1::{FromAgent, from_agent};

    use super::{super::channel::tests::pair, *};
    use crate::netns::Family;

    struct Files;

    impl UpstreamSockets for Files {
        fn known<'a>(&'a self, uid: &'a str) -> BoxFuture<'a, ()> {
            if uid == "later" { std::future::pending().boxed() } else { std::future::ready(()).boxed() }
        }

        fn make(&self, uid: &str, _: Family, count: u32) -> Result<Vec<OwnedFd>, String> {
            if uid != "u1" {
                return Err(format!("no pod {uid}"));
            }
            Ok((0..count).map(|_| tempfile::tempfile().unwrap().into()).collect())
        }
    }

    struct Dialled {
        proxy: Channel,
        events: mpsc::Receiver<Event>,
        served: tokio::task::JoinHandle<Ended>,
    }

    fn dial() -> Dialled {
        let (agent, proxy) = pair();
        let (sender, events) = mpsc::channel(16);
        let served = tokio::spawn(serve(ProxyId(7), agent, sender, Arc::new(Files)));
        Dialled { proxy, events, served }
    }

    impl Dialled {
        async fn say(&self, message: from_proxy::Message, fds: &[BorrowedFd<'_>]) {
            self.proxy.send(&FromProxy { message: Some(message) }.encode_to_vec(), fds).await.unwrap();
        }

        async fn hear(&self) -> (FromAgent, usize) {
            let packet = self.proxy.receive().await.unwrap().unwrap();
            (FromAgent::decode(&*packet.bytes).unwrap(), packet.fds.len())
        }
    }

    fn hello(version: u32, pods_held: u32) -> from_proxy::Message {
        from_proxy::Message::Hello(handoff::Hello { version, generation: 5, pods_held, ..Default::default() })
    }

    #[tokio::test]
    async fn a_proxy_greets_hands_back_answers_and_asks() {
        let mut dialled = dial();
        dialled.say(hello(VERSION, 1), &[]).await;
        let listener = handoff::Listener { address: "10.0.0.2:15001".to_owned(), ..Default::default() };
        let back = handoff::ListenersBack { uid: "u1".to_owned(), listeners: vec![listener] };
        let file = tempfile::tempfile().unwrap();
        dialled.say(from_proxy::Message::ListenersBack(back), &[file.as_fd()]).await;
        let Some(Event::Connected { proxy, hello, peer, handed_back }) = dialled.events.recv().await else {
            panic!("not connected")
        };
        assert_eq!((proxy.id, hello.generation), (ProxyId(7), 5));
        assert_eq!(peer.pid, std::process::id() as i32);
        assert_eq!((handed_back[0].uid.as_str(), handed_back[0].listeners.len()), ("u1", 1));

        let maps = from_agent::Message::Maps(handoff::Maps {});
        assert_eq!(proxy.send(maps, vec![Arc::new(file.into())]), Some(1));
        let (message, fds) = dialled.hear().await;
        assert_eq!((message.id, fds), (1, 1));
        assert!(matches!(message.message, Some(from_agent::Message::Maps(_))));

        dialled.say(from_proxy::Message::Ack(handoff::Ack { id: 1, error: "no".to_owned() }), &[]).await;
        let acked = dialled.events.recv().await;
        assert!(matches!(acked, Some(Event::Acked { id: 1, ref error, .. }) if error == "no"), "{acked:?}");

        let need = |uid: &str, family: i32, count| {
            from_proxy::Message::NeedSockets(handoff::NeedSockets { uid: uid.to_owned(), family, count })
        };
        // It is not known yet, which holds up nobody else.
        dialled.say(need("later", handoff::Family::Ipv6.into(), 3), &[]).await;
        for (uid, count, expected, error) in [("u1", 3, 3, ""), ("u1", 1000, 128, ""), ("u2", 3, 0, "no pod u2")] {
            let family = handoff::Family::Ipv6.into();
            dialled.say(need(uid, family, count), &[]).await;
            let (message, fds) = dialled.hear().await;
            let Some(from_agent::Message::Sockets(sockets)) = message.message else { panic!("no sockets") };
            assert_eq!((sockets.uid.as_str(), sockets.family, fds), (uid, family, expected));
            assert_eq!(sockets.error, error);
        }
        dialled.say(from_proxy::Message::Ready(handoff::Ready {}), &[]).await;
        assert!(matches!(dialled.events.recv().await, Some(Event::Ready(ProxyId(7)))));

        drop(dialled.proxy);
        assert!(matches!(dialled.events.recv().await, Some(Event::Gone(ProxyId(7)))));
        assert!(matches!(dialled.served.await.unwrap(), Ended::Closed));
        assert_eq!(proxy.send(from_agent::Message::SnapshotSent(handoff::SnapshotSent {}), Vec::new()), None);
    }

    #[tokio::test]
    async fn a_proxy_that_hands_back_more_than_a_pod_can_have_is_turned_away() {
        let file = tempfile::tempfile().unwrap();
        let back = |uid: &str| handoff::ListenersBack { uid: uid.to_owned(), listeners: Vec::new() };
        let dialled = dial();
        dialled.say(hello(VERSION, 1), &[]).await;
        dialled.say(from_proxy::Message::ListenersBack(back("u1")), &[file.as_fd(); MAX_HANDED_BACK + 1]).await;
        assert_eq!(
            dialled.served.await.unwrap().to_string(),
            "the proxy hands back 49 sockets of one pod, more than the 48 that it can have"
        );
        let dialled = dial();
        dialled.say(hello(VERSION, 2), &[]).await;
        for _ in 0..2 {
            dialled.say(from_proxy::Message::ListenersBack(back("u1")), &[file.as_fd(); MAX_HANDED_BACK]).await;
        }
        assert_eq!(dialled.served.await.unwrap().to_string(), "the proxy hands a pod's sockets back twice");
    }

    #[tokio::test]
    async fn answers_that_a_proxy_does_not_take_are_few() {
        let mut dialled = dial();
        dialled.say(hello(VERSION, 0), &[]).await;
        let Some(Event::Connected { proxy: _proxy, .. }) = dialled.events.recv().await else { panic!("not connected") };
        let need = |uid: &str| {
            let family = handoff::Family::Ipv4.into();
            from_proxy::Message::NeedSockets(handoff::NeedSockets { uid: uid.to_owned(), family, count: 1 })
        };
        // One that cannot be answered yet, asked again and again: it takes no more than its own place.
        for _ in 0..3000 {
            dialled.say(need("later"), &[]).await;
        }
        // Asked again after its answer, a question has another.
        for _ in 0..2 {
            dialled.say(need("u1"), &[]).await;
            assert_eq!(dialled.hear().await.1, 1);
        }
        dialled.say(need(&"u".repeat(256)), &[]).await;
        assert!(matches!(dialled.served.await.unwrap(), Ended::Greedy));
    }

    #[tokio::test]
    async fn another_version_ends_the_connection_and_both_are_named() {
        let dialled = dial();
        dialled.say(hello(9, 0), &[]).await;
        let ended = dialled.served.await.unwrap();
        assert_eq!(ended.to_string(), "the proxy speaks version 9 of the handoff protocol, the agent version 1");
        let dialled = dial();
        dialled.say(from_proxy::Message::Ready(handoff::Ready {}), &[]).await;
        assert_eq!(dialled.served.await.unwrap().to_string(), "expected Hello, got Ready");
        let dialled = dial();
        dialled.proxy.send(b"\xff\xff", &[]).await.unwrap();
        assert!(matches!(dialled.served.await.unwrap(), Ended::Decode(_)));
    }

    #[tokio::test]
    async fn a_message_that_does_not_fit_a_packet_is_refused_and_the_others_get_through() {
        let mut dialled = dial();
        dialled.say(hello(VERSION, 0), &[]).await;
        let Some(Event::Connected { proxy, .. }) = dialled.events.recv().await else { panic!("not connected") };
        let ips = (0..8_000).map(|number| format!("fd00:1234:5678:9abc:def0:1234:5678:{number:x}")).collect();
        let workload = handoff::Workload { uid: "u1".to_owned(), ips, ..Default::default() };
        let enroll = handoff::Enroll { workload: Some(workload), listeners: Vec::new() };
        let message = from_agent::Message::Enroll(enroll);
        let bytes = FromAgent { id: 1, message: Some(message.clone()) }.encoded_len();
        assert_eq!(proxy.send(message, Vec::new()), Some(1));
        assert_eq!(proxy.send(from_agent::Message::SnapshotSent(handoff::SnapshotSent {}), Vec::new()), Some(2));
        let refused = dialled.events.recv().await;
        let expected = format!(
            "its description takes {bytes} bytes, more than the 262144 of a packet: it has too many labels or addresses"
        );
        assert!(matches!(refused, Some(Event::Acked { id: 1, ref error, .. }) if *error == expected), "{refused:?}");
        assert_eq!(dialled.hear().await.0.id, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_proxy_that_takes_no_messages_is_dropped() {
        let mut dialled = dial();
        dialled.say(hello(VERSION, 0), &[]).await;
        let Some(Event::Connected { proxy, .. }) = dialled.events.recv().await else { panic!("not connected") };
        let labels = [("key".to_owned(), "x".repeat(60_000))].into();
        let workload = handoff::Workload { labels, ..Default::default() };
        let enroll = handoff::Enroll { workload: Some(workload), listeners: Vec::new() };
        for _ in 0..64 {
            proxy.send(from_agent::Message::Enroll(enroll.clone()), Vec::new());
        }
        assert!(matches!(dialled.served.await.unwrap(), Ended::Stuck));
    }

    #[tokio::test(start_paused = true)]
    async fn a_proxy_that_says_that_it_answers_is_asked_and_an_older_one_is_not() {
        let mut dialled = dial();
        dialled
            .say(
                from_proxy::Message::Hello(handoff::Hello {
                    version: VERSION,
                    answers_ping: true,
                    ..Default::default()
                }),
                &[],
            )
            .await;
        let Some(Event::Connected { proxy: _proxy, .. }) = dialled.events.recv().await else { panic!("not connected") };
        for expected in 1..=2 {
            let (ping, _) = dialled.hear().await;
            assert!(matches!(ping.message, Some(from_agent::Message::Ping(_))), "{ping:?}");
            assert_eq!(ping.id, expected);
            dialled.say(from_proxy::Message::Ack(handoff::Ack { id: ping.id, error: String::new() }), &[]).await;
        }
        let (owed, _) = dialled.hear().await;
        let event = dialled.events.recv().await;
        assert!(matches!(event, Some(Event::Unanswered { proxy: ProxyId(7), .. })), "{event:?}");
        dialled.say(from_proxy::Message::Ack(handoff::Ack { id: owed.id, error: String::new() }), &[]).await;
        let event = dialled.events.recv().await;
        assert!(matches!(event, Some(Event::Answers(ProxyId(7)))), "{event:?}");
        assert_eq!(dialled.hear().await.0.id, owed.id + 1, "and so on");

        let mut dialled = dial();
        dialled.say(hello(VERSION, 0), &[]).await;
        let Some(Event::Connected { proxy: _proxy, .. }) = dialled.events.recv().await else { panic!("not connected") };
        let said = timeout(Duration::from_secs(600), dialled.hear()).await;
        assert!(said.is_err() && dialled.events.is_empty(), "it would not know the message: {said:?}");
    }
}
