//! On whose behalf a cluster is asked: a client's connection, whatever it speaks.

use std::{
    net::{IpAddr, SocketAddr},
    rc::Rc,
};

use crate::{
    view::ViewId,
    wire::{
        dial::{Dialer, PoolScope},
        proxy_header::Client,
    },
    worker::state::Worker,
};

/// What is known of the connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Behalf<'a> {
    /// Its worker.
    pub worker: &'a Worker,
    /// Its number.
    pub id: u64,
    /// By whose configuration it is served.
    pub view: ViewId,
    /// Where the client wanted to go; none: to the listener itself.
    pub destination: Option<SocketAddr>,
    /// How upstream connections are made for it.
    pub dialer: &'a Dialer,
    /// Which of those it shares.
    pub scope: &'a PoolScope,
    /// The client speaks HTTP/2.
    pub multiplexed: bool,
    /// Whose connection it is, where upstreams are told.
    pub client: Client,
    /// The address that this process calls its own in `x-forwarded-for`.
    pub node: IpAddr,
}

impl Behalf<'_> {
    /// The same for what may outlast the connection; `worker` is its worker.
    pub(in crate::http) fn kept(&self, worker: &Rc<Worker>) -> Kept {
        Kept {
            worker: worker.clone(),
            id: self.id,
            view: self.view,
            destination: self.destination,
            dialer: self.dialer.clone(),
            scope: self.scope.clone(),
            multiplexed: self.multiplexed,
            client: self.client,
            node: self.node,
        }
    }
}

/// What is known of a connection that may have ended.
#[derive(Debug)]
pub(in crate::http) struct Kept {
    worker: Rc<Worker>,
    id: u64,
    view: ViewId,
    destination: Option<SocketAddr>,
    dialer: Dialer,
    scope: PoolScope,
    multiplexed: bool,
    client: Client,
    node: IpAddr,
}

impl Kept {
    /// On its behalf clusters are asked.
    pub fn behalf(&self) -> Behalf<'_> {
        Behalf {
            worker: &self.worker,
            id: self.id,
            view: self.view,
            destination: self.destination,
            dialer: &self.dialer,
            scope: &self.scope,
            multiplexed: self.multiplexed,
            client: self.client,
            node: self.node,
        }
    }
}
