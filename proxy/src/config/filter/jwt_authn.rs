//! Tokens that requests must carry.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use http::{HeaderName, HeaderValue, Uri};
use serde_json::{Map, Value};

use crate::{
    config::{
        filter::stats::{self, Counted},
        route::matching::RouteMatch,
    },
    jwt::{Jwks, Token},
    matcher::StringMatcher,
};

/// `JwtAuthentication`.
#[derive(Debug)]
pub struct JwtAuthn {
    /// Which requests must carry what; the first that takes a request counts. None: nothing.
    pub rules: Vec<(RouteMatch, Option<Requirement>)>,
    /// Where none of `rules` takes a request.
    pub by_state: Option<ByState>,
    /// What routes refer to, by name, sorted.
    pub named: Vec<(Box<str>, Requirement)>,
    /// CORS preflight requests pass.
    pub bypass_preflight: bool,
    /// Refusals do not say why.
    pub silent: bool,
    /// Headers that only this filter may set.
    pub reserved: Vec<HeaderName>,
    /// All that issue tokens, by name, sorted.
    pub providers: Vec<Arc<Provider>>,
    /// Counted for all of it.
    pub stats: Counted<stats::JwtAuthn>,
}

/// What an object of filter state requires.
#[derive(Debug)]
pub struct ByState {
    /// Its name.
    pub key: Box<str>,
    /// By its text; another one: nothing.
    pub requires: HashMap<Box<str>, Requirement>,
}

/// What a route says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OfRoute {
    /// Nothing is required.
    Off,
    /// One of [`JwtAuthn::named`].
    Named(Box<str>),
}

/// What a request must carry.
#[derive(Clone, Debug)]
pub enum Requirement {
    /// Nothing.
    Nothing,
    /// All of these.
    All(Vec<Requirement>),
    /// Any of these.
    Any(Vec<Requirement>),
    /// Tokens at places.
    Tokens(Box<Tokens>),
}

/// Tokens at places, all of which must be good.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// Who must have issued them; none: whichever provider is found by the issuer.
    pub provider: Option<Arc<Provider>>,
    /// Instead of the provider's.
    pub audiences: Option<Audiences>,
    /// Where they are looked for.
    pub places: Vec<Place>,
    /// What is no failure.
    pub tolerates: Tolerates,
}

/// What is no failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tolerates {
    /// Everything is.
    Nothing,
    /// That there is no token.
    Missing,
    /// Whatever is wrong with them.
    Anything,
    /// The same, and a header says so.
    AndTells(HeaderName),
}

/// A place where a token may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where.
    pub at: At,
    /// Whose tokens may be there; none: anybody's.
    pub issuers: Option<Vec<Box<str>>>,
}

/// See [`Place`]. In the order in which tokens are taken, from the last to the first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum At {
    /// In a header, after this text.
    Header(Box<str>, Box<str>),
    /// In a query parameter.
    Parameter(Box<str>),
    /// In a cookie.
    Cookie(Box<str>),
}

/// `aud`s that are allowed, without scheme and slash at the end; empty: any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audiences(Vec<Box<str>>);

impl Audiences {
    /// From a list.
    pub fn new(list: &[String]) -> Self {
        Self(list.iter().map(|audience| bare(audience).into()).collect())
    }

    /// Whether a token for these audiences is allowed.
    pub fn allow(&self, audiences: &[String]) -> bool {
        self.0.is_empty() || audiences.iter().any(|audience| self.0.iter().any(|known| **known == *bare(audience)))
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn bare(audience: &str) -> &str {
    let rest = audience.strip_prefix("http://").or_else(|| audience.strip_prefix("https://")).unwrap_or(audience);
    rest.strip_suffix('/').unwrap_or(rest)
}

/// Who issues tokens, and what is done with those that are good.
#[derive(Debug)]
pub struct Provider {
    /// Unlike that of any other one, ever.
    pub number: u64,
    /// `iss`; empty: any.
    pub issuer: Box<str>,
    /// `aud`s that are allowed.
    pub audiences: Audiences,
    /// How `sub` must look.
    pub subjects: Option<StringMatcher>,
    /// Tokens must end.
    pub must_expire: bool,
    /// And before so long.
    pub max_lifetime: Option<Duration>,
    /// Clocks may differ by so many seconds.
    pub skew: u64,
    /// The keys.
    pub keys: Keys,
    /// The token is passed on.
    pub forward: bool,
    /// The payload is passed on in this header.
    pub payload_header: Option<HeaderName>,
    /// With padding.
    pub pad_payload: bool,
    /// Claims that are passed on in headers.
    pub claims: Vec<Claim>,
    /// And then the route is chosen anew.
    pub clear_route: bool,
    /// Keys of dynamic metadata.
    pub noted: Noted,
    /// Tokens that were good are remembered.
    pub remembered: Option<Remembered>,
    /// Where its tokens are looked for.
    pub places: Vec<At>,
}

/// How many tokens are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// So many.
    pub tokens: usize,
    /// Of at most so many bytes.
    pub longest: usize,
}

/// Under which keys of dynamic metadata things are noted; none: they are not.
#[derive(Debug, Default)]
pub struct Noted {
    /// The payload.
    pub payload: Option<Box<str>>,
    /// Claims that are lists of words there.
    pub lists: Vec<Box<str>>,
    /// The header.
    pub header: Option<Box<str>>,
    /// What is wrong with a token.
    pub failure: Option<Box<str>>,
}

impl Noted {
    /// The payload as it is noted.
    pub fn payload_of(&self, token: &Token) -> Map<String, Value> {
        let mut payload = token.payload.clone();
        for claim in &self.lists {
            if let Some(Value::String(text)) = payload.get(&**claim) {
                let words = text.split(' ').filter(|word| !word.is_empty()).map(Value::from).collect::<Vec<_>>();
                payload.insert((**claim).to_owned(), words.into());
            }
        }
        payload
    }
}

/// A claim that is passed on in a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The header.
    pub header: HeaderName,
    /// Names, from the outside in.
    pub path: Vec<Box<str>>,
}

/// Keys.
#[derive(Debug)]
pub enum Keys {
    /// Configured.
    Local(Arc<Jwks>),
    /// Fetched.
    Remote(Box<Remote>),
}

/// Keys that are fetched.
#[derive(Debug)]
pub struct Remote {
    /// The cluster that has them.
    pub cluster: Box<str>,
    /// `:authority`.
    pub host: HeaderValue,
    /// Where they are.
    pub uri: Uri,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// For the whole fetch.
    pub timeout: Duration,
    /// They are good for so long.
    pub lifetime: Duration,
    /// How often a fetch that fails is repeated.
    pub retries: u32,
    /// They are fetched again before they are stale, and served meanwhile; a fetch that fails is repeated after this.
    pub ahead: Option<Duration>,
    /// The current ones.
    pub fetched: ArcSwapOption<Fetched>,
    /// Somebody fetches them ahead.
    pub fetching: AtomicBool,
}

/// Keys, and when they came.
#[derive(Debug)]
pub struct Fetched {
    /// The keys.
    pub keys: Jwks,
    /// When they came, or were last asked for.
    pub at: Instant,
}

impl Provider {
    /// A number for another one.
    pub fn next_number() -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        NEXT.fetch_add(1, Relaxed)
    }

    /// Whether a token lasts neither too long nor for ever, at a time in seconds since the epoch.
    pub fn allows_lifetime(&self, token: &Token, now: u64) -> bool {
        match self.max_lifetime {
            Some(longest) => token.expires != 0 && token.expires.saturating_sub(now) < longest.as_secs().max(1),
            None => !self.must_expire || token.expires != 0,
        }
    }
}

impl JwtAuthn {
    /// The requirement of a name; error: the names that there are.
    pub fn named(&self, name: &str) -> Result<&Requirement, String> {
        let found = self.named.iter().find(|(known, _)| **known == *name);
        found.map(|(_, requirement)| requirement).ok_or_else(|| {
            let names: Vec<&str> = self.named.iter().map(|(name, _)| &**name).collect();
            format!("Wrong requirement_name: {name}. It should be one of [{}]", names.join(","))
        })
    }

    /// Who issues tokens as this issuer, else who issues them as anybody.
    pub fn provider_of(&self, issuer: &str) -> Option<&Arc<Provider>> {
        let of = |issuer: &str| self.providers.iter().find(|provider| *provider.issuer == *issuer);
        of(issuer).or_else(|| of(""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn audiences_are_compared_without_scheme_and_slash() {
        let audiences = Audiences::new(&["https://a.test/".to_owned(), "b".to_owned()]);
        for (audience, allowed) in [("a.test", true), ("http://a.test", true), ("b/", true), ("c", false)] {
            assert_eq!(audiences.allow(&[audience.to_owned()]), allowed, "{audience}");
        }
        assert!(!audiences.allow(&[]) && Audiences::default().allow(&[]));
    }
}
