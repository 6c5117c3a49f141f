//! What the ingress gateway is sent: hosts, certificates, TLS that passes, and who is denied.

use weir_tests::{net::Pod, process::Process};

use crate::{
    ask::{Answer, To},
    backend::{Backend, Speaks},
    identity::{Authority, Identity},
    scene::{Cases, Control, Place, Protocol, usable, wait_until_ready},
};

/// The gateway's own name for the service, where TLS passes it by.
const DIRECT: &str = "outbound_.8000_.v2_.httpbin.side.svc.cluster.local";

struct Gateway {
    v1: Backend,
    _v2: Backend,
    client: Pod,
    authority: Authority,
    allowed: Identity,
    _proxy: Process,
    _control: Control,
    _pods: Vec<Pod>,
    _place: Place,
}

impl Gateway {
    fn start(protocol: Protocol) -> Self {
        let authority = Authority::new();
        let httpbin = authority.workload("side/httpbin");
        let place = Place::new();
        let pod = place.pod("gateway", &["10.40.0.31"]);
        let client = place.pod("client", &["10.40.5.5", "198.51.100.7"]);
        let [one, two] = [("v1", "10.40.1.11"), ("v2", "10.40.1.12")].map(|(name, at)| place.pod(name, &[at]));
        let v1 = Backend::start(&one, "v1", "10.40.1.11:80", Speaks::mutual(&authority, &httpbin));
        let v2 = Backend::start(&two, "v2", "10.40.1.12:80", Speaks::mutual(&authority, &httpbin));
        let identity = authority.workload("istio-system/istio-ingressgateway");
        let control = Control::start(protocol, &authority, &identity, usable("router"));
        control.ads.put([
            authority.host("web.example.com").secret("kubernetes://gw-cert"),
            authority.host("mutual.example.com").secret("kubernetes://gw-mutual"),
            authority.secret("kubernetes://gw-mutual-cacert"),
        ]);
        let proxy = control.proxy(&pod.netns);
        wait_until_ready(&pod.netns);
        let allowed = authority.host("client.example.com");
        let pods = vec![pod, one, two];
        Self { v1, _v2: v2, client, authority, allowed, _proxy: proxy, _control: control, _pods: pods, _place: place }
    }

    fn to(&self, port: u16) -> To<'_> {
        To::new(&self.client, &format!("10.40.0.31:{port}"))
    }

    /// By TLS on port 8443, as a host, with a certificate or without.
    fn tls(&self, host: &str, path: &str, identity: Option<&Identity>) -> Answer {
        self.to(8443).tls(host, &["http/1.1"], identity).ask(&format!("GET {path}"), host, &[])
    }
}

/// 20-gateway.yaml, Gateway gw: servers on port 80.
fn plain(gateway: &Gateway, cases: &mut Cases) {
    let ask = |host: &str, headers: &[&str]| gateway.to(8080).ask("GET /a/b", host, headers);
    let known = ask("plain.example.com", &[]);
    cases.check("http2: hosts plain.example.com", known.status == 200, &known);
    let seen = known.seen();
    let name = "spiffe://cluster.local/ns/istio-system/sa/istio-ingressgateway";
    cases.check("the gateway's own identity towards workloads", seen["identity"] == name, &seen);
    cases.check("the path is as it was", seen["path"] == "/a/b", &seen);
    let forged = ask("plain.example.com", &["x-forwarded-client-cert: URI=spiffe://forged"]);
    let cleaned = !forged.sent("x-forwarded-client-cert").contains("forged");
    cases.check("what a client says of its certificate is not passed on", cleaned, &forged);
    let redirected = ask("web.example.com", &[]);
    cases.check("http: httpsRedirect", redirected.status == 301, &redirected);
    let location = redirected.header("location");
    cases.check("http: httpsRedirect leads there", location == "https://web.example.com/a/b", &redirected);
    let unknown = ask("other.example.com", &[]);
    cases.check("hosts: another one", unknown.status == 404, &unknown);
    let denied = gateway.to(8080).from("198.51.100.7").ask("GET /", "plain.example.com", &[]);
    cases.check("AuthorizationPolicy gw: remoteIpBlocks", denied.status == 403, &denied);
}

/// The same on port 443, which is 8443 in the pod.
fn secured(gateway: &Gateway, cases: &mut Cases) {
    let verified = gateway.to(8443).verified("web.example.com", &gateway.authority);
    let verified = verified.ask("GET /a", "web.example.com", &[]);
    cases.check("https: SIMPLE, credentialName gw-cert", verified.status == 200, &verified);
    cases.check("VirtualService web: /a of web.example.com to subset v1", verified.by() == "v1", &verified);
    let rest = gateway.tls("web.example.com", "/b", None);
    cases.check("VirtualService web: the rest", rest.status == 200, &rest);
    let other = gateway.tls("other.example.com", "/a", None);
    cases.check("https: an SNI that no server has", other.status == 0, &other);
    let crossed = gateway.to(8443).tls("web.example.com", &[], None).ask("GET /", "mutual.example.com", &[]);
    cases.check("https: the host of another server", crossed.status == 404, &crossed);
    let denied = gateway.to(8443).from("198.51.100.7").tls("web.example.com", &[], None);
    let denied = denied.ask("GET /", "web.example.com", &[]);
    cases.check("AuthorizationPolicy gw: remoteIpBlocks, by TLS", denied.status == 403, &denied);
    let anonymous = gateway.tls("mutual.example.com", "/", None);
    cases.check("https-m: MUTUAL without a certificate", anonymous.status == 0, &anonymous);
    let mutual = gateway.tls("mutual.example.com", "/", Some(&gateway.allowed));
    cases.check("https-m: MUTUAL with one of subjectAltNames", mutual.status == 200, &mutual);
    let wrong = gateway.tls("mutual.example.com", "/", Some(&gateway.authority.host("elsewhere.example.com")));
    cases.check("https-m: MUTUAL with another name", wrong.status == 0, &wrong);
    let stranger = Authority::new().host("client.example.com");
    let stranger = gateway.tls("mutual.example.com", "/", Some(&stranger));
    cases.check("https-m: MUTUAL with another authority's", stranger.status == 0, &stranger);
    let without = gateway.tls("optional.example.com", "/", None);
    cases.check("https-o: OPTIONAL_MUTUAL without one", without.status == 200, &without);
    let with = gateway.tls("optional.example.com", "/", Some(&gateway.authority.host("anybody.example.com")));
    cases.check("https-o: OPTIONAL_MUTUAL with one", with.status == 200, &with);
    let stranger = gateway.tls("optional.example.com", "/", Some(&Authority::new().host("anybody.example.com")));
    cases.check("https-o: OPTIONAL_MUTUAL with another authority's", stranger.status == 0, &stranger);
}

/// Servers of TLS that ends elsewhere, and of TCP.
fn passing(gateway: &Gateway, cases: &mut Cases) {
    let client = gateway.authority.workload("side/sleep");
    let direct = gateway.to(15444).tls(DIRECT, &["istio-http/1.1", "istio"], Some(&client));
    let direct = direct.ask("GET /direct", "httpbin", &[]);
    cases.check("tls-auto: AUTO_PASSTHROUGH *.local, by SNI", direct.status == 200 && direct.by() == "v2", &direct);
    let name = "spiffe://cluster.local/ns/side/sa/sleep";
    cases.check("tls-auto: the client's identity, not the gateway's", direct.seen()["identity"] == name, &direct);
    let unknown = gateway.to(15444).tls("outbound_.1_._.none.side.svc.cluster.local", &["istio"], Some(&client));
    let unknown = unknown.ask("GET /", "httpbin", &[]);
    cases.check("tls-auto: a service that is not there", unknown.status == 0, &unknown);
    let outside = gateway.to(15444).tls(DIRECT, &["http/1.1"], Some(&client)).ask("GET /", "httpbin", &[]);
    cases.check("tls-auto: TLS that is not istio's", outside.status == 0, &outside);
    // The service expects the gateway's TLS, inside of which is the client's: it is no HTTP then.
    let before = gateway.v1.seen("").len();
    let _ = gateway.to(15443).tls("a.pass.example.com", &[], None).ask("GET /", "a.pass.example.com", &[]);
    let other = gateway.to(15443).tls("b.pass.example.com", &[], None).ask("GET /", "b.pass.example.com", &[]);
    cases.check("tls: PASSTHROUGH of a host without a route", other.status == 0, &other);
    cases.check("tls: PASSTHROUGH is not read here", gateway.v1.seen("").len() == before, before);
    let (bytes, failed) = gateway.to(31400).send(b"hello");
    cases.check("tcp: a service whose endpoints are elsewhere", bytes.is_empty(), (bytes, failed));
}

fn traffic(protocol: Protocol) {
    let gateway = Gateway::start(protocol);
    let mut cases = Cases::default();
    plain(&gateway, &mut cases);
    secured(&gateway, &mut cases);
    passing(&gateway, &mut cases);
    cases.end(28);
}

#[test]
fn a_gateway_serves_its_hosts_by_deltas() {
    traffic(Protocol::Delta);
}

#[test]
fn a_gateway_serves_its_hosts_by_the_state_of_the_world() {
    traffic(Protocol::Sotw);
}
