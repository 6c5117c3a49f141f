//! Limiting the rate of requests, in this process.

use std::{
    net::IpAddr,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use http::StatusCode;
use lru::LruCache;
use parking_lot::Mutex;

use crate::{
    config::{
        filter::stats::{self, Counted},
        headers::Addition,
        request::{RequestView, header_matches},
    },
    matcher::{
        HeaderMatcher, MatchedHeader, QueryMatcher, decoded_query_value, fraction::RuntimeFraction, metadata::Metadata,
    },
};

/// `LocalRateLimit`.
#[derive(Clone, Debug)]
pub struct LocalRateLimit {
    /// What it counts, below a prefix of its own.
    pub stats: Counted<stats::LocalRateLimit>,
    /// What is answered beyond the limit.
    pub status: StatusCode,
    /// Requests without a descriptor of their own.
    pub bucket: Option<Bucket>,
    /// Requests with these entries. Those for any value come last.
    pub descriptors: Vec<Descriptor>,
    /// Share of the requests that are looked at.
    pub enabled: RuntimeFraction,
    /// Share of those that are refused beyond the limit.
    pub enforced: RuntimeFraction,
    /// To requests that are let pass although beyond the limit.
    pub request_headers: Vec<Addition>,
    /// To answers made here.
    pub response_headers: Vec<Addition>,
    /// Every connection has a limit of its own.
    pub per_connection: bool,
    /// `x-ratelimit-*` in responses.
    pub limit_headers: bool,
    /// gRPC clients are told RESOURCE_EXHAUSTED instead of UNAVAILABLE.
    pub resource_exhausted: bool,
    /// A request with a descriptor also takes from `bucket`.
    pub always_consume_default: bool,
    /// Which of the routes' `rate_limits` make descriptors.
    pub stage: u32,
    /// Which of the virtual host's `rate_limits` do.
    pub vhost_limits: VhostLimits,
    /// What makes descriptors, instead of the routes' `rate_limits`.
    pub rate_limits: Vec<RateLimit>,
    /// Tells it from all others, also from those that come after it.
    pub identity: Identity,
}

/// What no two configurations share, as long as anybody knows it.
#[derive(Clone, Debug, Default)]
pub struct Identity(Arc<()>);

impl Identity {
    /// Whether this is the other.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether nobody else knows it any more.
    pub fn is_last(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

/// Whether a virtual host's `rate_limits` count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VhostLimits {
    /// If the route has none.
    #[default]
    Override,
    /// Always.
    Include,
    /// Never.
    Ignore,
}

/// Entries of a request, and their limit.
#[derive(Clone, Debug)]
pub struct Descriptor {
    /// Key and value; an empty value stands for any.
    entries: Entries,
    /// The limit.
    bucket: Bucket,
    /// The limits of those that it stands for, where it stands for several.
    each: Option<Arc<Mutex<LruCache<Entries, Bucket>>>>,
}

impl Descriptor {
    /// `most`: how many limits there are at most for what an entry without a value stands for.
    pub fn new(entries: Entries, bucket: Bucket, most: NonZeroUsize) -> Self {
        let any = entries.iter().any(|(_, value)| value.is_empty());
        Self { entries, bucket, each: any.then(|| Arc::new(Mutex::new(LruCache::new(most)))) }
    }

    /// Whether it stands for any value.
    pub fn is_for_any(&self) -> bool {
        self.each.is_some()
    }

    fn limit(&self, made: &Entries) -> Option<Bucket> {
        let Some(each) = &self.each else { return (self.entries == *made).then(|| self.bucket.clone()) };
        let stands_for = self.entries.len() == made.len()
            && self.entries.iter().zip(made).all(|((key, value), (made_key, made_value))| {
                key == made_key && (value.is_empty() || value == made_value)
            });
        stands_for.then(|| each.lock().get_or_insert_ref(made, || self.bucket.fresh()).clone())
    }

    fn fresh(&self) -> Self {
        let each = self.each.as_ref().map(|each| Arc::new(Mutex::new(LruCache::new(each.lock().cap()))));
        Self { entries: self.entries.clone(), bucket: self.bucket.fresh(), each }
    }
}

/// A token bucket, which fills continuously. Shared by all workers.
#[derive(Clone, Debug)]
pub struct Bucket {
    /// Tokens that fit.
    pub max: u32,
    /// Tokens per second.
    pub rate: f64,
    /// Seconds from `epoch` at which the bucket was empty, as bits: the tokens are what has come since.
    emptied: Arc<AtomicU64>,
    epoch: Instant,
}

impl Bucket {
    /// A full bucket, into which `tokens` come every `interval`.
    pub fn new(max: u32, tokens: u32, interval: Duration) -> Self {
        let rate = f64::from(tokens) / interval.as_secs_f64().max(f64::MIN_POSITIVE);
        let emptied = -(f64::from(max) / rate);
        Self { max, rate, emptied: Arc::new(AtomicU64::new(emptied.to_bits())), epoch: Instant::now() }
    }

    /// Another one like it, full.
    #[must_use]
    pub fn fresh(&self) -> Self {
        let emptied = -(f64::from(self.max) / self.rate);
        Self { emptied: Arc::new(AtomicU64::new(emptied.to_bits())), epoch: Instant::now(), ..*self }
    }

    /// Takes so many tokens, if they are there; else none. None wanted is none taken, as in Envoy.
    pub fn take(&self, wanted: u32, now: Instant) -> bool {
        let wanted = f64::from(wanted);
        let now = now.saturating_duration_since(self.epoch).as_secs_f64();
        let taken = self.emptied.fetch_update(Relaxed, Relaxed, |bits| {
            let tokens = self.tokens(f64::from_bits(bits), now);
            (wanted > 0.0 && tokens >= wanted).then(|| (now - (tokens - wanted) / self.rate).to_bits())
        });
        taken.is_ok()
    }

    /// Whole tokens that are left.
    pub fn left(&self, now: Instant) -> u32 {
        let now = now.saturating_duration_since(self.epoch).as_secs_f64();
        // At most `max`, which is a u32.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and max")]
        let left = self.tokens(f64::from_bits(self.emptied.load(Relaxed)), now) as u32;
        left
    }

    /// Seconds until there is another token, rounded up.
    pub fn seconds_to_next(&self, now: Instant) -> u64 {
        let now = now.saturating_duration_since(self.epoch).as_secs_f64();
        let tokens = self.tokens(f64::from_bits(self.emptied.load(Relaxed)), now);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative; saturates")]
        let seconds = ((1.0 - tokens.min(1.0)) / self.rate).ceil() as u64;
        seconds
    }

    fn tokens(&self, emptied: f64, now: f64) -> f64 {
        ((now - emptied) * self.rate).clamp(0.0, f64::from(self.max))
    }
}

/// `RateLimit` of a route or virtual host: what makes a descriptor.
#[derive(Clone, Debug)]
pub struct RateLimit {
    /// Only filters of this stage look at it.
    pub stage: u32,
    /// What makes entries; if one makes none, there is no descriptor.
    pub actions: Vec<RateLimitAction>,
    /// `hits_addend`: tokens that a request with this descriptor takes from its limit.
    pub hits: u32,
}

/// What makes an entry.
#[derive(Clone, Debug)]
pub enum RateLimitAction {
    /// `source_cluster`: this process's cluster.
    SourceCluster(Box<str>),
    /// `destination_cluster`.
    DestinationCluster,
    /// A header's value.
    Header {
        /// The header.
        name: MatchedHeader,
        /// The entry's key.
        key: Box<str>,
        /// Without it, only this entry is left out.
        skip_if_absent: bool,
    },
    /// A query parameter's value.
    Query {
        /// The parameter.
        name: Box<str>,
        /// The entry's key.
        key: Box<str>,
        /// Without it, only this entry is left out.
        skip_if_absent: bool,
    },
    /// `remote_address`.
    RemoteAddress,
    /// `masked_remote_address`, with these prefix lengths.
    MaskedRemoteAddress(u8, u8),
    /// A fixed entry.
    Generic(Box<str>, Box<str>),
    /// A fixed entry if headers match, or do not.
    HeaderValueMatch(Box<str>, Box<str>, bool, Vec<HeaderMatcher>),
    /// A fixed entry if query parameters match, or do not.
    QueryMatch(Box<str>, Box<str>, bool, Vec<QueryMatcher>),
    /// A string from metadata.
    Metadata {
        /// The entry's key.
        key: Box<str>,
        /// Namespace of the metadata.
        namespace: Box<str>,
        /// Keys, from the outside in.
        path: Vec<Box<str>>,
        /// Instead of an absent one.
        default: Box<str>,
        /// The route's instead of the request's.
        of_route: bool,
        /// Without it, only this entry is left out.
        skip_if_absent: bool,
    },
}

/// What descriptors are made from.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The request.
    pub request: RequestView<'a>,
    /// The client, as trusted headers say.
    pub remote: IpAddr,
    /// The route's cluster.
    pub cluster: &'a str,
    /// Gathered so far.
    pub metadata: Option<&'a Metadata>,
    /// The route's.
    pub route_metadata: Option<&'a Metadata>,
}

impl LocalRateLimit {
    /// Another one like it, with full buckets.
    #[must_use]
    pub fn fresh(&self) -> Self {
        let mut fresh = Self { identity: Identity::default(), ..self.clone() };
        fresh.bucket = self.bucket.as_ref().map(Bucket::fresh);
        fresh.descriptors = self.descriptors.iter().map(Descriptor::fresh).collect();
        fresh
    }

    /// The limit for what a request was found to be.
    pub fn limit(&self, made: &Entries) -> Option<Bucket> {
        self.descriptors.iter().find_map(|known| known.limit(made))
    }
}

/// Entries of a descriptor.
pub type Entries = Vec<(Box<str>, Box<str>)>;

impl RateLimit {
    /// The descriptor for a request, if it has one.
    pub fn descriptor(&self, facts: &Facts<'_>) -> Option<Entries> {
        let mut entries = Vec::with_capacity(self.actions.len());
        for action in &self.actions {
            match action.entry(facts) {
                Made::Entry(key, value) => entries.push((key, value)),
                Made::Skipped => {}
                Made::Nothing => return None,
            }
        }
        (!entries.is_empty()).then_some(entries)
    }
}

enum Made {
    Entry(Box<str>, Box<str>),
    Skipped,
    Nothing,
}

impl RateLimitAction {
    fn entry(&self, facts: &Facts<'_>) -> Made {
        let absent = |skip: bool| if skip { Made::Skipped } else { Made::Nothing };
        let text = |bytes: &[u8]| -> Box<str> { String::from_utf8_lossy(bytes).into() };
        match self {
            Self::SourceCluster(name) => Made::Entry("source_cluster".into(), name.clone()),
            Self::DestinationCluster => Made::Entry("destination_cluster".into(), facts.cluster.into()),
            Self::Header { name, key, skip_if_absent } => match facts.request.header(name) {
                Some(value) if !value.is_empty() => Made::Entry(key.clone(), text(value)),
                _ => absent(*skip_if_absent),
            },
            Self::Query { name, key, skip_if_absent } => {
                let query = facts.request.uri.query().unwrap_or_default();
                match decoded_query_value(query, name) {
                    Some(value) if !value.is_empty() => {
                        Made::Entry(key.clone(), String::from_utf8_lossy(&value).into())
                    }
                    _ => absent(*skip_if_absent),
                }
            }
            Self::RemoteAddress => Made::Entry("remote_address".into(), facts.remote.to_string().into()),
            Self::MaskedRemoteAddress(v4, v6) => {
                let length = if facts.remote.is_ipv4() { *v4 } else { *v6 };
                match ipnet::IpNet::new(facts.remote, length) {
                    Ok(net) => Made::Entry("masked_remote_address".into(), net.trunc().to_string().into()),
                    Err(_) => Made::Nothing,
                }
            }
            Self::Generic(key, value) => Made::Entry(key.clone(), value.clone()),
            Self::HeaderValueMatch(key, value, expected, headers) => {
                let matched = headers.iter().all(|matcher| header_matches(matcher, &facts.request));
                if matched == *expected { Made::Entry(key.clone(), value.clone()) } else { Made::Nothing }
            }
            Self::QueryMatch(key, value, expected, queries) => {
                let query = facts.request.uri.query().unwrap_or_default();
                let matched = queries.iter().all(|matcher| matcher.matches_decoded(query));
                if matched == *expected { Made::Entry(key.clone(), value.clone()) } else { Made::Nothing }
            }
            Self::Metadata { key, namespace, path, default, of_route, skip_if_absent } => {
                let source = if *of_route { facts.route_metadata } else { facts.metadata };
                let value = source.and_then(|metadata| metadata.get(namespace, path)).and_then(|value| value.as_str());
                match value.filter(|value| !value.is_empty()) {
                    Some(value) => Made::Entry(key.clone(), value.into()),
                    None if !default.is_empty() => Made::Entry(key.clone(), default.clone()),
                    None => absent(*skip_if_absent),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_fill_continuously() {
        let bucket = Bucket::new(2, 1, Duration::from_secs(10));
        let start = bucket.epoch;
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(bucket.left(at(0)), 2);
        assert!(bucket.take(1, at(0)) && bucket.take(1, at(0)) && !bucket.take(1, at(0)));
        assert!(!bucket.take(1, at(9)));
        assert_eq!(bucket.seconds_to_next(at(9)), 1);
        assert!(bucket.take(1, at(10)) && !bucket.take(1, at(10)));
        assert_eq!(bucket.left(at(1000)), 2);
        assert!(bucket.fresh().take(1, Instant::now()));
    }
}
