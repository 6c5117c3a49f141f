//! On whose behalf clusters are asked about a connection that speaks no HTTP.

use std::net::{IpAddr, SocketAddr};

use crate::{
    downstream::Downstream,
    http::stream::behalf::Behalf,
    view::ViewId,
    wire::{
        dial::{Dialer, PoolScope},
        proxy_header::Client,
    },
    worker::state::Worker,
};

/// What is kept of the connection for that.
#[derive(Debug)]
pub(super) struct Known {
    id: u64,
    view: ViewId,
    destination: Option<SocketAddr>,
    dialer: Dialer,
    scope: PoolScope,
    client: Client,
}

impl Known {
    pub fn of(downstream: &Downstream) -> Self {
        let dialer = downstream.dialer();
        Self {
            id: downstream.id,
            view: downstream.view(),
            destination: downstream.original_destination(),
            scope: dialer.scope(),
            dialer,
            client: Client { source: downstream.peer, destination: downstream.destination },
        }
    }

    pub fn behalf<'a>(&'a self, worker: &'a Worker, node: IpAddr) -> Behalf<'a> {
        let Self { id, view, destination, dialer, scope, client } = self;
        Behalf {
            worker,
            id: *id,
            view: *view,
            destination: *destination,
            dialer,
            scope,
            multiplexed: false,
            client: *client,
            node,
        }
    }
}
