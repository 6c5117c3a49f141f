//! Keeping objects in the filter state of requests.

use super::exchange::Exchange;
use crate::{
    access_log::View,
    config::{filter::set_filter_state::SetFilterState, filter_state::add},
    filter_state::Span,
    http::stream::Stream,
};

pub(super) fn on_request(filter: &SetFilterState, stream: &mut Stream, exchange: &Exchange<'_>) {
    for setting in &filter.on_request {
        let view = View::live(&stream.record.entry, stream.live(exchange.parts));
        if let Some(object) = setting.object(&view, Span::Request) {
            add(&mut stream.record.entry.filter_state, object);
        }
    }
    stream.reroute |= filter.clear_route_cache;
}
