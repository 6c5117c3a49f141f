//! Whole requests over loopback: a client's bytes in, a scripted upstream behind.

use std::{
    cell::Cell,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::LocalSet,
};
use weir_proto::envoy::config::bootstrap::v3::Bootstrap;

use super::connection;
use crate::{
    config::{self, http::Codec, listener::Terminal, snapshot::Snapshot},
    downstream::{Downstream, Origin},
    drain::Drain,
    view::ViewId,
    worker::Worker,
};

/// An upstream that answers every request with "ok" after a while, and counts.
struct Upstream {
    address: SocketAddr,
    connections: Rc<Cell<usize>>,
    requests: Rc<Cell<usize>>,
}

impl Upstream {
    async fn start(delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream =
            Self { address: listener.local_addr().unwrap(), connections: Rc::default(), requests: Rc::default() };
        let (connections, requests) = (upstream.connections.clone(), upstream.requests.clone());
        tokio::task::spawn_local(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                connections.set(connections.get() + 1);
                let requests = requests.clone();
                tokio::task::spawn_local(async move {
                    let mut bytes = vec![0; 4096];
                    while let Ok(1..) = stream.read(&mut bytes).await {
                        requests.set(requests.get() + 1);
                        tokio::time::sleep(delay).await;
                        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                        if stream.write_all(answer).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        upstream
    }
}

/// A worker that routes everything to `upstream`.
struct Proxy {
    worker: Rc<Worker>,
    drain: Drain,
}

impl Proxy {
    fn new(upstream: SocketAddr, manager: &str, route: &str, cluster: &str) -> Self {
        let text = format!(
            r#"
static_resources:
  listeners:
  - name: l
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 1 }} }}
    filter_chains:
    - filters:
      - name: h
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: x
          {manager}
          http_filters: [{{ name: envoy.filters.http.router }}]
          route_config:
            virtual_hosts:
            - {{ name: v, domains: ["*"], routes: [{{ match: {{ prefix: / }}, route: {{ cluster: c {route} }} }}] }}
  clusters:
  - name: c
    {cluster}
    load_assignment: {{ cluster_name: c, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {} }} }} }} }}] }}] }}
"#,
            upstream.port()
        );
        let bootstrap: Bootstrap = weir_proto::from_yaml(&text).unwrap();
        let snapshot: Snapshot = config::from_bootstrap(&bootstrap, &Default::default()).unwrap().snapshot;
        let drain = Drain::new();
        let worker = Rc::new(Worker::with(0, Arc::new(ArcSwap::from_pointee(snapshot)), drain.watch()));
        Self { worker, drain }
    }

    /// Another worker of the same process.
    fn another_worker(&self) -> Self {
        let drain = Drain::new();
        let worker = Rc::new(Worker::with(1, self.worker.views.of(ViewId::OWN).clone(), drain.watch()));
        Self { worker, drain }
    }

    /// A client's connection, served.
    async fn connect(&self) -> TcpStream {
        self.connect_with(|_| {}).await
    }

    /// The same, with what `set` sets of its socket.
    async fn connect_with(&self, set: impl FnOnce(SockRef<'_>)) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        set(SockRef::from(&stream));
        let local = stream.local_addr().unwrap();
        let origin = Origin::Bound { view: ViewId::OWN, listener: "l".into() };
        let downstream = Downstream::new(stream, peer, local, origin, Instant::now(), self.drain.watch());
        let snapshot = self.worker.snapshot(ViewId::OWN).load();
        let Terminal::Http(manager) = &snapshot.listeners()[0].filter_chains[0].terminal else { panic!("HTTP") };
        tokio::task::spawn_local({
            let open = connection::Open::new(self.worker.clone(), manager.clone(), false);
            connection::serve(open, Box::new(downstream), Codec::Http1)
        });
        client
    }

    async fn get(&self) -> String {
        let mut client = self.connect().await;
        exchange(&mut client, "GET / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").await
    }
}

/// Sends and reads until the response is whole or the connection ends.
async fn exchange(client: &mut TcpStream, request: &str) -> String {
    client.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let length = client.read(&mut buffer).await.unwrap_or(0);
        bytes.extend_from_slice(&buffer[..length]);
        let text = String::from_utf8_lossy(&bytes);
        if length == 0 || text.ends_with("\r\n\r\nok") {
            return text.into_owned();
        }
    }
}

async fn locally<F: Future>(future: F) -> F::Output {
    LocalSet::new().run_until(future).await
}

const NOW: Duration = Duration::ZERO;
const REQUEST: &str = "GET / HTTP/1.1\r\nhost: h\r\n\r\n";

#[tokio::test]
async fn upstream_connections_are_used_again() {
    locally(async {
        let upstream = Upstream::start(NOW).await;
        let proxy = Proxy::new(upstream.address, "", "", "");
        let mut client = proxy.connect().await;
        for _ in 0..3 {
            assert!(exchange(&mut client, REQUEST).await.starts_with("HTTP/1.1 200 OK\r\n"));
        }
        assert!(proxy.get().await.starts_with("HTTP/1.1 200 OK\r\n"));
        assert_eq!((upstream.connections.get(), upstream.requests.get()), (1, 4));
    })
    .await;
}

#[tokio::test]
async fn an_upstream_connection_serves_as_many_requests_as_it_may() {
    locally(async {
        let upstream = Upstream::start(NOW).await;
        let proxy = Proxy::new(upstream.address, "", "", "max_requests_per_connection: 2");
        for _ in 0..4 {
            proxy.get().await;
        }
        assert_eq!(upstream.connections.get(), 2);
    })
    .await;
}

#[tokio::test]
async fn beyond_the_limits_requests_wait_and_then_overflow() {
    locally(async {
        let upstream = Upstream::start(Duration::from_millis(100)).await;
        let limits = "circuit_breakers: { thresholds: [{ max_connections: 1, max_pending_requests: 1 }] }";
        let proxy = Proxy::new(upstream.address, "", "", limits);
        let late = async {
            tokio::time::sleep(Duration::from_millis(30)).await;
            proxy.get().await
        };
        let later = async {
            tokio::time::sleep(Duration::from_millis(60)).await;
            proxy.get().await
        };
        let (first, second, third) = tokio::join!(proxy.get(), late, later);
        assert!(first.starts_with("HTTP/1.1 200"), "{first}");
        assert!(second.starts_with("HTTP/1.1 200"), "{second}");
        assert!(third.starts_with("HTTP/1.1 503") && third.contains("x-envoy-overloaded: true"), "{third}");
        assert!(third.ends_with("reset reason: overflow"), "{third}");
        assert_eq!(upstream.connections.get(), 1);
    })
    .await;
}

#[tokio::test]
async fn idle_upstream_connections_are_closed() {
    locally(async {
        let upstream = Upstream::start(NOW).await;
        let proxy = Proxy::new(upstream.address, "", "", "common_http_protocol_options: { idle_timeout: 0.05s }");
        proxy.get().await;
        tokio::time::sleep(Duration::from_millis(150)).await;
        let cluster = proxy.worker.snapshot(ViewId::OWN).load().cluster("c").unwrap().clone();
        assert_eq!(cluster.usage.connections.load(), 0);
        proxy.get().await;
        assert_eq!(upstream.connections.get(), 2);
    })
    .await;
}

#[tokio::test]
async fn nothing_is_in_use_when_all_is_done() {
    locally(async {
        let upstream = Upstream::start(Duration::from_millis(20)).await;
        let proxy = Proxy::new(upstream.address, "", ", timeout: 0.01s, retry_policy: { retry_on: 5xx }", "");
        for _ in 0..3 {
            assert!(proxy.get().await.contains("upstream request timeout"));
        }
        let mut gone = proxy.connect().await;
        gone.write_all(REQUEST.as_bytes()).await.unwrap();
        drop(gone);
        tokio::time::sleep(Duration::from_millis(50)).await;
        let cluster = proxy.worker.snapshot(ViewId::OWN).load().cluster("c").unwrap().clone();
        // What was made for a client that has gone idles.
        proxy.worker.pools.forget_cluster(&Arc::downgrade(&cluster));
        tokio::time::sleep(Duration::from_millis(50)).await;
        let usage = &cluster.usage;
        for gauge in [&usage.connections, &usage.pending, &usage.requests, &usage.retries] {
            assert_eq!(gauge.load(), 0, "{usage:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_drain_lets_the_request_in_hand_finish_and_closes_idle_connections() {
    locally(async {
        let upstream = Upstream::start(Duration::from_millis(100)).await;
        let proxy = Proxy::new(upstream.address, "", "", "");
        let mut busy = proxy.connect().await;
        let mut idle = proxy.connect().await;
        exchange(&mut idle, REQUEST).await;
        let drain = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            proxy.drain.start(None);
        };
        let (answer, ()) = tokio::join!(exchange(&mut busy, REQUEST), drain);
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer}");
        assert_eq!(idle.read(&mut [0; 1]).await.unwrap(), 0);
        assert_eq!(busy.read(&mut [0; 1]).await.unwrap(), 0);
    })
    .await;
}

/// What the proxy's side of a connection takes at once, so that lengths around it leave some to hyper.
const SENDS: usize = 64 * 1024;

/// How much a client gets of a last response of some length that it reads late.
async fn read_late(length: usize, manager: &str, late: Duration) -> usize {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = upstream.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        let (mut stream, _) = upstream.accept().await.unwrap();
        assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(&[head.as_bytes(), &vec![b'x'; length]].concat()).await.unwrap();
    });
    let manager = format!("common_http_protocol_options: {{ max_requests_per_connection: 1 }}\n          {manager}");
    let proxy = Proxy::new(address, &manager, "", "");
    let mut client = proxy.connect_with(|socket| socket.set_send_buffer_size(SENDS).unwrap()).await;
    client.write_all(REQUEST.as_bytes()).await.unwrap();
    tokio::time::sleep(late).await;
    let mut response = Vec::new();
    client.read_to_end(&mut response).await.unwrap();
    let head = response.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
    response.len() - head - 4
}

#[tokio::test]
async fn a_drain_leaves_a_slow_client_the_rest_of_its_response() {
    locally(async {
        let late = Duration::from_millis(300);
        let lengths = (1..40).map(|times| times * SENDS);
        let read = lengths.clone().map(|length| read_late(length, "drain_timeout: 0.05s", late));
        assert_eq!(futures_util::future::join_all(read).await, lengths.collect::<Vec<_>>());
    })
    .await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_its_last_response_is_not_waited_for() {
    locally(async {
        // What the sockets take of it leaves some to hyper, and hyper leaves nothing to the upstream.
        let length = 8 * SENDS;
        let read = async |delay| {
            let limits = format!("stream_idle_timeout: 0s\n          delayed_close_timeout: {delay}");
            read_late(length, &limits, Duration::from_secs(3)).await
        };
        let (short, long) = tokio::join!(read("0.3s"), read("60s"));
        assert!(short < length, "{short} of {length}");
        assert_eq!(long, length);
    })
    .await;
}

#[tokio::test]
async fn limits_of_the_clients_connection() {
    locally(async {
        let upstream = Upstream::start(NOW).await;
        let proxy = Proxy::new(
            upstream.address,
            "common_http_protocol_options: { idle_timeout: 0.1s }\n          request_headers_timeout: 0.05s",
            "",
            "",
        );
        let mut silent = proxy.connect().await;
        assert_eq!(silent.read(&mut [0; 1]).await.unwrap(), 0);
        let mut slow = proxy.connect().await;
        assert!(exchange(&mut slow, "GET / HTTP/1.1\r\nhost").await.starts_with("HTTP/1.1 408"));
    })
    .await;
}

#[tokio::test]
async fn a_request_must_arrive_in_time() {
    locally(async {
        let upstream = Upstream::start(Duration::from_secs(5)).await;
        let proxy = Proxy::new(upstream.address, "request_timeout: 0.05s", "", "");
        let mut client = proxy.connect().await;
        let answer = exchange(&mut client, "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 9\r\n\r\nslow").await;
        assert!(answer.starts_with("HTTP/1.1 408") && answer.ends_with("request timeout"), "{answer}");
    })
    .await;
}

#[tokio::test]
async fn an_upstream_that_has_closed_its_pooled_connection_does_not_fail_the_next_request() {
    locally(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::task::spawn_local(async move {
            // One answer a connection, which is then closed without a word in the answer.
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            }
        });
        let proxy = Proxy::new(address, "", "", "");
        let mut client = proxy.connect().await;
        for _ in 0..20 {
            assert!(exchange(&mut client, REQUEST).await.starts_with("HTTP/1.1 200"));
            // The close arrives meanwhile.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_connection_goes_on_after_a_rest_as_before_it() {
    locally(async {
        let upstream = Upstream::start(NOW).await;
        let proxy = Proxy::new(upstream.address, "", "", "");
        let mut client = proxy.connect().await;
        let rests = || tokio::time::timeout(Duration::from_secs(60), proxy.worker.rested.notified());
        for _ in 0..2 {
            rests().await.unwrap();
            assert!(exchange(&mut client, REQUEST).await.starts_with("HTTP/1.1 200"));
        }
        rests().await.unwrap();
        let (begun, rest) = REQUEST.split_at(8);
        client.write_all(begun.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(exchange(&mut client, rest).await.starts_with("HTTP/1.1 200"));
        rests().await.unwrap();
        proxy.drain.start(None);
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_connection_is_not_idle_while_a_response_comes() {
    locally(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let idle = Duration::from_millis(100);
        let manager = "common_http_protocol_options: { idle_timeout: 0.1s }";
        let proxy = Proxy::new(listener.local_addr().unwrap(), manager, "", "");
        let upstream = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab").await.unwrap();
            tokio::time::sleep(idle * 4).await;
            stream.write_all(b"cd").await.unwrap();
            stream
        };
        let (response, _stream) = tokio::join!(proxy.get(), upstream);
        assert!(response.ends_with("\r\n\r\nabcd"), "{response:?}");
    })
    .await;
}

#[tokio::test]
async fn a_worker_without_connections_does_not_wait_for_another_workers() {
    locally(async {
        let upstream = Upstream::start(NOW).await;
        let limits = "circuit_breakers: { thresholds: [{ max_connections: 1 }] }";
        let one = Proxy::new(upstream.address, "", "", limits);
        let two = one.another_worker();
        assert!(one.get().await.starts_with("HTTP/1.1 200 OK\r\n"));
        let response = tokio::time::timeout(Duration::from_secs(5), two.get()).await;
        assert!(response.unwrap().starts_with("HTTP/1.1 200 OK\r\n"));
    })
    .await;
}
