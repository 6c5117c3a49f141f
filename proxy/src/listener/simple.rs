//! What a filter chain does without an upstream: `echo`, `direct_response`, and waiting for a first byte.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::peek;
use crate::{
    downstream::Downstream,
    http::connection,
    tcp::{gate::Gate, line::Line},
    wire::io::Io,
};

/// Bytes that are read of a connection that is refused.
const SCRAP_BYTES: usize = 4096;
/// Bytes that are echoed at a time.
const ECHO_BYTES: usize = 16 * 1024;

/// Sends back what comes, and an end after the client's.
pub(super) async fn echo(downstream: &mut Downstream, gate: Option<&Gate<'_>>, line: Option<&mut Line>) {
    let mut buffer = vec![0; ECHO_BYTES];
    let refused = loop {
        let Ok(read) = downstream.stream.read(&mut buffer).await else { break false };
        if let Some(line) = &line {
            line.told.meter.add(read as u64, 0);
        }
        if let Some(gate) = gate
            && !gate.admits().await
        {
            break true;
        }
        if read == 0 {
            // A client that is gone already does not miss it.
            let _ = downstream.stream.shutdown().await;
            break false;
        }
        if downstream.stream.write_all(&buffer[..read]).await.is_err() || downstream.stream.flush().await.is_err() {
            break false;
        }
        if let Some(line) = &line {
            line.told.meter.add(0, read as u64);
        }
    };
    if let Some(gate) = gate {
        tracing::trace!(refused, "echo ended");
        gate.close(line).await;
    }
}

/// Sends a response, and closes.
pub(super) async fn respond(downstream: &mut Downstream, response: &[u8], line: Option<&mut Line>) {
    let sent = async {
        downstream.stream.write_all(response).await?;
        downstream.stream.shutdown().await
    };
    if let Err(error) = sent.await {
        tracing::debug!(connection = downstream.id, peer = %downstream.peer, %error, "direct response");
    }
    if let Some(line) = line {
        line.told.meter.add(0, response.len() as u64);
        line.entry.details = "direct_response".into();
    }
}

/// Waits for the client's first byte, and asks the gate. False: the connection is to be closed.
pub(super) async fn first_byte_admitted(
    downstream: &mut Downstream,
    gate: &Gate<'_>,
    open: &connection::Open,
    line: Option<&mut Line>,
) -> bool {
    let spoken = async {
        match &mut downstream.stream {
            stream @ (Io::Tcp(_) | Io::Within(_) | Io::Tunnel(_)) => {
                peek::until(stream, 1, |bytes| (!bytes.is_empty()).then_some(())).await.is_ok()
            }
            stream => {
                let mut first = Vec::new();
                stream.peek(1, &mut first).await.is_ok() && !first.is_empty()
            }
        }
    };
    let spoken = tokio::select! {
        spoken = spoken => spoken,
        reason = open.silent_too_long() => {
            if let Some(line) = &line {
                line.told.close_reason.set(reason);
            }
            false
        }
    };
    // One that says nothing is not asked about.
    let admitted = spoken && gate.admits().await;
    if spoken && !admitted {
        // Closed with bytes unread it would be reset.
        let mut scrap = vec![0; SCRAP_BYTES];
        let read = downstream.stream.read(&mut scrap).await.unwrap_or(0);
        if let Some(line) = &line {
            line.told.meter.add(read as u64, 0);
        }
    }
    gate.close(line).await;
    admitted
}
