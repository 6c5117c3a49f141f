//! Which responses are errors to outlier detection (`error_matcher`).

use http::{HeaderMap, StatusCode};

use crate::{config::request::response_header_matches, matcher::HeaderMatcher};

/// A predicate of responses' heads.
#[derive(Clone, Debug)]
pub enum ErrorMatcher {
    /// Of what is not known when a response begins, or is no part of it.
    Never,
    /// Any response.
    Always,
    /// All of these hold.
    All(Vec<ErrorMatcher>),
    /// One of these does.
    Any(Vec<ErrorMatcher>),
    /// It does not hold.
    Not(Box<ErrorMatcher>),
    /// All of these match.
    Headers(Vec<HeaderMatcher>),
}

impl ErrorMatcher {
    /// What a response counts as: an error as one of 5xx, anything else as a success.
    pub fn judge(&self, status: StatusCode, headers: &HeaderMap) -> u16 {
        match (self.holds(status, headers), status.as_u16()) {
            (true, code @ 500..600) => code,
            (true, _) => StatusCode::INTERNAL_SERVER_ERROR.as_u16(),
            (false, _) => StatusCode::OK.as_u16(),
        }
    }

    fn holds(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        match self {
            Self::Never => false,
            Self::Always => true,
            Self::All(matchers) => matchers.iter().all(|matcher| matcher.holds(status, headers)),
            Self::Any(matchers) => matchers.iter().any(|matcher| matcher.holds(status, headers)),
            Self::Not(matcher) => !matcher.holds(status, headers),
            Self::Headers(matchers) => matchers.iter().all(|matcher| response_header_matches(matcher, status, headers)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_matches_counts_as_an_error() {
        let judge =
            |matcher: ErrorMatcher, code: u16| matcher.judge(StatusCode::from_u16(code).unwrap(), &HeaderMap::new());
        assert_eq!([judge(ErrorMatcher::Always, 503), judge(ErrorMatcher::Always, 404)], [503, 500]);
        assert_eq!(judge(ErrorMatcher::Never, 503), 200);
        let not = |matcher| ErrorMatcher::Not(Box::new(matcher));
        assert_eq!(judge(ErrorMatcher::All(vec![not(ErrorMatcher::Never), ErrorMatcher::Always]), 200), 500);
        assert_eq!(judge(ErrorMatcher::Any(vec![ErrorMatcher::Never]), 500), 200);
    }
}
