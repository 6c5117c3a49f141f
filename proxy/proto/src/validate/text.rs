//! Rules on strings.

use regex_automata::meta::Regex;

use super::unsupported::Unsupported;
use crate::error::ConfigError;
use crate::generated::validate::string_rules::WellKnown;
use crate::generated::validate::{KnownRegex, StringRules};

/// Bound on the memory of one compiled pattern, in bytes: RE2 has a similar one.
const PATTERN_SIZE: usize = 1 << 20;

/// protoc-gen-validate's expressions for HTTP headers.
const HEADER_NAME: &str = r"^:?[0-9a-zA-Z!#$%&'*+-.^_|~\x60]+$";
const HEADER_VALUE: &str = r"^[^\x00-\x08\x0A-\x1F\x7F]*$";
const HEADER_NOT_STRICT: &str = r"^[^\x00\x0A\x0D]*$";

#[derive(Debug)]
pub(super) struct Text {
    exactly: Option<String>,
    /// In characters.
    length: Lengths,
    bytes: Lengths,
    prefix: String,
    suffix: String,
    contains: String,
    not_contains: Option<String>,
    one_of: Vec<String>,
    none_of: Vec<String>,
    pattern: Option<Pattern>,
    pub ignore_empty: bool,
}

#[derive(Debug)]
struct Pattern {
    regex: Regex,
    problem: String,
}

/// Allowed lengths.
#[derive(Debug)]
pub(super) struct Lengths {
    pub exactly: Option<u64>,
    pub least: Option<u64>,
    pub most: Option<u64>,
}

impl Lengths {
    /// Checks a length counted in `units`.
    pub fn check(&self, length: usize, units: &str) -> Result<(), ConfigError> {
        let length = length as u64;
        let problem = match self {
            Self { exactly: Some(exactly), .. } if length != *exactly => format!("must have {exactly} {units}"),
            Self { least: Some(1), .. } if length == 0 => "must not be empty".into(),
            Self { least: Some(least), .. } if length < *least => format!("must have at least {least} {units}"),
            Self { most: Some(most), .. } if length > *most => format!("must have at most {most} {units}"),
            _ => return Ok(()),
        };
        Err(ConfigError::new(problem))
    }
}

impl Text {
    pub fn new(rules: StringRules) -> Result<Self, Unsupported> {
        let StringRules {
            r#const,
            len,
            min_len,
            max_len,
            len_bytes,
            min_bytes,
            max_bytes,
            pattern,
            prefix,
            suffix,
            contains,
            not_contains,
            r#in,
            not_in,
            strict,
            ignore_empty,
            well_known,
        } = rules;
        let known = match well_known {
            None => None,
            Some(WellKnown::WellKnownRegex(regex)) => match (KnownRegex::try_from(regex), strict.unwrap_or(true)) {
                (Ok(KnownRegex::HttpHeaderName), true) => Some((HEADER_NAME, "must be the name of an HTTP header")),
                (Ok(KnownRegex::HttpHeaderValue), true) => Some((HEADER_VALUE, "must be the value of an HTTP header")),
                (Ok(KnownRegex::HttpHeaderName | KnownRegex::HttpHeaderValue), false) => {
                    Some((HEADER_NOT_STRICT, "must not contain NUL, line feed or carriage return"))
                }
                _ => return Err(Unsupported(format!("well_known_regex {regex}"))),
            },
            Some(other) => return Err(Unsupported(format!("{other:?}"))),
        };
        let pattern = match (known, pattern) {
            (None, None) => None,
            (Some((regex, problem)), None) => Some(Pattern { regex: compile(regex)?, problem: problem.into() }),
            (None, Some(regex)) => {
                Some(Pattern { regex: compile(&regex)?, problem: format!("must match the regular expression {regex}") })
            }
            (Some(_), Some(_)) => return Err(Unsupported("two patterns".into())),
        };
        Ok(Self {
            exactly: r#const,
            length: Lengths { exactly: len, least: min_len, most: max_len },
            bytes: Lengths { exactly: len_bytes, least: min_bytes, most: max_bytes },
            prefix: prefix.unwrap_or_default(),
            suffix: suffix.unwrap_or_default(),
            contains: contains.unwrap_or_default(),
            not_contains,
            one_of: r#in,
            none_of: not_in,
            pattern,
            ignore_empty: ignore_empty.unwrap_or(false),
        })
    }

    pub fn check(&self, text: &str) -> Result<(), ConfigError> {
        self.length.check(text.chars().count(), "characters")?;
        self.bytes.check(text.len(), "bytes")?;
        let problem = if self.exactly.as_ref().is_some_and(|exactly| exactly != text) {
            format!("must be {:?}", self.exactly.as_deref().unwrap_or_default())
        } else if !text.starts_with(&self.prefix) {
            format!("must begin with {:?}", self.prefix)
        } else if !text.ends_with(&self.suffix) {
            format!("must end with {:?}", self.suffix)
        } else if !text.contains(&self.contains) {
            format!("must contain {:?}", self.contains)
        } else if let Some(forbidden) = self.not_contains.as_ref().filter(|part| text.contains(part.as_str())) {
            format!("must not contain {forbidden:?}")
        } else if !self.one_of.is_empty() && !self.one_of.iter().any(|allowed| allowed == text) {
            format!("must be one of {}", self.one_of.join(", "))
        } else if self.none_of.iter().any(|forbidden| forbidden == text) {
            format!("must not be {text:?}")
        } else if let Some(pattern) = self.pattern.as_ref().filter(|pattern| !pattern.regex.is_match(text)) {
            pattern.problem.clone()
        } else {
            return Ok(());
        };
        Err(ConfigError::new(problem))
    }
}

fn compile(pattern: &str) -> Result<Regex, Unsupported> {
    let config = Regex::config().nfa_size_limit(Some(PATTERN_SIZE)).onepass_size_limit(Some(PATTERN_SIZE));
    Regex::builder()
        .configure(config)
        .build(pattern)
        .map_err(|error| Unsupported(format!("pattern {pattern}: {error}")))
}
