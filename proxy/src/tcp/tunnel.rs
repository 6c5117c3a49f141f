//! Streams of HTTP that connections go through instead of connections of their own: who opens them is above.

use std::{any::Any, rc::Rc, sync::Arc};

use futures_util::future::LocalBoxFuture;

use crate::{
    access_log::Entry,
    cluster::dial::Made,
    config::{
        cluster::{Cluster, Endpoint},
        tcp::Tunneling,
    },
    tls::PeerTls,
    wire::{dial::ConnectError, io::Io},
};

/// A stream that is to be opened.
pub(crate) struct Wanted<'a> {
    /// How.
    pub settings: &'a Tunneling,
    /// The cluster that was asked for, and the one that the endpoint is of.
    pub clusters: (&'a Arc<Cluster>, &'a Arc<Cluster>),
    /// Where.
    pub endpoint: &'a Arc<Endpoint>,
    /// What is known of the connection.
    pub entry: &'a Entry,
}

/// A stream that is open.
pub(crate) struct Opened {
    /// Its bytes.
    pub stream: Io,
    /// The TLS of the connection that carries it.
    pub tls: Option<Rc<PeerTls>>,
    /// That connection.
    pub made: Option<Made>,
    /// What is to be kept while it is open.
    pub kept: Box<dyn Any>,
}

/// Opens streams.
pub(crate) type Open<'a> = Box<dyn Fn(Wanted<'_>) -> LocalBoxFuture<'a, Result<Opened, ConnectError>> + 'a>;
