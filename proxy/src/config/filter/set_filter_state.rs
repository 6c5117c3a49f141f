//! Objects that are kept of requests.

use crate::config::filter_state::Setting;

/// `Config` of the HTTP filter.
#[derive(Debug)]
pub struct SetFilterState {
    /// When the head has come.
    pub on_request: Vec<Setting>,
    /// The route is chosen anew after that.
    pub clear_route_cache: bool,
}
