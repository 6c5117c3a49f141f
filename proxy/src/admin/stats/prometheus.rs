//! Prometheus' text format, with Envoy's names: `envoy_` and the name without its tags; one `# TYPE` line per name.

use std::{collections::BTreeMap, fmt::Write};

use super::{
    buckets::{below, bounds, histogram, quantiles, scale},
    number::{exact, plain},
    wanted::{Buckets, Wanted},
};
use crate::{
    config::convert::StatsSettings,
    telemetry::stats::{Kind, Metric, QUANTILES, Store, Value},
};

pub(super) fn render(store: &Store, settings: &StatsSettings, wanted: Wanted) -> String {
    // As in Envoy, Prometheus gets metrics of all types.
    let wanted = &Wanted { kind: None, ..wanted };
    let mut out = String::new();
    let mut kinds = vec![(Kind::Counter, "counter"), (Kind::Gauge, "gauge")];
    if wanted.text_readouts {
        kinds.push((Kind::TextReadout, "gauge"));
    }
    let summaries = matches!(wanted.buckets, Buckets::None | Buckets::Summary);
    kinds.push((Kind::Histogram, if summaries { "summary" } else { "histogram" }));
    for (kind, shown) in kinds {
        let metrics = wanted.read(store, kind);
        let mut groups: BTreeMap<&str, Vec<(&str, &Metric)>> = BTreeMap::new();
        for (name, metric) in &metrics {
            let tagged = metric.tagged(|name| settings.tags.apply(name));
            groups.entry(&tagged.name).or_default().push((name, metric));
        }
        for (name, metrics) in groups {
            let name = format!("envoy_{}", sanitised(name));
            let _ = writeln!(out, "# TYPE {name} {shown}");
            for (whole, metric) in metrics {
                let tags = tags(metric, settings);
                match &metric.value {
                    Value::Counter(value) | Value::Gauge(value) => {
                        let _ = writeln!(out, "{name}{{{tags}}} {value}");
                    }
                    Value::Text(text) => {
                        let text = with(&tags, "text_value", text);
                        let _ = writeln!(out, "{name}{{{text}}} 0");
                    }
                    Value::Histogram(_) if summaries => summary(&mut out, &name, &tags, metric),
                    Value::Histogram(_) => buckets(&mut out, &name, &tags, bounds(settings, whole), metric),
                }
            }
        }
    }
    out
}

/// Letters, digits and underscores; not a digit first.
fn sanitised(name: &str) -> String {
    let mut out: String =
        name.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' }).collect();
    if out.starts_with(|first: char| first.is_ascii_digit()) {
        out.insert(0, '_');
    }
    out
}

fn tags(metric: &Metric, settings: &StatsSettings) -> String {
    let tagged = metric.tagged(|name| settings.tags.apply(name));
    tagged.tags.iter().fold(String::new(), |tags, (tag, value)| with(&tags, &sanitised(tag), value))
}

fn with(tags: &str, name: &str, value: &str) -> String {
    let comma = if tags.is_empty() { "" } else { "," };
    let value = value.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"");
    format!("{tags}{comma}{name}=\"{value}\"")
}

fn buckets(out: &mut String, name: &str, tags: &str, bounds: &[f64], metric: &Metric) {
    let cumulative = &histogram(metric).cumulative;
    for (bound, count) in bounds.iter().zip(below(cumulative, bounds, metric.unit)) {
        let _ = writeln!(out, "{name}_bucket{{{}}} {count}", with(tags, "le", &exact(*bound)));
    }
    let (count, sum) = (cumulative.count(), cumulative.approximate_sum() / scale(metric.unit));
    let _ = writeln!(out, "{name}_bucket{{{}}} {count}", with(tags, "le", "+Inf"));
    let _ = writeln!(out, "{name}_sum{{{tags}}} {}\n{name}_count{{{tags}}} {count}", exact(sum));
}

/// Of the last interval, as Envoy has it.
fn summary(out: &mut String, name: &str, tags: &str, metric: &Metric) {
    let interval = &histogram(metric).interval;
    for (quantile, value) in QUANTILES.iter().zip(quantiles(interval, metric.unit)) {
        let _ = writeln!(out, "{name}{{{}}} {}", with(tags, "quantile", &plain(*quantile)), exact(value));
    }
    let (count, sum) = (interval.count(), interval.approximate_sum() / scale(metric.unit));
    let _ = writeln!(out, "{name}_sum{{{tags}}} {}\n{name}_count{{{tags}}} {count}", exact(sum));
}
