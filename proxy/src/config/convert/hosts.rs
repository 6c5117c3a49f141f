//! `vhds`: virtual hosts that come by themselves, beside those of their route configuration.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;
use weir_proto::envoy::{
    config::route::v3::{self as proto, RouteConfiguration},
    service::discovery::v3::DiscoveryResponse,
};

use super::{
    context::{Context, Later},
    decoded::decoded,
    fields::sub,
    source::{self, source},
};
use crate::{
    config::{
        cell::{Kind, Making, Reloads, Slot, Source, Subject, nothing_further},
        error::Error,
        route::{DiscoveredHosts, RouteTable, VirtualHost},
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

/// Makes a virtual host as its route configuration says.
type Make = Box<dyn Fn(&mut Context, &proto::VirtualHost) -> Result<VirtualHost, Error> + Send + Sync>;

/// What a message says of virtual hosts that come by themselves, beside those of its `fixed` table, which `make` makes.
pub(super) fn discovered(
    cx: &mut Context,
    message: &RouteConfiguration,
    fixed: &RouteTable,
    make: impl Fn(&mut Context, &proto::VirtualHost) -> Result<VirtualHost, Error> + Send + Sync + 'static,
    discovery: &Discovery,
    at: &str,
) -> Result<Option<DiscoveredHosts<RouteTable>>, Error> {
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
    let cell = cx.cells.cell(subject, || {
        let (scope, routes) = match discovery {
            Discovery::None => (cx.stats.scope("vhds").scope(&message.name), None),
            Discovery::Routes { scope, hosts } => (hosts.clone(), Some(scope)),
        };
        let reloads = Some(Reloads::of_hosts(&scope, routes));
        let reading = Reading::default();
        Making { timeout, scope, read: Box::new(move |body| reading.read(body)), reloads, further: nothing_further }
    });
    cx.waits.push(cell.clone());
    let making = MakingTable {
        fixed: fixed.with_hosts(Vec::new()).map_err(|duplicate| twice(&duplicate.domain))?,
        make: Box::new(make),
        later: cx.later(),
        made: Mutex::default(),
    };
    // What has come before must go together with what the message says now.
    if let Some(hosts) = cell.current().as_deref() {
        making.whole(hosts)?;
    }
    let build = move |hosts: Option<&Hosts>| hosts.map(|hosts| making.whole(hosts)).transpose();
    let whole = Slot::new(&cx.cells.clone(), cell.clone(), build)?;
    Ok(Some(DiscoveredHosts { cell, whole }))
}

/// What there is, in the order of the resources' names.
type Hosts = Vec<Arc<proto::VirtualHost>>;

/// Reads what comes: all of it each time, of which most is as it was.
#[derive(Default)]
struct Reading(Mutex<HashMap<Vec<u8>, Arc<proto::VirtualHost>>>);

impl Reading {
    /// All virtual hosts, as they are offered: in one response.
    fn read(&self, body: &Bytes) -> Result<Hosts, Error> {
        let response = DiscoveryResponse::decode(body.clone()).map_err(|error| Error::at("", error.to_string()))?;
        let mut known = self.0.lock();
        let mut read = HashMap::new();
        for any in response.resources {
            let host = match known.get(&any.value) {
                Some(host) => host.clone(),
                None => Arc::new(decoded(&any.value.clone().into())?),
            };
            read.insert(any.value, host);
        }
        let mut hosts: Hosts = read.values().cloned().collect();
        hosts.sort_by(|a, b| a.name.cmp(&b.name));
        *known = read;
        Ok(hosts)
    }
}

/// Makes tables of what comes, and each virtual host once.
struct MakingTable {
    fixed: RouteTable,
    make: Make,
    later: Later,
    made: Mutex<Vec<(Arc<proto::VirtualHost>, Arc<VirtualHost>)>>,
}

impl MakingTable {
    /// The fixed table with these.
    fn whole(&self, hosts: &Hosts) -> Result<RouteTable, Error> {
        let mut made = self.made.lock();
        // Both are in the order of names.
        let mut known = made.iter().peekable();
        let mut now = Vec::with_capacity(hosts.len());
        for host in hosts {
            while known.next_if(|(of, _)| of.name < host.name).is_some() {}
            let same = known.peek().filter(|(of, _)| Arc::ptr_eq(of, host));
            let model = match same {
                Some((_, model)) => model.clone(),
                None => Arc::new(self.later.convert(|cx| (self.make)(cx, host))?),
            };
            now.push((host.clone(), model));
        }
        *made = now;
        let more = made.iter().map(|(of, model)| (model.clone(), of.domains.clone())).collect();
        self.fixed.with_hosts(more).map_err(|duplicate| twice(&duplicate.domain))
    }
}

fn twice(domain: &str) -> Error {
    Error::at("", format!("only unique values for domains are permitted: \"{domain}\""))
}

#[cfg(test)]
mod tests {
    use prost_types::Any;

    use super::*;

    fn body(hosts: &[(&str, &str)]) -> Bytes {
        let host = |(name, domain): &(&str, &str)| proto::VirtualHost {
            name: (*name).to_owned(),
            domains: vec![(*domain).to_owned()],
            ..proto::VirtualHost::default()
        };
        let any = |host: proto::VirtualHost| Any { type_url: String::new(), value: host.encode_to_vec() };
        let resources = hosts.iter().map(|of| any(host(of))).collect();
        DiscoveryResponse { resources, ..DiscoveryResponse::default() }.encode_to_vec().into()
    }

    #[test]
    fn of_what_comes_only_what_is_new_is_read_and_made() {
        let reading = Reading::default();
        let making = MakingTable {
            fixed: RouteTable::new("r", vec![(VirtualHost::default(), vec!["fixed.test".into()])]).unwrap(),
            make: Box::new(|_, _| Ok(VirtualHost::default())),
            later: Context::default().later(),
            made: Mutex::default(),
        };
        let first = reading.read(&body(&[("b", "b.test"), ("a", "a.test")])).unwrap();
        let one = making.whole(&first).unwrap();
        let second = reading.read(&body(&[("a", "a.test"), ("aa", "aa.test"), ("b", "other.test")])).unwrap();
        let two = making.whole(&second).unwrap();
        assert!(Arc::ptr_eq(&first[0], &second[0]) && !Arc::ptr_eq(&first[1], &second[2]));
        let host = |table: &RouteTable, of: &str| table.virtual_host(Some(of.as_bytes())).cloned();
        let is_same = |of: &str| Arc::ptr_eq(&host(&one, of).unwrap(), &host(&two, of).unwrap());
        assert!(is_same("fixed.test") && is_same("a.test"));
        assert!(host(&one, "b.test").is_some() && host(&two, "b.test").is_none() && host(&two, "other.test").is_some());
        let why = making.whole(&reading.read(&body(&[("a", "fixed.test")])).unwrap()).unwrap_err();
        assert_eq!(why.to_string(), "only unique values for domains are permitted: \"fixed.test\"");
    }
}
