//! What the process counts whatever its configuration: handles that are the same in every store.

use std::sync::Weak;

use super::{
    metric::{Counter, Gauge, Kind, Unit},
    numbers::Numbers,
    registry::Registry,
    scope::Scope,
};

macro_rules! numbered {
    ($($(#[$doc:meta])* $kind:ident $name:ident = $number:literal, $text:literal;)*) => {
        $($(#[$doc])* pub const $name: $kind = $kind($number);)*
        const NAMES: &[(Kind, u32, &str)] = &[$((Kind::$kind, $number, $text),)*];
    };
}

numbered! {
    /// Redirected connections without a recorded original destination, closed.
    Counter NO_ORIGINAL_DESTINATION = 1, "weir.no_original_destination";
    /// Connections to the redirect ports themselves, closed.
    Counter SELF_PORT_REFUSED = 2, "weir.self_port_refused";
    /// Connections refused by a pod's ceiling.
    Counter POD_CX_OVERFLOW = 3, "weir.pod_cx_overflow";
    /// accept(2) failures.
    Counter ACCEPT_ERRORS = 4, "weir.accept_errors";
    /// Upstream sockets received from the agent.
    Counter UPSTREAM_SOCKETS_RECEIVED = 5, "weir.upstream_sockets_received";
    /// Waits for an upstream socket because the stash was empty.
    Counter UPSTREAM_SOCKET_WAITS = 6, "weir.upstream_socket_waits";
    /// Access log lines dropped because the writer fell behind.
    Counter ACCESS_LOG_DROPPED = 7, "weir.access_log_dropped";
    /// Accepted connections.
    Counter DOWNSTREAM_CX_TOTAL = 8, "weir.downstream_cx_total";
    /// Bytes from clients of TCP connections.
    Counter TCP_RX_BYTES = 9, "weir.tcp_rx_bytes_total";
    /// Bytes to clients of TCP connections.
    Counter TCP_TX_BYTES = 10, "weir.tcp_tx_bytes_total";
    /// Upstream TCP connections tried.
    Counter UPSTREAM_CX_TOTAL = 11, "weir.upstream_cx_total";
    /// Upstream TCP connections that failed.
    Counter UPSTREAM_CX_CONNECT_FAIL = 12, "weir.upstream_cx_connect_fail";
    /// Upstream TCP connections not established in time.
    Counter UPSTREAM_CX_CONNECT_TIMEOUT = 13, "weir.upstream_cx_connect_timeout";
    /// Connections that clients have open now.
    Gauge OPEN_CONNECTIONS = 1, "server.total_connections";
    /// Access log buffers handed to the writer.
    Counter FILESYSTEM_WRITE_BUFFERED = 14, "filesystem.write_buffered";
    /// Access log buffers written.
    Counter FILESYSTEM_WRITE_COMPLETED = 15, "filesystem.write_completed";
    /// Access log buffers that could not be written.
    Counter FILESYSTEM_WRITE_FAILED = 16, "filesystem.write_failed";
    /// Access log buffers handed over because the flush interval was over.
    Counter FILESYSTEM_FLUSHED_BY_TIMER = 17, "filesystem.flushed_by_timer";
    /// Access logs that could not be opened again.
    Counter FILESYSTEM_REOPEN_FAILED = 18, "filesystem.reopen_failed";
    /// Bytes that wait for the access log writer.
    Gauge FILESYSTEM_WRITE_TOTAL_BUFFERED = 2, "filesystem.write_total_buffered";
    /// Faults of this program, each of which ended a task.
    Counter PANICS = 19, "weir.panics";
    /// Connections that another proxy carries on.
    Counter CX_PASSED_ON = 20, "weir.cx_passed_on";
    /// Connections that this proxy carries on for another.
    Counter CX_TAKEN_OVER = 21, "weir.cx_taken_over";
    /// Connections that were to be passed on and were not taken.
    Counter CX_NOT_PASSED_ON = 22, "weir.cx_not_passed_on";
    /// Connections that were sent on their way and of which nobody said that they were taken.
    Counter CX_PASSED_ON_UNKNOWN = 23, "weir.cx_passed_on_unknown";
    /// Accepted resources that could not be saved, each time that it was tried.
    Counter STATE_SAVE_FAILED = 24, "weir.state_save_failed";
    /// Connections closed because their view's listeners are not known, or the one that they may be for was refused.
    Counter VIEW_CX_REFUSED = 25, "weir.view_cx_refused";
    /// Pods' connections that no listener is for, closed because the process has too much to do.
    Counter OVERLOAD_CX_REFUSED = 26, "weir.overload_cx_refused";
}

/// Registers them, first of all; the scope keeps them.
pub(super) fn register(registry: &mut Registry, store: Weak<Numbers>) -> Scope {
    let mut numbers = Vec::new();
    for (kind, number, name) in NAMES {
        let given = registry.register(*kind, &"".into(), name, Unit::Unspecified);
        debug_assert_eq!(given, *number, "{name}");
        numbers.push((*kind, given));
    }
    Scope::claiming(store, "", numbers)
}
