//! `{"stats":[{"name":...,"value":...},...,{"histograms":...}]}`.

use std::fmt::Write;

use super::{
    buckets::{below, bounds, disjoint, histogram, percent, quantiles},
    number::shortest,
    wanted::{Buckets, Wanted},
};
use crate::{
    config::convert::StatsSettings,
    telemetry::stats::{Distribution, Kind, Metric, QUANTILES, Store, Value},
};

pub(super) fn render(store: &Store, settings: &StatsSettings, wanted: &Wanted) -> String {
    let mut items = Vec::new();
    for (name, metric) in wanted.read(store, Kind::TextReadout) {
        if let Value::Text(text) = &metric.value {
            items.push(format!("{{\"name\":{},\"value\":{}}}", quoted(&name), quoted(text)));
        }
    }
    for (name, metric) in wanted.numbers(store) {
        if let Value::Counter(value) | Value::Gauge(value) = metric.value {
            items.push(format!("{{\"name\":{},\"value\":{value}}}", quoted(&name)));
        }
    }
    let histograms = wanted.read(store, Kind::Histogram);
    if !histograms.is_empty() {
        items.push(format!("{{\"histograms\":{}}}", show_histograms(&histograms, settings, wanted.buckets)));
    }
    format!("{{\"stats\":[{}]}}", items.join(","))
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn number(value: f64) -> String {
    if value.is_nan() { "null".to_owned() } else { shortest(value) }
}

fn list(items: impl Iterator<Item = String>) -> String {
    let mut out = String::from("[");
    for (index, item) in items.enumerate() {
        let _ = write!(out, "{}{item}", if index > 0 { "," } else { "" });
    }
    out + "]"
}

fn show_histograms(histograms: &[(String, Metric)], settings: &StatsSettings, buckets: Buckets) -> String {
    let levels = list(QUANTILES.iter().map(|quantile| number(percent(*quantile))));
    match buckets {
        Buckets::Unset | Buckets::None | Buckets::Summary | Buckets::Native => {
            let computed = list(
                histograms
                    .iter()
                    .map(|(name, metric)| format!("{{\"name\":{},\"values\":{}}}", quoted(name), values(metric))),
            );
            format!("{{\"supported_quantiles\":{levels},\"computed_quantiles\":{computed}}}")
        }
        Buckets::Detailed => {
            let details = list(histograms.iter().map(|(name, metric)| {
                let merged = histogram(metric);
                format!(
                    "{{\"name\":{},\"totals\":{},\"intervals\":{},\"percentiles\":{}}}",
                    quoted(name),
                    bins(&merged.cumulative),
                    bins(&merged.interval),
                    values(metric)
                )
            }));
            format!("{{\"supported_percentiles\":{levels},\"details\":{details}}}")
        }
        Buckets::Cumulative | Buckets::Disjoint => list(histograms.iter().map(|(name, metric)| {
            let merged = histogram(metric);
            let bounds = bounds(settings, name);
            let counts = |distribution: &Distribution| {
                let counts = below(distribution, bounds, metric.unit);
                if buckets == Buckets::Disjoint { disjoint(&counts) } else { counts }
            };
            let pairs = counts(&merged.interval).into_iter().zip(counts(&merged.cumulative));
            let shown = list(bounds.iter().zip(pairs).map(|(bound, (interval, cumulative))| {
                let bound = number(*bound);
                format!("{{\"upper_bound\":{bound},\"interval\":{interval},\"cumulative\":{cumulative}}}")
            }));
            format!("{{\"name\":{},\"buckets\":{shown}}}", quoted(name))
        })),
    }
}

fn values(metric: &Metric) -> String {
    let merged = histogram(metric);
    let pairs = quantiles(&merged.cumulative, metric.unit).into_iter().zip(quantiles(&merged.interval, metric.unit));
    list(pairs.map(|(cumulative, interval)| {
        format!("{{\"cumulative\":{},\"interval\":{}}}", number(cumulative), number(interval))
    }))
}

fn bins(distribution: &Distribution) -> String {
    list(distribution.bins().map(|bin| {
        format!("{{\"lower_bound\":{},\"width\":{},\"count\":{}}}", number(bin.lower), number(bin.width), bin.count)
    }))
}
