//! The consumer of the events ring buffer: a thread that waits in poll(2) and sends what it reads to a channel.
//!
//! A thread, and not the runtime's reactor: registering a foreign file descriptor there takes `unsafe`. It lives as long as
//! the agent, as two readers would take each other's records; while nobody watches, nothing is written and it sleeps.

use std::{os::fd::AsFd, path::PathBuf, thread};

use aya::maps::{Map, MapData, RingBuf};
use futures_util::stream::BoxStream;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use weir_abi::{event::Event, map::name};

use super::{Error, decode::FromBytes};

/// Events sent at once.
const BATCH: usize = 256;
/// Batches waiting for the receiver; beyond them the ring buffer fills up and the kernel counts what it drops.
const BATCHES: usize = 16;

/// Opens the ring buffer, throws away what it holds, and reads it from then on.
pub(super) fn stream(pin: PathBuf) -> Result<BoxStream<'static, Vec<Event>>, Error> {
    let opened = MapData::from_pin(&pin).and_then(Map::from_map_data).and_then(RingBuf::try_from);
    let mut ring = opened.map_err(|source| Error::Map {
        name: name::EVENTS.to_owned(),
        pin: pin.clone(),
        source: Box::new(source),
    })?;
    while ring.next().is_some() {}
    let (sender, receiver) = mpsc::channel(BATCHES);
    thread::Builder::new()
        .name("weir-events".to_owned())
        .spawn(move || read(ring, &sender))
        .map_err(|source| Error::Io { path: pin, source })?;
    Ok(Box::pin(ReceiverStream::new(receiver)))
}

fn read(mut ring: RingBuf<MapData>, sender: &mpsc::Sender<Vec<Event>>) {
    loop {
        let mut batch = Vec::new();
        while batch.len() < BATCH
            && let Some(record) = ring.next()
        {
            // Records of another size are another version's: not to be guessed at.
            if let Ok(bytes) = <&[u8; size_of::<Event>()]>::try_from(&*record) {
                batch.push(Event::from_bytes(bytes));
            }
        }
        if !batch.is_empty() {
            if sender.blocking_send(batch).is_err() {
                return;
            }
            continue;
        }
        let mut waited = [PollFd::new(ring.as_fd(), PollFlags::POLLIN)];
        match poll(&mut waited, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => {
                tracing::error!(%error, "the events ring buffer cannot be waited for");
                return;
            }
        }
    }
}
