//! What happens to whoever follows the server, and what it is to say to that: what Envoy 1.40 says.

use std::cell::Cell;

use tonic::Code;
use weir_tests::ads::{Ads, Event, Seen};

use crate::{
    Protocol,
    resources::{bad_cluster, cluster, endpoints, listener, routes},
};

/// What a client is told of a cluster without a source of endpoints.
pub const BAD: &str = "cannot create an EDS cluster without an EDS config";

/// The same, with the field.
pub const BAD_BY_FIELD: &str = "eds_cluster_config: cannot create an EDS cluster without an EDS config";

/// A follower's way through all of it.
pub struct Scenario<'a> {
    ads: &'a Ads,
    protocol: Protocol,
    mark: Cell<usize>,
}

impl<'a> Scenario<'a> {
    /// Before the follower is started.
    pub fn begin(ads: &'a Ads, protocol: Protocol) -> Self {
        ads.change(|world| world.partial = true);
        ads.put([cluster("a"), endpoints("a", 1), cluster("b"), endpoints("b", 1)]);
        ads.put([listener("l", "r"), routes("r", "one")]);
        Self { ads, protocol, mark: Cell::new(0) }
    }

    /// Waits for an event of this step.
    fn until(&self, kind: &str, seen: impl Fn(&Seen) -> bool) {
        let what = format!("what ends this step, of {kind}");
        self.ads.wait_after(self.mark.get(), &what, |event| event.kind == kind && seen(&event.seen));
    }

    fn until_ack(&self, kind: &str, version: &str) {
        self.until(kind, |seen| matches!(seen, Seen::Ack { version: acked } if acked == version));
    }

    /// All that was said in this step, which ends with that.
    #[track_caller]
    fn said(&self, sotw: &[&str], delta: &[&str]) {
        let events = self.ads.events();
        let said: Vec<String> = events[self.mark.replace(events.len())..].iter().filter_map(said).collect();
        match self.protocol {
            Protocol::Sotw => assert_eq!(said, sotw),
            Protocol::Delta => assert_eq!(said, delta),
        }
    }

    /// Clusters, then their endpoints; clusters are acknowledged once they are warm, and only then listeners asked for.
    pub fn initial(&self) {
        self.until_ack("rds", "6");
        self.said(
            &[
                "opened",
                "cds node",
                "eds a,b",
                "cds v3",
                "cds ack 3",
                "lds",
                "eds a,b v4",
                "eds ack 4",
                "rds r",
                "lds v5",
                "lds ack 5",
                "rds r v6",
                "rds ack 6",
            ],
            &["opened", "cds node", "eds a,b", "cds ack 3", "lds", "eds ack 4", "rds r", "lds ack 5", "rds ack 6"],
        );
    }

    /// Endpoints and routes change.
    pub fn changes(&self) {
        self.ads.put([endpoints("a", 2)]);
        self.until_ack("eds", "7");
        self.said(&["eds a,b v7", "eds ack 7"], &["eds ack 7"]);
        self.ads.put([routes("r", "two")]);
        self.until_ack("rds", "8");
        self.said(&["rds r v8", "rds ack 8"], &["rds ack 8"]);
    }

    /// A cluster is refused, for this reason; the server takes it back.
    pub fn rejection(&self, why: &str) {
        self.ads.put([bad_cluster("bad")]);
        self.until("cds", |seen| matches!(seen, Seen::Nack { .. }));
        let nack = format!("cds nack 9: Error adding/updating cluster(s) bad: {why}");
        self.said(&["cds v3", &nack], &[&nack]);
        self.ads.remove("cds", "bad");
        self.until_ack("cds", "10");
        self.said(&["cds v10", "cds ack 10"], &["cds ack 10"]);
    }

    /// A cluster comes, and one goes.
    pub fn coming_and_going(&self) {
        // Nobody asked for them yet.
        self.ads.put([endpoints("c", 3)]);
        self.ads.put([cluster("c")]);
        self.until_ack("eds", "11");
        self.said(
            &["eds a,b,c v7", "eds ack 7", "cds v12", "cds ack 12", "eds a,b,c v11", "eds ack 11"],
            &["eds c", "cds ack 12", "eds ack 11"],
        );
        self.ads.remove("cds", "b");
        self.until_ack("cds", "13");
        self.said(&["eds a,c v11", "eds ack 11", "cds v13", "cds ack 13"], &["eds -b", "cds ack 13"]);
    }

    /// The stream ends. The next begins with what is wanted and what is there.
    pub fn reconnection(&self) {
        self.ads.drop_streams(Code::Unavailable, "dropped");
        self.until_ack("rds", "8");
        let acks =
            ["cds v13", "cds ack 13", "eds a,c v11", "eds ack 11", "lds v5", "lds ack 5", "rds r v8", "rds ack 8"];
        let sotw = ["closed", "opened", "cds v13 node", "eds a,c v11", "lds v5", "rds r v8"];
        self.said(
            &[&sotw[..], &acks].concat(),
            &[
                "closed",
                "opened",
                "cds has a@1,c@12 node",
                "eds a,c has a@7,c@11",
                "lds has l@5",
                "rds r has r@8",
                "cds ack 13",
                "eds ack 11",
                "lds ack 5",
                "rds ack 8",
            ],
        );
    }
}

/// The row of docs/envoy-differences.md that [`Scenario::nothing_left`] meets.
pub const NOTHING_LEFT: &str = "xds-nothing-left";

/// Who follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Envoy,
    Weir,
}

impl Scenario<'_> {
    /// The last clusters go, and then the stream. Of endpoints nothing is wanted any more: in the state of the world Envoy
    /// says so by asking for none by name, which on a new stream asks for all.
    pub fn nothing_left(&self, who: Who) {
        self.ads.change(|world| {
            for name in ["a", "c"] {
                world.remove("type.googleapis.com/envoy.config.cluster.v3.Cluster", name);
            }
        });
        self.until_ack("cds", "15");
        self.said(&["eds v11", "eds ack 11", "cds v15", "cds ack 15"], &["eds -a,c", "cds ack 15"]);
        self.ads.drop_streams(Code::Unavailable, "dropped");
        self.until_ack("rds", "8");
        let begin = ["closed", "opened", "cds v15 node"];
        let between = ["lds v5", "rds r v8", "cds v15", "cds ack 15"];
        let end = ["lds v5", "lds ack 5", "rds r v8", "rds ack 8"];
        let (asked, answered): (&[&str], &[&str]) = match who {
            Who::Envoy => (&["eds v11"], &["eds v11", "eds ack 11"]),
            Who::Weir => (&[], &[]),
        };
        self.said(
            &[&begin, asked, &between, answered, &end].concat(),
            &["closed", "opened", "cds node", "lds has l@5", "rds r has r@8", "cds ack 15", "lds ack 5", "rds ack 8"],
        );
    }
}

/// What a client did, in short: of a request the type, names, the version claimed and what it has.
fn said(event: &Event) -> Option<String> {
    let kind = &event.kind;
    Some(match &event.seen {
        Seen::Opened { .. } => "opened".to_owned(),
        Seen::Closed { .. } => "closed".to_owned(),
        Seen::Request { names, unsubscribed, version, initial, nonce, node } => {
            let (mut names, mut unsubscribed) = (names.clone(), unsubscribed.clone());
            names.sort();
            unsubscribed.sort();
            let mut text = kind.clone();
            if !names.is_empty() {
                text += &format!(" {}", names.join(","));
            }
            if !unsubscribed.is_empty() {
                text += &format!(" -{}", unsubscribed.join(","));
            }
            if !version.is_empty() {
                text += &format!(" v{version}");
            }
            if !initial.is_empty() {
                let has: Vec<_> = initial.iter().map(|(name, version)| format!("{name}@{version}")).collect();
                text += &format!(" has {}", has.join(","));
            }
            // An answer is told by what follows.
            if !nonce.is_empty() && text == *kind {
                return None;
            }
            text + if node.is_some() { " node" } else { "" }
        }
        Seen::Ack { version } => format!("{kind} ack {version}"),
        Seen::Nack { version, error } => format!("{kind} nack {version}: {error}"),
        Seen::Stale { nonce } => format!("{kind} stale {nonce}"),
        Seen::Garbage => "garbage".to_owned(),
        Seen::Response { .. } => return None,
    })
}
