//! `/stats`: reading metrics, and the formats in which they are shown.

mod buckets;
mod html;
mod json;
mod number;
mod prometheus;
mod text;
mod wanted;

use self::wanted::Wanted;
use crate::{
    admin::{
        query::Query,
        reply::{Reply, Status},
    },
    config::convert::StatsSettings,
    telemetry::stats::Store,
};

/// Answers `/stats`.
pub(super) fn stats(store: &Store, settings: &StatsSettings, query: &Query) -> Reply {
    let wanted = match Wanted::parse(query) {
        Ok(wanted) => wanted,
        Err(refusal) => return refusal,
    };
    match query.get("format") {
        None | Some("text") => Reply::text(Status::OK, text::render(store, settings, &wanted)),
        Some("json") => Reply::json(json::render(store, settings, &wanted)),
        Some("prometheus") => Reply::text(Status::OK, prometheus::render(store, settings, &wanted)),
        Some("html" | "active-html") => Reply::html(html::render(&text::render(store, settings, &wanted))),
        Some(_) => {
            let usage = "usage: /stats?format=(html|active-html|json|prometheus|text)\n\n";
            Reply::text(Status::BAD_REQUEST, usage)
        }
    }
}

/// Answers `/stats/prometheus`.
pub(super) fn prometheus(store: &Store, settings: &StatsSettings, query: &Query) -> Reply {
    match Wanted::parse(query) {
        Ok(wanted) => Reply::text(Status::OK, prometheus::render(store, settings, &wanted)),
        Err(refusal) => refusal,
    }
}
