//! HTTP/2 on a connection, to a client or to an upstream.

use std::time::Duration;

/// HTTP/2 settings of one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2 {
    /// SETTINGS_MAX_CONCURRENT_STREAMS.
    pub max_concurrent_streams: u32,
    /// SETTINGS_INITIAL_WINDOW_SIZE, bytes.
    pub stream_window: u32,
    /// Window of the connection, bytes.
    pub connection_window: u32,
    /// PING frames that find out whether the other side is there; none: none are sent.
    pub keepalive: Option<Keepalive>,
    /// Extended CONNECT (RFC 8441): upgrades over HTTP/2.
    pub allow_connect: bool,
}

/// `connection_keepalive`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// From one PING to the next.
    pub interval: Duration,
    /// Without an answer for so long the connection is given up.
    pub timeout: Duration,
}

impl Default for Http2 {
    /// Windows large enough for 1 Gbit/s at 8 ms; bounded per stream so that one slow reader cannot hold much.
    fn default() -> Self {
        Self {
            max_concurrent_streams: 1024,
            stream_window: 1 << 20,
            connection_window: 1 << 24,
            keepalive: None,
            allow_connect: false,
        }
    }
}
