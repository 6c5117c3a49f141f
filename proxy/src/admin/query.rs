//! What follows the path of an admin request.

use percent_encoding::percent_decode_str;

/// Parameters of a request, in the order in which they came, percent-decoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Parses `name=value&name&...`.
    pub(super) fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decoded(name), decoded(value))
                })
                .collect(),
        )
    }

    /// The first value of a parameter; empty if it has none.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| &**value)
    }

    /// All of them.
    pub(super) fn pairs(&self) -> &[(String, String)] {
        &self.0
    }
}

/// `%41` becomes `A`; what is not such an escape stays. Bytes that are not UTF-8 are replaced.
fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters() {
        let query = Query::parse("usedonly&filter=a%5B%2&filter=b&x=1=2");
        assert_eq!(query.get("usedonly"), Some(""));
        assert_eq!(query.get("filter"), Some("a[%2"));
        assert_eq!(query.get("x"), Some("1=2"));
        assert_eq!(query.get("y"), None);
        assert_eq!(Query::parse("").pairs(), []);
    }
}
