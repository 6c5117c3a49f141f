//! The rows of the benchmark, and each proxy's configuration for them.

use std::path::PathBuf;

/// A proxy under comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Proxy {
    Weir,
    Envoy,
    Haproxy,
    Nginx,
}

impl Proxy {
    /// All of them, in the order of their turns.
    pub const ALL: [Self; 4] = [Self::Weir, Self::Envoy, Self::Haproxy, Self::Nginx];

    /// As the table calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Weir => "weir",
            Self::Envoy => "Envoy",
            Self::Haproxy => "HAProxy",
            Self::Nginx => "nginx",
        }
    }
}

/// How the load's connections speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// HTTP/1.1, kept alive.
    Http1,
    /// HTTP/1.1, a connection per request.
    Http1Close,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// How the proxy speaks to the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upstream {
    Http1,
    /// HTTP/1.1 over TLS with client certificates.
    MutualTls,
    Http2,
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its name.
    pub name: &'static str,
    pub client: Client,
    /// Whether the load's connections are TLS.
    pub tls: bool,
    pub upstream: Upstream,
    /// The path asked for.
    pub path: &'static str,
    /// Whether Istio's access log is written.
    pub log: bool,
    /// What weir shall cost at most, as a part of Envoy.
    pub target: Option<f64>,
}

/// What weir shall use of memory at most, as a part of Envoy.
pub const MEMORY_TARGET: f64 = 0.4;
/// How much more the row with the access log may cost than the one without, as a part of the latter.
pub const LOG_TARGET: f64 = 0.06;

/// The row that the others vary.
pub const PLAIN: Row = Row {
    name: "HTTP/1 keepalive",
    client: Client::Http1,
    tls: false,
    upstream: Upstream::Http1,
    path: "/small",
    log: false,
    target: Some(0.55),
};

/// The rows.
pub const ROWS: [Row; 9] = [
    PLAIN,
    Row { name: "the same with Istio's access log", log: true, target: None, ..PLAIN },
    Row { name: "HTTP/1 new connections", client: Client::Http1Close, target: Some(0.7), ..PLAIN },
    Row { name: "64 KiB bodies", path: "/large", target: Some(0.65), ..PLAIN },
    Row { name: "TLS keepalive", tls: true, target: Some(0.55), ..PLAIN },
    Row { name: "TLS new connections", tls: true, client: Client::Http1Close, target: Some(0.65), ..PLAIN },
    Row { name: "mTLS upstream", upstream: Upstream::MutualTls, target: Some(0.55), ..PLAIN },
    Row { name: "HTTP/2 to HTTP/1", client: Client::Http2, target: Some(0.6), ..PLAIN },
    Row { name: "HTTP/2 to HTTP/2", client: Client::Http2, upstream: Upstream::Http2, target: Some(0.95), ..PLAIN },
];

/// Where everything is.
#[derive(Debug)]
pub struct Place {
    /// Configurations, certificates and the backend's files.
    pub directory: PathBuf,
    /// The backend's ports: plain, TLS, HTTP/2, and one to spare.
    pub backend: Vec<u16>,
    /// weir's program.
    pub weir: PathBuf,
}

impl Place {
    fn file(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    fn backend_port(&self, upstream: Upstream) -> u16 {
        match upstream {
            Upstream::Http1 => self.backend[0],
            Upstream::MutualTls => self.backend[1],
            Upstream::Http2 => self.backend[2],
        }
    }
}

/// What HAProxy, nginx and the backend share with the rows.
const NGINX_HEAD: &str = "daemon off; master_process off; worker_processes 1; error_log stderr error;\n\
    events { worker_connections 8192; }\n";

/// nginx as the backend.
pub fn backend(place: &Place) -> String {
    let [plain, tls, http2] = [place.backend[0], place.backend[1], place.backend[2]];
    let directory = place.directory.display();
    format!(
        "{NGINX_HEAD}pid {directory}/backend.pid;\n\
         http {{ access_log off; keepalive_timeout 600; keepalive_requests 1000000000; default_type text/plain;\n\
         client_body_temp_path {directory}/t1; proxy_temp_path {directory}/t2; fastcgi_temp_path {directory}/t3;\n\
         uwsgi_temp_path {directory}/t4; scgi_temp_path {directory}/t5; tcp_nodelay on; sendfile on;\n\
         server {{ listen 127.0.0.1:{plain} backlog=4096; listen 127.0.0.1:{http2} http2;\n\
         listen 127.0.0.1:{tls} ssl; ssl_certificate {directory}/cert.pem; ssl_certificate_key {directory}/key.pem;\n\
         ssl_client_certificate {directory}/ca.pem; ssl_verify_client optional; http2_max_requests 1000000000;\n\
         location = /small {{ return 200 \"{}\"; }}\n\
         location = /large {{ root {directory}/files; }} }} }}\n",
        "x".repeat(100)
    )
}

/// A proxy's configuration for a row.
pub fn of(proxy: Proxy, place: &Place, row: &Row, port: u16) -> String {
    match proxy {
        Proxy::Weir | Proxy::Envoy => envoy(place, row, port),
        Proxy::Haproxy => haproxy(place, row, port),
        Proxy::Nginx => nginx(place, row, port),
    }
}

/// Istio's default access log.
const ISTIO_LOG: &str = "[%START_TIME%] \\\"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\\\" \
    %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \
    \\\"%UPSTREAM_TRANSPORT_FAILURE_REASON%\\\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
    %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \\\"%REQ(X-FORWARDED-FOR)%\\\" \\\"%REQ(USER-AGENT)%\\\" \
    \\\"%REQ(X-REQUEST-ID)%\\\" \\\"%REQ(:AUTHORITY)%\\\" \\\"%UPSTREAM_HOST%\\\" %UPSTREAM_CLUSTER_RAW% \
    %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% \
    %ROUTE_NAME%\\n";

fn envoy(place: &Place, row: &Row, port: u16) -> String {
    let types = "type.googleapis.com/envoy.extensions";
    let log = match row.log {
        false => String::new(),
        true => format!(
            r#"
          access_log:
          - name: envoy.access_loggers.file
            typed_config:
              "@type": {types}.access_loggers.file.v3.FileAccessLog
              path: /dev/null
              log_format: {{ text_format_source: {{ inline_string: "{ISTIO_LOG}" }} }}"#
        ),
    };
    let certificate = format!(
        "tls_certificates: [{{ certificate_chain: {{ filename: {} }}, private_key: {{ filename: {} }} }}]",
        place.file("cert.pem"),
        place.file("key.pem")
    );
    let downstream = match row.tls {
        false => String::new(),
        true => format!(
            r#"
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": {types}.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context: {{ {certificate} }}"#
        ),
    };
    let upstream = match row.upstream {
        Upstream::Http1 => String::new(),
        Upstream::MutualTls => format!(
            r#"
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": {types}.transport_sockets.tls.v3.UpstreamTlsContext
        sni: bench.test
        common_tls_context: {{ {certificate}, validation_context: {{ trusted_ca: {{ filename: {} }} }} }}"#,
            place.file("ca.pem")
        ),
        Upstream::Http2 => format!(
            r#"
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": {types}.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{ http2_protocol_options: {{}} }}"#
        ),
    };
    format!(
        r#"static_resources:
  listeners:
  - name: bench
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": {types}.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: bench{log}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{ "@type": {types}.filters.http.router.v3.Router }}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {{ prefix: / }}
                route: {{ cluster: backend }}{downstream}
  clusters:
  - name: backend
    type: STATIC
    circuit_breakers: {{ thresholds: [{{ max_connections: 10000, max_pending_requests: 10000, max_requests: 10000 }}] }}
    load_assignment:
      cluster_name: backend
      endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {} }} }} }} }}] }}]{upstream}
"#,
        place.backend_port(row.upstream)
    )
}

fn haproxy(place: &Place, row: &Row, port: u16) -> String {
    let mut bind = format!("bind 127.0.0.1:{port}");
    if row.tls {
        bind.push_str(&format!(" ssl crt {}", place.file("both.pem")));
    }
    if row.client == Client::Http2 {
        bind.push_str(" proto h2");
    }
    let server = match row.upstream {
        Upstream::Http1 => String::new(),
        Upstream::MutualTls => format!(
            " ssl crt {} ca-file {} verify required sni str(bench.test) verifyhost bench.test",
            place.file("both.pem"),
            place.file("ca.pem")
        ),
        Upstream::Http2 => " proto h2".to_owned(),
    };
    let log = match row.log {
        false => ("", ""),
        true => ("  log stdout format raw local0\n", "  option httplog\n  log global\n"),
    };
    // A request id and forwarded headers, as the others add.
    format!(
        "global\n  nbthread 1\n  maxconn 8192\n{}\
         defaults\n  mode http\n  timeout connect 5s\n  timeout client 600s\n  timeout server 600s\n\
         frontend in\n  {bind}\n{}  unique-id-format %[uuid]\n  unique-id-header x-request-id\n  default_backend out\n\
         backend out\n  http-reuse always\n  http-request set-header x-forwarded-proto http\n\
         \x20 server one 127.0.0.1:{}{server}\n",
        log.0,
        log.1,
        place.backend_port(row.upstream)
    )
}

fn nginx(place: &Place, row: &Row, port: u16) -> String {
    let directory = place.directory.display();
    let log = match row.log {
        false => "access_log off;".to_owned(),
        true => "log_format full '[$time_iso8601] \"$request\" $status $request_length $bytes_sent $request_time \
                 $upstream_response_time \"$http_x_forwarded_for\" \"$http_user_agent\" \"$request_id\" \"$http_host\" \
                 \"$upstream_addr\" $server_addr:$server_port $remote_addr:$remote_port $ssl_server_name'; \
                 access_log /dev/null full buffer=64k;"
            .to_owned(),
    };
    let listen = match (row.tls, row.client) {
        (true, _) => {
            format!(
                "listen 127.0.0.1:{port} ssl; ssl_certificate {directory}/cert.pem; ssl_certificate_key {directory}/key.pem;"
            )
        }
        (false, Client::Http2) => format!("listen 127.0.0.1:{port} http2;"),
        (false, _) => format!("listen 127.0.0.1:{port};"),
    };
    let upstream = match row.upstream {
        Upstream::Http1 | Upstream::Http2 => "proxy_pass http://backend;".to_owned(),
        Upstream::MutualTls => format!(
            "proxy_pass https://backend; proxy_ssl_certificate {directory}/cert.pem; \
             proxy_ssl_certificate_key {directory}/key.pem; proxy_ssl_trusted_certificate {directory}/ca.pem; \
             proxy_ssl_verify on; proxy_ssl_name bench.test; proxy_ssl_server_name on;"
        ),
    };
    format!(
        "{NGINX_HEAD}pid {directory}/nginx.pid;\n\
         http {{ {log} keepalive_timeout 600; keepalive_requests 1000000000; http2_max_requests 1000000000;\n\
         client_body_temp_path {directory}/n1; proxy_temp_path {directory}/n2; fastcgi_temp_path {directory}/n3;\n\
         uwsgi_temp_path {directory}/n4; scgi_temp_path {directory}/n5; tcp_nodelay on;\n\
         upstream backend {{ server 127.0.0.1:{}; keepalive 256; keepalive_requests 1000000000; }}\n\
         server {{ {listen} location / {{ {upstream} proxy_http_version 1.1; proxy_set_header connection \"\";\n\
         proxy_set_header host $http_host; proxy_set_header x-request-id $request_id;\n\
         proxy_set_header x-forwarded-proto $scheme; proxy_buffers 16 16k; }} }} }}\n",
        place.backend_port(row.upstream)
    )
}

/// Why a proxy cannot do a row, if that is known.
pub fn cannot(proxy: Proxy, row: &Row) -> Option<&'static str> {
    (proxy == Proxy::Nginx && row.upstream == Upstream::Http2).then_some("no HTTP/2 to upstreams")
}
