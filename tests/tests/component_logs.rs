//! What component loggers call a connection and a stream is what access logs call them.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::Duration,
};

use weir_tests::{
    mesh::binary,
    poll::wait_for,
    process::{Launch, Process},
};

const PATIENCE: Duration = Duration::from_secs(30);

const BOOTSTRAP: &str = r#"
admin: { address: { socket_address: { address: 127.0.0.1, port_value: 0 } } }
static_resources:
  listeners:
  - name: main
    address: { socket_address: { address: 127.0.0.1, port_value: 0 } }
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          access_log:
          - name: stdout
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog
              log_format: { text_format_source: { inline_string: "line %REQ(:PATH)% %CONNECTION_ID% %STREAM_ID%\n" } }
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - { match: { prefix: /direct }, direct_response: { status: 200 } }
              - { match: { prefix: /nobody }, route: { cluster: nobody } }
          http_filters:
          - name: router
            typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }
  clusters:
  - { name: nobody, load_assignment: { cluster_name: nobody } }
"#;

/// Sends a request; `last`: none follows.
fn get(connection: &mut TcpStream, path: &str, last: bool) -> std::io::Result<()> {
    let close = if last { "connection: close\r\n" } else { "" };
    write!(connection, "GET {path} HTTP/1.1\r\nhost: any.test\r\n{close}\r\n")
}

/// The listener's address, as the admin server tells it, whose own is in a file.
fn listener(admin: &Path) -> Result<String, String> {
    let admin = fs::read_to_string(admin).map_err(|error| error.to_string())?;
    let ask = || {
        let mut connection = TcpStream::connect(admin.trim())?;
        get(&mut connection, "/listeners", true)?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = ask().map_err(|error| format!("{admin}: {error}"))?;
    let found = answer.lines().find_map(|line| line.strip_prefix("main::")).map(str::to_owned);
    found.ok_or(answer)
}

/// Connection and stream of the access log's line about a path.
fn line(proxy: &Process, path: &str) -> (String, String) {
    let start = format!("line {path} ");
    wait_for(&start, PATIENCE, || {
        let log = proxy.log();
        let rest = log.lines().find_map(|line| line.strip_prefix(&start));
        let ids = rest.and_then(|rest| rest.split_once(' '));
        ids.map(|(connection, stream)| (connection.to_owned(), stream.to_owned())).ok_or(log)
    })
}

#[test]
fn access_logs_repeat_the_ids_of_component_logs() {
    let directory = tempfile::tempdir().expect("a directory");
    // Its address is written by the proxy after it has given its rights away.
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).expect("open the directory");
    let admin = directory.path().join("admin");
    let proxy = Launch::new(binary("weir-proxy"), directory.path())
        .args(["--config-yaml", BOOTSTRAP, "--concurrency", "1", "--file-flush-interval-msec", "20"])
        .args(["--log-level", "debug"])
        .arg_path("--admin-address-path", &admin)
        .start();
    let address = wait_for("a listener", PATIENCE, || listener(&admin));
    let mut client = TcpStream::connect(address).expect("connect");
    get(&mut client, "/direct", false).expect("send a request");
    get(&mut client, "/nobody", true).expect("send a request");
    client.read_to_end(&mut Vec::new()).expect("read the answers");
    let ((connection, direct), (same, nobody)) = (line(&proxy, "/direct"), line(&proxy, "/nobody"));
    assert_eq!(connection, same);
    assert_ne!(direct, nobody);
    for event in [
        format!("[C{connection}] new connection from 127.0.0.1:"),
        format!("[C{connection}][S{direct}] request headers complete"),
        format!("[C{connection}][S{direct}] stream ended"),
        format!("[C{connection}][S{nobody}] cluster 'nobody' match for URL '/nobody'"),
        format!("[C{connection}][S{nobody}] sending local reply"),
    ] {
        wait_for(&event, PATIENCE, || if proxy.log().contains(&event) { Ok(()) } else { Err(proxy.log()) });
    }
}
