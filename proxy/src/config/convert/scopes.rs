//! `scoped_routes`: route tables by what a request says in its headers.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use prost::Message;
use weir_proto::envoy::{
    config::{
        core::v3::ConfigSource,
        route::v3::{ScopedRouteConfiguration, scoped_route_configuration::key::fragment::Type as Part},
    },
    extensions::filters::network::http_connection_manager::v3::{
        Rds, ScopedRds, ScopedRoutes as Scoped,
        scoped_routes::{
            ConfigSpecifier,
            scope_key_builder::{
                FragmentBuilder,
                fragment_builder::{
                    Type,
                    header_value_extractor::{ExtractType, KvElement},
                },
            },
        },
    },
    service::discovery::v3::DiscoveryResponse,
};

use super::{
    context::Context,
    decoded::decoded,
    discovered,
    fields::{header_name, item, sub},
    hosts::Discovery,
    route,
    source::source,
};
use crate::{
    config::{
        cell::{Cell, Kind, Making, Reloads, Slot, Subject, nothing_further},
        error::Error,
        http::{Element, Fragment, ScopeTable, ScopedRoutes, Scopes, Table},
    },
    telemetry::stats::{Gauge, Scope, Store},
};

pub(super) fn scoped_routes(
    cx: &mut Context,
    message: &Scoped,
    stat_prefix: &str,
    at: &str,
) -> Result<ScopedRoutes, Error> {
    let supported =
        ["name", "scope_key_builder", "rds_config_source", "scoped_route_configurations_list", "scoped_rds"];
    cx.only(message, at, &supported, &[])?;
    let builder = message.scope_key_builder.as_ref().map(|builder| builder.fragments.as_slice()).unwrap_or_default();
    let key_at = sub(at, "scope_key_builder");
    let fragments = builder.iter().enumerate();
    let key = fragments.map(|(index, builder)| fragment(cx, builder, &item(&key_at, "fragments", index)));
    let key = key.collect::<Result<_, _>>()?;
    let of = OfManager { routes: message.rds_config_source.clone(), stat_prefix: stat_prefix.to_owned() };
    let scopes = match &message.config_specifier {
        Some(ConfigSpecifier::ScopedRouteConfigurationsList(list)) => {
            let at = sub(at, "scoped_route_configurations_list");
            let of = OfManager { routes: None, ..of };
            let scopes = &list.scoped_route_configurations;
            Scopes::Fixed(of.table(cx, scopes, &sub(&at, "scoped_route_configurations"))?)
        }
        Some(ConfigSpecifier::ScopedRds(scoped)) => {
            let cell = cell(cx, &message.name, scoped, stat_prefix, &sub(at, "scoped_rds"))?;
            let later = cx.later();
            let build = move |scopes: Option<&Vec<ScopedRouteConfiguration>>| {
                let Some(scopes) = scopes else { return Ok(None) };
                later.convert(|cx| of.table(cx, scopes, "resources")).map(Some)
            };
            Scopes::Discovered(Slot::naming(&cx.cells.clone(), cell, build, ScopeTable::cells)?)
        }
        None => return Err(Error::at(at, "expected scoped_route_configurations_list or scoped_rds")),
    };
    Ok(ScopedRoutes { key, scopes })
}

fn fragment(cx: &mut Context, builder: &FragmentBuilder, at: &str) -> Result<Fragment, Error> {
    let at = sub(at, "header_value_extractor");
    let Some(Type::HeaderValueExtractor(extractor)) = &builder.r#type else {
        return Err(Error::at(at, "is required"));
    };
    cx.only(extractor, &at, &["name", "element_separator", "index", "element"], &[])?;
    let element = match &extractor.extract_type {
        None => return Err(Error::at(at, "HeaderValueExtractor extract_type not set.")),
        Some(ExtractType::Index(index)) if *index > 0 && extractor.element_separator.is_empty() => {
            return Err(Error::at(sub(&at, "index"), "Index > 0 for empty string element separator."));
        }
        Some(ExtractType::Index(index)) => Element::At(*index as usize),
        Some(ExtractType::Element(KvElement { separator, key })) => {
            Element::Of { key: key.as_str().into(), separator: separator.as_str().into() }
        }
    };
    let separator = extractor.element_separator.as_str().into();
    Ok(Fragment { header: header_name(&extractor.name, &sub(&at, "name"))?, separator, element })
}

/// What a connection manager says of all its scopes.
struct OfManager {
    /// Where their tables come from that come by themselves.
    routes: Option<ConfigSource>,
    stat_prefix: String,
}

impl OfManager {
    fn table(&self, cx: &mut Context, scopes: &[ScopedRouteConfiguration], at: &str) -> Result<ScopeTable, Error> {
        let mut table = ScopeTable::default();
        for (index, scope) in scopes.iter().enumerate() {
            // As in Envoy, of a name or a key that comes twice the last counts, where that is not refused.
            if scopes[index + 1..].iter().any(|other| other.name == scope.name) {
                continue;
            }
            let at = format!("{at}[{index}]");
            let routes = self.routes(cx, scope, &at)?;
            table.add(&parts(scope), routes);
        }
        Ok(table)
    }

    fn routes(&self, cx: &mut Context, scope: &ScopedRouteConfiguration, at: &str) -> Result<Table, Error> {
        cx.only(scope, at, &["name", "route_configuration_name", "route_configuration", "key", "on_demand"], &[])?;
        if let Some(routes) = &scope.route_configuration {
            let check = routes.validate_clusters.unwrap_or(true);
            let table = route::route_table(cx, routes, check, &Discovery::None, &sub(at, "route_configuration"))?;
            return Ok(Table::Fixed(Arc::new(table)));
        }
        if self.routes.is_none() {
            let why = "Fetching routes via RDS (route_configuration_name) is not supported with inline scoped routes.";
            return Err(Error::at(sub(at, "route_configuration_name"), why));
        }
        let route_config_name = scope.route_configuration_name.clone();
        let rds = Rds { config_source: self.routes.clone(), route_config_name };
        let cell = match scope.on_demand {
            true => discovered::routes_on_demand(cx, &rds, &self.stat_prefix, at)?,
            false => discovered::routes(cx, &rds, &self.stat_prefix, at)?,
        };
        Ok(Table::Discovered(cell))
    }
}

/// The parts of a scope's key.
fn parts(scope: &ScopedRouteConfiguration) -> Vec<&str> {
    let fragments = scope.key.iter().flat_map(|key| &key.fragments);
    fragments
        .map(|fragment| match &fragment.r#type {
            Some(Part::StringKey(text)) => text.as_str(),
            None => "",
        })
        .collect()
}

/// Neither names nor keys may come twice.
fn unique(scopes: &[ScopedRouteConfiguration]) -> Result<(), String> {
    let mut names = HashMap::new();
    let mut keys = HashMap::new();
    for scope in scopes {
        let name = &scope.name;
        if names.insert(name, ()).is_some() {
            return Err(format!("duplicate scoped route configuration '{name}' found"));
        }
        if let Some(first) = keys.insert(parts(scope), name) {
            return Err(format!("scope key conflict found, first scope is '{first}', second scope is '{name}'"));
        }
    }
    Ok(())
}

/// The cell of all scopes of a source.
fn cell(
    cx: &mut Context,
    name: &str,
    message: &ScopedRds,
    stat_prefix: &str,
    at: &str,
) -> Result<Arc<Cell<Vec<ScopedRouteConfiguration>>>, Error> {
    cx.only(message, at, &["scoped_rds_config_source"], &[])?;
    let source_at = sub(at, "scoped_rds_config_source");
    let (source, timeout) = source(cx.cells.sources(), message.scoped_rds_config_source.as_ref(), &source_at)?;
    let subject = Subject { kind: Kind::ScopedRoutes, source, name: name.into() };
    let cell = cx.cells.cell(subject, || {
        let scope = cx.stats.scope("http").scope(stat_prefix).scope("scoped_rds").scope(name);
        let reloads = Some(Reloads::of_scopes(&scope));
        let numbers = Numbers::new(&scope);
        let read = move |body: &Bytes| {
            let why = |why: String| Error::at("", format!("Error adding/updating scoped route(s): {why}"));
            let scopes = scopes(body).map_err(|error| why(error.to_string()))?;
            unique(&scopes).map_err(why)?;
            numbers.show(&scopes);
            Ok(scopes)
        };
        Making { timeout, scope, read: Box::new(read), reloads, further: nothing_further }
    });
    cx.waits.push(cell.clone());
    Ok(cell)
}

/// All scopes, as they come in one response.
fn scopes(body: &Bytes) -> Result<Vec<ScopedRouteConfiguration>, Error> {
    let response = DiscoveryResponse::decode(body.clone()).map_err(|error| Error::at("", error.to_string()))?;
    response.resources.into_iter().map(|any| decoded(&any.value.into())).collect()
}

/// How many scopes there are.
struct Numbers {
    store: Option<Store>,
    all: Gauge,
    active: Gauge,
    on_demand: Gauge,
    /// What the handles belong to.
    _scope: Scope,
}

impl Numbers {
    fn new(scope: &Scope) -> Self {
        let [all, active, on_demand] =
            ["all_scopes", "active_scopes", "on_demand_scopes"].map(|name| scope.gauge(name));
        Self { store: Store::of(scope), all, active, on_demand, _scope: scope.clone() }
    }

    fn show(&self, scopes: &[ScopedRouteConfiguration]) {
        let Some(store) = &self.store else { return };
        store.set(self.all, scopes.len() as u64);
        // As Envoy counts them: those whose routes come by themselves. Of those on demand, nobody counts which have come.
        let discovered = scopes.iter().filter(|scope| scope.route_configuration.is_none());
        let (on_demand, active): (Vec<_>, Vec<_>) = discovered.partition(|scope| scope.on_demand);
        store.set(self.active, active.len() as u64);
        store.set(self.on_demand, on_demand.len() as u64);
    }
}
