//! What the overload manager is to do (`envoy.config.overload.v3.OverloadManager`): which pressures it looks at, and what it
//! does under them.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::listener::Ceiling;

/// The overload manager's settings.
#[derive(Debug, Default)]
pub struct Settings {
    /// How often it looks.
    pub refresh_interval: Duration,
    /// What it looks at.
    pub monitors: Vec<Monitor>,
    /// What it does.
    pub remedies: Vec<Configured>,
}

/// What gauges a pressure, from 0 to 1.
#[derive(Debug)]
pub struct Monitor {
    /// As statistics and triggers call it.
    pub name: Box<str>,
    /// What it gauges.
    pub resource: Resource,
}

/// What a monitor gauges.
#[derive(Debug)]
pub enum Resource {
    /// The process's own memory, of so many bytes.
    Heap(u64),
    /// A number that stands in a file.
    File(PathBuf),
    /// Open connections.
    Connections(Arc<Ceiling>),
}

/// What is done under pressure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Free memory goes back to the kernel: what no worker holds, which give theirs back by themselves.
    ShrinkHeap,
    /// Connections end with their next response.
    DisableKeepalive,
    /// Requests are answered 503.
    StopRequests,
    /// Connections wait to be accepted.
    StopConnections,
    /// Connections are closed as they are accepted.
    RejectConnections,
    /// The same, as a load shed point.
    ShedAccepted,
    /// Requests are answered 503, as a load shed point.
    ShedRequests,
}

impl Remedy {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::ShrinkHeap,
        Self::DisableKeepalive,
        Self::StopRequests,
        Self::StopConnections,
        Self::RejectConnections,
        Self::ShedAccepted,
        Self::ShedRequests,
    ];

    /// Envoy's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ShrinkHeap => "envoy.overload_actions.shrink_heap",
            Self::DisableKeepalive => "envoy.overload_actions.disable_http_keepalive",
            Self::StopRequests => "envoy.overload_actions.stop_accepting_requests",
            Self::StopConnections => "envoy.overload_actions.stop_accepting_connections",
            Self::RejectConnections => "envoy.overload_actions.reject_incoming_connections",
            Self::ShedAccepted => "envoy.load_shed_points.tcp_listener_accept",
            Self::ShedRequests => "envoy.load_shed_points.http_connection_manager_decode_headers",
        }
    }

    /// Whether it is a load shed point, and no action.
    pub fn sheds(self) -> bool {
        matches!(self, Self::ShedAccepted | Self::ShedRequests)
    }
}

/// A remedy, and when it is taken.
#[derive(Debug)]
pub struct Configured {
    /// The remedy.
    pub remedy: Remedy,
    /// The one of them that asks for most counts.
    pub triggers: Vec<Trigger>,
}

/// What a remedy goes by.
#[derive(Clone, Copy, Debug)]
pub struct Trigger {
    /// Which monitor, by its place.
    pub monitor: usize,
    /// What its pressure asks for.
    pub level: Level,
}

/// What a pressure asks for: a share of the remedy, from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Level {
    /// All, from here on.
    Threshold(f64),
    /// More the higher it is: none up to the first, all from the second on.
    Scaled(f64, f64),
}

impl Level {
    /// What is asked for.
    pub fn share(self, pressure: f64) -> f64 {
        match self {
            Self::Threshold(from) => f64::from(u8::from(pressure >= from)),
            Self::Scaled(from, to) => ((pressure - from) / (to - from)).clamp(0.0, 1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_asks_for_shares() {
        let threshold = Level::Threshold(0.5);
        assert_eq!([0.49, 0.5, 1.2].map(|pressure| threshold.share(pressure)), [0.0, 1.0, 1.0]);
        let scaled = Level::Scaled(0.25, 0.75);
        assert_eq!([0.0, 0.25, 0.5, 0.75, 1.0].map(|pressure| scaled.share(pressure)), [0.0, 0.0, 0.5, 1.0, 1.0]);
    }

    #[test]
    fn names_say_what_is_shed() {
        assert!(
            Remedy::ALL.iter().all(|remedy| remedy.sheds() == remedy.name().starts_with("envoy.load_shed_points."))
        );
        assert!(Remedy::ALL.iter().enumerate().all(|(number, remedy)| *remedy as usize == number));
    }
}
