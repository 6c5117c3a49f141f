//! An accepted upgrade: bytes pass both ways until both sides are done.

use std::time::Duration;

use bytes::Bytes;
use tokio::{io::AsyncWriteExt, sync::oneshot};

use super::{
    pool::{Lease, Switched},
    record::Record,
};
use crate::{
    tcp::copy::{self, Copied},
    wire::io::Io,
};

/// An upgrade that the upstream has accepted: what is left to do when hyper has given the client's connection back.
#[derive(Debug)]
pub(super) struct Accepted {
    pub record: Box<Record>,
    pub upstream: oneshot::Receiver<Switched>,
    pub idle: Option<Duration>,
    /// The upstream's connection counts as long as bytes pass.
    pub lease: Lease,
}

impl Accepted {
    /// Carries bytes between the client's connection, of which `read` was read already, and the upstream's.
    pub async fn run(self, mut client: Io, read: Bytes) {
        let Self { mut record, upstream, idle, lease } = self;
        let Ok((mut upstream, first)) = upstream.await else { return };
        let mut copied = Copied::default();
        let first_written = async {
            upstream.write_all(&read).await?;
            client.write_all(&first).await
        };
        if first_written.await.is_ok() {
            let never = std::future::pending();
            let ended = copy::both_ways(&mut client, &mut upstream, idle, never, None::<&copy::Unwatched>, |moved| {
                copied += moved
            })
            .await;
            tracing::debug!(?ended, "upgraded connection ended");
        }
        lease.passed(copied.received + read.len() as u64, copied.sent);
        record.entry.bytes_received += copied.received + read.len() as u64;
        record.entry.bytes_sent += copied.sent + first.len() as u64;
        record.complete();
    }
}
