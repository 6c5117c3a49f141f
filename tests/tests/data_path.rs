//! HTTP and TCP through the proxy on a node: routes for an address that exists only in the mesh, real clients and servers.

use std::{
    io::{Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use weir_abi::Rule;
use weir_tests::{
    figure,
    mesh::{Mesh, PodSpec},
    net::{Net, Node, Pod},
    poll::wait_for,
    web::{Nginx, WHOAMI, curl, curl_with, get},
};

/// A service address that nothing but the mesh knows.
const SERVICE: &str = "10.96.0.10";

const HCM: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";

/// The access log format that Istio configures.
const ISTIO: &str = concat!(
    r#"[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% "#,
    r#"%RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% "%UPSTREAM_TRANSPORT_FAILURE_REASON%" "#,
    r#"%BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "#,
    r#""%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" %UPSTREAM_CLUSTER_RAW% "#,
    r#"%UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% "#,
    "%ROUTE_NAME%\n"
);

/// A listener for connections of pods to `address:port`.
fn listener(address: &str, port: u16, routes: &str) -> String {
    listener_with("traffic_direction: OUTBOUND", address, port, routes)
}

/// The same with further fields.
fn listener_with(fields: &str, address: &str, port: u16, routes: &str) -> String {
    format!(
        "  - name: {address}_{port}
    address: {{ socket_address: {{ address: \"{address}\", port_value: {port} }} }}
    bind_to_port: false
    {fields}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          \"@type\": {HCM}
          stat_prefix: outbound
          access_log:
          - name: envoy.access_loggers.file
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: /dev/stdout
              log_format: {{ text_format_source: {{ inline_string: {ISTIO:?} }} }}
          upgrade_configs: [{{ upgrade_type: websocket }}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{ \"@type\": {ROUTER} }}
          route_config:
            name: service
            virtual_hosts:
            - name: service
              domains: [\"*\"]
              routes:
{routes}
"
    )
}

fn cluster(name: &str, options: &str, endpoints: &[SocketAddr]) -> String {
    let mut text = format!(
        "  - name: {name}\n    type: STATIC\n    connect_timeout: 1s\n{options}    load_assignment:\n      cluster_name: {name}\n      endpoints:\n      - lb_endpoints:\n"
    );
    for endpoint in endpoints {
        text += &format!(
            "        - endpoint: {{ address: {{ socket_address: {{ address: \"{}\", port_value: {} }} }} }}\n",
            endpoint.ip(),
            endpoint.port()
        );
    }
    text
}

fn bootstrap(listeners: &[String], clusters: &[String]) -> String {
    format!("static_resources:\n  listeners:\n{}  clusters:\n{}", listeners.concat(), clusters.concat())
}

/// One node with an enrolled client and what else a test wants.
struct Scene {
    mesh: Mesh,
    client: Pod,
    node: Arc<Node>,
    _net: Net,
}

impl Scene {
    /// `make` makes the servers and gives the bootstrap.
    fn new<T>(make: impl FnOnce(&Arc<Node>) -> (Option<String>, T)) -> (Self, T) {
        let mut net = Net::new();
        let node = net.node("a");
        let client = node.pod("client");
        let (bootstrap, servers) = make(&node);
        let mesh = Mesh::start_with(&node, &[&PodSpec::of(&client)], bootstrap.as_deref());
        (Self { mesh, client, node, _net: net }, servers)
    }

    fn wait_for_log(&self, what: &str, matches: impl Fn(&str) -> bool) -> String {
        wait_for(what, Duration::from_secs(10), || {
            let log = self.mesh.proxy.process.log();
            log.lines().find(|line| matches(line)).map(str::to_owned).ok_or(log)
        })
    }
}

fn server(node: &Arc<Node>, name: &str, locations: &str) -> (Pod, Nginx) {
    let pod = node.pod(name);
    let nginx = Nginx::start(&pod, 8080, locations);
    (pod, nginx)
}

fn says(text: &str) -> String {
    format!("location / {{ return 200 \"{text}\\n\"; }}")
}

#[test]
fn weights_and_retries_hold_for_a_service_that_exists_only_in_the_mesh() {
    const REQUESTS: usize = 500;
    let failing = "location / { return 503 \"broken\\n\"; }";
    let (scene, servers) = Scene::new(|node| {
        let v1 = server(node, "v1", &says("v1"));
        let v2 = server(node, "v2", &says("v2"));
        let broken = server(node, "broken", failing);
        let routes = "              - match: { prefix: \"/\" }
                route:
                  weighted_clusters: { clusters: [{ name: v1, weight: 20 }, { name: v2, weight: 80 }] }
                  retry_policy: { retry_on: 5xx, num_retries: 5 }";
        let clusters = [
            cluster("v1", "", &[v1.0.v4(8080)]),
            // Half of v2 fails.
            cluster("v2", "", &[v2.0.v4(8080), broken.0.v4(8080)]),
        ];
        (Some(bootstrap(&[listener(SERVICE, 80, routes)], &clusters)), [v1, v2, broken])
    });
    let started = Instant::now();
    let answers = curl(&scene.client, &["--max-time", "60", &format!("http://{SERVICE}/[1-{REQUESTS}]")]);
    figure!("{REQUESTS} requests in {:?}", started.elapsed());
    let statuses = |code: &str| answers.text.matches(&format!("HTTP/1.1 {code}")).count();
    assert_eq!((statuses("200"), statuses("503")), (REQUESTS, 0), "retries hide the failures");
    let of = |version: &str| answers.text.lines().filter(|line| *line == version).count();
    let (v1, v2) = (of("v1"), of("v2"));
    figure!("v1 {v1}, v2 {v2}");
    assert_eq!(v1 + v2, REQUESTS);
    // Binomial: 100 expected, the standard deviation is 9.
    assert!((60..=140).contains(&v1), "{v1} of {REQUESTS} went to v1, 20 % expected");
    // The address leads nowhere without the mesh.
    let [(pod, _), ..] = &servers;
    assert_ne!(curl(pod, &["--max-time", "1", &format!("http://{SERVICE}/")]).exit, 0);
    let decided = scene.mesh.ctl.counters("default/client");
    assert!(decided.of(Rule::Redirected) >= 1, "{decided:?}");
}

#[test]
fn an_access_log_line_tells_of_the_request() {
    let (scene, (web, _nginx)) = Scene::new(|node| {
        let web = server(node, "web", WHOAMI);
        let routes = "              - match: { prefix: \"/\" }\n                name: everything\n                route: { cluster: web }";
        (Some(bootstrap(&[listener(SERVICE, 80, routes)], &[cluster("web", "", &[web.0.v4(8080)])])), web)
    });
    let answer =
        curl(&scene.client, &["-A", "tester", "-H", "x-request-id: abc-123", &format!("http://{SERVICE}/a/path?q=1")]);
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.item("host"), Some(SERVICE), "the authority passes unchanged");
    assert_eq!(answer.address("client").ip(), scene.client.ipv4, "from the pod's own address");
    assert_eq!(answer.header("server"), Some("envoy"));
    let line = scene.wait_for_log("the request is logged", |line| line.contains("/a/path?q=1"));
    figure!("{line}");
    for part in [
        "\"GET /a/path?q=1 HTTP/1.1\" 200 - via_upstream - \"-\" 0 ".to_owned(),
        "\"tester\" \"abc-123\" \"10.96.0.10\"".to_owned(),
        format!("\"{}\" web {}:", web.v4(8080), scene.client.ipv4),
        format!(" {SERVICE}:80 {}:", scene.client.ipv4),
        " - everything".to_owned(),
    ] {
        assert!(line.contains(&part), "no {part} in {line}");
    }
}

#[test]
fn the_original_destination_chooses_the_listener() {
    let says = |text: &str| {
        format!(
            "              - match: {{ prefix: \"/\" }}
                direct_response: {{ status: 200, body: {{ inline_string: \"{text}\" }} }}"
        )
    };
    let (scene, (web, _nginx)) = Scene::new(|node| {
        let web = server(node, "web", &self::says("web"));
        let listeners = [
            listener(SERVICE, 80, &says("address and port")),
            listener("0.0.0.0", 80, &says("port")),
            listener("::", 80, &says("port, IPv6")),
            listener_with("traffic_direction: INBOUND", "0.0.0.0", 8080, &says("wrong direction")),
        ];
        (Some(bootstrap(&listeners, &[cluster("unused", "", &[web.0.v4(8080)])])), web)
    });
    for (to, answer) in [
        (format!("{SERVICE}:80"), "address and port"),
        ("10.96.0.11:80".to_owned(), "port"),
        ("[fd00:96::10]:80".to_owned(), "port, IPv6"),
        // Without a listener it is passed through.
        (web.v4(8080).to_string(), "web\n"),
        (web.v6(8080).to_string(), "web\n"),
    ] {
        let got = get(&scene.client, &format!("http://{to}/"));
        assert!(got.text.ends_with(&format!("\r\n\r\n{answer}")), "{to}: {}", got.text);
    }
}

#[test]
fn the_listener_with_use_original_dst_takes_the_rest() {
    let routes = "              - match: { prefix: \"/\" }\n                route: { cluster: passthrough }
                response_headers_to_add: [{ header: { key: x-through, value: virtual-outbound } }]";
    let (scene, (web, _nginx)) = Scene::new(|node| {
        let web = server(node, "web", WHOAMI);
        let rest = listener_with("use_original_dst: true\n    traffic_direction: OUTBOUND", "0.0.0.0", 15_001, routes);
        let passthrough =
            "  - { name: passthrough, type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED, connect_timeout: 5s }\n";
        (Some(bootstrap(&[rest], &[passthrough.to_owned()])), web)
    });
    for to in [web.v4(8080), web.v6(8080)] {
        let got = get(&scene.client, &format!("http://{to}/"));
        assert_eq!(got.header("x-through"), Some("virtual-outbound"), "{}", got.text);
        assert_eq!(got.address("server"), to);
    }
}

#[test]
fn an_inbound_listener_serves_whoever_comes_from_outside_as_who_it_is() {
    let mut net = Net::new();
    let node = net.node("a");
    let (web, outside) = (node.pod("web"), node.pod("outside"));
    let http = [8080, 8081].map(|port| format!("server {{ listen {port}; listen [::]:{port}; {WHOAMI} }}")).concat();
    let _nginx = Nginx::with(&web, &http, &[8080, 8081]);
    let routes = "              - match: { prefix: \"/\" }\n                route: { cluster: app }
                response_headers_to_add: [{ header: { key: x-through, value: inbound } }]";
    let listeners = ["0.0.0.0", "::"].map(|any| listener_with("traffic_direction: INBOUND", any, 8080, routes));
    let app = "  - { name: app, type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED, connect_timeout: 5s }\n";
    let spec = PodSpec::of(&web).probe_ports([8080]);
    let _mesh = Mesh::start_with(&node, &[&spec], Some(&bootstrap(&listeners, &[app.to_owned()])));
    for to in [web.v4(8080), web.v6(8080)] {
        let url = format!("http://{to}/");
        // Twice: the second client must not be taken for the first one by a connection that is used again.
        for pod in [&outside, &node.pod("other"), &outside] {
            let got = get(pod, &url);
            assert_eq!(got.header("x-through"), Some("inbound"), "{}", got.text);
            let own = if to.is_ipv4() { IpAddr::from(pod.ipv4) } else { pod.ipv6.into() };
            assert_eq!((got.address("client").ip(), got.address("server")), (own, to), "{}", got.text);
        }
        // The kubelet's probe does not pass the proxy; that of a process among the pods does.
        let probe = curl_with(node.launch("curl"), &[&url]);
        assert_eq!((probe.status, probe.header("x-through")), (200, None), "{}", probe.text);
        let imitation = curl_with(node.launch("curl").cgroup(&node.cgroups().pod("host-network")), &[&url]);
        assert_eq!((imitation.status, imitation.header("x-through")), (200, Some("inbound")), "{}", imitation.text);
    }
    let other_port = get(&outside, &format!("http://{}/", web.v4(8081)));
    assert_eq!(other_port.header("x-through"), None, "no listener: passed through");
    assert_eq!(other_port.address("client").ip(), outside.ipv4);
}

#[test]
fn http2_and_websockets_pass() {
    let (scene, (pod, _nginx, echo)) = Scene::new(|node| {
        let (pod, nginx) = server(node, "web", &says("fine"));
        let listener_socket = pod.netns.run(|| TcpListener::bind(pod.v4(9000))).expect("a free port");
        let echo = thread::spawn(move || websocket_once(&listener_socket));
        let routes = "              - match: { prefix: \"/ws\" }\n                route: { cluster: ws }
              - match: { prefix: \"/\" }\n                route: { cluster: web }";
        let clusters = [cluster("web", "", &[pod.v4(8080)]), cluster("ws", "", &[pod.v4(9000)])];
        (Some(bootstrap(&[listener(SERVICE, 80, routes)], &clusters)), (pod, nginx, echo))
    });
    let answer = curl(&scene.client, &["--http2-prior-knowledge", &format!("http://{SERVICE}/")]);
    assert!(answer.text.starts_with("HTTP/2 200") && answer.text.ends_with("fine\n"), "{}", answer.text);

    let mut stream = scene.client.netns.run(|| TcpStream::connect((SERVICE, 80))).expect("redirected");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    write!(
        stream,
        "GET /ws HTTP/1.1\r\nHost: {SERVICE}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .expect("sent");
    let head = read_head(&mut stream);
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert!(head.to_ascii_lowercase().contains("upgrade: websocket"), "{head}");
    for frame in [b"\x82\x04ping".as_slice(), b"\x82\x05again"] {
        stream.write_all(frame).expect("sent");
        let mut back = vec![0; frame.len()];
        stream.read_exact(&mut back).expect("echoed");
        assert_eq!(back, frame);
    }
    stream.shutdown(Shutdown::Write).expect("open");
    assert_eq!(stream.read(&mut [0; 1]).expect("an end"), 0);
    echo.join().expect("the server saw an upgrade");
    drop(pod);
}

fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap_or_else(|error| panic!("{error} after {}", String::from_utf8_lossy(&head)));
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// Takes one upgrade and echoes bytes until the end.
fn websocket_once(listener: &TcpListener) {
    let (mut stream, _) = listener.accept().expect("a connection");
    let head = read_head(&mut stream).to_ascii_lowercase();
    assert!(head.contains("upgrade: websocket") && head.contains("sec-websocket-key:"), "{head}");
    let accept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
    write!(
        stream,
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    )
    .expect("sent");
    let mut reader = stream.try_clone().expect("a second handle");
    std::io::copy(&mut reader, &mut stream).expect("echoed");
}

#[test]
fn the_application_sees_the_real_client() {
    let mut net = Net::new();
    let (a, b) = (net.node("a"), net.node("b"));
    let (client, web, outside) = (a.pod("client"), b.pod("web"), b.pod("outside"));
    let _nginx = Nginx::start(&web, 8080, WHOAMI);
    // Both ends in the mesh, each with the agent of its node; one more client without.
    let _there = Mesh::start(&b, &[&PodSpec::of(&web)]);
    let _here = Mesh::start(&a, &[&PodSpec::of(&client)]);
    for pod in [&client, &outside] {
        let answer = get(pod, &format!("http://{}/", web.v4(8080)));
        assert_eq!(answer.address("client").ip(), pod.ipv4);
        assert_eq!(answer.address("server"), web.v4(8080));
        let answer = get(pod, &format!("http://{}/", web.v6(8080)));
        assert_eq!(answer.address("client").ip(), pod.ipv6);
    }
    let client_to_self = get(&web, &format!("http://{}/", web.v4(8080)));
    assert_eq!(client_to_self.address("client").ip(), web.ipv4);
}

const BLOCK: usize = 1 << 20;
const BLOCKS: usize = 200;

#[test]
fn bulk_arrives_whole_and_half_closed_connections_go_on() {
    let (scene, web) = Scene::new(|node| (None, node.pod("web")));
    let listener = web.netns.run(|| TcpListener::bind(web.v4(9000))).expect("a free port");
    // Reads all, and only then, on a connection that is half closed, sends as much.
    let serving = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        assert_eq!(receive(&mut stream), BLOCKS);
        send(&mut stream);
    });
    let started = Instant::now();
    let mut stream = scene.client.netns.run(|| TcpStream::connect(web.v4(9000))).expect("redirected");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    send(&mut stream);
    stream.shutdown(Shutdown::Write).expect("open");
    assert_eq!(receive(&mut stream), BLOCKS);
    serving.join().expect("the server got all of it too");
    figure!("{BLOCKS} MiB one way, then the other, in {:?}", started.elapsed());
    assert_eq!(scene.mesh.ctl.counters("default/client").of(Rule::Redirected), 1);
    drop(scene.node);
}

/// Bytes of which every block sends another part, so that none can stand for another.
fn pattern() -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut bytes = Vec::with_capacity(2 * BLOCK);
    while bytes.len() < 2 * BLOCK {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_ne_bytes());
    }
    bytes
}

fn block(pattern: &[u8], number: usize) -> &[u8] {
    let start = number * 5003;
    &pattern[start..start + BLOCK]
}

fn send(stream: &mut TcpStream) {
    let pattern = pattern();
    for number in 0..BLOCKS {
        stream.write_all(block(&pattern, number)).expect("sent");
    }
}

/// Reads to the end; the number of whole blocks, each of which must be the right one.
fn receive(stream: &mut TcpStream) -> usize {
    let (pattern, mut buffer) = (pattern(), vec![0; BLOCK]);
    for number in 0..=BLOCKS {
        let mut filled = 0;
        while filled < BLOCK {
            match stream.read(&mut buffer[filled..]).expect("bytes") {
                0 if filled == 0 => return number,
                0 => panic!("ended within block {number}"),
                read => filled += read,
            }
        }
        assert!(buffer == block(&pattern, number), "block {number} is not what was sent");
    }
    panic!("more than was sent");
}

#[test]
fn a_destination_that_refuses_or_resets_shows_so() {
    let (scene, web) = Scene::new(|node| (None, node.pod("web")));
    // Nobody listens: the proxy's end was accepted, so the client sees a reset, before or after it could ask.
    let answer = curl(&scene.client, &[&format!("http://{}/", web.v4(81))]);
    assert!([7, 52, 56].contains(&answer.exit), "refused, empty or reset: {answer:?}");
    // One that resets in the middle.
    let listener = web.netns.run(|| TcpListener::bind(web.v4(9001))).expect("a free port");
    let resetting = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        stream.write_all(b"half an ans").expect("sent");
        let mut byte = [0];
        let _ = stream.read(&mut byte);
        let socket = socket2::Socket::from(stream);
        socket.set_linger(Some(Duration::ZERO)).expect("an option");
    });
    let mut stream = scene.client.netns.run(|| TcpStream::connect(web.v4(9001))).expect("redirected");
    let mut part = [0; 11];
    stream.read_exact(&mut part).expect("what came before");
    stream.write_all(b"go").expect("sent");
    let end = stream.read(&mut [0; 1]);
    resetting.join().expect("it reset");
    let kind = end.as_ref().map_err(std::io::Error::kind);
    assert!(matches!(kind, Ok(0) | Err(std::io::ErrorKind::ConnectionReset)), "{end:?}");
}
