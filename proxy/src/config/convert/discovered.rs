//! What comes by itself: cells of route configurations, secrets and filters.

use std::sync::Arc;

use bytes::Bytes;
use prost_types::Any;
use weir_proto::envoy::{
    config::{
        core::v3::{ExtensionConfigSource, TypedExtensionConfig},
        route::v3::RouteConfiguration,
    },
    extensions::{
        filters::network::http_connection_manager::v3::Rds,
        transport_sockets::tls::v3::{SdsSecretConfig, Secret, secret::Type},
    },
};

use super::{
    context::Context,
    decoded::decoded,
    fields::{sub, type_name, typed},
    hosts::Discovery,
    route,
    source::source,
};
use crate::config::{
    cell::{Cell, Feed, Kind, Making, Reloads, Slot, Subject, nothing_further},
    error::Error,
    route::RouteTable,
};

/// The cell of a route configuration. Its statistics are the first connection manager's that names it.
pub(super) fn routes(
    cx: &mut Context,
    message: &Rds,
    stat_prefix: &str,
    at: &str,
) -> Result<Arc<Cell<RouteTable>>, Error> {
    let cell = routes_on_demand(cx, message, stat_prefix, at)?;
    cell.want();
    cx.waits.push(cell.clone());
    Ok(cell)
}

/// The same of one that comes when a request needs it.
pub(super) fn routes_on_demand(
    cx: &mut Context,
    message: &Rds,
    stat_prefix: &str,
    at: &str,
) -> Result<Arc<Cell<RouteTable>>, Error> {
    cx.only(message, at, &["config_source", "route_config_name"], &[])?;
    let (source, timeout) = source(cx.cells.sources(), message.config_source.as_ref(), &sub(at, "config_source"))?;
    let name = &message.route_config_name;
    Ok(cx.cells.sleeping(Subject { kind: Kind::Routes, source, name: name.as_str().into() }, || {
        let rds = cx.stats.scope("http").scope(stat_prefix).scope("rds");
        let scope = rds.scope(name);
        let reloads = Some(Reloads::of_routes(&scope));
        let later = cx.later();
        let discovery = Discovery::Routes { scope: scope.clone(), hosts: rds.scope("vhds").scope(name) };
        let read = move |body: &Bytes| {
            let message: RouteConfiguration = decoded(body)?;
            let check = message.validate_clusters.unwrap_or(false);
            later.convert(|cx| route::route_table(cx, &message, check, &discovery, ""))
        };
        let further = |table: &RouteTable| table.discovered.iter().map(|hosts| hosts.cell.clone()).collect();
        Making { timeout, scope, read: Box::new(read), reloads, further }
    }))
}

/// The cell of a secret.
pub(super) fn secret(cx: &mut Context, message: &SdsSecretConfig, at: &str) -> Result<Arc<Cell<Type>>, Error> {
    let (source, timeout) = source(cx.cells.sources(), message.sds_config.as_ref(), at)?;
    let name = &message.name;
    Ok(cx.cells.cell(Subject { kind: Kind::Secret, source, name: name.as_str().into() }, || {
        let scope = cx.stats.scope("sds").scope(name);
        // Never counted: what a secret's files have become is looked at as a whole.
        scope.counter("key_rotation_failed");
        let read = |body: &Bytes| {
            let message: Secret = decoded(body)?;
            message.r#type.ok_or_else(|| Error::at("", "expected a kind of secret"))
        };
        Making { timeout, scope, read: Box::new(read), reloads: None, further: nothing_further }
    }))
}

/// What a filter of a family does whose configuration comes by itself: what `make` makes of one of its types,
/// and which cells that names.
pub(super) fn extension<T: Send + Sync + 'static>(
    cx: &mut Context,
    (family, name): (&str, &str),
    message: &ExtensionConfigSource,
    at: &str,
    make: impl Fn(&mut Context, &Any, &str) -> Result<T, Error> + Send + Sync + 'static,
    further: fn(&T) -> Vec<Arc<dyn Feed>>,
) -> Result<Arc<Slot<T>>, Error> {
    let supported = ["config_source", "default_config", "apply_default_config_without_warming", "type_urls"];
    cx.only(message, at, &supported, &[])?;
    let (source, timeout) = source(cx.cells.sources(), message.config_source.as_ref(), &sub(at, "config_source"))?;
    let cell = cx.cells.cell(Subject { kind: Kind::Extension, source, name: name.into() }, || {
        let scope = cx.stats.scope("extension_config_discovery").scope(family).scope(name);
        let reloads = Some(Reloads::of_extension(&scope));
        let read = |body: &Bytes| {
            let message: TypedExtensionConfig = decoded(body)?;
            message.typed_config.ok_or_else(|| Error::at("typed_config", "a configuration is required"))
        };
        Making { timeout, scope, read: Box::new(read), reloads, further: nothing_further }
    });
    if !message.apply_default_config_without_warming {
        cx.waits.push(cell.clone());
    }
    let types: Vec<String> =
        message.type_urls.iter().map(|url| url.rsplit('/').next().unwrap_or_default().to_owned()).collect();
    let made = move |cx: &mut Context, any: &Any, at: &str| {
        let any = &*typed(any, at)?;
        let found = type_name(any);
        if !types.iter().any(|expected| expected == found) {
            let expected = types.join(", ");
            let message = format!("Error: filter config has type URL {found} but expect {expected}.");
            return Err(Error::at(at, message));
        }
        make(cx, any, at)
    };
    // One that is no good is refused with what it is in.
    let default = message.default_config.clone();
    let default_at = sub(at, "default_config");
    if let Some(any) = &default {
        made(cx, any, &default_at)?;
    }
    let later = cx.later();
    let build = move |any: Option<&Any>| match (any, &default) {
        (Some(any), _) => later.convert(|cx| made(cx, any, "")).map(Some),
        (None, Some(default)) => later.convert(|cx| made(cx, default, &default_at)).map(Some),
        (None, None) => Ok(None),
    };
    Slot::naming(&cx.cells.clone(), cell, build, further)
}
