//! Access logs: where lines go, what they say, and which streams get one.
//!
//! What is known of a stream is its `entry`, with what was `kept` of its headers as far as some log wants it (`wanted`, as
//! `demand` finds out). Formats are written, and filters decide, from a `view` of both.

mod attributes;
mod demand;
mod entry;
pub mod filter;
mod flag;
pub mod format;
mod header_name;
mod kept;
mod unique;
mod view;
mod wanted;

use std::{sync::Arc, time::Duration};

pub use self::{
    entry::{
        CloseType, ClusterNames, Entry, LogType, Metered, Meters, Place, RouteMetadata, Timing, Upstream,
        next_connection,
    },
    flag::Flag,
    kept::{Kept, Sizes, size},
    view::{Live, View},
    wanted::Wanted,
};
use self::{filter::Filter, format::Format};
use crate::{
    runtime::Runtime,
    telemetry::writer::{LogFile, LogHandle},
};

/// A configured access log.
#[derive(Clone, Debug)]
pub struct AccessLog {
    /// Where lines go.
    pub file: LogFile,
    /// What they say.
    pub format: Arc<Format>,
    /// Which streams get one; none: all.
    pub filter: Option<Arc<Filter>>,
}

/// When access logs get lines besides those at the end (`access_log_options`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moments {
    /// A request, or a connection, has come.
    pub on_start: bool,
    /// The upstream connection is there; of HTTP: the tunnel that a request asked for stands.
    pub on_established: bool,
    /// So often while it lasts.
    pub interval: Option<Duration>,
}

/// Writes one line for `entry` to each of `logs` whose filter takes it.
pub fn write(handle: &LogHandle, runtime: &Runtime, logs: &[AccessLog], log_type: LogType, entry: &Entry) {
    for log in logs {
        let view = View { log_type, ..View::of(entry) };
        if log.filter.as_ref().is_none_or(|filter| filter.takes(&view, runtime)) {
            handle.append(&log.file, |line| log.format.write_line(line, &view));
        }
    }
}
