//! Log records for the agent, through aya-log.
//!
//! aya-log's level starts at 255, everything on, and each record costs a ring buffer entry. Here a level that nobody
//! set means off: the agent turns records on by setting `AYA_LOG_LEVEL` before it loads the programs.

use aya_log_ebpf::macro_support::{AYA_LOG_LEVEL, Level};
use weir_abi::Ip;

/// Whether the agent set a level.
#[inline(always)]
pub fn is_level_set() -> bool {
    AYA_LOG_LEVEL.load() <= Level::Trace as u8
}

/// An address as aya-log's `{:i}` takes it; IPv4 shows as `::ffff:a.b.c.d`.
#[inline(always)]
pub fn octets(ip: &Ip) -> [u8; 16] {
    let [a, b, c, d] = ip.0.map(u32::to_ne_bytes);
    [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]]
}

/// aya-log's `debug!`, off until the agent sets a level.
macro_rules! debug {
    ($($arguments:tt)*) => {
        if crate::log::is_level_set() {
            aya_log_ebpf::debug!($($arguments)*)
        }
    };
}
pub(crate) use debug;
