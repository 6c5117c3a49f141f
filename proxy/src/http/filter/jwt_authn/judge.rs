//! Whether a request carries what is required, and what comes of its tokens: headers, and notes for dynamic metadata.

use std::{
    rc::Rc,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use futures_util::future::LocalBoxFuture;
use http::{HeaderName, HeaderValue, request::Parts};
use serde_json::{Map, Value};

use super::{
    keys,
    places::{self, Found},
    remembered,
};
use crate::{
    config::filter::jwt_authn::{JwtAuthn, Provider, Requirement, Tokens, Tolerates},
    http::stream::connection::Connection,
    jwt::{Status, Token},
};

/// Judges one request.
pub(super) struct Judge<'a> {
    filter: &'a Arc<JwtAuthn>,
    connection: &'a Rc<Connection>,
    parts: &'a mut Parts,
    /// Seconds since the epoch.
    now: u64,
    notes: Map<String, Value>,
    reroute: bool,
}

impl<'a> Judge<'a> {
    pub fn new(filter: &'a Arc<JwtAuthn>, connection: &'a Rc<Connection>, parts: &'a mut Parts) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
        Self { filter, connection, parts, now, notes: Map::new(), reroute: false }
    }

    /// What is to be noted, and whether the route is to be chosen anew.
    pub fn into_notes(self) -> (Map<String, Value>, bool) {
        (self.notes, self.reroute)
    }

    /// Judges by a requirement.
    pub fn judge<'b>(&'b mut self, requirement: &'b Requirement) -> LocalBoxFuture<'b, Result<(), Status>> {
        Box::pin(async move {
            match requirement {
                Requirement::Nothing => Ok(()),
                Requirement::Tokens(tokens) => self.tokens(tokens).await,
                Requirement::All(list) => {
                    for one in list {
                        self.judge(one).await?;
                    }
                    Ok(())
                }
                Requirement::Any(list) => {
                    let mut worst = None;
                    for one in list {
                        match self.judge(one).await {
                            Ok(()) => return Ok(()),
                            Err(status) => worst = Some(telling(worst, status)),
                        }
                    }
                    worst.map_or(Ok(()), Err)
                }
            }
        })
    }

    /// Judges by the tokens at places. All must be good, or it would not be known which one the upstream goes by.
    async fn tokens(&mut self, tokens: &Tokens) -> Result<(), Status> {
        let mut judged = Err(Status::Missing);
        let found = places::find(&tokens.places, self.parts);
        if found.is_empty() {
            self.failed(None, Status::Missing);
        }
        for one in found.into_iter().rev() {
            let mut provider = tokens.provider.clone();
            judged = self.token(tokens, &mut provider, &one).await;
            if let Err(status) = judged {
                self.failed(provider.as_ref(), status);
                if tokens.tolerates == Tolerates::Nothing {
                    break;
                }
            }
        }
        match (&tokens.tolerates, judged) {
            (Tolerates::Anything, _) | (Tolerates::Missing | Tolerates::AndTells(_), Err(Status::Missing)) => Ok(()),
            (Tolerates::AndTells(name), Err(_)) => {
                self.parts.headers.insert(name, HeaderValue::from_static("false"));
                Ok(())
            }
            (_, judged) => judged,
        }
    }

    /// Judges one token, and does what its provider does with good ones.
    async fn token(&mut self, by: &Tokens, provider: &mut Option<Arc<Provider>>, found: &Found) -> Result<(), Status> {
        let (shard, stats) = (&self.connection.worker.stats, &self.filter.stats);
        let mut known = None;
        if let Some(provider) = provider {
            known = remembered::find(provider, &found.token);
            shard.inc(if known.is_some() { stats.jwt_cache_hit } else { stats.jwt_cache_miss });
        }
        let verified = known.is_some();
        let token = match known {
            Some(token) => token,
            None => Rc::new(Token::parse(&found.token)?),
        };
        if found.issuers.as_ref().is_some_and(|issuers| !issuers.iter().any(|issuer| **issuer == *token.issuer)) {
            return Err(Status::UnknownIssuer);
        }
        let remembers = provider.is_some();
        if provider.is_none() {
            *provider = self.filter.provider_of(&token.issuer).cloned();
        }
        let provider = provider.as_ref().ok_or(Status::UnknownIssuer)?;
        token.check_time(self.now, provider.skew)?;
        if !by.audiences.as_ref().unwrap_or(&provider.audiences).allow(&token.audiences) {
            return Err(Status::AudienceNotAllowed);
        }
        let subject = token.subject.as_bytes();
        if provider.subjects.as_ref().is_some_and(|subjects| !subjects.matches(subject))
            || !provider.allows_lifetime(&token, self.now)
        {
            return Err(Status::VerificationFails);
        }
        if !verified {
            keys::verify(self.filter, provider, self.connection, &token).await?;
        }
        self.good(provider, found, &token);
        if remembers && !verified {
            remembered::keep(provider, &found.token, token);
        }
        Ok(())
    }

    fn good(&mut self, provider: &Provider, found: &Found, token: &Token) {
        let headers = &mut self.parts.headers;
        let mut add = |name: &HeaderName, value: String| {
            // What is no header value stays out, as it would in Envoy's codec.
            if let (false, Ok(value)) = (value.is_empty(), HeaderValue::try_from(value)) {
                headers.append(name, value);
                return true;
            }
            false
        };
        if let Some(name) = &provider.payload_header {
            let mut payload = token.payload_text().to_owned();
            while provider.pad_payload && !payload.len().is_multiple_of(4) {
                payload.push('=');
            }
            add(name, payload);
        }
        for claim in &provider.claims {
            if let Some(value) = token.claim(claim.path.iter().map(|name| &**name)) {
                self.reroute |= add(&claim.header, as_text(value)) && provider.clear_route;
            }
        }
        if !provider.forward {
            places::remove(&found.at, self.parts);
        }
        let noted = &provider.noted;
        if let Some(key) = &noted.header {
            self.notes.insert((**key).to_owned(), token.header.clone().into());
        }
        if let Some(key) = &noted.payload {
            self.notes.insert((**key).to_owned(), noted.payload_of(token).into());
        }
    }

    /// Notes what is wrong, where the provider of the token, or the only one that there is, wants that.
    fn failed(&mut self, provider: Option<&Arc<Provider>>, status: Status) {
        let provider = match (provider, &*self.filter.providers) {
            (Some(provider), _) | (None, [provider]) => provider,
            _ => return,
        };
        if let Some(key) = &provider.noted.failure {
            let what = serde_json::json!({ "code": status.code(), "message": status.text() });
            self.notes.insert((**key).to_owned(), what);
        }
    }
}

/// Of two reasons the one that tells more: that no token was found, or none of a known issuer, tells least.
fn telling(known: Option<Status>, status: Status) -> Status {
    match (known, status) {
        (Some(known), Status::Missing | Status::UnknownIssuer) => known,
        _ => status,
    }
}

/// A claim as a header's value. Empty: it is nothing that is passed on.
fn as_text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Bool(flag) => flag.to_string(),
        Value::String(text) => text.clone(),
        Value::Number(number) => match (number.as_u64(), number.as_f64()) {
            (Some(whole), _) => whole.to_string(),
            (None, Some(whole)) if whole >= 0.0 && whole.fract() == 0.0 && whole < u64::MAX as f64 => {
                format!("{whole:.0}")
            }
            (None, Some(number)) => format!("{number:.6}"),
            (None, None) => String::new(),
        },
        Value::Array(_) | Value::Object(_) => BASE64_STANDARD.encode(value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_written_as_envoy_writes_them() {
        for (claim, text) in [
            ("\"x\"", "x"),
            ("true", "true"),
            ("3", "3"),
            ("3.0", "3"),
            ("1.5", "1.500000"),
            ("-2", "-2.000000"),
            ("null", ""),
            ("[\"x\",1]", "WyJ4IiwxXQ=="),
        ] {
            assert_eq!(as_text(&serde_json::from_str(claim).unwrap()), text, "{claim}");
        }
    }

    #[test]
    fn the_reason_that_tells_most_is_given() {
        use Status::{Expired, Missing, UnknownIssuer};
        let of = |list: &[Status]| list.iter().fold(None, |known, status| Some(telling(known, *status))).unwrap();
        assert_eq!([of(&[Expired, Missing]), of(&[Missing, Expired])], [Expired, Expired]);
        assert_eq!(of(&[Missing, UnknownIssuer]), Missing);
    }
}
