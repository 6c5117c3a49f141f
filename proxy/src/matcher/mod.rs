//! Matchers: of strings, headers, query parameters.

pub mod fraction;
pub mod metadata;
mod re2;
pub mod structs;
pub mod tree;

use std::borrow::Cow;

use http::HeaderName;
use percent_encoding::percent_decode_str;
use regex_syntax::hir::{Hir, Look};

/// A regular expression of RE2, which is looked for in time linear in the string.
#[derive(Clone, Debug)]
pub struct Regex(regex_automata::meta::Regex);

/// Largest compiled regular expression, bytes.
const REGEX_SIZE_LIMIT: usize = 1 << 20;

impl Regex {
    /// Compiles a pattern to match whole strings.
    pub fn new(pattern: &str) -> Result<Self, String> {
        Self::build(&Hir::concat(vec![Hir::look(Look::Start), re2::parse(pattern)?, Hir::look(Look::End)]))
    }

    /// Compiles a pattern to search for, in substitutions.
    pub fn search(pattern: &str) -> Result<Self, String> {
        Self::build(&re2::parse(pattern)?)
    }

    fn build(expression: &Hir) -> Result<Self, String> {
        regex_automata::meta::Regex::builder()
            .configure(regex_automata::meta::Regex::config().nfa_size_limit(Some(REGEX_SIZE_LIMIT)).utf8_empty(false))
            .build_from_hir(expression)
            .map(Self)
            .map_err(|error| error.to_string())
    }

    /// Whether it matches.
    pub fn is_match(&self, text: &[u8]) -> bool {
        self.0.is_match(text)
    }

    /// Replaces every match in `text` by `substitution`, in which `\0` to `\9` stand for the groups.
    pub fn replace_all(&self, text: &[u8], substitution: &Substitution) -> Vec<u8> {
        let mut out = Vec::with_capacity(text.len());
        let mut end = 0;
        for captures in self.0.captures_iter(text) {
            let Some(whole) = captures.get_match() else { continue };
            out.extend_from_slice(&text[end..whole.start()]);
            for part in &substitution.0 {
                match part {
                    SubstitutionPart::Literal(literal) => out.extend_from_slice(literal),
                    SubstitutionPart::Group(group) => {
                        if let Some(span) = captures.get_group(*group) {
                            out.extend_from_slice(&text[span.start..span.end]);
                        }
                    }
                }
            }
            end = whole.end();
        }
        out.extend_from_slice(&text[end..]);
        out
    }

    /// How many groups it captures.
    pub fn groups(&self) -> usize {
        self.0.captures_len().saturating_sub(1)
    }
}

/// What replaces a match: RE2's rewrite syntax.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Substitution(Vec<SubstitutionPart>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum SubstitutionPart {
    Literal(Vec<u8>),
    Group(usize),
}

impl Substitution {
    /// Parses `\0`..`\9` and `\\`; `groups` is how many groups the pattern has.
    pub fn parse(text: &str, groups: usize) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut literal = Vec::new();
        let mut bytes = text.bytes();
        while let Some(byte) = bytes.next() {
            match byte {
                b'\\' => match bytes.next() {
                    Some(b'\\') => literal.push(b'\\'),
                    Some(digit @ b'0'..=b'9') => {
                        let group = usize::from(digit - b'0');
                        if group > groups {
                            return Err(format!("\\{group} but the pattern has {groups} groups"));
                        }
                        if !literal.is_empty() {
                            parts.push(SubstitutionPart::Literal(std::mem::take(&mut literal)));
                        }
                        parts.push(SubstitutionPart::Group(group));
                    }
                    _ => return Err("a backslash must be followed by a digit or a backslash".into()),
                },
                byte => literal.push(byte),
            }
        }
        if !literal.is_empty() {
            parts.push(SubstitutionPart::Literal(literal));
        }
        Ok(Self(parts))
    }
}

/// `RegexMatchAndSubstitute`.
#[derive(Clone, Debug)]
pub struct RegexRewrite {
    /// What to look for.
    pub pattern: Regex,
    /// What to put there.
    pub substitution: Substitution,
}

impl RegexRewrite {
    /// The text rewritten.
    pub fn apply(&self, text: &[u8]) -> Vec<u8> {
        self.pattern.replace_all(text, &self.substitution)
    }
}

/// How a string must look. Literals are in lower case when `ignore_case` is set.
#[derive(Clone, Debug)]
pub struct StringMatcher {
    /// What it must look like.
    pub pattern: StringPattern,
    /// ASCII case does not count; not for regular expressions.
    pub ignore_case: bool,
}

/// See [`StringMatcher`].
#[derive(Clone, Debug)]
pub enum StringPattern {
    /// The whole string.
    Exact(Box<[u8]>),
    /// Its beginning.
    Prefix(Box<[u8]>),
    /// Its end.
    Suffix(Box<[u8]>),
    /// Somewhere in it.
    Contains(Box<[u8]>),
    /// The whole string.
    Regex(Regex),
}

impl StringMatcher {
    /// An exact match.
    pub fn exact(text: &str) -> Self {
        Self { pattern: StringPattern::Exact(text.as_bytes().into()), ignore_case: false }
    }

    /// Whether this is an exact match of `text`.
    pub fn is_exactly(&self, text: &[u8]) -> bool {
        matches!(&self.pattern, StringPattern::Exact(exact) if **exact == *text)
    }

    /// Whether `text` matches.
    pub fn matches(&self, text: &[u8]) -> bool {
        if self.ignore_case && !matches!(self.pattern, StringPattern::Regex(_)) {
            return self.matches_exactly(&text.to_ascii_lowercase());
        }
        self.matches_exactly(text)
    }

    fn matches_exactly(&self, text: &[u8]) -> bool {
        match &self.pattern {
            StringPattern::Exact(exact) => **exact == *text,
            StringPattern::Prefix(prefix) => text.starts_with(prefix),
            StringPattern::Suffix(suffix) => text.ends_with(suffix),
            StringPattern::Contains(part) => contains(text, part),
            StringPattern::Regex(regex) => regex.is_match(text),
        }
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    part.is_empty() || text.windows(part.len()).any(|window| window == part)
}

/// What a header matcher looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MatchedHeader {
    /// `:method`.
    Method,
    /// `:path`.
    Path,
    /// `:authority`.
    Authority,
    /// `:scheme`.
    Scheme,
    /// `:status`, which no request has.
    Status,
    /// Any other header.
    Plain(HeaderName),
}

/// `HeaderMatcher`.
#[derive(Clone, Debug)]
pub struct HeaderMatcher {
    /// Which header.
    pub name: MatchedHeader,
    /// How its value must look.
    pub value: HeaderPattern,
    /// The other way round.
    pub invert: bool,
    /// An absent header counts as an empty one.
    pub missing_is_empty: bool,
}

/// See [`HeaderMatcher`].
#[derive(Clone, Debug)]
pub enum HeaderPattern {
    /// The values, joined by commas.
    String(StringMatcher),
    /// A decimal number in `start..end`.
    Range(i64, i64),
    /// Present, or absent.
    Present(bool),
}

impl HeaderMatcher {
    /// A header must be there.
    pub fn present(name: HeaderName) -> Self {
        let name = MatchedHeader::Plain(name);
        Self { name, value: HeaderPattern::Present(true), invert: false, missing_is_empty: false }
    }

    /// Whether a header with this value, or none, matches.
    pub fn matches(&self, value: Option<&[u8]>) -> bool {
        let value = match (value, self.missing_is_empty) {
            (None, true) => Some(&b""[..]),
            (value, _) => value,
        };
        let Some(value) = value else {
            // As Envoy: an absent header fails every matcher of values, an inverted one too.
            return match self.value {
                HeaderPattern::Present(present) => present == self.invert,
                HeaderPattern::String(_) | HeaderPattern::Range(..) => false,
            };
        };
        let found = match &self.value {
            HeaderPattern::Present(present) => *present,
            HeaderPattern::String(matcher) => matcher.matches(value),
            HeaderPattern::Range(start, end) => std::str::from_utf8(value)
                .ok()
                .and_then(|value| value.parse::<i64>().ok())
                .is_some_and(|number| (*start..*end).contains(&number)),
        };
        found != self.invert
    }
}

/// `QueryParameterMatcher`.
#[derive(Clone, Debug)]
pub struct QueryMatcher {
    /// The parameter.
    pub name: Box<str>,
    /// How its first value must look; none: present.
    pub value: Option<StringMatcher>,
    /// With `value: None`: present or absent.
    pub present: bool,
}

impl QueryMatcher {
    /// Whether a query string (without `?`) matches.
    pub fn matches(&self, query: &str) -> bool {
        self.judges(query_value(query, &self.name).map(str::as_bytes))
    }

    /// Whether it matches once its escapes are decoded.
    pub fn matches_decoded(&self, query: &str) -> bool {
        self.judges(decoded_query_value(query, &self.name).as_deref())
    }

    fn judges(&self, value: Option<&[u8]>) -> bool {
        match (&self.value, value) {
            (Some(matcher), Some(value)) => matcher.matches(value),
            (Some(_), None) => false,
            (None, value) => value.is_some() == self.present,
        }
    }
}

/// The first value of a parameter in a query string (without `?`), as it stands there.
pub fn query_value<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}

/// The same of parameters whose names and values are percent-decoded.
pub fn decoded_query_value<'a>(query: &'a str, name: &str) -> Option<Cow<'a, [u8]>> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        percent_decode_str(key).eq(name.bytes()).then(|| percent_decode_str(value).into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(value: HeaderPattern, invert: bool) -> HeaderMatcher {
        HeaderMatcher { name: MatchedHeader::Method, value, invert, missing_is_empty: false }
    }

    #[test]
    fn regexes_match_the_whole_string() {
        let regex = Regex::new("/v[0-9]+|/w").unwrap();
        assert!(regex.is_match(b"/v12"));
        assert!(regex.is_match(b"/w"));
        assert!(!regex.is_match(b"/v1/x"));
        assert!(!Regex::new("a|b$|c").unwrap().is_match(b"ab"));
        assert_eq!(Regex::new("(").unwrap_err(), "missing ): (");
        assert_eq!(Regex::new("/private)|(?:/public").unwrap_err(), "unexpected ): /private)|(?:/public");
    }

    #[test]
    fn substitutions() {
        let pattern = Regex::search("^/service/([^/]+)(/.*)$").unwrap();
        let substitution = Substitution::parse(r"\2/instance/\1", pattern.groups()).unwrap();
        assert_eq!(pattern.replace_all(b"/service/foo/v1/api", &substitution), b"/v1/api/instance/foo");
        assert_eq!(Substitution::parse(r"\3", 2).unwrap_err(), "\\3 but the pattern has 2 groups");
        assert!(Substitution::parse(r"\x", 2).is_err());
    }

    #[test]
    fn strings() {
        let matcher = StringMatcher { pattern: StringPattern::Contains(b"bc".as_slice().into()), ignore_case: true };
        assert!(matcher.matches(b"ABCD"));
        assert!(!matcher.matches(b"ACBD"));
    }

    #[test]
    fn headers() {
        let range = header(HeaderPattern::Range(-1, 10), false);
        assert!(range.matches(Some(b"-1")) && range.matches(Some(b"9")));
        assert!(!range.matches(Some(b"10")) && !range.matches(Some(b"x")) && !range.matches(None));
        let not_a = header(HeaderPattern::String(StringMatcher::exact("a")), true);
        assert!(!not_a.matches(Some(b"a")) && not_a.matches(Some(b"b")));
        assert!(!not_a.matches(None));
        for (present, invert, with, without) in [
            (true, false, true, false),
            (true, true, false, true),
            (false, false, false, true),
            (false, true, true, false),
        ] {
            let matcher = header(HeaderPattern::Present(present), invert);
            assert_eq!((matcher.matches(Some(b"")), matcher.matches(None)), (with, without), "{present} {invert}");
        }
    }

    #[test]
    fn queries() {
        let matcher = QueryMatcher { name: "k".into(), value: Some(StringMatcher::exact("v")), present: true };
        assert!(matcher.matches("a=b&k=v"));
        assert!(!matcher.matches("k=w") && !matcher.matches("") && !matcher.matches("kk=v"));
        let present = QueryMatcher { name: "k".into(), value: None, present: true };
        assert!(present.matches("k") && present.matches("k=1") && !present.matches("x"));
    }
}
