//! What the workload `httpbin` is sent: STRICT mutual TLS, authorization of every kind and tokens; and the same of `sleep`,
//! which is PERMISSIVE.

use weir_tests::{mesh::Mesh, net::Pod};

use crate::{
    ask::{Answer, To},
    backend::{Backend, Speaks},
    identity::{Authority, Identity, base64url, token},
    scene::{Cases, Control, Place, Protocol, admin, usable},
};

const HTTPBIN: &str = "10.40.1.11:80";
/// What the proxy of a client calls the service.
const SNI: &str = "outbound_.8000_._.httpbin.side.svc.cluster.local";
/// What AuthorizationPolicy httpbin-allow asks of everybody.
const ADMIN: &str = "x-token: admin";
/// An address of its remoteIpBlocks.
const KNOWN: &str = "x-forwarded-for: 192.0.2.7";
const CLAIMS: &str = r#"{"iss":"https://issuer.example.com","sub":"who","aud":"aud1","groups":["g1","g2"]}"#;

struct Httpbin {
    app: Backend,
    _open: Backend,
    client: Pod,
    authority: Authority,
    sleep: Identity,
    place: Place,
    _mesh: Mesh,
    _control: Control,
    _pod: Pod,
}

impl Httpbin {
    fn start(protocol: Protocol) -> Self {
        let authority = Authority::new();
        let place = Place::new();
        let pod = place.pod("httpbin", &["10.40.1.11"]);
        let client = place.pod("client", &["10.40.1.13", "10.40.9.5", "203.0.113.9"]);
        let app = Backend::start(&pod, "app", "0.0.0.0:80", Speaks::Plain);
        let open = Backend::start(&pod, "grpc", "0.0.0.0:8081", Speaks::Plain);
        let identity = authority.workload("side/httpbin");
        let control = Control::start(protocol, &authority, &identity, usable("sidecar-httpbin"));
        let mesh = place.serve(&pod, &control);
        let sleep = authority.workload("side/sleep");
        let httpbin =
            Self { app, _open: open, client, authority, sleep, place, _mesh: mesh, _control: control, _pod: pod };
        // EnvoyFilter lua: ten requests a minute, under runtime keys. Else there would be no more cases than that.
        httpbin.enforce_rate(false);
        httpbin
    }

    fn enforce_rate(&self, enforce: bool) {
        let value = if enforce { 100 } else { 0 };
        admin(&self.place.node.netns, "POST", &format!("/runtime_modify?f={value}")).unwrap();
    }

    fn to(&self) -> To<'_> {
        To::new(&self.client, HTTPBIN)
    }

    /// As the proxy of `sleep` asks.
    fn ask(&self, line: &str, headers: &[&str]) -> Answer {
        self.as_one(&self.sleep, line, headers)
    }

    fn as_one(&self, identity: &Identity, line: &str, headers: &[&str]) -> Answer {
        self.to().tls(SNI, &["istio-http/1.1", "istio", "http/1.1"], Some(identity)).ask(line, "httpbin", headers)
    }
}

/// 10-side.yaml, PeerAuthentication httpbin.
fn mutual_tls(httpbin: &Httpbin, bearer: &str, cases: &mut Cases) {
    let headers = [ADMIN, KNOWN, bearer];
    let plain = httpbin.to().ask("GET /ok", "httpbin", &headers);
    cases.check("mtls STRICT: plaintext", plain.status == 0 && plain.head.is_empty(), &plain);
    let anonymous = httpbin.to().tls(SNI, &["istio-http/1.1"], None).ask("GET /ok", "httpbin", &headers);
    cases.check("mtls STRICT: a client without a certificate", anonymous.status == 0, &anonymous);
    let stranger = Authority::new().workload("side/sleep");
    let stranger = httpbin.as_one(&stranger, "GET /ok", &headers);
    cases.check("mtls STRICT: a certificate of another authority", stranger.status == 0, &stranger);
    let outsider = httpbin.as_one(&httpbin.authority.host("sleep.side"), "GET /ok", &headers);
    cases.check("trustDomain cluster.local: a name that is not of it", outsider.status == 0, &outsider);
    let mutual = httpbin.ask("GET /ok", &headers);
    cases.check("mtls STRICT: mutual TLS", mutual.status == 200 && mutual.by() == "app", &mutual);
    let told = mutual.sent("x-forwarded-client-cert");
    let told = told.contains("URI=spiffe://cluster.local/ns/side/sa/sleep");
    cases.check("who the client is, is told to the workload", told, &mutual);
    let open = To::new(&httpbin.client, "10.40.1.11:8081").ask("GET /ok", "httpbin", &[]);
    // Accepted, and then refused for what is missing.
    cases.check("portLevelMtls 8081 DISABLE: plaintext", open.status == 403, &open);
}

/// 10-side.yaml, AuthorizationPolicy httpbin-allow: each of what it asks for, missing.
fn allow(httpbin: &Httpbin, bearer: &str, cases: &mut Cases) {
    let status = |line: &str, headers: &[&str]| httpbin.ask(line, headers).status;
    for (line, request) in [
        ("allow: paths /ok*", "GET /ok/deeper"),
        ("allow: paths /status/{*}", "GET /status/7"),
        ("allow: paths *.html", "GET /a/page.html"),
        ("allow: methods HEAD", "HEAD /ok"),
    ] {
        cases.check(line, status(request, &[ADMIN, KNOWN, bearer]) == 200, request);
    }
    for (line, request) in [
        ("allow: another path", "GET /other"),
        ("allow: paths /status/{*}: two segments", "GET /status/7/8"),
        ("allow: another method", "POST /ok"),
    ] {
        cases.check(line, status(request, &[ADMIN, KNOWN, bearer]) == 403, request);
    }
    cases.check("allow: when request.headers[x-token]", status("GET /ok", &[KNOWN, bearer]) == 403, ());
    cases.check("allow: when claims[groups]", status("GET /ok", &[ADMIN, KNOWN]) == 403, ());
    let other = format!("authorization: Bearer {}", token(&CLAIMS.replace("g1", "g3")));
    cases.check("allow: when claims[groups], another", status("GET /ok", &[ADMIN, KNOWN, &other]) == 403, ());
    // Without the address the second source, requestPrincipals, still takes it: with a token of the issuer.
    cases.check("allow: source requestPrincipals", status("GET /ok", &[ADMIN, bearer]) == 200, ());
    // Without a subject it does not, and what the first source asks for counts.
    let nameless = format!("authorization: Bearer {}", token(&CLAIMS.replace(r#""sub":"who","#, "")));
    cases.check("allow: source principals side/sleep", status("GET /ok", &[ADMIN, KNOWN, &nameless]) == 200, ());
    cases.check("allow: source remoteIpBlocks", status("GET /ok", &[ADMIN, &nameless]) == 403, ());
    let other = httpbin.authority.workload("side/other");
    let other = httpbin.as_one(&other, "GET /ok", &[ADMIN, KNOWN, &nameless]);
    cases.check("allow: source principals, another", other.status == 403, &other);
    let hello = || httpbin.to().tls(SNI, &["istio-http/1.1"], Some(&httpbin.sleep));
    let host = hello().ask("GET /ok", "elsewhere", &[ADMIN, KNOWN, bearer]);
    cases.check("allow: hosts httpbin*", host.status == 403, &host);
    let near = hello().from("10.40.9.5").ask("GET /ok", "httpbin", &[ADMIN, KNOWN, bearer]);
    cases.check("allow: when source.ip notValues 10.40.9.0/24", near.status == 403, &near);
}

/// 10-side.yaml, AuthorizationPolicies httpbin-deny, -audit, -dry and -custom; 30-demo.yaml, global-deny.
fn deny(httpbin: &Httpbin, bearer: &str, cases: &mut Cases) {
    let headers = [ADMIN, KNOWN, bearer];
    let denied = httpbin.ask("POST /admin/x", &headers);
    cases.check("deny: paths /admin* notMethods GET", denied.status == 403, &denied);
    let other = httpbin.authority.workload("other/sleep");
    let denied = httpbin.as_one(&other, "GET /ok", &headers);
    cases.check("deny: source namespaces other", denied.status == 403, &denied);
    cases.check("deny: Envoy's words", denied.body == "RBAC: access denied", &denied);
    let far = httpbin.to().from("203.0.113.9").tls(SNI, &["istio-http/1.1"], Some(&httpbin.sleep));
    let far = far.ask("GET /ok", "httpbin", &headers);
    cases.check("global-deny: ipBlocks 203.0.113.0/24", far.status == 403, &far);
    // Nobody answers for the provider, and nobody else is asked about.
    let asked = httpbin.ask("GET /ext", &headers);
    cases.check("custom: paths /ext asks the provider", asked.status == 403 && asked.body.is_empty(), &asked);
    let dry = stat(httpbin, "istio_dry_run_deny_.shadow_denied");
    let _ = httpbin.ask("DELETE /ok", &headers);
    let counted = stat(httpbin, "istio_dry_run_deny_.shadow_denied") == dry + 1;
    cases.check("dry-run: DELETE is counted, as it would be denied", counted, dry);
    let reached = httpbin.app.seen("/ext").len() + httpbin.app.seen("/admin").len();
    cases.check("what is denied does not reach the workload", reached == 0, reached);
}

/// The sum of the statistics whose names end so.
fn stat(httpbin: &Httpbin, suffix: &str) -> u64 {
    let text = admin(&httpbin.place.node.netns, "GET", "/stats?filter=rbac").unwrap();
    let lines = text.lines().filter_map(|line| line.split_once(": "));
    lines.filter(|(name, _)| name.ends_with(suffix)).filter_map(|(_, value)| value.parse::<u64>().ok()).sum()
}

/// 10-side.yaml, RequestAuthentication httpbin.
fn tokens(httpbin: &Httpbin, bearer: &str, cases: &mut Cases) {
    let passed = httpbin.ask("GET /ok", &[ADMIN, KNOWN, bearer]);
    cases.check(
        "jwt: forwardOriginalToken",
        format!("authorization: {}", passed.sent("authorization")) == bearer,
        &passed,
    );
    cases.check(
        "jwt: outputPayloadToHeader x-payload",
        passed.sent("x-payload") == base64url(CLAIMS.as_bytes()),
        &passed,
    );
    cases.check("jwt: outputClaimToHeaders x-sub", passed.sent("x-sub") == "who", &passed);
    let good = token(CLAIMS);
    for (line, path, header) in [
        ("jwt: fromHeaders x-jwt", "/ok".to_owned(), format!("x-jwt: {good}")),
        ("jwt: fromParams tok", format!("/ok?tok={good}"), "x-none: 1".to_owned()),
        ("jwt: fromCookies jwtc", "/ok".to_owned(), format!("cookie: jwtc={good}")),
    ] {
        let answer = httpbin.ask(&format!("GET {path}"), &[ADMIN, KNOWN, &header]);
        cases.check(line, answer.status == 200, &answer);
    }
    for (line, claims) in [
        ("jwt: another issuer", CLAIMS.replace("issuer.", "other.")),
        ("jwt: audiences aud1", CLAIMS.replace("aud1", "aud2")),
        ("jwt: expired", CLAIMS.replace('}', r#","exp":1}"#)),
    ] {
        let header = format!("authorization: Bearer {}", token(&claims));
        let answer = httpbin.ask("GET /ok", &[ADMIN, KNOWN, &header]);
        cases.check(line, [401, 403].contains(&answer.status) && answer.status != 200, &answer);
    }
    let broken = format!("{bearer}x");
    let answer = httpbin.ask("GET /ok", &[ADMIN, KNOWN, &broken]);
    cases.check("jwt: a signature that is none", answer.status == 401, &answer);
}

/// 10-side.yaml, EnvoyFilter lua: its second patch, a rate limit.
fn rate(httpbin: &Httpbin, bearer: &str, cases: &mut Cases) {
    httpbin.enforce_rate(true);
    let statuses: Vec<_> = (0..12).map(|_| httpbin.ask("GET /ok", &[ADMIN, KNOWN, bearer]).status).collect();
    cases.check("local_ratelimit: ten a minute, and no more", statuses.contains(&429), &statuses);
    httpbin.enforce_rate(false);
}

fn traffic(protocol: Protocol) {
    let httpbin = Httpbin::start(protocol);
    let bearer = format!("authorization: Bearer {}", token(CLAIMS));
    let mut cases = Cases::default();
    mutual_tls(&httpbin, &bearer, &mut cases);
    allow(&httpbin, &bearer, &mut cases);
    deny(&httpbin, &bearer, &mut cases);
    tokens(&httpbin, &bearer, &mut cases);
    rate(&httpbin, &bearer, &mut cases);
    cases.end(41);
}

#[test]
fn a_strict_workload_takes_whom_its_policies_name_by_deltas() {
    traffic(Protocol::Delta);
}

#[test]
fn a_strict_workload_takes_whom_its_policies_name_by_the_state_of_the_world() {
    traffic(Protocol::Sotw);
}

/// 10-side.yaml, PeerAuthentication default: PERMISSIVE, for `sleep`.
#[test]
fn a_permissive_workload_takes_plaintext_and_mutual_tls() {
    let authority = Authority::new();
    let place = Place::new();
    let pod = place.pod("sleep", &["10.40.1.13"]);
    let client = place.pod("client", &["10.40.1.40", "203.0.113.9"]);
    let _app = Backend::start(&pod, "app", "0.0.0.0:80", Speaks::Plain);
    let _more = Backend::start(&pod, "more", "0.0.0.0:7000", Speaks::Tcp);
    let identity = authority.workload("side/sleep");
    let control = Control::start(Protocol::Delta, &authority, &identity, usable("sidecar-sleep"));
    let _mesh = place.serve(&pod, &control);
    let mut cases = Cases::default();
    let to = || To::new(&client, "10.40.1.13:80");
    let plain = to().ask("GET /", "sleep", &[]);
    cases.check("mtls PERMISSIVE: plaintext", plain.status == 200 && plain.by() == "app", &plain);
    let ingress = authority.workload("side/ingress");
    let sni = "outbound_.80_._.sleep.side.svc.cluster.local";
    let mutual = to().tls(sni, &["istio-http/1.1", "istio", "http/1.1"], Some(&ingress)).ask("GET /", "sleep", &[]);
    let told = mutual.status == 200 && mutual.sent("x-forwarded-client-cert").contains("ns/side/sa/ingress");
    cases.check("mtls PERMISSIVE: mutual TLS", told, &mutual);
    let anonymous = to().tls(sni, &["istio-http/1.1"], None).ask("GET /", "sleep", &[]);
    cases.check("mtls PERMISSIVE: istio's TLS without a certificate", anonymous.status == 0, &anonymous);
    let far = To::new(&client, "10.40.1.13:80").from("203.0.113.9").ask("GET /", "sleep", &[]);
    cases.check("global-deny: ipBlocks 203.0.113.0/24", far.status == 403, &far);
    let (bytes, _) = To::new(&client, "10.40.1.13:7000").send(b"\0hello");
    cases.check("a port that no service has passes", bytes == b"more got \0hello", String::from_utf8_lossy(&bytes));
    let (bytes, _) = To::new(&client, "10.40.1.13:7000").from("203.0.113.9").send(b"\0hello");
    cases.check("global-deny: of TCP", bytes.is_empty(), String::from_utf8_lossy(&bytes));
    cases.end(6);
}
