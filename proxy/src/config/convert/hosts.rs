//! `vhds`: virtual hosts that come by themselves, beside those of their route configuration.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use weir_proto::envoy::{
    config::route::v3::{RouteConfiguration, VirtualHost},
    service::discovery::v3::DiscoveryResponse,
};

use super::{
    context::Context,
    discovered,
    fields::sub,
    route,
    source::{self, source},
};
use crate::{
    config::{
        cell::{Cell, Kind, Making, Reloads, Slot, Source, Subject, nothing_further},
        error::Error,
        route::{DiscoveredHosts, RouteTable},
    },
    telemetry::stats::Scope,
};

/// How a route configuration came.
pub(super) enum Discovery {
    /// With what it is in.
    None,
    /// By itself.
    Routes {
        /// Where it is counted.
        scope: Scope,
        /// Where its virtual hosts are.
        hosts: Scope,
    },
}

/// What a message says of virtual hosts that come by themselves.
pub(super) fn discovered(
    cx: &mut Context,
    message: &RouteConfiguration,
    check_clusters: bool,
    discovery: &Discovery,
    at: &str,
) -> Result<Option<DiscoveredHosts>, Error> {
    let Some(vhds) = &message.vhds else { return Ok(None) };
    let at = sub(at, "vhds");
    let (source, timeout) = source(cx.cells.sources(), vhds.config_source.as_ref(), &sub(&at, "config_source"))?;
    // Their names are asked for one by one.
    if !source::sends_deltas(cx.cells.sources(), &source) {
        let why = match source {
            Source::Ads => "ADS must use DELTA_GRPC api_type when used as VHDS config source.",
            _ => "only 'DELTA_GRPC' or 'ADS' (which uses Delta xDS) is supported as a config source.",
        };
        return Err(Error::at(at, why));
    }
    let subject = Subject { kind: Kind::Hosts, source, name: message.name.as_str().into() };
    let cell: Arc<Cell<Vec<VirtualHost>>> = cx.cells.cell(subject, || {
        let (scope, routes) = match discovery {
            Discovery::None => (cx.stats.scope("vhds").scope(&message.name), None),
            Discovery::Routes { scope, hosts } => (hosts.clone(), Some(scope)),
        };
        let reloads = Some(Reloads::of_hosts(&scope, routes));
        Making { timeout, scope, read: Box::new(|body| hosts(body)), reloads, further: nothing_further }
    });
    cx.waits.push(cell.clone());
    let later = cx.later();
    let fixed = RouteConfiguration { vhds: None, ..message.clone() };
    let whole = move |hosts: &Vec<VirtualHost>| -> Result<RouteTable, Error> {
        let mut whole = fixed.clone();
        whole.virtual_hosts.extend(hosts.iter().cloned());
        later.convert(|cx| route::route_table(cx, &whole, check_clusters, &Discovery::None, ""))
    };
    // What has come before must go together with what the message says now.
    if let Some(hosts) = cell.current().as_deref() {
        whole(hosts)?;
    }
    let build = move |hosts: Option<&Vec<VirtualHost>>| hosts.map(&whole).transpose();
    let whole = Slot::new(&cx.cells.clone(), cell.clone(), build)?;
    Ok(Some(DiscoveredHosts { cell, whole }))
}

/// All virtual hosts, as they are offered: in one response.
fn hosts(body: &Bytes) -> Result<Vec<VirtualHost>, Error> {
    let response = DiscoveryResponse::decode(body.clone()).map_err(|error| Error::at("", error.to_string()))?;
    response.resources.into_iter().map(|any| discovered::decoded(&any.value.into())).collect()
}
