//! Tokens that requests must carry.

use std::{collections::HashMap, sync::Arc, time::Duration};

use http::HeaderName;
use weir_proto::envoy::extensions::filters::http::jwt_authn::v3::{
    self as proto, jwt_provider::JwksSourceSpecifier, jwt_requirement::RequiresType, requirement_rule::RequirementType,
};

use crate::{
    config::{
        convert::{
            context::Context,
            fields::{data_source, duration, header_name, item, sub},
            matcher,
            route::matching::route_match,
        },
        error::Error,
        filter::{
            jwt_authn::{
                At, Audiences, ByState, Claim, JwtAuthn, Keys, Noted, OfRoute, Place, Provider, Remembered, Remote,
                Requirement, Tokens, Tolerates,
            },
            stats::{self, Counted},
        },
    },
    jwt::Jwks,
};

/// Seconds by which clocks may differ where a provider does not say.
const SKEW: u64 = 60;

/// How long fetched keys are good where a provider does not say.
const KEYS_LIFETIME: Duration = Duration::from_secs(600);

/// When a fetch ahead that failed is repeated where a provider does not say.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Tokens that are remembered where a provider does not say.
const REMEMBERED: Remembered = Remembered { tokens: 100, longest: 4096 };

/// The header that tells of a token that was not verified.
const VERIFIED: &str = "x-jwt-signature-verified";

pub(super) fn jwt_authn(cx: &mut Context, message: &proto::JwtAuthentication, at: &str) -> Result<JwtAuthn, Error> {
    let supported = [
        "providers",
        "rules",
        "filter_state_rules",
        "bypass_cors_preflight",
        "requirement_map",
        "strip_failure_response",
        "stat_prefix",
    ];
    cx.only(message, at, &supported, &[])?;
    let scope = match message.stat_prefix.as_str() {
        "" => cx.http.scope("jwt_authn"),
        prefix => cx.http.scope("jwt_authn").scope(prefix),
    };
    let mut all = HashMap::new();
    for (name, provider) in &message.providers {
        let at = format!("{at}.providers[\"{name}\"]");
        all.insert(&**name, Arc::new(self::provider(cx, name, provider, &at)?));
    }
    let mut names: Vec<_> = all.keys().copied().collect();
    names.sort_unstable();
    let providers: Vec<Arc<Provider>> = names.iter().map(|name| all[name].clone()).collect();
    let known = Known { all, providers: &providers };
    let mut named = Vec::new();
    for (name, requirement) in &message.requirement_map {
        let at = format!("{at}.requirement_map[\"{name}\"]");
        named.push((name.as_str().into(), known.requirement(requirement, &[], &at)?));
    }
    named.sort_unstable_by(|(one, _): &(Box<str>, _), (other, _)| one.cmp(other));
    let mut reserved = reserved(&providers);
    let mut made = JwtAuthn {
        rules: Vec::new(),
        by_state: by_state(&known, message.filter_state_rules.as_ref(), at)?,
        named,
        bypass_preflight: message.bypass_cors_preflight,
        silent: message.strip_failure_response,
        reserved: Vec::new(),
        providers: providers.clone(),
        stats: Counted::<stats::JwtAuthn>::new(scope),
    };
    for (index, rule) in message.rules.iter().enumerate() {
        let at = item(at, "rules", index);
        let requirement = match &rule.requirement_type {
            None => None,
            Some(RequirementType::Requires(message)) => Some(known.requirement(message, &[], &sub(&at, "requires"))?),
            Some(RequirementType::RequirementName(name)) => {
                let named = made.named(name).map_err(|error| Error::at(sub(&at, "requirement_name"), error))?;
                Some(named.clone())
            }
        };
        let rule_match = rule.r#match.as_ref().ok_or_else(|| Error::at(sub(&at, "match"), "a match is required"))?;
        made.rules.push((route_match(cx, rule_match, &sub(&at, "match"))?, requirement));
    }
    let requirements = made.rules.iter().filter_map(|(_, requirement)| requirement.as_ref());
    let by_state = made.by_state.iter().flat_map(|by_state| by_state.requires.values());
    for requirement in requirements.chain(by_state).chain(made.named.iter().map(|(_, requirement)| requirement)) {
        told(requirement, &mut reserved);
    }
    made.reserved = reserved;
    Ok(made)
}

/// `filter_state_rules`.
fn by_state(known: &Known<'_>, message: Option<&proto::FilterStateRule>, at: &str) -> Result<Option<ByState>, Error> {
    let Some(message) = message else { return Ok(None) };
    let at = sub(at, "filter_state_rules");
    let each = message.requires.iter().map(|(value, requirement)| {
        let requirement = known.requirement(requirement, &[], &format!("{at}.requires[\"{value}\"]"))?;
        Ok((value.as_str().into(), requirement))
    });
    Ok(Some(ByState { key: message.name.as_str().into(), requires: each.collect::<Result<_, Error>>()? }))
}

pub(super) fn of_route(message: &proto::PerRouteConfig, at: &str) -> Result<OfRoute, Error> {
    use proto::per_route_config::RequirementSpecifier;
    match &message.requirement_specifier {
        Some(RequirementSpecifier::Disabled(_)) => Ok(OfRoute::Off),
        Some(RequirementSpecifier::RequirementName(name)) => Ok(OfRoute::Named(name.as_str().into())),
        None => Err(Error::at(at, "expected one of disabled, requirement_name")),
    }
}

/// Headers that nobody but the filter may set, as others trust them.
fn reserved(providers: &[Arc<Provider>]) -> Vec<HeaderName> {
    let of = |provider: &Arc<Provider>| -> Vec<HeaderName> {
        let claims = provider.claims.iter().map(|claim| claim.header.clone());
        provider.payload_header.iter().cloned().chain(claims).collect()
    };
    let mut names: Vec<HeaderName> = providers.iter().flat_map(of).collect();
    names.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
    names.dedup();
    names
}

/// Adds headers that tell of tokens that were not verified.
fn told(requirement: &Requirement, names: &mut Vec<HeaderName>) {
    match requirement {
        Requirement::Nothing => {}
        Requirement::All(list) | Requirement::Any(list) => list.iter().for_each(|one| told(one, names)),
        Requirement::Tokens(tokens) => {
            if let Tolerates::AndTells(name) = &tokens.tolerates {
                names.push(name.clone());
            }
        }
    }
}

/// Providers that requirements may name.
struct Known<'a> {
    all: HashMap<&'a str, Arc<Provider>>,
    /// By name, sorted.
    providers: &'a [Arc<Provider>],
}

impl Known<'_> {
    fn named(&self, name: &str, at: &str) -> Result<&Arc<Provider>, Error> {
        self.all.get(name).ok_or_else(|| Error::at(at, format!("Required provider ['{name}'] is not configured.")))
    }

    /// `beside` are the providers of requirements beside this one: what tolerates failures is about their tokens.
    fn requirement(
        &self,
        message: &proto::JwtRequirement,
        beside: &[Arc<Provider>],
        at: &str,
    ) -> Result<Requirement, Error> {
        let provided = |provider: &Arc<Provider>, audiences: &[String]| {
            let audiences = Some(Audiences::new(audiences)).filter(|audiences| !audiences.is_empty());
            let places = places(std::slice::from_ref(provider));
            let provider = Some(provider.clone());
            Requirement::Tokens(Box::new(Tokens { provider, audiences, places, tolerates: Tolerates::Nothing }))
        };
        let tolerant = |tolerates| {
            let places = places(if beside.is_empty() { self.providers } else { beside });
            Requirement::Tokens(Box::new(Tokens { provider: None, audiences: None, places, tolerates }))
        };
        Ok(match &message.requires_type {
            None => Requirement::Nothing,
            Some(RequiresType::ProviderName(name)) => provided(self.named(name, at)?, &[]),
            Some(RequiresType::ProviderAndAudiences(message)) => {
                provided(self.named(&message.provider_name, at)?, &message.audiences)
            }
            Some(RequiresType::RequiresAny(list)) => self.any(&list.requirements, &sub(at, "requires_any"))?,
            Some(RequiresType::RequiresAll(list)) => {
                let at = sub(at, "requires_all");
                let list = list.requirements.iter().enumerate();
                let list = list.map(|(index, one)| self.requirement(one, &[], &item(&at, "requirements", index)));
                Requirement::All(list.collect::<Result<_, _>>()?)
            }
            Some(RequiresType::AllowMissingOrFailed(())) => tolerant(Tolerates::Anything),
            Some(RequiresType::AllowMissing(())) => tolerant(Tolerates::Missing),
            Some(RequiresType::ExtractOnlyWithoutValidation(message)) => {
                let name = Some(message.verification_status_header.as_str()).filter(|name| !name.is_empty());
                let name = header_name(name.unwrap_or(VERIFIED), &sub(at, "verification_status_header"))?;
                tolerant(Tolerates::AndTells(name))
            }
        })
    }

    /// What tolerates failures goes last, and only the most tolerant.
    fn any(&self, list: &[proto::JwtRequirement], at: &str) -> Result<Requirement, Error> {
        let (mut strict, mut beside, mut tolerant) = (Vec::new(), Vec::new(), None);
        for (index, one) in list.iter().enumerate() {
            let at = item(at, "requirements", index);
            match &one.requires_type {
                Some(RequiresType::AllowMissingOrFailed(())) => tolerant = Some((one, at)),
                Some(RequiresType::AllowMissing(())) => {
                    tolerant.get_or_insert((one, at));
                }
                kind => {
                    match kind {
                        Some(RequiresType::ProviderName(name)) => beside.push(self.named(name, &at)?.clone()),
                        Some(RequiresType::ProviderAndAudiences(message)) => {
                            beside.push(self.named(&message.provider_name, &at)?.clone());
                        }
                        _ => {}
                    }
                    strict.push(self.requirement(one, &[], &at)?);
                }
            }
        }
        if let Some((one, at)) = tolerant {
            strict.push(self.requirement(one, &beside, &at)?);
        }
        Ok(Requirement::Any(strict))
    }
}

/// The places of several providers, with whose tokens may be there.
fn places(providers: &[Arc<Provider>]) -> Vec<Place> {
    let mut places: Vec<Place> = Vec::new();
    for (provider, at) in providers.iter().flat_map(|provider| provider.places.iter().map(move |at| (provider, at))) {
        let known = places.iter().position(|place| place.at == *at);
        let place = match known.and_then(|index| places.get_mut(index)) {
            Some(place) => place,
            None => {
                places.push(Place { at: at.clone(), issuers: Some(Vec::new()) });
                let Some(place) = places.last_mut() else { continue };
                place
            }
        };
        match &mut place.issuers {
            _ if provider.issuer.is_empty() => place.issuers = None,
            Some(issuers) => issuers.push(provider.issuer.clone()),
            None => {}
        }
    }
    places.sort_unstable_by(|one, other| one.at.cmp(&other.at));
    places
}

fn provider(cx: &mut Context, name: &str, message: &proto::JwtProvider, at: &str) -> Result<Provider, Error> {
    let text = |text: &str| Some(Box::<str>::from(text)).filter(|text| !text.is_empty());
    let max_lifetime = message.max_lifetime.as_ref();
    let max_lifetime = max_lifetime.map(|longest| duration(longest, &sub(at, "max_lifetime"))).transpose()?;
    let lists = message.normalize_payload_in_metadata.as_ref();
    let lists = lists.map_or(&[][..], |normalize| &normalize.space_delimited_claims);
    Ok(Provider {
        number: Provider::next_number(),
        issuer: message.issuer.as_str().into(),
        audiences: Audiences::new(&message.audiences),
        subjects: message
            .subjects
            .as_ref()
            .map(|subjects| matcher::string(subjects, &sub(at, "subjects")))
            .transpose()?,
        must_expire: message.require_expiration,
        max_lifetime,
        skew: if message.clock_skew_seconds == 0 { SKEW } else { message.clock_skew_seconds.into() },
        keys: keys(cx, name, message, at)?,
        forward: message.forward,
        payload_header: text(&message.forward_payload_header)
            .map(|name| header_name(&name, &sub(at, "forward_payload_header")))
            .transpose()?,
        pad_payload: message.pad_forward_payload_header,
        claims: claims(message, at)?,
        clear_route: message.clear_route_cache,
        noted: Noted {
            payload: text(&message.payload_in_metadata),
            lists: lists.iter().map(|claim| claim.as_str().into()).collect(),
            header: text(&message.header_in_metadata),
            failure: text(&message.failed_status_in_metadata),
        },
        remembered: message.jwt_cache_config.as_ref().map(|config| Remembered {
            tokens: if config.jwt_cache_size == 0 { REMEMBERED.tokens } else { config.jwt_cache_size as usize },
            longest: if config.jwt_max_token_size == 0 {
                REMEMBERED.longest
            } else {
                config.jwt_max_token_size as usize
            },
        }),
        places: own_places(message, at)?,
    })
}

fn claims(message: &proto::JwtProvider, at: &str) -> Result<Vec<Claim>, Error> {
    let claims = message.claim_to_headers.iter().enumerate();
    claims
        .map(|(index, claim)| {
            let at = item(at, "claim_to_headers", index);
            let header = header_name(&claim.header_name, &sub(&at, "header_name"))?;
            let path = match claim.claim_path.is_empty() {
                true => claim.claim_name.split('.').map(Into::into).collect(),
                false => claim.claim_path.iter().map(|segment| segment.key.as_str().into()).collect(),
            };
            Ok(Claim { header, path })
        })
        .collect()
}

fn own_places(message: &proto::JwtProvider, at: &str) -> Result<Vec<At>, Error> {
    let mut places = Vec::new();
    for (index, header) in message.from_headers.iter().enumerate() {
        let name = header_name(&header.name, &sub(&item(at, "from_headers", index), "name"))?;
        places.push(At::Header(name.as_str().into(), header.value_prefix.as_str().into()));
    }
    places.extend(message.from_params.iter().map(|name| At::Parameter(name.as_str().into())));
    places.extend(message.from_cookies.iter().map(|name| At::Cookie(name.as_str().into())));
    if places.is_empty() {
        places.push(At::Header("authorization".into(), "Bearer ".into()));
        places.push(At::Parameter("access_token".into()));
    }
    Ok(places)
}

fn keys(cx: &mut Context, name: &str, message: &proto::JwtProvider, at: &str) -> Result<Keys, Error> {
    match &message.jwks_source_specifier {
        Some(JwksSourceSpecifier::LocalJwks(source)) => {
            let at = sub(at, "local_jwks");
            let parsed = Jwks::parse(&data_source(source, &at)?);
            let keys = parsed.map_err(|status| {
                let message =
                    format!("Provider '{name}' in jwt_authn config has invalid local jwks: {}", status.text());
                Error::at(at, message)
            })?;
            Ok(Keys::Local(Arc::new(keys)))
        }
        Some(JwksSourceSpecifier::RemoteJwks(message)) => {
            Ok(Keys::Remote(Box::new(remote(cx, name, message, &sub(at, "remote_jwks"))?)))
        }
        None => Err(Error::at(at, "expected one of remote_jwks, local_jwks")),
    }
}

fn remote(cx: &mut Context, name: &str, message: &proto::RemoteJwks, at: &str) -> Result<Remote, Error> {
    let uri_at = sub(at, "http_uri");
    let uri = message.http_uri.as_ref().ok_or_else(|| Error::at(&uri_at, "a URI is required"))?;
    let target = super::http_uri(uri, &uri_at).map_err(|_| {
        let message = format!("Provider '{name}' has an invalid URI: '{}'", uri.uri);
        Error::at(sub(&uri_at, "uri"), message)
    })?;
    let mut retries = 0;
    if let Some(policy) = &message.retry_policy {
        // When and after how long is Envoy's for this: after what a server or the way to it got wrong.
        cx.only(policy, &sub(at, "retry_policy"), &["num_retries"], &["retry_back_off", "retry_on"])?;
        retries = policy.num_retries.unwrap_or(1);
    }
    let lifetime = message.cache_duration.as_ref().map(|lifetime| duration(lifetime, &sub(at, "cache_duration")));
    let ahead = match &message.async_fetch {
        None => None,
        Some(fetch) => {
            let at = sub(at, "async_fetch");
            cx.only(fetch, &at, &["failed_refetch_duration"], &["fast_listener"])?;
            let after = fetch.failed_refetch_duration.as_ref();
            let after = after.map(|after| duration(after, &sub(&at, "failed_refetch_duration"))).transpose()?;
            Some(after.unwrap_or(AGAIN_AFTER))
        }
    };
    Ok(Remote {
        cluster: target.cluster,
        host: target.host,
        uri: target.uri,
        scheme: target.scheme,
        timeout: target.timeout,
        lifetime: lifetime.transpose()?.unwrap_or(KEYS_LIFETIME),
        retries,
        ahead,
        fetched: Default::default(),
        fetching: Default::default(),
    })
}
