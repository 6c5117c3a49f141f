//! Cross-origin resource sharing.

use http::HeaderValue;

use crate::{
    matcher::{StringMatcher, fraction::RuntimeFraction},
    runtime::Runtime,
};

/// `CorsPolicy`. What is not set here is taken from a less specific one.
#[derive(Clone, Debug, Default)]
pub struct CorsPolicy {
    /// It is of the field that routes and virtual hosts had before: what is said by filters' names replaces all of these.
    pub old: bool,
    /// Origins that may read responses: any of these.
    pub allow_origin: Vec<StringMatcher>,
    /// `access-control-allow-methods`.
    pub allow_methods: Option<HeaderValue>,
    /// `access-control-allow-headers`.
    pub allow_headers: Option<HeaderValue>,
    /// `access-control-expose-headers`.
    pub expose_headers: Option<HeaderValue>,
    /// `access-control-max-age`.
    pub max_age: Option<HeaderValue>,
    /// `access-control-allow-credentials`.
    pub allow_credentials: Option<bool>,
    /// `access-control-allow-private-network`.
    pub allow_private_network: Option<bool>,
    /// Preflight requests of other origins are passed on.
    pub forward_not_matching_preflights: Option<bool>,
    /// Share of the requests; none: all.
    pub enabled: Option<RuntimeFraction>,
    /// Share of the requests that are counted only.
    pub shadow: Option<RuntimeFraction>,
}

impl CorsPolicy {
    /// Whether an origin is allowed.
    pub fn allows(&self, origin: &[u8]) -> bool {
        self.allow_origin.iter().any(|matcher| {
            // An exact "*" stands for every origin.
            matcher.is_exactly(b"*") || matcher.matches(origin)
        })
    }

    /// Whether the policy is in force for one more request.
    pub fn is_enabled(&self, runtime: &Runtime) -> bool {
        self.enabled.as_ref().is_none_or(|share| share.sample(runtime))
    }

    /// Whether one more request is counted only.
    pub fn is_shadow(&self, runtime: &Runtime) -> bool {
        self.shadow.as_ref().is_some_and(|share| share.sample(runtime))
    }
}
