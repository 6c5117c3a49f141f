//! What is shown of histograms: their quantiles, and how many values fall below which bounds.

use std::sync::Arc;

use crate::{
    config::convert::StatsSettings,
    telemetry::stats::{Distribution, Merged, Metric, QUANTILES, Unit, Value, views},
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

/// The values of a metric that is a histogram.
pub(super) fn histogram(metric: &Metric) -> Arc<Merged> {
    match &metric.value {
        Value::Histogram(merged) => merged.clone(),
        _ => Arc::default(),
    }
}

/// What a recorded number is divided by to be shown.
pub(super) fn scale(unit: Unit) -> f64 {
    if unit == Unit::Percent { PERCENT_SCALE } else { 1.0 }
}

/// The bounds of a histogram's buckets.
pub(super) fn bounds<'a>(settings: &'a StatsSettings, name: &str) -> &'a [f64] {
    let (_, name) = views::split(&settings.views, name);
    let configured = settings.buckets.iter().find(|(matcher, _)| matcher.matches(name.as_bytes()));
    configured.map_or(&BUCKETS, |(_, buckets)| buckets)
}

/// How many values are at most each bound.
pub(super) fn below(distribution: &Distribution, bounds: &[f64], unit: Unit) -> Vec<u64> {
    bounds.iter().map(|bound| distribution.count_below(bound * scale(unit))).collect()
}

/// The differences between neighbours.
pub(super) fn disjoint(counts: &[u64]) -> Vec<u64> {
    counts.iter().scan(0, |before, count| Some(count - std::mem::replace(before, *count))).collect()
}

/// The values at [`QUANTILES`]; those of nothing are not numbers.
pub(super) fn quantiles(distribution: &Distribution, unit: Unit) -> [f64; QUANTILES.len()] {
    let mut values = [f64::NAN; QUANTILES.len()];
    for (value, found) in values.iter_mut().zip(distribution.quantiles(&QUANTILES).into_iter().flatten()) {
        *value = found / scale(unit);
    }
    values
}

/// 99.5, not 99.500000000001.
pub(super) fn percent(quantile: f64) -> f64 {
    (quantile * 1000.0).round() / 10.0
}
