//! Opening streams of HTTP for connections that go through them.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    rc::Rc,
};

use super::behalf::Known;
use crate::{
    downstream::Downstream,
    http::call::tunnel::{head, open},
    tcp::tunnel::{Open, Opened, Wanted},
    wire::{dial::ConnectError, io::Io},
    worker::state::Worker,
};

/// What opens streams on behalf of a connection.
pub(super) fn opener<'a>(worker: &'a Worker, downstream: &Downstream) -> Open<'a> {
    let known = Rc::new(Known::of(downstream));
    let shareable = downstream.filter_state.as_ref().and_then(|state| state.shareable());
    let shareable = Rc::new(shareable);
    Box::new(move |wanted| {
        let Wanted { settings, clusters: (cluster, chosen), endpoint, entry } = wanted;
        let (cluster, chosen, endpoint) = (cluster.clone(), chosen.clone(), endpoint.clone());
        let (head, known, shareable) = (head(settings, entry), known.clone(), shareable.clone());
        Box::pin(async move {
            // Tunnels say nothing of this process.
            let behalf = known.behalf(worker, IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            let opened = async { open(behalf, (&cluster, &chosen), &endpoint, (*shareable).as_deref(), head?).await };
            let tunnel = opened.await.map_err(|why| ConnectError::Io(io::Error::other(why)))?;
            Ok(Opened {
                tls: tunnel.lease.tls().cloned(),
                made: tunnel.lease.made().copied(),
                stream: Io::Tunnel(tunnel.stream),
                kept: Box::new(tunnel.lease),
            })
        })
    })
}
