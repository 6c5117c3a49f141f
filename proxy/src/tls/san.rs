//! Matching a peer's subject alternative names: `match_typed_subject_alt_names`.

use std::net::IpAddr;

use super::certificate::{Content, Name};
use crate::matcher::{StringMatcher, StringPattern};

/// Which names a matcher looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameType {
    /// DNS names.
    Dns,
    /// URIs.
    Uri,
    /// E-mail addresses.
    Email,
    /// IP addresses, as text.
    Ip,
}

/// One of the names that a peer may have.
#[derive(Clone, Debug)]
pub struct NameMatcher {
    /// Which of its names.
    pub kind: NameType,
    /// How the name must look.
    pub pattern: StringMatcher,
}

impl NameMatcher {
    /// An exact DNS name, wildcards of the certificate included.
    pub fn dns(name: &str) -> Self {
        Self { kind: NameType::Dns, pattern: StringMatcher::exact(name) }
    }

    /// A name, or an address, that a host is known by.
    pub fn of_host(host: &str) -> Self {
        match host.parse::<IpAddr>() {
            Ok(ip) => Self { kind: NameType::Ip, pattern: StringMatcher::exact(&ip.to_string()) },
            Err(_) => Self::dns(host),
        }
    }

    /// Whether some name of the certificate matches.
    pub fn matches(&self, content: &Content) -> bool {
        content.names.iter().any(|name| match (self.kind, name) {
            (NameType::Dns, Name::Dns(name)) => match &self.pattern {
                StringMatcher { pattern: StringPattern::Exact(wanted), .. } => {
                    dns_name_matches(wanted, name.as_bytes())
                }
                pattern => pattern.matches(name.as_bytes()),
            },
            (NameType::Uri, Name::Uri(name)) | (NameType::Email, Name::Email(name)) => {
                self.pattern.matches(name.as_bytes())
            }
            (NameType::Ip, Name::Ip(ip)) => self.pattern.matches(ip.to_string().as_bytes()),
            _ => false,
        })
    }
}

/// Whether a certificate for `pattern`, which may be `*.suffix`, is one for `name`. The wildcard stands for one label.
pub fn dns_name_matches(name: &[u8], pattern: &[u8]) -> bool {
    if name.eq_ignore_ascii_case(pattern) {
        return true;
    }
    let Some(suffix) = pattern.strip_prefix(b"*") else { return false };
    suffix.first() == Some(&b'.')
        && name.iter().position(|byte| *byte == b'.').is_some_and(|dot| {
            // An empty label is none.
            dot > 0 && name[dot..].eq_ignore_ascii_case(suffix)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matcher::Regex;

    fn content() -> Content {
        Content {
            names: vec![
                Name::Dns("a.test".into()),
                Name::Dns("*.wild.test".into()),
                Name::Uri("spiffe://td/ns/d/sa/x".into()),
                Name::Ip("10.0.0.1".parse().unwrap()),
                Name::Email("a@b.test".into()),
            ],
            ..Content::default()
        }
    }

    #[test]
    fn names_match_by_type_and_pattern() {
        let matches = |kind, pattern| {
            NameMatcher { kind, pattern: StringMatcher { pattern, ignore_case: false } }.matches(&content())
        };
        let bytes = |text: &str| text.as_bytes().to_vec().into_boxed_slice();
        assert!(matches(NameType::Dns, StringPattern::Exact(bytes("a.test"))));
        assert!(matches(NameType::Dns, StringPattern::Exact(bytes("B.wild.TEST"))));
        assert!(!matches(NameType::Dns, StringPattern::Exact(bytes("a.b.wild.test"))));
        assert!(!matches(NameType::Dns, StringPattern::Exact(bytes(".wild.test"))));
        assert!(!matches(NameType::Dns, StringPattern::Exact(bytes("wild.test"))));
        assert!(matches(NameType::Uri, StringPattern::Prefix(bytes("spiffe://td/"))));
        assert!(!matches(NameType::Dns, StringPattern::Prefix(bytes("spiffe://td/"))));
        assert!(matches(NameType::Uri, StringPattern::Suffix(bytes("/sa/x"))));
        assert!(matches(NameType::Uri, StringPattern::Contains(bytes("/ns/d/"))));
        assert!(matches(NameType::Uri, StringPattern::Regex(Regex::new("spiffe://[^/]+/ns/d/sa/.*").unwrap())));
        assert!(matches(NameType::Ip, StringPattern::Exact(bytes("10.0.0.1"))));
        assert!(!matches(NameType::Ip, StringPattern::Exact(bytes("10.0.0.2"))));
        assert!(matches(NameType::Email, StringPattern::Exact(bytes("a@b.test"))));
    }
}
