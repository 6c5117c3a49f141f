//! Log records of the eBPF programs, as the agent's own at their level.

use std::{os::fd::AsFd, thread};

use aya::Ebpf;
use aya_log::EbpfLogger;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::Error;

/// Reads records and logs them for as long as the agent runs, on a thread: registering a foreign file descriptor with
/// the runtime takes `unsafe`.
pub(super) fn follow(object: &mut Ebpf) -> Result<(), Error> {
    let mut logger = EbpfLogger::init(object).map_err(|error| Error::Object(super::chain(&error)))?;
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
