//! The text that a scraper reads: OpenMetrics 1.0 as `prometheus-client` writes it, and Prometheus's older format 0.0.4
//! made of that.

use std::fmt::{self, Write};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text::encode},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge, info::Info},
    registry::{Registry, Unit},
};

/// How the figures are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `application/openmetrics-text`.
    OpenMetrics,
    /// `text/plain; version=0.0.4`.
    Text,
}

impl Format {
    /// What a request with this `Accept` header is answered in: OpenMetrics where it is asked for and plain text is not
    /// preferred.
    pub fn of(accept: &str) -> Self {
        let wanted = |kind: &str| {
            let items = accept.split(',').filter_map(|item| {
                let mut parts = item.split(';').map(str::trim);
                let named = parts.next()?.eq_ignore_ascii_case(kind);
                let quality = parts.find_map(|part| part.strip_prefix("q=")).map_or(Ok(1.0), str::parse::<f32>);
                named.then_some(quality.unwrap_or(0.0))
            });
            items.fold(0.0, f32::max)
        };
        let open = wanted("application/openmetrics-text");
        if open > 0.0 && open >= wanted("text/plain") { Self::OpenMetrics } else { Self::Text }
    }

    /// The `Content-Type` of an answer.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Writes what a collector has, as OpenMetrics.
pub fn open_metrics(collector: impl Collector) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(collector));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

/// The same in the older format: there a type is told of the name that samples bear, and units and the end are not told.
pub fn plain(open_metrics: &str) -> Result<String, fmt::Error> {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help = "";
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').map_or("", |(_, help)| help);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                _ => ("", kind),
            };
            writeln!(text, "# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}")?;
        } else if !line.starts_with('#') {
            writeln!(text, "{line}")?;
        }
    }
    Ok(text)
}

/// Writes metrics, one after another.
pub struct Sheet<'a>(pub DescriptorEncoder<'a>);

impl Sheet<'_> {
    /// A gauge without labels.
    pub fn gauge(&mut self, name: &str, unit: Option<&Unit>, help: &str, value: f64) -> fmt::Result {
        let encoder = self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        match value as i64 {
            // Without a point: what is counted is a whole number.
            whole if whole as f64 == value => ConstGauge::new(whole).encode(encoder),
            _ => ConstGauge::new(value).encode(encoder),
        }
    }

    /// A counter without labels.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let encoder = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(value).encode(encoder)
    }

    /// A counter of seconds.
    pub fn seconds(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        let encoder = self.0.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Counter)?;
        ConstCounter::new(value).encode(encoder)
    }

    /// Gauges that differ by labels.
    pub fn gauges<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let values = values.into_iter().map(|(labels, value)| (labels, ConstGauge::new(value)));
        self.family(name, help, MetricType::Gauge, values)
    }

    /// Counters that differ by labels.
    pub fn counters<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (L, u64)>,
    ) -> fmt::Result {
        let values = values.into_iter().map(|(labels, value)| (labels, ConstCounter::new(value)));
        self.family(name, help, MetricType::Counter, values)
    }

    fn family<L: EncodeLabelSet, M: EncodeMetric>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        mut metrics: impl Iterator<Item = (L, M)>,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, kind)?;
        metrics.try_for_each(|(labels, metric)| metric.encode(encoder.encode_family(&labels)?))
    }

    /// What is told by labels alone.
    pub fn info(&mut self, name: &str, help: &str, labels: [(&'static str, &'static str); 1]) -> fmt::Result {
        let encoder = self.0.encode_descriptor(name, help, None, MetricType::Info)?;
        Info::new(labels).encode(encoder)
    }

    /// A histogram of seconds.
    pub fn histogram(&mut self, name: &str, help: &str, histogram: &impl EncodeMetric) -> fmt::Result {
        let encoder = self.0.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        histogram.encode(encoder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_what_the_scraper_prefers() {
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                          application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,\
                          text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for accept in [prometheus, "application/openmetrics-text", "Application/OpenMetrics-Text; version=1.0.0, */*"] {
            assert_eq!(Format::of(accept), Format::OpenMetrics, "{accept}");
        }
        let older = "text/plain;version=0.0.4;q=0.5,application/openmetrics-text;q=0.1";
        for accept in
            ["", "*/*", "text/plain", older, "application/openmetrics-text;q=0", "application/openmetrics-text;q=x"]
        {
            assert_eq!(Format::of(accept), Format::Text, "{accept}");
        }
    }

    #[test]
    fn the_older_format_tells_types_of_what_samples_are_called() {
        let open = "# HELP weir_build Which.\n# TYPE weir_build info\nweir_build_info{version=\"1\"} 1\n\
                    # HELP process_cpu_seconds Time.\n# TYPE process_cpu_seconds counter\n\
                    # UNIT process_cpu_seconds seconds\nprocess_cpu_seconds_total 1.5\n# HELP weir_leader Whether.\n\
                    # TYPE weir_leader gauge\nweir_leader 1\n# EOF\n";
        assert_eq!(
            plain(open).unwrap(),
            "# HELP weir_build_info Which.\n# TYPE weir_build_info gauge\nweir_build_info{version=\"1\"} 1\n\
             # HELP process_cpu_seconds_total Time.\n# TYPE process_cpu_seconds_total counter\n\
             process_cpu_seconds_total 1.5\n# HELP weir_leader Whether.\n# TYPE weir_leader gauge\nweir_leader 1\n"
        );
    }
}
