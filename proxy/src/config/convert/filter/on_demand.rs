//! `on_demand`.

use std::time::Duration;

use weir_proto::envoy::extensions::filters::http::on_demand::v3 as proto;

use crate::config::{
    convert::{
        context::Context,
        fields::{duration, sub},
        source::{self, source},
    },
    error::Error,
    filter::on_demand::{OnDemand, OnDemandClusters},
};

/// Envoy's default of `timeout`.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What the filter, or a route, says of it.
pub(super) fn on_demand(cx: &mut Context, odcds: Option<&proto::OnDemandCds>, at: &str) -> Result<OnDemand, Error> {
    let Some(message) = odcds else { return Ok(OnDemand::default()) };
    let at = sub(at, "odcds");
    cx.only(message, &at, &["source", "timeout"], &[])?;
    let source_at = sub(&at, "source");
    let (source, _) = source(cx.cells.sources(), message.source.as_ref(), &source_at)?;
    if !source::sends_deltas(cx.cells.sources(), &source) {
        let why = "clusters are asked for one by one by deltas only: expected DELTA_GRPC, here or of ads_config";
        return Err(Error::at(source_at, why));
    }
    let timeout = message.timeout.as_ref().map(|timeout| duration(timeout, &sub(&at, "timeout"))).transpose()?;
    let registry = cx.cells.clone();
    Ok(OnDemand { clusters: Some(OnDemandClusters { source, timeout: timeout.unwrap_or(TIMEOUT), registry }) })
}
