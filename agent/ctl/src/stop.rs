//! What asks this program to end.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

/// Waits for an interrupt (Ctrl-C) or a request to terminate, whichever comes from now on.
pub fn interrupted() -> io::Result<impl Future<Output = ()> + use<>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {},
            _ = terminate.recv() => {},
        }
    })
}
