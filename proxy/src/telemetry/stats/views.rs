//! Names of what belongs to a view stand below `view.<its name>.`; what follows is what they are called in Envoy.

use crate::view::ViewNames;

/// What the names of a view begin with.
pub(super) fn prefix(name: &str) -> String {
    format!("view.{name}.")
}

/// The view among `views` that a metric's name stands below, if it does, and what it is called there.
pub fn split<'a>(views: &ViewNames, name: &'a str) -> (Option<&'a str>, &'a str) {
    let below = || {
        let (view, rest) = name.strip_prefix("view.")?.split_once('.')?;
        views.find(view).map(|_| (Some(view), rest))
    };
    below().unwrap_or((None, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_views_that_there_are_take_names() {
        let views = ViewNames::new(["shop".into(), "a-1".into()]).unwrap();
        for (name, view, rest) in [
            ("view.shop.cluster.x.upstream_rq_total", Some("shop"), "cluster.x.upstream_rq_total"),
            ("view.a-1.a", Some("a-1"), "a"),
            ("view.other.http_local_rate_limit.ok", None, "view.other.http_local_rate_limit.ok"),
            ("view.shop", None, "view.shop"),
            ("cluster.view.shop.a", None, "cluster.view.shop.a"),
        ] {
            assert_eq!(split(&views, name), (view, rest));
        }
        assert_eq!(split(&ViewNames::default(), "view.shop.a"), (None, "view.shop.a"));
        assert!(split(&views, &format!("{}a", prefix("shop"))).0.is_some());
    }
}
