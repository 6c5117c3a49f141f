//! Connections of their own for tunnels that end here: not pooled, and no HTTP is spoken over them.

use std::{net::SocketAddr, rc::Rc};

use super::{attempt::connect_for, error::PoolError, host::Want};
use crate::{
    cluster::{
        account::{Account, ActiveRequest, OpenConnection, place_to_wait},
        dial::Made,
    },
    config::cluster::InUse,
    tls::PeerTls,
    wire::io::Io,
};

/// What a connection counts while it lasts.
#[derive(Debug)]
pub(in crate::http) struct Counted {
    _place: InUse,
    account: Rc<Account>,
    connection: OpenConnection,
    _request: ActiveRequest,
}

impl Counted {
    /// So many bytes went to the upstream, and so many came from it.
    pub fn passed(&self, sent: u64, received: u64) {
        let Account { cluster, shard, .. } = &*self.account;
        shard.add(cluster.stats.upstream_cx_tx_bytes_total, sent);
        shard.add(cluster.stats.upstream_cx_rx_bytes_total, received);
    }

    /// The upstream has ended it; `early`: before its client.
    pub fn ended_remotely(&self, early: bool) {
        self.connection.remote.set(true);
        self.connection.interrupted.set(early);
    }
}

/// A connection that was just made.
#[derive(Debug)]
pub(in crate::http) struct Tunnel {
    pub io: Io,
    pub local: Option<SocketAddr>,
    pub tls: Option<Rc<PeerTls>>,
    pub made: Made,
    pub counted: Counted,
}

/// Dials.
pub(in crate::http) async fn connect(want: Want<'_>) -> Result<Tunnel, PoolError> {
    let account =
        Rc::new(Account { cluster: want.cluster.clone(), endpoint: want.endpoint.clone(), shard: want.shard.clone() });
    let _waits = place_to_wait(want.cluster, want.priority, want.shard).ok_or(PoolError::NoWaiting)?;
    let pending = account.pending();
    let place = account.place_in_time(want.priority).await;
    let connection = account.connection(None);
    let secured = match connect_for(&want).await {
        Ok(secured) => {
            pending.served();
            secured
        }
        Err(error) => {
            pending.ejected();
            connection.failed(&error);
            return Err(PoolError::Connect(error));
        }
    };
    connection.connected();
    // Whoever ends it ends the request, too.
    connection.interrupted.set(true);
    let request = account.request();
    let local = secured.io.local_addr().ok();
    let counted = Counted { _place: place, account, connection, _request: request };
    Ok(Tunnel { io: secured.io, local, tls: secured.tls, made: secured.made, counted })
}
