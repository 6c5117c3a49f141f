//! What tests of several modules begin with.

use std::sync::Arc;

use http::HeaderValue;

use crate::{
    access_log::Wanted,
    config::{
        http::{Codec, HttpConnectionManager, Router, Routes, ServerHeader, StripPort, Table},
        route::RouteTable,
    },
};

/// A connection manager with Envoy's defaults and no routes.
pub(super) fn manager() -> HttpConnectionManager {
    HttpConnectionManager {
        stat_prefix: "test".into(),
        stats: Default::default(),
        codec: Codec::Auto,
        http1: Default::default(),
        http2: Default::default(),
        routes: Routes::One(Table::Fixed(Arc::new(RouteTable::default()))),
        filters: Vec::new(),
        router: Router::default(),
        access_log: Vec::new(),
        log: Default::default(),
        wanted: Wanted::default(),
        server_name: HeaderValue::from_static("envoy"),
        server_header: ServerHeader::Overwrite,
        use_remote_address: false,
        passes_expectations: false,
        detection: Vec::new(),
        xff_num_trusted_hops: 0,
        skip_xff_append: false,
        append_port: false,
        scheme: None,
        tells_itself: None,
        node_address: [192, 0, 2, 1].into(),
        internal_addresses: Vec::new(),
        via: None,
        forward_client_cert: Default::default(),
        client_cert_details: Default::default(),
        generate_request_id: true,
        pack_trace_reason: true,
        preserve_external_request_id: false,
        tracing: None,
        request_id_in_response: false,
        accept_http_10: false,
        default_host: None,
        max_head_bytes: HttpConnectionManager::DEFAULT_MAX_HEAD,
        max_headers: HttpConnectionManager::DEFAULT_MAX_HEADERS,
        idle_timeout: Some(HttpConnectionManager::DEFAULT_IDLE),
        max_connection_duration: None,
        drain_timeout: HttpConnectionManager::DEFAULT_DRAIN,
        delayed_close_timeout: Some(HttpConnectionManager::DEFAULT_DELAYED_CLOSE),
        max_stream_duration: None,
        max_requests_per_connection: 0,
        stream_idle_timeout: Some(HttpConnectionManager::DEFAULT_STREAM_IDLE),
        request_timeout: None,
        request_headers_timeout: None,
        upgrades: Vec::new(),
        strip_port: StripPort::Never,
        strip_trailing_host_dot: false,
        normalize_path: false,
        merge_slashes: false,
        escaped_slashes: Default::default(),
        refuses_absolute_urls: false,
        underscores: Default::default(),
        closes_on_bad_request: true,
        custom_methods: false,
        local_reply: None,
        buffer_limit: 1 << 20,
        modify_only: false,
        service_cluster: HeaderValue::from_static(""),
        service_node: HeaderValue::from_static(""),
    }
}
