//! Limiting the rate of requests.

use std::{collections::HashSet, num::NonZeroUsize};

use http::StatusCode;
use weir_proto::envoy::{
    config::route::v3::{self as route, rate_limit::action::ActionSpecifier},
    extensions::{
        common::ratelimit::v3::{VhRateLimitsOptions, XRateLimitHeadersRfcVersion},
        filters::http::local_ratelimit::v3 as proto,
    },
    r#type::v3::TokenBucket,
};

use crate::{
    config::{
        convert::{
            context::Context,
            fields::{duration, item, sub},
            headers, matcher,
        },
        error::Error,
        filter::{
            local_ratelimit::{
                Bucket, Descriptor, Entries, Identity, LocalRateLimit, RateLimit, RateLimitAction, VhostLimits,
            },
            stats::{self, Counted},
        },
    },
    matcher::fraction::Fraction,
};

/// The least interval at which Envoy fills a bucket.
const LEAST_INTERVAL: std::time::Duration = std::time::Duration::from_millis(50);

/// How many limits there are for what one entry without a value stands for, if nothing is said.
const DYNAMIC_DESCRIPTORS: NonZeroUsize = NonZeroUsize::new(20).unwrap();

pub(super) fn local_ratelimit(
    cx: &mut Context,
    message: &proto::LocalRateLimit,
    at: &str,
) -> Result<LocalRateLimit, Error> {
    let supported = [
        "stat_prefix",
        "status",
        "token_bucket",
        "filter_enabled",
        "filter_enforced",
        "request_headers_to_add_when_not_enforced",
        "response_headers_to_add",
        "descriptors",
        "stage",
        "local_rate_limit_per_downstream_connection",
        "enable_x_ratelimit_headers",
        "vh_rate_limits",
        "always_consume_default_token_bucket",
        "rate_limited_as_resource_exhausted",
        "rate_limits",
        "max_dynamic_descriptors",
    ];
    cx.only(message, at, &supported, &[])?;
    for (index, limit) in message.rate_limits.iter().enumerate() {
        let at = item(at, "rate_limits", index);
        if limit.stage.is_some() || !limit.disable_key.is_empty() {
            return Err(Error::at(at, "'stage' field and 'disable_key' field are not supported"));
        }
        if limit.limit.is_some() {
            return Err(Error::at(sub(&at, "limit"), "'limit' field is not supported"));
        }
    }
    let status = message.status.as_ref().map_or(0, |status| status.code);
    let status = u16::try_from(status).ok().filter(|status| *status >= 400);
    let bucket = message.token_bucket.as_ref();
    let most = message.max_dynamic_descriptors.map_or(DYNAMIC_DESCRIPTORS, |most| {
        NonZeroUsize::new(usize::try_from(most).unwrap_or(usize::MAX)).unwrap_or(NonZeroUsize::MIN)
    });
    let (mut descriptors, mut known) = (Vec::new(), HashSet::new());
    for (index, descriptor) in message.descriptors.iter().enumerate() {
        let at = item(at, "descriptors", index);
        cx.only(descriptor, &at, &["entries", "token_bucket"], &[])?;
        let bucket_at = sub(&at, "token_bucket");
        let bucket = descriptor.token_bucket.as_ref().ok_or_else(|| Error::at(&bucket_at, "a bucket is required"))?;
        let entries = descriptor.entries.iter();
        let entries: Entries = entries.map(|entry| (entry.key.as_str().into(), entry.value.as_str().into())).collect();
        if !known.insert(entries.clone()) {
            return Err(Error::at(sub(&at, "entries"), "duplicate descriptor in the local rate limit descriptor set"));
        }
        descriptors.push(Descriptor::new(entries, self::bucket(bucket, &bucket_at)?, most));
    }
    // What is limited by its very values is not limited as any.
    descriptors.sort_by_key(Descriptor::is_for_any);
    let request_field = "request_headers_to_add_when_not_enforced";
    Ok(LocalRateLimit {
        stats: Counted::<stats::LocalRateLimit>::new(
            cx.stats.scope(&message.stat_prefix).scope("http_local_rate_limit"),
        ),
        status: status.and_then(|status| StatusCode::from_u16(status).ok()).unwrap_or(StatusCode::TOO_MANY_REQUESTS),
        bucket: bucket.map(|bucket| self::bucket(bucket, &sub(at, "token_bucket"))).transpose()?,
        descriptors,
        enabled: matcher::runtime_fraction(message.filter_enabled.as_ref()).unwrap_or(Fraction::NEVER.into()),
        enforced: matcher::runtime_fraction(message.filter_enforced.as_ref()).unwrap_or(Fraction::NEVER.into()),
        request_headers: headers::additions(cx, &message.request_headers_to_add_when_not_enforced, at, request_field)?,
        response_headers: headers::additions(cx, &message.response_headers_to_add, at, "response_headers_to_add")?,
        per_connection: message.local_rate_limit_per_downstream_connection,
        limit_headers: message.enable_x_ratelimit_headers() == XRateLimitHeadersRfcVersion::DraftVersion03,
        resource_exhausted: message.rate_limited_as_resource_exhausted,
        always_consume_default: message.always_consume_default_token_bucket.unwrap_or(true),
        stage: message.stage,
        vhost_limits: match message.vh_rate_limits() {
            VhRateLimitsOptions::Override => VhostLimits::Override,
            VhRateLimitsOptions::Include => VhostLimits::Include,
            VhRateLimitsOptions::Ignore => VhostLimits::Ignore,
        },
        rate_limits: rate_limits(cx, &message.rate_limits, at)?,
        identity: Identity::default(),
    })
}

/// A token bucket.
pub(in crate::config::convert) fn bucket(message: &TokenBucket, at: &str) -> Result<Bucket, Error> {
    let interval_at = sub(at, "fill_interval");
    let interval = message.fill_interval.as_ref().ok_or_else(|| Error::at(&interval_at, "an interval is required"))?;
    let interval = duration(interval, &interval_at)?;
    if interval < LEAST_INTERVAL {
        return Err(Error::at(interval_at, "local rate limit token bucket fill timer must be >= 50ms"));
    }
    Ok(Bucket::new(message.max_tokens, message.tokens_per_fill.unwrap_or(1), interval))
}

/// What makes descriptors: `rate_limits` of a route, a virtual host or the filter.
pub(in crate::config::convert) fn rate_limits(
    cx: &mut Context,
    messages: &[route::RateLimit],
    at: &str,
) -> Result<Vec<RateLimit>, Error> {
    let mut list = Vec::with_capacity(messages.len());
    for (index, message) in messages.iter().enumerate() {
        let at = item(at, "rate_limits", index);
        // The others concern the rate limit service, which needs its filter.
        cx.only(message, &at, &["stage", "actions", "hits_addend"], &["disable_key", "limit", "apply_on_stream_done"])?;
        let hits = message.hits_addend.as_ref().map(|hits| self::hits(hits, &sub(&at, "hits_addend"))).transpose()?;
        let actions = message.actions.iter().enumerate();
        list.push(RateLimit {
            stage: message.stage.unwrap_or(0),
            actions: actions
                .map(|(index, message)| action(cx, message, &item(&at, "actions", index)))
                .collect::<Result<_, _>>()?,
            hits: hits.unwrap_or(1),
        });
    }
    Ok(list)
}

/// `hits_addend`: how many tokens a request takes.
fn hits(message: &route::rate_limit::HitsAddend, at: &str) -> Result<u32, Error> {
    if !message.format.is_empty() {
        return Err(Error::at(sub(at, "format"), "not supported yet"));
    }
    if message.is_negative_hits {
        return Err(Error::at(sub(at, "is_negative_hits"), "a local limit takes no hits back"));
    }
    // Validated: at most a billion.
    Ok(u32::try_from(message.number.unwrap_or(1)).unwrap_or(u32::MAX))
}

#[expect(deprecated, reason = "published configurations use some")]
fn action(cx: &mut Context, message: &route::rate_limit::Action, at: &str) -> Result<RateLimitAction, Error> {
    let or = |text: &str, default: &str| -> Box<str> { if text.is_empty() { default } else { text }.into() };
    let unsupported = |field: &str| Err(Error::at(sub(at, field), "not supported yet"));
    let specifier = message.action_specifier.as_ref().ok_or_else(|| Error::at(at, "an action is required"))?;
    Ok(match specifier {
        ActionSpecifier::SourceCluster(_) => RateLimitAction::SourceCluster(cx.service_cluster.as_str().into()),
        ActionSpecifier::DestinationCluster(_) => RateLimitAction::DestinationCluster,
        ActionSpecifier::RequestHeaders(header) => {
            let at = sub(&sub(at, "request_headers"), "header_name");
            RateLimitAction::Header {
                name: matcher::matched_header(&header.header_name, &at)?,
                key: header.descriptor_key.as_str().into(),
                skip_if_absent: header.skip_if_absent,
            }
        }
        ActionSpecifier::QueryParameters(query) => RateLimitAction::Query {
            name: query.query_parameter_name.as_str().into(),
            key: query.descriptor_key.as_str().into(),
            skip_if_absent: query.skip_if_absent,
        },
        ActionSpecifier::RemoteAddress(_) => RateLimitAction::RemoteAddress,
        ActionSpecifier::MaskedRemoteAddress(mask) => {
            let length =
                |length: Option<u32>, all: u8| length.and_then(|length| u8::try_from(length).ok()).unwrap_or(all);
            RateLimitAction::MaskedRemoteAddress(
                length(mask.v4_prefix_mask_len, 32),
                length(mask.v6_prefix_mask_len, 128),
            )
        }
        ActionSpecifier::GenericKey(key) => {
            RateLimitAction::Generic(or(&key.descriptor_key, "generic_key"), key.descriptor_value.as_str().into())
        }
        ActionSpecifier::HeaderValueMatch(found) => RateLimitAction::HeaderValueMatch(
            or(&found.descriptor_key, "header_match"),
            found.descriptor_value.as_str().into(),
            found.expect_match.unwrap_or(true),
            matcher::headers(cx, &found.headers, &sub(at, "header_value_match"), "headers")?,
        ),
        ActionSpecifier::QueryParameterValueMatch(found) => RateLimitAction::QueryMatch(
            or(&found.descriptor_key, "query_match"),
            found.descriptor_value.as_str().into(),
            found.expect_match.unwrap_or(true),
            matcher::queries(&found.query_parameters, &sub(at, "query_parameter_value_match"))?,
        ),
        ActionSpecifier::Metadata(metadata) => {
            use route::rate_limit::action::meta_data::Source;
            let at = sub(at, "metadata");
            let of_route = match metadata.source() {
                Source::Dynamic => false,
                Source::RouteEntry => true,
                _ => return Err(Error::at(sub(&at, "source"), "only DYNAMIC and ROUTE_ENTRY are supported yet")),
            };
            let (namespace, path) = metadata_key(metadata.metadata_key.as_ref(), &sub(&at, "metadata_key"))?;
            RateLimitAction::Metadata {
                key: metadata.descriptor_key.as_str().into(),
                namespace,
                path,
                default: metadata.default_value.as_str().into(),
                of_route,
                skip_if_absent: metadata.skip_if_absent,
            }
        }
        ActionSpecifier::DynamicMetadata(metadata) => {
            let at = sub(&sub(at, "dynamic_metadata"), "metadata_key");
            let (namespace, path) = metadata_key(metadata.metadata_key.as_ref(), &at)?;
            RateLimitAction::Metadata {
                key: metadata.descriptor_key.as_str().into(),
                namespace,
                path,
                default: metadata.default_value.as_str().into(),
                of_route: false,
                skip_if_absent: false,
            }
        }
        ActionSpecifier::Extension(_) => return unsupported("extension"),
        _ => return unsupported("action_specifier"),
    })
}

fn metadata_key(
    key: Option<&weir_proto::envoy::r#type::metadata::v3::MetadataKey>,
    at: &str,
) -> Result<(Box<str>, Vec<Box<str>>), Error> {
    use weir_proto::envoy::r#type::metadata::v3::metadata_key::path_segment::Segment;
    let key = key.ok_or_else(|| Error::at(at, "a key is required"))?;
    let mut path = Vec::with_capacity(key.path.len());
    for (index, segment) in key.path.iter().enumerate() {
        match &segment.segment {
            Some(Segment::Key(key)) => path.push(key.as_str().into()),
            _ => return Err(Error::at(item(at, "path", index), "only keys are supported yet")),
        }
    }
    Ok((key.key.as_str().into(), path))
}
