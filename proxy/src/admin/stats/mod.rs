//! `/stats`: reading metrics, and the formats in which they are shown.

mod buckets;
mod html;
mod json;
pub(super) mod number;
mod prometheus;
mod text;
mod wanted;

use self::wanted::Wanted;
use crate::{
    admin::{
        counts::Counts,
        query::Query,
        reply::{Reply, Status},
    },
    config::convert::StatsSettings,
    telemetry::stats::Store,
};

/// Ends the histograms' interval if that is done when somebody asks. As in Envoy, the answer does not show it yet.
pub(super) fn flush(store: &Store, settings: &StatsSettings) {
    if settings.flush_on_admin {
        store.merge_histograms();
    }
}

/// Answers `/stats`. `counts`: as in Envoy, the response is in what it shows.
pub(super) fn stats(store: &Store, settings: &StatsSettings, counts: &Counts, query: &Query) -> Reply {
    let wanted = match Wanted::parse(query) {
        Ok(wanted) => wanted,
        Err(refusal) => return refusal,
    };
    let format = query.get("format");
    let refused = match format {
        None | Some("text" | "json" | "html" | "active-html") => wanted.refused_by_others(),
        Some("prometheus") => wanted.refused_by_prometheus(),
        Some(_) => None,
    };
    if let Some(refusal) = refused {
        return refusal;
    }
    if matches!(format, None | Some("text" | "json" | "prometheus" | "html" | "active-html")) {
        counts.answered(Status::OK);
    }
    let reply = match format {
        None | Some("text") => Reply::text(Status::OK, text::render(store, settings, &wanted)),
        Some("json") => Reply::json(json::render(store, settings, &wanted)),
        Some("prometheus") => Reply::text(Status::OK, prometheus::render(store, settings, wanted)),
        Some("html" | "active-html") => Reply::html(html::render(&text::render(store, settings, &wanted))),
        Some(_) => {
            let usage = "usage: /stats?format=(html|active-html|json|prometheus|text)\n\n";
            return Reply::text(Status::BAD_REQUEST, usage);
        }
    };
    Reply { counted: true, ..reply }
}

/// Answers `/stats/prometheus`.
pub(super) fn prometheus(store: &Store, settings: &StatsSettings, counts: &Counts, query: &Query) -> Reply {
    match Wanted::parse(query) {
        Ok(wanted) => {
            if let Some(refusal) = wanted.refused_by_prometheus() {
                return refusal;
            }
            counts.answered(Status::OK);
            let reply = Reply::text(Status::OK, prometheus::render(store, settings, wanted));
            Reply { counted: true, ..reply }
        }
        Err(refusal) => refusal,
    }
}
