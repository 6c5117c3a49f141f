//! On whose behalf a cluster is asked: a client's connection, whatever it speaks.

use std::net::{IpAddr, SocketAddr};

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
