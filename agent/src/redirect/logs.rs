//! Log records of the eBPF programs, as events of the target `weir_ebpf`.
//!
//! Each record costs the kernel a ring buffer entry, so the programs write them only if somebody wants them.

use std::{os::fd::AsFd, thread};

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Level, Log, Metadata, Record};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::Error;
use crate::causes::on_one_line;

/// What filters name the records by.
const TARGET: &str = "weir_ebpf";

/// Whether the filter of log lines lets the programs' records through, all of which are of the level debug.
pub fn wanted() -> bool {
    tracing::enabled!(target: TARGET, tracing::Level::DEBUG)
}

/// Reads records and logs them for as long as the agent runs, on a thread: registering a foreign file descriptor with
/// the runtime takes `unsafe`.
pub(super) fn follow(object: &mut Ebpf) -> Result<(), Error> {
    let mut logger =
        EbpfLogger::init_with_logger(object, Events).map_err(|error| Error::Object(on_one_line(&error)))?;
    let read = move || loop {
        logger.flush();
        let mut waited = [PollFd::new(logger.as_fd(), PollFlags::POLLIN)];
        match poll(&mut waited, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => {
                tracing::error!(%error, "the programs' log records cannot be waited for");
                return;
            }
        }
    };
    thread::Builder::new().name("weir-bpf-log".to_owned()).spawn(read).map(drop).map_err(|source| Error::Io {
        action: "read",
        path: super::object::LOGS.into(),
        source,
    })
}

/// Turns records into events.
struct Events;

impl Log for Events {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let (module, message) = (record.module_path(), record.args());
        match record.level() {
            Level::Error => tracing::error!(target: TARGET, module, "{message}"),
            Level::Warn => tracing::warn!(target: TARGET, module, "{message}"),
            Level::Info => tracing::info!(target: TARGET, module, "{message}"),
            Level::Debug | Level::Trace => tracing::debug!(target: TARGET, module, "{message}"),
        }
    }

    fn flush(&self) {}
}
