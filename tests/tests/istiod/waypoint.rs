//! What the waypoint of `demo` is sent: HBONE in, policies and routes by who the client is, HBONE out.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::{Method, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
};
use tokio_rustls::TlsConnector;
use weir_tests::{net::Pod, process::Process};

use crate::{
    ask::{Answer, Anybody},
    backend::{Backend, Speaks},
    identity::{Authority, Identity, provider},
    scene::{Cases, Control, Place, Protocol, usable, wait_until_ready},
};

const WAYPOINT: &str = "10.40.2.61:15008";
const HTTPBIN: &str = "10.96.2.10:8000";

struct Waypoint {
    client: Pod,
    authority: Authority,
    sleep: Identity,
    _workloads: Vec<Backend>,
    _proxy: Process,
    _control: Control,
    _pods: Vec<Pod>,
    _place: Place,
}

impl Waypoint {
    fn start(protocol: Protocol) -> Self {
        let authority = Authority::new();
        let place = Place::new();
        let pod = place.pod("waypoint", &["10.40.2.61"]);
        let client = place.pod("client", &["10.40.2.13"]);
        let names = [
            ("v1", "10.40.2.11", "demo/httpbin"),
            ("v2", "10.40.2.12", "demo/httpbin"),
            ("sleep", "10.40.2.13", "demo/sleep"),
        ];
        let mut pods = vec![pod];
        let mut workloads = Vec::new();
        for (name, at, account) in names {
            // The client is the workload sleep, too.
            let speaks = Speaks::tunnelled(&authority, &authority.workload(account));
            let address = format!("{at}:15008");
            if name == "sleep" {
                workloads.push(Backend::start(&client, name, &address, speaks));
            } else {
                let pod = place.pod(name, &[at]);
                workloads.push(Backend::start(&pod, name, &address, speaks));
                pods.push(pod);
            }
        }
        let identity = authority.workload("demo/waypoint");
        let control = Control::start(protocol, &authority, &identity, usable("waypoint"));
        let proxy = control.proxy(&pods[0].netns);
        wait_until_ready(&pods[0].netns);
        let sleep = authority.workload("demo/sleep");
        Self {
            client,
            authority,
            sleep,
            _workloads: workloads,
            _proxy: proxy,
            _control: control,
            _pods: pods,
            _place: place,
        }
    }

    /// A request through a tunnel to `to`, as `identity`.
    fn ask(&self, identity: &Identity, to: &str, line: &str, headers: &[&str]) -> Answer {
        let mut request = format!("{line} HTTP/1.1\r\nhost: httpbin\r\nconnection: close\r\n");
        headers.iter().for_each(|header| request += &format!("{header}\r\n"));
        request += "\r\n";
        let bytes = self.client.netns.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let asking = tunnelled(identity, to, request.as_bytes());
            runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), asking).await.unwrap_or_default() })
        });
        Answer::of(&bytes)
    }

    fn get(&self, path: &str, headers: &[&str]) -> Answer {
        self.ask(&self.sleep, HTTPBIN, &format!("GET {path}"), headers)
    }
}

/// What comes back through a tunnel of the waypoint; nothing, if there is none.
async fn tunnelled(identity: &Identity, to: &str, request: &[u8]) -> Vec<u8> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody));
    let mut config = builder.with_client_auth_cert(identity.chain(), identity.key()).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let socket = TcpSocket::new_v4().unwrap();
    let stream = socket.connect(WAYPOINT.parse::<SocketAddr>().unwrap()).await.unwrap();
    let Ok(stream) = TlsConnector::from(Arc::new(config)).connect("waypoint".try_into().unwrap(), stream).await else {
        return Vec::new();
    };
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let Ok((mut sender, connection)) = handshake else { return Vec::new() };
    tokio::spawn(connection);
    let connect = Request::builder().method(Method::CONNECT).uri(to).body(Empty::<Bytes>::new()).unwrap();
    let Ok(response) = sender.send_request(connect).await else { return Vec::new() };
    if !response.status().is_success() {
        return Vec::new();
    }
    let Ok(upgraded) = hyper::upgrade::on(response).await else { return Vec::new() };
    let mut stream = TokioIo::new(upgraded);
    let mut answer = Vec::new();
    if stream.write_all(request).await.is_ok() && stream.flush().await.is_ok() {
        // What came before an error counts.
        let _ = stream.read_to_end(&mut answer).await;
    }
    answer
}

/// 30-demo.yaml: AuthorizationPolicy waypoint-l7 and RequestAuthentication wp.
fn policies(waypoint: &Waypoint, cases: &mut Cases) {
    let allowed = waypoint.get("/v1", &[]);
    cases.check("waypoint-l7: principals demo/sleep, GET /v*", allowed.status == 200, &allowed);
    cases.check("HTTPRoute httpbin: the second rule", ["v1", "v2"].contains(&&*allowed.by()), &allowed);
    let path = waypoint.get("/other", &[]);
    cases.check("waypoint-l7: paths /v*", path.status == 403, &path);
    let method = waypoint.ask(&waypoint.sleep, HTTPBIN, "POST /v1", &["content-length: 0"]);
    cases.check("waypoint-l7: methods GET", method.status == 403, &method);
    let other = waypoint.authority.workload("demo/db");
    let other = waypoint.ask(&other, HTTPBIN, "GET /v1", &[]);
    cases.check("waypoint-l7: another principal", other.status == 403 && other.body == "RBAC: access denied", &other);
    let broken = waypoint.get("/v1", &["authorization: Bearer e30.e30.e30"]);
    cases.check("wp: a token that is none", broken.status == 401, &broken);
    let stranger = waypoint.ask(&Authority::new().workload("demo/sleep"), HTTPBIN, "GET /v1", &[]);
    cases.check("HBONE: a certificate of another authority", stranger.status == 0, &stranger);
    let outsider = waypoint.ask(&waypoint.authority.host("sleep.demo"), HTTPBIN, "GET /v1", &[]);
    cases.check("HBONE: a name that is not of the trust domain", outsider.status == 0, &outsider);
}

/// 30-demo.yaml: HTTPRoute httpbin, its first rule.
fn routes(waypoint: &Waypoint, cases: &mut Cases) {
    let answers: Vec<_> = (0..60).map(|_| waypoint.get("/v2/deep?q=1", &["x-v: 2"])).collect();
    let count = |name: &str| answers.iter().filter(|answer| answer.status == 200 && answer.by() == name).count();
    let (sleep, all) = (count("sleep"), count("sleep") + count("v1") + count("v2"));
    cases.check("HTTPRoute: weights 1 and 3", all == 60 && (22..60).contains(&sleep), (sleep, all));
    let one = &answers[0];
    cases.check("HTTPRoute: ReplacePrefixMatch /", one.seen()["path"] == "/deep?q=1", one);
    cases.check("HTTPRoute: RequestHeaderModifier set x-a", one.sent("x-a") == "b", one);
    let other = waypoint.get("/v2/deep", &["x-v: 3"]);
    let passed = other.seen()["path"] == "/v2/deep" && other.sent("x-a").is_empty() && other.by() != "sleep";
    cases.check("HTTPRoute: headers x-v", passed, &other);
    let seen = one.seen();
    let name = "spiffe://cluster.local/ns/demo/sa/waypoint";
    cases.check("HBONE out: the waypoint's own identity", seen["identity"] == name, &seen);
    let to = seen["tunnel"].as_str().unwrap_or_default().to_owned();
    cases.check("HBONE out: to the workload's port", to.starts_with("10.40.2.1") && to.ends_with(":80"), &to);
}

fn traffic(protocol: Protocol) {
    let waypoint = Waypoint::start(protocol);
    let mut cases = Cases::default();
    policies(&waypoint, &mut cases);
    routes(&waypoint, &mut cases);
    cases.end(14);
}

#[test]
fn a_waypoint_judges_and_routes_by_deltas() {
    traffic(Protocol::Delta);
}

#[test]
fn a_waypoint_judges_and_routes_by_the_state_of_the_world() {
    traffic(Protocol::Sotw);
}
