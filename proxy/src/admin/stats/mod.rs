//! `/stats`: reading metrics, and the formats in which they are shown.

mod html;
mod json;
mod number;
mod prometheus;
mod text;

use std::sync::Arc;

use crate::{
    admin::{
        query::Query,
        reply::{Reply, Status},
    },
    config::{convert::StatsSettings, matcher::Regex},
    telemetry::stats::{Distribution, Kind, Merged, Metric, QUANTILES, Store, Unit, Value},
};

/// Bounds of histograms' buckets unless configured.
const BUCKETS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];
/// What a percentage is kept in parts of.
const PERCENT_SCALE: f64 = 1_000_000.0;

/// How histograms are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Buckets {
    Unset,
    Summary,
    Cumulative,
    Disjoint,
    Detailed,
}

/// What of the metrics is asked for.
struct Wanted {
    used_only: bool,
    filter: Option<(Regex, bool)>,
    kind: Option<Kind>,
    buckets: Buckets,
    text_readouts: bool,
}

impl Wanted {
    fn parse(query: &Query) -> Result<Self, Reply> {
        let filter = match query.get("filter") {
            None | Some("") => None,
            Some(pattern) => Some(
                Regex::search(pattern)
                    .map_err(|error| Reply::text(Status::BAD_REQUEST, format!("Invalid re2 regex: {error}")))?,
            ),
        };
        Ok(Self {
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
                None | Some("" | "none") => Buckets::Unset,
                Some("summary") => Buckets::Summary,
                Some("cumulative") => Buckets::Cumulative,
                Some("disjoint") => Buckets::Disjoint,
                Some("detailed") => Buckets::Detailed,
                Some(_) => {
                    let usage = "usage: /stats?histogram_buckets=(cumulative|disjoint|detailed|summary)\n";
                    return Err(Reply::text(Status::BAD_REQUEST, usage));
                }
            },
            text_readouts: query.get("text_readouts").is_some(),
        })
    }

    /// The metrics of one kind, sorted by name.
    fn read(&self, store: &Store, kind: Kind) -> Vec<(String, Metric)> {
        if self.kind.is_some_and(|wanted| wanted != kind) {
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
    fn numbers(&self, store: &Store) -> Vec<(String, Metric)> {
        let mut numbers = self.read(store, Kind::Counter);
        numbers.append(&mut self.read(store, Kind::Gauge));
        numbers.sort_by(|(one, _), (other, _)| one.cmp(other));
        numbers
    }
}

/// Answers `/stats`.
pub(super) fn stats(store: &Store, settings: &StatsSettings, query: &Query) -> Reply {
    let wanted = match Wanted::parse(query) {
        Ok(wanted) => wanted,
        Err(refusal) => return refusal,
    };
    match query.get("format") {
        None | Some("text") => Reply::text(Status::OK, text::render(store, settings, &wanted)),
        Some("json") => Reply::json(json::render(store, settings, &wanted)),
        Some("prometheus") => Reply::text(Status::OK, prometheus::render(store, settings, &wanted)),
        Some("html" | "active-html") => Reply::html(html::render(&text::render(store, settings, &wanted))),
        Some(_) => {
            let usage = "usage: /stats?format=(html|active-html|json|prometheus|text)\n\n";
            Reply::text(Status::BAD_REQUEST, usage)
        }
    }
}

/// Answers `/stats/prometheus`.
pub(super) fn prometheus(store: &Store, settings: &StatsSettings, query: &Query) -> Reply {
    match Wanted::parse(query) {
        Ok(wanted) => Reply::text(Status::OK, prometheus::render(store, settings, &wanted)),
        Err(refusal) => refusal,
    }
}

fn histogram(metric: &Metric) -> Arc<Merged> {
    match &metric.value {
        Value::Histogram(merged) => merged.clone(),
        _ => Arc::default(),
    }
}

/// What a recorded number is divided by to be shown.
fn scale(unit: Unit) -> f64 {
    if unit == Unit::Percent { PERCENT_SCALE } else { 1.0 }
}

fn bounds<'a>(settings: &'a StatsSettings, name: &str) -> &'a [f64] {
    let configured = settings.buckets.iter().find(|(matcher, _)| matcher.matches(name.as_bytes()));
    configured.map_or(&BUCKETS, |(_, buckets)| buckets)
}

/// How many values are at most each bound.
fn below(distribution: &Distribution, bounds: &[f64], unit: Unit) -> Vec<u64> {
    bounds.iter().map(|bound| distribution.count_below(bound * scale(unit))).collect()
}

/// The differences between neighbours.
fn disjoint(counts: &[u64]) -> Vec<u64> {
    counts.iter().scan(0, |before, count| Some(count - std::mem::replace(before, *count))).collect()
}

fn quantiles(distribution: &Distribution, unit: Unit) -> [f64; QUANTILES.len()] {
    let mut values = [f64::NAN; QUANTILES.len()];
    for (value, found) in values.iter_mut().zip(distribution.quantiles(&QUANTILES).into_iter().flatten()) {
        *value = found / scale(unit);
    }
    values
}
