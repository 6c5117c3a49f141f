//! What two agents say to each other: SOCK_SEQPACKET, one protobuf message a packet, file descriptors beside it.
//!
//! The one that wants the lead says Ask. The one that leads answers; if it does not refuse, Handed follows for each pod
//! whose listening sockets it holds, and SteppedDown when it has let go of the lock. The other says Done when it does not
//! need those copies any more. Later versions may add fields and messages; these stay, so that any two agents that meet
//! in an upgrade or a downgrade understand each other.

use weir_proto::handoff::v1::Listener;

/// From the agent that wants the lead.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct FromAsker {
    #[prost(oneof = "Said", tags = "1, 2")]
    pub(super) said: Option<Said>,
}

/// What the agent that wants the lead says.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Said {
    /// Step down.
    #[prost(message, tag = "1")]
    Ask(Ask),
    /// Every pod's sockets are there.
    #[prost(message, tag = "2")]
    Done(Done),
}

/// From the agent that leads.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct FromHolder {
    #[prost(oneof = "Reply", tags = "1, 2, 3")]
    pub(super) reply: Option<Reply>,
}

/// What the agent that leads says.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Reply {
    /// Answers Ask.
    #[prost(message, tag = "1")]
    Answer(Answer),
    /// A pod's sockets, as file descriptors.
    #[prost(message, tag = "2")]
    Handed(Handed),
    /// The lock is free.
    #[prost(message, tag = "3")]
    SteppedDown(SteppedDown),
}

/// Who asks.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Ask {
    /// Its identity.
    #[prost(string, tag = "1")]
    pub(super) identity: String,
    /// weir's version, for display.
    #[prost(string, tag = "2")]
    pub(super) software: String,
}

/// Every pod's sockets are there.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Done {}

/// Who answers.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Answer {
    /// Empty: it steps down. Else why not.
    #[prost(string, tag = "1")]
    pub(super) refusal: String,
    /// Its identity.
    #[prost(string, tag = "2")]
    pub(super) identity: String,
    /// weir's version, for display.
    #[prost(string, tag = "3")]
    pub(super) software: String,
    /// It is refused only for now, and may be asked again.
    #[prost(bool, tag = "4")]
    pub(super) busy: bool,
}

/// A pod's listening sockets.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Handed {
    /// The pod.
    #[prost(string, tag = "1")]
    pub(super) uid: String,
    /// What the file descriptors are.
    #[prost(message, repeated, tag = "2")]
    pub(super) listeners: Vec<Listener>,
}

/// The lock is free.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct SteppedDown {
    /// Handed messages before this one.
    #[prost(uint32, tag = "1")]
    pub(super) pods: u32,
}
