//! `event trace`: one line an event, as tcpdump writes packets.

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use weir_proto::agent::v1 as pb;

use super::{optional, rows::One, shown};
use crate::{
    table::clean,
    time::{Time, nanoseconds},
};

/// A decision, or the end of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Event {
    time: Time,
    kind: String,
    pod_uid: Option<String>,
    /// `namespace/name`, or what is known of whom it is about.
    pub pod: String,
    direction: String,
    action: String,
    rule: String,
    source: Option<String>,
    destination: String,
    listener: Option<String>,
    peer_pod: Option<String>,
    pid: Option<u32>,
    comm: Option<String>,
    bytes_sent: u64,
    bytes_received: u64,
    rtt_us: u32,
    retransmits: u32,
    /// Events lost before this one.
    pub lost: u64,
}

impl From<pb::Event> for Event {
    fn from(event: pb::Event) -> Self {
        Self {
            time: Time(event.time),
            kind: event.kind,
            pod_uid: optional(event.pod_uid),
            pod: event.pod,
            direction: event.direction,
            action: event.action,
            rule: event.rule,
            source: optional(event.source),
            destination: event.destination,
            listener: optional(event.listener),
            peer_pod: optional(event.peer_pod),
            pid: (event.pid != 0).then_some(event.pid),
            comm: optional(event.comm),
            bytes_sent: event.bytes_sent,
            bytes_received: event.bytes_received,
            rtt_us: event.rtt_us,
            retransmits: event.retransmits,
            lost: event.lost,
        }
    }
}

/// Writes lines in one time zone.
pub struct Lines {
    zone: TimeZone,
}

impl Lines {
    /// In this machine's time zone.
    pub fn new() -> Self {
        Self { zone: TimeZone::system() }
    }

    /// An event, and of which node where that does not go without saying, with its line break.
    pub fn plain(&self, One { node, item: event }: &One<Event>) -> String {
        let (source, destination) = ends(event);
        let node = node.as_ref().map_or_else(String::new, |node| format!("{node} "));
        let mut line = format!("{} {node}{source} > {destination}: ", event.time.clock(&self.zone));
        if event.kind == "close" {
            line.push_str(&format!(
                "close sent {} received {} rtt {} retransmits {}",
                event.bytes_sent,
                event.bytes_received,
                nanoseconds(u64::from(event.rtt_us) * 1000),
                event.retransmits
            ));
        } else {
            line.push_str(&event.action);
            if let Some(listener) = &event.listener {
                line.push_str(&format!(" to {listener}"));
            }
            line.push_str(&format!(" [{}]", event.rule));
        }
        if let Some(pid) = event.pid {
            line.push_str(&format!(" pid {pid} ({})", clean(shown(&event.comm))));
        }
        line.push('\n');
        line
    }
}

/// Both ends with their names: the pod's own, and in brackets the other pod's where the node knows it.
fn ends(event: &Event) -> (String, String) {
    let own = |address: &str| format!("{} {address}", event.pod).trim().to_owned();
    let other = |address: &str| match &event.peer_pod {
        None => address.to_owned(),
        Some(peer) => format!("{address} ({peer})"),
    };
    if event.direction == "inbound" {
        (other(shown(&event.source)), own(&event.destination))
    } else {
        (own(shown(&event.source)), other(&event.destination))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(event: &pb::Event) -> String {
        Lines { zone: TimeZone::UTC }.plain(&One::here(event.clone().into()))
    }

    fn decision(direction: &str, action: &str, rule: &str) -> pb::Event {
        pb::Event {
            time: 1_795_161_601_123_456_789,
            kind: "decision".to_owned(),
            pod: "default/client".to_owned(),
            direction: direction.to_owned(),
            action: action.to_owned(),
            rule: rule.to_owned(),
            destination: "10.96.0.10:80".to_owned(),
            ..Default::default()
        }
    }

    #[test]
    fn decisions_read_like_packets() {
        let mut event = decision("outbound", "redirect", "redirected");
        (event.listener, event.pid, event.comm) = ("10.0.0.2:15001".to_owned(), 123, "curl".to_owned());
        assert_eq!(
            line(&event),
            "08:00:01.123456 default/client > 10.96.0.10:80: redirect to 10.0.0.2:15001 [redirected] pid 123 (curl)\n"
        );
        event = decision("inbound", "steer", "steered");
        (event.source, event.peer_pod) = ("10.0.0.9:43210".to_owned(), "default/web".to_owned());
        (event.destination, event.listener) = ("10.0.0.2:80".to_owned(), "10.0.0.2:15006".to_owned());
        assert_eq!(
            line(&event),
            "08:00:01.123456 10.0.0.9:43210 (default/web) > default/client 10.0.0.2:80: \
             steer to 10.0.0.2:15006 [steered]\n"
        );
        assert_eq!(
            line(&decision("outbound", "pass", "excluded-port")),
            "08:00:01.123456 default/client > 10.96.0.10:80: pass [excluded-port]\n"
        );
    }

    #[test]
    fn the_end_of_a_connection_tells_what_it_carried() {
        let mut event = decision("outbound", "close", "redirected");
        event.kind = "close".to_owned();
        event.source = "10.0.0.2:40000".to_owned();
        (event.bytes_sent, event.bytes_received, event.rtt_us, event.retransmits) = (78, 1205, 35, 1);
        assert_eq!(
            line(&event),
            "08:00:01.123456 default/client 10.0.0.2:40000 > 10.96.0.10:80: \
             close sent 78 received 1205 rtt 35.0us retransmits 1\n"
        );
        let event = Event::from(event);
        assert_eq!(crate::show::read_back(&event)["time"], "2026-11-20T08:00:01.123456789Z");
        let placed = Lines { zone: TimeZone::UTC }.plain(&One::here(event).of_node("n1"));
        assert!(placed.starts_with("08:00:01.123456 n1 default/client 10.0.0.2:40000 > "), "{placed}");
    }
}
