//! The names under which a connection manager is counted: Envoy's, below `http.<stat_prefix>.`.

use std::{fmt, time::Duration};

use crate::telemetry::stats::{CodecStats, Counter, Gauge, Scope, Shard, handles};

handles! {
    /// What whoever serves HTTP counts: connection managers and the admin server. Some of it never happens here: the names
    /// are there to be read.
    Served {
        counters {
            downstream_cx_delayed_close_timeout
            downstream_cx_destroy
            downstream_cx_destroy_active_rq
            downstream_cx_destroy_local
            downstream_cx_destroy_local_active_rq
            downstream_cx_destroy_remote
            downstream_cx_destroy_remote_active_rq
            downstream_cx_drain_close
            downstream_cx_http1_total
            downstream_cx_http2_total
            downstream_cx_http3_total
            downstream_cx_idle_timeout
            downstream_cx_max_duration_reached
            downstream_cx_max_requests_reached
            downstream_cx_overload_disable_keepalive
            downstream_cx_protocol_error
            downstream_cx_rx_bytes_total
            downstream_cx_ssl_total
            downstream_cx_total
            downstream_cx_tx_bytes_total
            downstream_cx_upgrades_total
            downstream_flow_control_paused_reading_total
            downstream_flow_control_resumed_reading_total
            downstream_rq_1xx
            downstream_rq_2xx
            downstream_rq_3xx
            downstream_rq_4xx
            downstream_rq_5xx
            downstream_rq_completed
            downstream_rq_failed_path_normalization
            downstream_rq_header_timeout
            downstream_rq_http1_total
            downstream_rq_http2_total
            downstream_rq_http3_total
            downstream_rq_idle_timeout
            downstream_rq_max_duration_reached
            downstream_rq_non_relative_path
            downstream_rq_overload_close
            downstream_rq_redirected_with_normalized_path
            downstream_rq_rejected_via_ip_detection
            downstream_rq_response_before_rq_complete
            downstream_rq_rx_reset
            downstream_rq_timeout
            downstream_rq_too_large
            downstream_rq_too_many_premature_resets
            downstream_rq_total
            downstream_rq_tx_reset
            downstream_rq_ws_on_non_ws_route
            rs_too_large
        }
        gauges {
            downstream_cx_active
            downstream_cx_http1_active
            downstream_cx_http1_soft_drain
            downstream_cx_http2_active
            downstream_cx_http3_active
            downstream_cx_rx_bytes_buffered
            downstream_cx_ssl_active
            downstream_cx_tx_bytes_buffered
            downstream_cx_upgrades_active
            downstream_rq_active
        }
        histograms {
            downstream_cx_length_ms: Milliseconds
            downstream_rq_time: Milliseconds
        }
    }
}

handles! {
    /// What every connection manager counts.
    Handles: Served {
        counters {
            no_cluster
            no_route
            passthrough_internal_redirect_bad_location
            passthrough_internal_redirect_no_route
            passthrough_internal_redirect_predicate
            passthrough_internal_redirect_too_many_redirects
            passthrough_internal_redirect_unsafe_scheme
            rq_direct_response
            rq_overload_local_reply
            rq_redirect
            rq_reset_after_downstream_response_started
            rq_total
        }
        gauges {}
        histograms {}
    }
}

handles! {
    /// What a listener counts of the responses that its connection managers give.
    OfListener {
        counters {
            downstream_rq_1xx
            downstream_rq_2xx
            downstream_rq_3xx
            downstream_rq_4xx
            downstream_rq_5xx
            downstream_rq_completed
        }
        gauges {}
        histograms {}
    }
}

handles! {
    /// What is counted of tracing. Most of it never happens here: the counters are there to be read.
    Tracing {
        counters { client_enabled health_check not_traceable random_sampling service_forced }
        gauges {}
        histograms {}
    }
}

/// The statistics of a connection manager.
#[derive(Default)]
pub struct HttpStats {
    /// What it counts.
    pub own: Handles,
    of_listener: OfListener,
    /// Requests that could be traced.
    pub tracing: Tracing,
    /// Of its connections' codecs.
    pub codecs: CodecStats,
    /// Names live as long as these.
    _scopes: Vec<Scope>,
}

impl fmt::Debug for HttpStats {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("HttpStats").finish_non_exhaustive()
    }
}

impl HttpStats {
    /// Of the manager `prefix`, below the root and a listener's scope.
    pub fn new(root: &Scope, listener: &Scope, prefix: &str) -> Self {
        let scope = root.scope(&format!("http.{prefix}"));
        let tracing = scope.scope("tracing");
        let of_listener = listener.scope(&format!("http.{prefix}"));
        Self {
            own: Handles::register(&scope),
            of_listener: OfListener::register(&of_listener),
            tracing: Tracing::register(&tracing),
            codecs: CodecStats::new(root),
            _scopes: vec![scope, tracing, of_listener],
        }
    }

    /// A connection begins.
    pub fn connected(&self, shard: &Shard, tls: bool) {
        let own = &self.own;
        shard.inc(own.downstream_cx_total);
        shard.gauge_add(own.downstream_cx_active, 1);
        if tls {
            shard.inc(own.downstream_cx_ssl_total);
            shard.gauge_add(own.downstream_cx_ssl_active, 1);
        }
    }

    /// It is known which HTTP a connection speaks.
    pub fn speaks(&self, shard: &Shard, http2: bool) {
        let own = &self.own;
        shard.inc(if http2 { own.downstream_cx_http2_total } else { own.downstream_cx_http1_total });
        shard.gauge_add(self.active_of(http2), 1);
        if http2 {
            self.codecs.http2_connection(shard, true);
        } else {
            self.codecs.http1();
        }
    }

    /// A connection ends after `lasted`, with so many requests under way. `http2`: none if it never was known. `local`:
    /// this side ended it.
    pub fn disconnected(
        &self,
        shard: &Shard,
        (http2, tls): (Option<bool>, bool),
        lasted: Duration,
        active: usize,
        local: bool,
    ) {
        let own = &self.own;
        shard.inc(own.downstream_cx_destroy);
        let (side, side_active) = if local {
            (own.downstream_cx_destroy_local, own.downstream_cx_destroy_local_active_rq)
        } else {
            (own.downstream_cx_destroy_remote, own.downstream_cx_destroy_remote_active_rq)
        };
        shard.inc(side);
        if active > 0 {
            shard.inc(own.downstream_cx_destroy_active_rq);
            shard.inc(side_active);
        }
        shard.record(own.downstream_cx_length_ms, millis(lasted));
        shard.gauge_add(own.downstream_cx_active, -1);
        if let Some(http2) = http2 {
            shard.gauge_add(self.active_of(http2), -1);
        }
        if tls {
            shard.gauge_add(own.downstream_cx_ssl_active, -1);
        }
    }

    fn active_of(&self, http2: bool) -> Gauge {
        if http2 { self.own.downstream_cx_http2_active } else { self.own.downstream_cx_http1_active }
    }

    /// A request begins.
    pub fn began(&self, shard: &Shard, http2: bool) {
        let own = &self.own;
        shard.inc(own.downstream_rq_total);
        shard.inc(if http2 { own.downstream_rq_http2_total } else { own.downstream_rq_http1_total });
        shard.gauge_add(own.downstream_rq_active, 1);
        if http2 {
            shard.gauge_add(self.codecs.http2().streams_active, 1);
        }
    }

    /// A client is told to go on with its request.
    pub fn continued(&self, shard: &Shard) {
        let (own, listener) = (&self.own, &self.of_listener);
        let counters = [own.downstream_rq_completed, own.downstream_rq_1xx];
        let there = [listener.downstream_rq_completed, listener.downstream_rq_1xx];
        counters.into_iter().chain(there).for_each(|counter| shard.inc(counter));
    }

    /// So many headers of a request were dropped for the underscores in their names.
    pub fn dropped_underscores(&self, shard: &Shard, http2: bool, headers: u64) {
        self.codecs.underscores(shard, http2, Some(headers));
    }

    /// A request ends after `lasted` (none: its response broke off), answered with `status` (0: not at all), for the reason `details`. `apart`: it is
    /// in no statistics of responses, as in Envoy health checks that are answered here.
    pub fn ended(
        &self,
        shard: &Shard,
        (status, details): (u16, &str),
        lasted: Option<Duration>,
        http2: bool,
        apart: bool,
    ) {
        let own = &self.own;
        shard.gauge_add(own.downstream_rq_active, -1);
        if http2 {
            shard.gauge_add(self.codecs.http2().streams_active, -1);
        }
        if details.ends_with(".unexpected_underscore") {
            self.codecs.underscores(shard, http2, None);
        }
        match details {
            "stream_idle_timeout" => shard.inc(own.downstream_rq_idle_timeout),
            "request_header_timeout" => shard.inc(own.downstream_rq_header_timeout),
            "request_overall_timeout" => shard.inc(own.downstream_rq_timeout),
            "max_duration_timeout" => shard.inc(own.downstream_rq_max_duration_reached),
            "request_payload_too_large" => shard.inc(own.downstream_rq_too_large),
            "path_normalization_failed" if (300..400).contains(&status) => {
                shard.inc(own.downstream_rq_redirected_with_normalized_path);
            }
            "absolute_path_rejected" => shard.inc(own.downstream_rq_non_relative_path),
            "path_normalization_failed" => shard.inc(own.downstream_rq_failed_path_normalization),
            "rejecting_because_detection_failed" => shard.inc(own.downstream_rq_rejected_via_ip_detection),
            "upgrade_failed" => shard.inc(own.downstream_rq_ws_on_non_ws_route),
            "route_not_found" => shard.inc(own.no_route),
            "cluster_not_found" => shard.inc(own.no_cluster),
            "http2.remote_reset" | "downstream_remote_disconnect" => shard.inc(own.downstream_rq_rx_reset),
            _ => {}
        }
        if status == 0 || apart {
            return;
        }
        let listener = &self.of_listener;
        shard.inc(own.downstream_rq_completed);
        shard.inc(listener.downstream_rq_completed);
        let (here, there) = match status / 100 {
            1 => (own.downstream_rq_1xx, listener.downstream_rq_1xx),
            2 => (own.downstream_rq_2xx, listener.downstream_rq_2xx),
            3 => (own.downstream_rq_3xx, listener.downstream_rq_3xx),
            4 => (own.downstream_rq_4xx, listener.downstream_rq_4xx),
            5 => (own.downstream_rq_5xx, listener.downstream_rq_5xx),
            _ => (Counter::default(), Counter::default()),
        };
        shard.inc(here);
        shard.inc(there);
        if let Some(lasted) = lasted {
            shard.record(own.downstream_rq_time, millis(lasted));
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::stats::Store;

    #[test]
    fn requests_are_counted_by_class() {
        let store = Store::new(1);
        let stats = HttpStats::new(&store.root(), &store.root().scope("listener.l"), "in");
        let shard = store.worker(0);
        stats.began(&shard, false);
        stats.ended(&shard, (404, "route_not_found"), Some(Duration::from_millis(3)), false, false);
        stats.began(&shard, true);
        stats.ended(&shard, (0, "http2.remote_reset"), None, true, false);
        let total = |counter| store.total(counter);
        assert_eq!((total(stats.own.downstream_rq_4xx), total(stats.own.no_route)), (1, 1));
        assert_eq!((total(stats.own.downstream_rq_completed), total(stats.own.downstream_rq_rx_reset)), (1, 1));
        assert_eq!(total(stats.of_listener.downstream_rq_4xx), 1);
        assert_eq!(store.level(stats.own.downstream_rq_active), 0);
    }
}
