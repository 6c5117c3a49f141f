//! Access logs: where lines go, what they say, and which streams get one.

use std::sync::Arc;

pub use super::{
    entry::{ClusterNames, Entry, LogType, Metered, Meters, Place, RouteMetadata, Timing, Upstream, next_connection},
    flag::Flag,
    kept::{Kept, Live, Sizes, View, Wanted, size},
};
use crate::{
    runtime::Runtime,
    telemetry::{
        filter::Filter,
        format::Format,
        writer::{LogFile, LogHandle},
    },
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

/// Writes one line for `entry` to each of `logs` whose filter takes it.
pub fn write(handle: &LogHandle, runtime: &Runtime, logs: &[AccessLog], log_type: LogType, entry: &Entry) {
    for log in logs {
        let view = View { log_type, ..View::of(entry) };
        if log.filter.as_ref().is_none_or(|filter| filter.takes(&view, runtime)) {
            handle.append(&log.file, |line| log.format.write_line(line, &view));
        }
    }
}
