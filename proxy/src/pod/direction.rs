//! Which way connections go.

use weir_proto::handoff::v1 as handoff;

/// Which way a connection goes, as its pod sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The pod connects.
    Outbound,
    /// The pod is connected to.
    Inbound,
}

impl Direction {
    /// As the handoff protocol numbers it; none: it is no direction.
    pub(crate) fn from_handoff(direction: i32) -> Option<Self> {
        match handoff::Direction::try_from(direction).ok()? {
            handoff::Direction::Outbound => Some(Self::Outbound),
            handoff::Direction::Inbound => Some(Self::Inbound),
            handoff::Direction::Unspecified => None,
        }
    }

    /// In the handoff protocol.
    pub(crate) fn to_handoff(self) -> handoff::Direction {
        match self {
            Self::Outbound => handoff::Direction::Outbound,
            Self::Inbound => handoff::Direction::Inbound,
        }
    }
}
