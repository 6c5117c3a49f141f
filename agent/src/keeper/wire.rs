//! What the agent and the keeper say to each other: SOCK_SEQPACKET, one protobuf message a packet, file descriptors
//! beside it.
//!
//! The agent dials and says Hello; the keeper answers Welcome. Keep and Drop change what is kept, each answered by State.
//! Watch has it look after a proxy.
//! Fetch is answered by a Kept for each pod and Fetched. **Hello, Welcome, Fetch, Kept, Fetched and Bye keep their
//! meaning in every version**: an agent can always take the sockets out of a keeper of another version and end it.

use weir_proto::handoff::v1::Listener;

/// The version of the protocol.
pub(super) const VERSION: u32 = 1;

/// From the agent.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct FromAgent {
    #[prost(oneof = "Request", tags = "1, 2, 3, 4, 5, 6")]
    pub(super) request: Option<Request>,
}

/// What the agent says.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Request {
    /// The first message.
    #[prost(message, tag = "1")]
    Hello(Hello),
    /// These are a pod's listening sockets, in the place of those kept before; file descriptors as in `listeners`.
    #[prost(message, tag = "2")]
    Keep(Pod),
    /// Close a pod's.
    #[prost(message, tag = "3")]
    Drop(Uid),
    /// Give copies of all.
    #[prost(message, tag = "4")]
    Fetch(Empty),
    /// Close everything and end.
    #[prost(message, tag = "5")]
    Bye(Empty),
    /// File descriptors: the map that says whether a proxy accepts, and that of the process of the one that does, which
    /// replace those said before. Once that process has ended and no agent is there, no proxy accepts. Without any:
    /// nothing is to be watched.
    #[prost(message, tag = "6")]
    Watch(Empty),
}

/// From the keeper.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct FromKeeper {
    #[prost(oneof = "Reply", tags = "1, 2, 3, 4")]
    pub(super) reply: Option<Reply>,
}

/// What the keeper says.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Reply {
    /// Answers Hello.
    #[prost(message, tag = "1")]
    Welcome(Welcome),
    /// Answers Keep and Drop.
    #[prost(message, tag = "2")]
    State(State),
    /// A pod's sockets, as file descriptors.
    #[prost(message, tag = "3")]
    Kept(Pod),
    /// That was all.
    #[prost(message, tag = "4")]
    Fetched(State),
}

/// Who speaks.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Hello {
    /// Version of the protocol.
    #[prost(uint32, tag = "1")]
    pub(super) version: u32,
    /// The agent's instance.
    #[prost(string, tag = "2")]
    pub(super) instance: String,
}

/// Who answers.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Welcome {
    /// Version of the protocol.
    #[prost(uint32, tag = "1")]
    pub(super) version: u32,
    /// weir's version.
    #[prost(string, tag = "2")]
    pub(super) software: String,
    /// How many sockets it can keep.
    #[prost(uint32, tag = "3")]
    pub(super) limit: u32,
    /// The instance whose agents it serves.
    #[prost(string, tag = "4")]
    pub(super) instance: String,
}

/// A pod's listening sockets.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Pod {
    /// The pod.
    #[prost(string, tag = "1")]
    pub(super) uid: String,
    /// What the file descriptors are.
    #[prost(message, repeated, tag = "2")]
    pub(super) listeners: Vec<Listener>,
}

/// A pod.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Uid {
    #[prost(string, tag = "1")]
    pub(super) uid: String,
}

/// How much is kept.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct State {
    /// Pods.
    #[prost(uint32, tag = "1")]
    pub(super) pods: u32,
    /// Sockets.
    #[prost(uint32, tag = "2")]
    pub(super) sockets: u32,
    /// What could not be done; empty: it was.
    #[prost(string, tag = "3")]
    pub(super) error: String,
}

/// Nothing more to say.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Empty {}
