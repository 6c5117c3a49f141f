//! `name: value`, a line each.

use std::fmt::Write;

use super::{
    buckets::{below, bounds, disjoint, histogram, percent, quantiles},
    number::{general, plain},
    wanted::{Buckets, Wanted},
};
use crate::{
    config::convert::StatsSettings,
    telemetry::stats::{Distribution, Kind, Metric, QUANTILES, Store, Value},
};

pub(super) fn render(store: &Store, settings: &StatsSettings, wanted: &Wanted) -> String {
    let mut out = String::new();
    for (name, metric) in wanted.read(store, Kind::TextReadout) {
        if let Value::Text(text) = &metric.value {
            line(&mut out, &name, &format_args!("\"{}\"", escaped(text)));
        }
    }
    for (name, metric) in wanted.numbers(store) {
        if let Value::Counter(value) | Value::Gauge(value) = metric.value {
            line(&mut out, &name, &value);
        }
    }
    for (name, metric) in wanted.read(store, Kind::Histogram) {
        show_histogram(&mut out, &name, &metric, settings, wanted.buckets);
    }
    out
}

fn line(out: &mut String, name: &str, value: &dyn std::fmt::Display) {
    // Writing into a String does not fail.
    let _ = writeln!(out, "{name}: {value}");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

fn show_histogram(out: &mut String, name: &str, metric: &Metric, settings: &StatsSettings, buckets: Buckets) {
    let merged = histogram(metric);
    if merged.cumulative.is_empty() {
        return line(out, name, &"No recorded values");
    }
    let summary = || {
        let pairs =
            quantiles(&merged.interval, metric.unit).into_iter().zip(quantiles(&merged.cumulative, metric.unit));
        let shown = QUANTILES.iter().zip(pairs).map(|(quantile, (interval, cumulative))| {
            format!("P{}({},{})", plain(percent(*quantile)), plain(interval), plain(cumulative))
        });
        shown.collect::<Vec<_>>().join(" ")
    };
    match buckets {
        Buckets::Unset | Buckets::None | Buckets::Summary | Buckets::Native => line(out, name, &summary()),
        Buckets::Detailed => {
            let _ = writeln!(
                out,
                "{name}:\n  totals={}\n  intervals={}\n  summary={}",
                bins(&merged.cumulative),
                bins(&merged.interval),
                summary()
            );
        }
        Buckets::Cumulative | Buckets::Disjoint => {
            let bounds = bounds(settings, name);
            let counts = |distribution: &Distribution| {
                let counts = below(distribution, bounds, metric.unit);
                if buckets == Buckets::Disjoint { disjoint(&counts) } else { counts }
            };
            let pairs = counts(&merged.interval).into_iter().zip(counts(&merged.cumulative));
            let shown = bounds
                .iter()
                .zip(pairs)
                .map(|(bound, (interval, cumulative))| format!("B{}({interval},{cumulative})", general(*bound)));
            line(out, name, &shown.collect::<Vec<_>>().join(" "));
        }
    }
}

fn bins(distribution: &Distribution) -> String {
    let bins = distribution.bins();
    let shown = bins.map(|bin| format!("{},{}:{}", general(bin.lower), general(bin.width), bin.count));
    shown.collect::<Vec<_>>().join(", ")
}
