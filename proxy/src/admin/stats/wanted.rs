//! What of the metrics a query asks for.

use crate::{
    admin::{
        query::Query,
        reply::{Reply, Status},
    },
    matcher::Regex,
    telemetry::stats::{Kind, Metric, Store},
};

/// How histograms are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Buckets {
    Unset,
    /// Nothing but quantiles, also for Prometheus.
    None,
    Summary,
    Cumulative,
    Disjoint,
    Detailed,
    /// Of Prometheus' protobuf format, in which nothing is shown here.
    Native,
}

/// What of the metrics is asked for.
pub(super) struct Wanted {
    pub used_only: bool,
    pub filter: Option<(Regex, bool)>,
    /// Hidden ones are asked for: no metric is.
    pub hidden_only: bool,
    pub kind: Option<Kind>,
    pub buckets: Buckets,
    pub text_readouts: bool,
}

impl Wanted {
    /// As the query says; error: what is answered.
    pub fn parse(query: &Query) -> Result<Self, Reply> {
        let filter = match query.get("filter") {
            None | Some("") => None,
            Some(pattern) => Some(
                Regex::search(pattern)
                    .map_err(|error| Reply::text(Status::BAD_REQUEST, format!("Invalid re2 regex: {error}")))?,
            ),
        };
        let hidden_only = match query.get("hidden") {
            None | Some("" | "include" | "exclude") => false,
            Some("only") => true,
            Some(_) => {
                return Err(Reply::text(Status::BAD_REQUEST, "usage: /stats?hidden=(include|only|exclude)\n\n"));
            }
        };
        Ok(Self {
            hidden_only,
            used_only: query.get("usedonly").is_some(),
            filter: filter.map(|filter| (filter, query.get("invert_filter").is_some())),
            kind: match query.get("type") {
                None | Some("All") => None,
                Some("Counters") => Some(Kind::Counter),
                Some("Gauges") => Some(Kind::Gauge),
                Some("Histograms") => Some(Kind::Histogram),
                Some("TextReadouts") => Some(Kind::TextReadout),
                Some(_) => return Err(Reply::text(Status::BAD_REQUEST, "invalid &type= param")),
            },
            buckets: match query.get("histogram_buckets") {
                None | Some("") => Buckets::Unset,
                Some("none") => Buckets::None,
                Some("summary") => Buckets::Summary,
                Some("cumulative") => Buckets::Cumulative,
                Some("disjoint") => Buckets::Disjoint,
                Some("detailed") => Buckets::Detailed,
                Some("prometheusnative") => Buckets::Native,
                Some(_) => {
                    let usage =
                        "usage: /stats?histogram_buckets=(cumulative|disjoint|detailed|summary|prometheusnative)\n";
                    return Err(Reply::text(Status::BAD_REQUEST, usage));
                }
            },
            text_readouts: query.get("text_readouts").is_some(),
        })
    }

    /// Why Prometheus is shown no histograms so, if not.
    pub fn refused_by_prometheus(&self) -> Option<Reply> {
        let text = match self.buckets {
            Buckets::Disjoint | Buckets::Detailed => "unsupported prometheus histogram bucket mode",
            Buckets::Native => "unsupported prometheusnative histogram type when not using protobuf exposition format",
            _ => return None,
        };
        Some(Reply::text(Status::BAD_REQUEST, text))
    }

    /// Why the formats but Prometheus' show no histograms so, if not.
    pub fn refused_by_others(&self) -> Option<Reply> {
        let text = "Invalid histogram_buckets type for non prometheus stats type";
        (self.buckets == Buckets::Native).then(|| Reply::text(Status::BAD_REQUEST, text))
    }

    /// The metrics of one kind, sorted by name.
    pub fn read(&self, store: &Store, kind: Kind) -> Vec<(String, Metric)> {
        if self.hidden_only || self.kind.is_some_and(|wanted| wanted != kind) {
            return Vec::new();
        }
        let metrics = store.read(kind, |name| {
            self.filter.as_ref().is_none_or(|(filter, invert)| filter.is_match(name.as_bytes()) != *invert)
        });
        let mut named: Vec<_> = metrics
            .into_iter()
            .filter(|metric| metric.used || !self.used_only)
            .map(|metric| (metric.name(), metric))
            .collect();
        named.sort_by(|(one, _), (other, _)| one.cmp(other));
        named
    }

    /// Counters and gauges together, sorted by name.
    pub fn numbers(&self, store: &Store) -> Vec<(String, Metric)> {
        let mut numbers = self.read(store, Kind::Counter);
        numbers.append(&mut self.read(store, Kind::Gauge));
        numbers.sort_by(|(one, _), (other, _)| one.cmp(other));
        numbers
    }
}
