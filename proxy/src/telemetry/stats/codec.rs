//! What HTTP codecs count: `http1.*` and `http2.*`, below a cluster, and below nothing for all connection managers.

use std::{fmt, sync::OnceLock};

use super::{handles, scope::Scope, shard::Shard};

handles! {
    /// Of HTTP/1. Metadata is no part of it, and a flood of responses ends a connection as any broken protocol does.
    Http1Stats {
        counters {
            dropped_headers_with_underscores
            metadata_not_supported_error
            requests_rejected_with_underscores_in_headers
            response_flood
        }
        gauges {}
        histograms {}
    }
}

handles! {
    /// Of HTTP/2. What the library decides for itself (floods, malformed messages, header sizes) is not counted: the
    /// names are there to be read.
    Http2Stats {
        counters {
            cookies_total_bytes_too_large
            dropped_headers_with_underscores
            goaway_sent
            header_list_size_too_large
            header_overflow
            headers_cb_no_stream
            inbound_empty_frames_flood
            inbound_priority_frames_flood
            inbound_window_update_frames_flood
            keepalive_timeout
            metadata_empty_frames
            nghttp2_downstream_connections
            nghttp2_upstream_connections
            oghttp2_downstream_connections
            oghttp2_upstream_connections
            outbound_control_flood
            outbound_flood
            requests_rejected_with_underscores_in_headers
            rx_messaging_error
            rx_reset
            stream_refused_errors
            trailers
            tx_flush_timeout
            tx_reset
        }
        gauges {
            deferred_stream_close
            outbound_control_frames_active
            outbound_frames_active
            pending_send_bytes
            streams_active
        }
        histograms {
            cookie_count: Unspecified
            cookie_size: Bytes
            header_count: Unspecified
            header_list_size: Bytes
        }
    }
}

/// The names of the codecs that are in use: as in Envoy they come with the first connection of each.
#[derive(Default)]
pub struct CodecStats {
    scope: Scope,
    http1: OnceLock<(Scope, Http1Stats)>,
    http2: OnceLock<(Scope, Http2Stats)>,
}

impl fmt::Debug for CodecStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CodecStats").field(&self.scope).finish()
    }
}

impl CodecStats {
    /// Below `scope`.
    pub fn new(scope: &Scope) -> Self {
        Self { scope: scope.clone(), ..Self::default() }
    }

    /// Those of HTTP/1.
    pub fn http1(&self) -> &Http1Stats {
        let made = self.http1.get_or_init(|| {
            let scope = self.scope.scope("http1");
            let names = Http1Stats::register(&scope);
            (scope, names)
        });
        &made.1
    }

    /// Those of HTTP/2.
    pub fn http2(&self) -> &Http2Stats {
        let made = self.http2.get_or_init(|| {
            let scope = self.scope.scope("http2");
            let names = Http2Stats::register(&scope);
            (scope, names)
        });
        &made.1
    }

    /// An HTTP/2 connection begins, with a client or an upstream.
    pub fn http2_connection(&self, shard: &Shard, downstream: bool) {
        let names = self.http2();
        shard.inc(if downstream { names.nghttp2_downstream_connections } else { names.nghttp2_upstream_connections });
        for gauge in [names.outbound_control_frames_active, names.outbound_frames_active, names.streams_active] {
            shard.gauge_add(gauge, 0);
        }
    }

    /// So many streams of HTTP/2 were reset from here.
    pub fn sent_resets(&self, shard: &Shard, resets: u64) {
        if resets > 0 {
            shard.add(self.http2().tx_reset, resets);
        }
    }

    /// So many were reset by the other side.
    pub fn got_resets(&self, shard: &Shard, resets: u64) {
        if resets > 0 {
            shard.add(self.http2().rx_reset, resets);
        }
    }

    /// Names of headers of a request have underscores: it is refused, or so many are dropped.
    pub fn underscores(&self, shard: &Shard, http2: bool, dropped: Option<u64>) {
        let (refused, headers) = if http2 {
            let names = self.http2();
            (names.requests_rejected_with_underscores_in_headers, names.dropped_headers_with_underscores)
        } else {
            let names = self.http1();
            (names.requests_rejected_with_underscores_in_headers, names.dropped_headers_with_underscores)
        };
        match dropped {
            None => shard.inc(refused),
            Some(dropped) => shard.add(headers, dropped),
        }
    }
}
