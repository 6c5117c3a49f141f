//! Refusing requests that are steered by what cannot be understood, where the router is told to be strict.

use http::{HeaderMap, HeaderName, StatusCode};

use super::retry::{RETRY_GRPC_ON, RETRY_ON};
use crate::{access_log::Flag, config::retry::RetryOn, http::stream::reply::Reply};

/// The answer to a request in whose headers the first of `names` that is wrong is; none: all of them are right or absent.
pub(super) fn refusal(names: &[HeaderName], headers: &HeaderMap) -> Option<Reply> {
    let (name, value) = names.iter().find_map(|name| {
        let value = headers.get(name)?;
        let right = value.to_str().is_ok_and(|value| is_right(name, value));
        (!right).then_some((name, value))
    })?;
    let body = format!("invalid header '{name}' with value '{}'", String::from_utf8_lossy(value.as_bytes()));
    let details = format!("request_headers_failed_strict_check{{{name}}}");
    let reply = Reply::new(StatusCode::BAD_REQUEST, "", Flag::InvalidEnvoyRequestHeaders, details);
    Some(Reply { body: body.into(), ..reply })
}

/// Whether a value is one for its header: conditions for retries, or a number.
fn is_right(name: &HeaderName, value: &str) -> bool {
    if *name == RETRY_ON {
        RetryOn::of_http(value).1
    } else if *name == RETRY_GRPC_ON {
        RetryOn::of_grpc(value).1
    } else {
        value.trim().parse::<u64>().is_ok()
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_first_that_is_wrong_is_told() {
        let names = [HeaderName::from_static("x-envoy-max-retries"), RETRY_GRPC_ON, RETRY_ON];
        let refusal = |pairs: &[(&'static str, &'static str)]| {
            let pairs =
                pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
            refusal(&names, &pairs.collect()).map(|reply| String::from_utf8(reply.body.to_vec()).unwrap())
        };
        assert_eq!(
            refusal(&[("x-envoy-max-retries", "3"), ("x-envoy-retry-on", "5xx, reset"), ("x-other", "x")]),
            None
        );
        let told = refusal(&[("x-envoy-retry-on", "unavailable"), ("x-envoy-max-retries", "-1")]);
        assert_eq!(told.unwrap(), "invalid header 'x-envoy-max-retries' with value '-1'");
        let told = refusal(&[("x-envoy-retry-on", "unavailable"), ("x-envoy-retry-grpc-on", "unavailable")]);
        assert_eq!(told.unwrap(), "invalid header 'x-envoy-retry-on' with value 'unavailable'");
    }
}
