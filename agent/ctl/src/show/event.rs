//! `event trace`: one line an event, as tcpdump writes packets.

use jiff::tz::TimeZone;
use serde_json::{Value, json};
use weir_proto::agent::v1::Event;

use super::optional;
use crate::{
    table::clean,
    time::{clock, nanoseconds, rfc3339},
};

/// Writes lines in one time zone.
pub struct Lines {
    zone: TimeZone,
}

impl Lines {
    /// In this machine's time zone.
    pub fn new() -> Self {
        Self { zone: TimeZone::system() }
    }

    /// An event with its line break.
    pub fn plain(&self, event: &Event) -> String {
        let (source, destination) = ends(event);
        let mut line = format!("{} {source} > {destination}: ", clock(event.time, &self.zone));
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
            if !event.listener.is_empty() {
                line.push_str(&format!(" to {}", event.listener));
            }
            line.push_str(&format!(" [{}]", event.rule));
        }
        if event.pid != 0 {
            line.push_str(&format!(" pid {} ({})", event.pid, clean(&event.comm)));
        }
        line.push('\n');
        line
    }
}

/// Both ends with their names: the pod's own, and in brackets the other pod's where the node knows it.
fn ends(event: &Event) -> (String, String) {
    let own = |address: &str| format!("{} {address}", event.pod).trim().to_owned();
    let other = |address: &str| match event.peer_pod.as_str() {
        "" => address.to_owned(),
        peer => format!("{address} ({peer})"),
    };
    if event.direction == "inbound" {
        (other(&event.source), own(&event.destination))
    } else {
        (own(&event.source), other(&event.destination))
    }
}

/// An event as JSON.
pub fn json(event: &Event) -> Value {
    json!({
        "time": rfc3339(event.time),
        "kind": event.kind,
        "pod_uid": optional(&event.pod_uid),
        "pod": event.pod,
        "direction": event.direction,
        "action": event.action,
        "rule": event.rule,
        "source": optional(&event.source),
        "destination": event.destination,
        "listener": optional(&event.listener),
        "peer_pod": optional(&event.peer_pod),
        "pid": (event.pid != 0).then_some(event.pid),
        "comm": optional(&event.comm),
        "bytes_sent": event.bytes_sent,
        "bytes_received": event.bytes_received,
        "rtt_us": event.rtt_us,
        "retransmits": event.retransmits,
        "lost": event.lost,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(event: &Event) -> String {
        Lines { zone: TimeZone::UTC }.plain(event)
    }

    fn decision(direction: &str, action: &str, rule: &str) -> Event {
        Event {
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
        assert_eq!(json(&event)["time"], "2026-11-20T08:00:01.123456789Z");
    }
}
