//! What a bootstrap says about statistics: `stats_config`, and when it is flushed.

use std::time::Duration;

use weir_proto::envoy::{
    config::{
        bootstrap::v3::{Bootstrap, bootstrap::StatsFlush},
        metrics::v3 as metrics,
    },
    r#type::matcher::v3::ListStringMatcher,
};

use super::{
    fields::{duration, item, sub},
    matcher,
};
use crate::{
    config::error::Error,
    matcher::StringMatcher,
    telemetry::stats::{Store, tags::TagRules, views},
    view::ViewNames,
};

/// How often histograms' intervals end when the bootstrap does not say.
const FLUSH_INTERVAL: Duration = Duration::from_secs(5);

/// How metrics are kept and shown.
#[derive(Debug)]
pub struct StatsSettings {
    /// Tags to take out of names.
    pub tags: TagRules,
    /// Bounds of the buckets of histograms whose name matches; the first match counts.
    pub buckets: Vec<(StringMatcher, Vec<f64>)>,
    /// A histogram's interval lasts so long.
    pub flush_interval: Duration,
    /// It ends when statistics are asked for, instead.
    pub flush_on_admin: bool,
    /// Whose names are told apart: what a view's are called in it is what is matched, and what tags are taken from.
    pub views: ViewNames,
    keep: Keep,
}

/// Which names are kept.
#[derive(Debug)]
enum Keep {
    All,
    None,
    Matching(Vec<StringMatcher>),
    NotMatching(Vec<StringMatcher>),
}

impl Default for StatsSettings {
    fn default() -> Self {
        Self {
            tags: TagRules::new(true),
            buckets: Vec::new(),
            flush_interval: FLUSH_INTERVAL,
            flush_on_admin: false,
            views: ViewNames::default(),
            keep: Keep::All,
        }
    }
}

impl StatsSettings {
    /// Reads a bootstrap that has passed its validation rules, and makes the store for `workers` workers and these views.
    pub fn read(bootstrap: &Bootstrap, workers: usize, views: ViewNames) -> Result<(Self, Store), Error> {
        let mut settings = Self { views: views.clone(), ..Self::default() };
        settings.flush_on_admin = matches!(bootstrap.stats_flush, Some(StatsFlush::StatsFlushOnAdmin(true)));
        if let Some(interval) = &bootstrap.stats_flush_interval {
            settings.flush_interval = duration(interval, "stats_flush_interval")?;
            if settings.flush_on_admin {
                return Err(Error::at("stats_flush_on_admin", "only one of it and stats_flush_interval"));
            }
        }
        if let Some(message) = &bootstrap.stats_config {
            settings.stats_config(message, "stats_config")?;
        }
        settings.tags.tell_apart(views.clone());
        let any = move |matchers: &[StringMatcher], name: &str| {
            let (_, name) = views::split(&views, name);
            matchers.iter().any(|matcher| matcher.matches(name.as_bytes()))
        };
        let store = match std::mem::replace(&mut settings.keep, Keep::All) {
            Keep::All => Store::new(workers),
            Keep::None => Store::keeping(workers, |_| false),
            Keep::Matching(matchers) => Store::keeping(workers, move |name| any(&matchers, name)),
            Keep::NotMatching(matchers) => Store::keeping(workers, move |name| !any(&matchers, name)),
        };
        Ok((settings, store))
    }

    fn stats_config(&mut self, message: &metrics::StatsConfig, at: &str) -> Result<(), Error> {
        use metrics::{stats_matcher::StatsMatcher, tag_specifier::TagValue};
        if message.allow_default_tag_overrides == Some(true) {
            return Err(Error::at(sub(at, "allow_default_tag_overrides"), "not supported yet"));
        }
        self.tags = TagRules::new(message.use_all_default_tags.unwrap_or(true));
        for (index, specifier) in message.stats_tags.iter().enumerate() {
            let at = item(at, "stats_tags", index);
            if specifier.tag_name.is_empty() {
                return Err(Error::at(sub(&at, "tag_name"), "a name is required"));
            }
            let pattern = match &specifier.tag_value {
                Some(TagValue::FixedValue(value)) => {
                    self.tags.fix(&specifier.tag_name, value);
                    continue;
                }
                Some(TagValue::Regex(pattern)) => pattern,
                None => "",
            };
            self.tags
                .extract(&specifier.tag_name, pattern)
                .map_err(|error| Error::at(sub(&at, "regex"), error.to_string()))?;
        }
        let matcher_at = sub(at, "stats_matcher");
        self.keep = match message.stats_matcher.as_ref().and_then(|matcher| matcher.stats_matcher.as_ref()) {
            None | Some(StatsMatcher::RejectAll(false)) => Keep::All,
            Some(StatsMatcher::RejectAll(true)) => Keep::None,
            Some(StatsMatcher::ExclusionList(list)) => {
                Keep::NotMatching(strings(list, &sub(&matcher_at, "exclusion_list"))?)
            }
            Some(StatsMatcher::InclusionList(list)) => {
                Keep::Matching(strings(list, &sub(&matcher_at, "inclusion_list"))?)
            }
        };
        for (index, settings) in message.histogram_bucket_settings.iter().enumerate() {
            let at = item(at, "histogram_bucket_settings", index);
            if settings.bins.is_some() {
                return Err(Error::at(sub(&at, "bins"), "not supported yet"));
            }
            let Some(matching) = &settings.r#match else {
                return Err(Error::at(sub(&at, "match"), "a match is required"));
            };
            let mut buckets = settings.buckets.clone();
            buckets.sort_by(f64::total_cmp);
            self.buckets.push((matcher::string(matching, &sub(&at, "match"))?, buckets));
        }
        Ok(())
    }
}

fn strings(list: &ListStringMatcher, at: &str) -> Result<Vec<StringMatcher>, Error> {
    let matchers = list.patterns.iter().enumerate();
    matchers.map(|(index, message)| matcher::string(message, &item(at, "patterns", index))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::stats::{Kind, Metric};

    fn read(text: &str) -> Result<(StatsSettings, Store), String> {
        let bootstrap: Bootstrap = weir_proto::from_yaml(text).map_err(|error| error.to_string())?;
        StatsSettings::read(&bootstrap, 1, ViewNames::new(["shop".into()]).unwrap()).map_err(|error| error.to_string())
    }

    fn kept(matcher: &str) -> Vec<String> {
        let (_, store) = read(&format!("stats_config: {{ stats_matcher: {matcher} }}")).unwrap();
        let scope = store.root();
        for name in ["cluster.a.upstream_rq_total", "http.x.downstream_rq_total"] {
            scope.counter(name);
        }
        let mut names: Vec<_> = store.read(Kind::Counter, |_| true).iter().map(Metric::name).collect();
        names.sort();
        names.retain(|name| !name.starts_with("weir.") && !name.starts_with("filesystem."));
        names
    }

    #[test]
    fn matchers_choose_names() {
        assert_eq!(kept("{ exclusion_list: { patterns: [{ prefix: cluster. }] } }"), ["http.x.downstream_rq_total"]);
        let (_, store) =
            read("stats_config: { stats_matcher: { exclusion_list: { patterns: [{ prefix: cluster. }] } } }").unwrap();
        let scope = store.of_view("shop").root();
        for name in ["cluster.a.b", "http.x.b"] {
            scope.counter(name);
        }
        let names: Vec<_> =
            store.read(Kind::Counter, |name| name.starts_with("view.")).iter().map(Metric::name).collect();
        assert_eq!(names, ["view.shop.http.x.b"]);
        assert_eq!(kept("{ inclusion_list: { patterns: [{ prefix: cluster. }] } }"), ["cluster.a.upstream_rq_total"]);
        assert!(kept("{ reject_all: true }").is_empty());
        assert_eq!(kept("{ reject_all: false }").len(), 2);
        let (_, store) = read("stats_config: { stats_matcher: { reject_all: true } }").unwrap();
        assert!(store.read(Kind::Counter, |_| true).is_empty());
    }

    #[test]
    fn tags_buckets_and_interval() {
        let text = "{ stats_flush_interval: 1s, stats_config: { use_all_default_tags: false, stats_tags: [{ tag_name: t, \
            fixed_value: v }], histogram_bucket_settings: [{ match: { suffix: _ms }, buckets: [10, 1] }] } }";
        let (settings, _) = read(text).unwrap();
        assert_eq!(settings.flush_interval, Duration::from_secs(1));
        assert_eq!(settings.buckets[0].1, [1.0, 10.0]);
        assert_eq!(settings.tags.apply("cluster.c.x").tags, [("t".to_owned(), "v".to_owned())]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, message) in [
            (
                "stats_config: { stats_tags: [{ tag_name: t, regex: \"(\" }] }",
                "stats_config.stats_tags[0].regex: bad regular expression \"(\": error: unclosed group",
            ),
            (
                "stats_config: { stats_tags: [{ tag_name: nope }] }",
                "stats_config.stats_tags[0].regex: no regex, and no default one for the tag \"nope\"",
            ),
            (
                "stats_config: { allow_default_tag_overrides: true }",
                "stats_config.allow_default_tag_overrides: not supported yet",
            ),
            (
                "stats_config: { histogram_bucket_settings: [{ match: { prefix: a }, bins: 3 }] }",
                "stats_config.histogram_bucket_settings[0].bins: not supported yet",
            ),
        ] {
            assert_eq!(read(text).map(drop).unwrap_err(), message);
        }
    }
}
