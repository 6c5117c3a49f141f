//! Records of the events ring buffer.

use crate::addr::Ip;

/// One decision or one connection's end.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// `CLOCK_MONOTONIC`, in nanoseconds.
    pub time: u64,
    /// The pod's netns cookie.
    pub netns: u64,
    /// A value of [`EventKind`].
    pub kind: u32,
    /// A value of [`crate::Rule`].
    pub rule: u32,
    /// The pod's slot.
    pub slot: u32,
    /// Process (`tgid`) that connected, as the initial pid namespace numbers it; 0 where no process is known.
    pub pid: u32,
    /// Source address; unspecified where it is not chosen yet (`connect`).
    pub source_ip: Ip,
    /// Original destination's address.
    pub destination_ip: Ip,
    /// Source port, in host byte order.
    pub source_port: u32,
    /// Original destination's port, in host byte order.
    pub destination_port: u32,
    /// Bytes sent and acknowledged, at the close of a connection. As the kernel counts them (`tcpi_bytes_acked`): SYN and
    /// FIN are one byte each.
    pub bytes_sent: u64,
    /// Bytes received, at the close of a connection, a FIN as one byte.
    pub bytes_received: u64,
    /// Smoothed round-trip time at the close of a connection, in microseconds.
    pub rtt_us: u32,
    /// Segments retransmitted over the connection's life.
    pub retransmits: u32,
    /// Name of the process that connected (`TASK_COMM_LEN`), NUL-padded.
    pub comm: [u8; 16],
}
const _: () = assert!(size_of::<Event>() == 16 + 16 + 32 + 8 + 16 + 8 + 16);

/// What an [`Event`] tells.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A verdict; the rule says which.
    Decision = 1,
    /// A redirected or handed-over connection of the application closed.
    Close = 2,
}
