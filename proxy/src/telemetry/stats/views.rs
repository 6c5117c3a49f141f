//! Names of what belongs to a view stand below `view.<its name>.`; what follows is what they are called in Envoy.

use std::sync::Arc;

/// What the names of a view begin with.
pub(super) fn prefix(name: &str) -> String {
    format!("view.{name}.")
}

/// The views whose names are told apart. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Views(Arc<[Box<str>]>);

impl Views {
    /// Views of these names.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        Self(names.into_iter().map(Box::from).collect())
    }

    /// The view that a name stands below, if it does, and what it is called there.
    pub fn split<'a>(&self, name: &'a str) -> (Option<&'a str>, &'a str) {
        let below = || {
            let (view, rest) = name.strip_prefix("view.")?.split_once('.')?;
            self.0.iter().any(|known| **known == *view).then_some((Some(view), rest))
        };
        below().unwrap_or((None, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_views_that_there_are_take_names() {
        let views = Views::new(["shop", "a-1"]);
        for (name, view, rest) in [
            ("view.shop.cluster.x.upstream_rq_total", Some("shop"), "cluster.x.upstream_rq_total"),
            ("view.a-1.a", Some("a-1"), "a"),
            ("view.other.http_local_rate_limit.ok", None, "view.other.http_local_rate_limit.ok"),
            ("view.shop", None, "view.shop"),
            ("cluster.view.shop.a", None, "cluster.view.shop.a"),
        ] {
            assert_eq!(views.split(name), (view, rest));
        }
        assert_eq!(Views::default().split("view.shop.a"), (None, "view.shop.a"));
        assert!(views.split(&format!("{}a", prefix("shop"))).0.is_some());
    }
}
