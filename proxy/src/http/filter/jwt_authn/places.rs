//! Where tokens are in a request.

use http::{Uri, request::Parts, uri::PathAndQuery};
use percent_encoding::percent_decode_str;

use crate::{
    config::{
        filter::jwt_authn::{At, Place},
        request::cookies,
    },
    matcher::query_value,
};

/// A text where a token may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub token: String,
    pub at: At,
    /// Whose tokens may be there; none: anybody's.
    pub issuers: Option<Vec<Box<str>>>,
}

/// All of them, in the order of their places.
pub(super) fn find(places: &[Place], parts: &Parts) -> Vec<Found> {
    let mut found = Vec::new();
    for place in places {
        let mut add = |token: String| {
            found.push(Found { token, at: place.at.clone(), issuers: place.issuers.clone() });
        };
        match &place.at {
            At::Header(name, prefix) => {
                let values = parts.headers.get_all(&**name).iter();
                let texts = values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
                texts.filter_map(|text| after(&text, prefix)).for_each(add);
            }
            At::Parameter(name) => {
                if let Some(value) = query_value(parts.uri.query().unwrap_or_default(), name) {
                    add(unescape(value));
                }
            }
            At::Cookie(name) => {
                let value = cookies(&parts.headers).find(|(known, _)| *known == name.as_bytes());
                if let Some((_, value)) = value {
                    add(String::from_utf8_lossy(value).into_owned());
                }
            }
        }
    }
    found
}

/// What follows a prefix, wherever that is, from the first byte on that a token can have; none: it is not there.
fn after(text: &str, prefix: &str) -> Option<String> {
    if prefix.is_empty() {
        return Some(text.to_owned());
    }
    let rest = &text[text.find(prefix)? + prefix.len()..];
    let begin = rest.find(|c: char| c.is_ascii_alphanumeric() || ['-', '_', '.'].contains(&c));
    Some(begin.map_or(text, |begin| &rest[begin..]).to_owned())
}

/// `%41` as `A`.
fn unescape(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// Takes what is at a place out of the request. As in Envoy, cookies stay.
pub(super) fn remove(at: &At, parts: &mut Parts) {
    match at {
        At::Header(name, _) => {
            parts.headers.remove(&**name);
        }
        At::Parameter(name) => {
            if let Some(target) = without(&parts.uri, name) {
                parts.uri = target;
            }
        }
        At::Cookie(_) => {}
    }
}

fn without(uri: &Uri, name: &str) -> Option<Uri> {
    let others = uri.query()?.split('&').filter(|pair| pair.split('=').next() != Some(name));
    let query = others.collect::<Vec<_>>().join("&");
    let target = if query.is_empty() { uri.path().to_owned() } else { format!("{}?{query}", uri.path()) };
    Some(Uri::from(PathAndQuery::try_from(target).ok()?))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn parts(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn texts(at: At, parts: &Parts) -> Vec<String> {
        find(&[Place { at, issuers: None }], parts).into_iter().map(|found| found.token).collect()
    }

    #[test]
    fn tokens_are_found_after_a_prefix_in_parameters_and_in_cookies() {
        let headers = [("authorization", "Bearer  !a.b.c"), ("x", "one"), ("x", "two"), ("cookie", "a=b; c=\"d\"")];
        let parts = parts("/p?a=1&t=x%2Ey", &headers);
        let header = |name: &str, prefix: &str| At::Header(name.into(), prefix.into());
        assert_eq!(texts(header("authorization", "Bearer "), &parts), ["a.b.c"]);
        assert!(texts(header("authorization", "bearer "), &parts).is_empty());
        assert_eq!(texts(header("x", ""), &parts), ["one", "two"]);
        assert_eq!(texts(At::Parameter("t".into()), &parts), ["x.y"]);
        assert_eq!(texts(At::Cookie("c".into()), &parts), ["d"]);
    }

    #[test]
    fn tokens_are_taken_out() {
        let mut parts = parts("/p?a=1&t=x&b=%20", &[("x", "one")]);
        remove(&At::Header("x".into(), "".into()), &mut parts);
        remove(&At::Parameter("t".into()), &mut parts);
        assert!(parts.headers.is_empty());
        assert_eq!(parts.uri, "/p?a=1&b=%20");
        remove(&At::Parameter("a".into()), &mut parts);
        remove(&At::Parameter("b".into()), &mut parts);
        assert_eq!(parts.uri, "/p");
    }
}
