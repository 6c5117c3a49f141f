//! What the workload `sleep` sends: a sidecar's configuration, narrowed by a Sidecar resource, with REGISTRY_ONLY.

use std::{thread, time::Duration};

use weir_tests::{mesh::Mesh, net::Pod, poll::wait_for};

use crate::{
    ask::{Answer, To},
    backend::{Backend, Speaks},
    identity::Authority,
    scene::{Cases, Control, PATIENCE, Place, Protocol, usable},
};

/// The service's address, of which only the mesh knows.
const HTTPBIN: &str = "10.96.1.10:8000";

/// How often what takes too long is tried again.
const TRIES: usize = 20;

/// How weir serves the workload.
type Serve = fn(&Place, &Pod, &Control) -> Mesh;

struct Sleep {
    v1: Backend,
    v2: Backend,
    _other: Backend,
    _blackhole: Backend,
    pod: Pod,
    _mesh: Mesh,
    _control: Control,
    _pods: Vec<Pod>,
    _place: Place,
}

impl Sleep {
    fn start(protocol: Protocol, serve: Serve) -> Self {
        let authority = Authority::new();
        let httpbin = authority.workload("side/httpbin");
        let place = Place::new();
        let pod = place.pod("sleep", &["10.40.1.13"]);
        let [one, two, outside] =
            [("v1", "10.40.1.11"), ("v2", "10.40.1.12"), ("outside", "10.50.0.9")].map(|(n, a)| place.pod(n, &[a]));
        let v1 = Backend::start(&one, "v1", "10.40.1.11:80", Speaks::mutual(&authority, &httpbin));
        let v2 = Backend::start(&two, "v2", "10.40.1.12:80", Speaks::mutual(&authority, &httpbin));
        // Who answers here has a certificate, but not the service's.
        let other = authority.workload("side/other");
        let other = Backend::start(&one, "other", "10.40.1.11:8081", Speaks::mutual(&authority, &other));
        let blackhole = Backend::start(&outside, "outside", "10.50.0.9:9999", Speaks::Tcp);
        let identity = authority.workload("side/sleep");
        let control = Control::start(protocol, &authority, &identity, usable("sidecar-sleep"));
        let mesh = serve(&place, &pod, &control);
        Self {
            v1,
            v2,
            _other: other,
            _blackhole: blackhole,
            pod,
            _mesh: mesh,
            _control: control,
            _pods: vec![one, two, outside],
            _place: place,
        }
    }

    fn ask(&self, line: &str, host: &str, headers: &[&str]) -> Answer {
        let ask = || To::new(&self.pod, HTTPBIN).ask(line, host, headers);
        // Routes have a second at most, which a busy machine may need for itself.
        let mut answer = ask();
        for _ in 0..TRIES {
            if answer.status != 504 || line.contains("/slow") {
                break;
            }
            answer = ask();
        }
        answer
    }

    /// Whether requests for a path of their own, one of several, are answered so after so many attempts.
    fn attempts(&self, path: &str, header: &str, wanted: (u16, usize)) -> bool {
        (0..TRIES).any(|number| {
            let path = format!("{path}-{number}-");
            let answer = To::new(&self.pod, HTTPBIN).ask(&format!("GET {path}"), "httpbin", &[header]);
            (answer.status, self.reached(&path)) == wanted
        })
    }

    fn get(&self, path: &str, headers: &[&str]) -> Answer {
        self.ask(&format!("GET {path}"), "httpbin", headers)
    }

    /// As often as that, by several clients at once.
    fn many(&self, times: usize, path: &str) -> Vec<Answer> {
        const CLIENTS: usize = 5;
        thread::scope(|scope| {
            let client = || (0..times / CLIENTS).map(|_| self.get(path, &[])).collect::<Vec<_>>();
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
            clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
        })
    }

    /// Requests that reached a workload, by path.
    fn reached(&self, path: &str) -> usize {
        self.v1.seen(path).len() + self.v2.seen(path).len()
    }
}

/// What the route `hdr` asks of a request.
const SPECIAL: [&str; 3] = ["x-user: jason", "x-re: a--b", "x-pfx: pq"];

/// 10-side.yaml, VirtualService httpbin, `hdr`: who goes there, and what becomes of the request.
fn header_match(sleep: &Sleep, cases: &mut Cases) {
    let special = sleep.get("/special?q=1", &[SPECIAL[0], SPECIAL[1], SPECIAL[2], "x-rm: away"]);
    let seen = special.seen();
    cases.check("hdr: subset v2", special.status == 200 && seen["backend"] == "v2", &special);
    cases.check("hdr: rewrite uri /anything", seen["path"] == "/anything?q=1", &seen);
    cases.check("hdr: rewrite authority other.host", seen["host"] == "other.host", &seen);
    cases.check("hdr: headers.request.set x-set", special.sent("x-set") == "1", &seen);
    cases.check("hdr: headers.request.add %REQ(x-user)%", special.sent("x-add") == "jason", &seen);
    cases.check("hdr: headers.request.remove x-rm", special.sent("x-rm").is_empty(), &seen);
    cases.check("hdr: headers.response.set x-rs", special.header("x-rs") == "1", &special);
    let taken = |line: &str, headers: &[&str]| sleep.ask(line, "httpbin", headers).sent("x-set") == "1";
    cases.check("hdr: ignoreUriCase", taken("GET /SpeciaL/x?q=1", &SPECIAL), "not taken");
    let [user, re, pfx] = SPECIAL;
    for (line, request, headers) in [
        ("hdr: x-user exact jason", "GET /special?q=1", vec!["x-user: jasmine", re, pfx]),
        ("hdr: x-re regex a.*b", "GET /special?q=1", vec![user, "x-re: xa-b", pfx]),
        ("hdr: x-pfx prefix p", "GET /special?q=1", vec![user, re, "x-pfx: qp"]),
        ("hdr: x-pfx absent", "GET /special?q=1", vec![user, re]),
        ("hdr: withoutHeaders x-no", "GET /special?q=1", vec![user, re, pfx, "x-no: 1"]),
        ("hdr: queryParams q exact 1", "GET /special?q=2", vec![user, re, pfx]),
        ("hdr: method GET", "DELETE /special?q=1", vec![user, re, pfx]),
        ("hdr: uri prefix /special", "GET /specia?q=1", vec![user, re, pfx]),
    ] {
        cases.check(line, !taken(request, &headers), request);
    }
}

/// 10-side.yaml, VirtualService httpbin: the routes that need no upstream, or change the request.
fn other_routes(sleep: &Sleep, cases: &mut Cases) {
    let rewritten = sleep.get("/rx/a/b", &[]);
    cases.check("regex-rewrite: uriRegexRewrite", rewritten.seen()["path"] == "/a/b", &rewritten);
    cases.check("regex-rewrite: subset v1", rewritten.by() == "v1", &rewritten);
    let plain = sleep.get("/rx", &[]);
    cases.check("regex-rewrite: uri regex /rx/.*", plain.seen()["path"] == "/rx", &plain);
    let redirect = sleep.get("/redirect/away", &[]);
    cases.check("redirect: redirectCode 308", redirect.status == 308, &redirect);
    let location = redirect.header("location");
    cases.check("redirect: scheme, authority and uri", location == "https://new.host/new", &redirect);
    let direct = sleep.get("/direct", &[]);
    cases.check("direct: directResponse 503 hello", (direct.status, &*direct.body) == (503, "hello"), &direct);
    let beside = sleep.get("/direct/x", &[]);
    cases.check("direct: uri exact /direct", beside.status == 200, &beside);
}

/// 10-side.yaml, VirtualService httpbin, `cors`.
fn cross_origin(sleep: &Sleep, cases: &mut Cases) {
    let preflight = |origin: &str| {
        let origin = format!("origin: {origin}");
        sleep.ask("OPTIONS /cors", "httpbin", &[&origin, "access-control-request-method: GET"])
    };
    let asked = preflight("https://a.com");
    cases.check("cors: allowOrigins exact", asked.header("access-control-allow-origin") == "https://a.com", &asked);
    cases.check("cors: allowMethods", asked.header("access-control-allow-methods") == "GET,POST", &asked);
    cases.check("cors: allowHeaders", asked.header("access-control-allow-headers") == "x-a", &asked);
    cases.check("cors: maxAge 24h", asked.header("access-control-max-age") == "86400", &asked);
    cases.check("cors: allowCredentials", asked.header("access-control-allow-credentials") == "true", &asked);
    let regex = preflight("https://x.b.com");
    cases.check("cors: allowOrigins regex", regex.header("access-control-allow-origin") == "https://x.b.com", &regex);
    let stranger = preflight("https://c.com");
    let passed = stranger.status == 200 && stranger.header("access-control-allow-origin").is_empty();
    cases.check("cors: another origin's preflight passes", passed && stranger.seen()["method"] == "OPTIONS", &stranger);
    let simple = sleep.get("/cors", &["origin: https://a.com"]);
    cases.check("cors: exposeHeaders", simple.header("access-control-expose-headers") == "x-b", &simple);
}

/// 10-side.yaml, VirtualService httpbin, `main`, `fault` and `mirror`: what is left to chance, often enough.
fn shares(sleep: &Sleep, cases: &mut Cases) {
    let answers = sleep.many(210, "/weights");
    let to = |name: &str| answers.iter().filter(|answer| answer.by() == name).count();
    let (v1, v2) = (to("v1"), to("v2"));
    // Six standard deviations around a fifth of them.
    cases.check("main: weights 20 and 80", v1 + v2 == 210 && (7..=77).contains(&v1), (v1, v2));
    let answers = sleep.many(150, "/fault");
    let aborted = answers.iter().filter(|answer| answer.status == 418).count();
    cases.check("fault: abort 20 % with 418", (3..=60).contains(&aborted), aborted);
    let rest = answers.iter().filter(|answer| answer.status == 200).count();
    cases.check("fault: the others pass, to v1", aborted + rest == 150 && self::all_by(&answers, "v1"), rest);
    let delayed = answers.iter().filter(|answer| answer.took >= Duration::from_secs(2)).count();
    cases.check("fault: some of 10.5 % are delayed by 2 s", delayed > 0, delayed);
    let answers = sleep.many(60, "/mirror/x");
    cases.check("mirror: answers are v1's", self::all_by(&answers, "v1"), &answers[0]);
    let shadows = wait_for("a shadow", PATIENCE, || Some(sleep.v2.seen("/mirror/x").len()).filter(|n| *n > 0).ok_or(0));
    cases.check("mirror: half of them to v2", (1..60).contains(&shadows), shadows);
}

fn all_by(answers: &[Answer], name: &str) -> bool {
    answers.iter().filter(|answer| answer.status == 200).all(|answer| answer.by() == name)
}

/// 10-side.yaml, VirtualService httpbin, `main`: retries and timeouts.
fn retries(sleep: &Sleep, cases: &mut Cases) {
    let failing = sleep.attempts("/failing", "x-answer: 503", (503, 4));
    cases.check("main: retries.attempts 3, and the last answer passed on", failing, "/failing");
    let fine = sleep.attempts("/not-found", "x-answer: 404", (404, 1));
    cases.check("main: retryOn 5xx", fine, "/not-found");
    let slow = sleep.get("/slow", &["x-answer: never"]);
    cases.check("main: timeout 1s", slow.status == 504 && slow.took >= Duration::from_millis(900), &slow);
    cases.check("main: perTryTimeout 300ms", sleep.reached("/slow") > 1, sleep.reached("/slow"));
    let counted = sleep.get("/rx/counted", &[]);
    cases.check("attempts are counted", counted.sent("x-envoy-attempt-count") == "1", &counted);
}

/// 10-side.yaml, DestinationRule httpbin (ISTIO_MUTUAL), and the names of a service.
fn identities(sleep: &Sleep, cases: &mut Cases) {
    let seen = sleep.get("/rx/who", &[]).seen();
    let name = "spiffe://cluster.local/ns/side/sa/sleep";
    cases.check("tls ISTIO_MUTUAL: the workload's identity", seen["identity"] == name, &seen);
    let sni = "outbound_.8000_.v1_.httpbin.side.svc.cluster.local";
    cases.check("tls ISTIO_MUTUAL: SNI", seen["sni"] == sni, &seen);
    cases.check("h2UpgradePolicy UPGRADE", seen["version"] == "HTTP/2.0", &seen);
    cases.check("ALPN says that it is istio's, and HTTP/2", seen["alpn"] == "istio-h2", &seen);
    let seen = sleep.get("/special?q=1", &SPECIAL).seen();
    let plain = seen["version"] == "HTTP/1.1" && seen["alpn"] == "istio-http/1.1";
    cases.check("subset v2 has its own policy, without the upgrade", plain, &seen);
    let wrong = To::new(&sleep.pod, "10.96.1.10:8001").ask("GET /rx/who", "httpbin", &[]);
    cases.check("another identity in the service's place is not served", wrong.status == 503, &wrong);
    let hosts = ["httpbin.side", "httpbin.side.svc", "httpbin.side.svc.cluster.local", "httpbin:8000", "10.96.1.10"];
    for host in hosts {
        let answer = sleep.ask("GET /rx/host", host, &[]);
        let known = answer.status == 200 && answer.seen()["host"] == host;
        cases.check(&format!("hosts [httpbin] as {host}"), known, &answer);
    }
}

/// 10-side.yaml, Sidecar sleep: REGISTRY_ONLY, egress ./httpbin.side.svc.cluster.local and istio-system/*.
fn registry_only(sleep: &Sleep, cases: &mut Cases) {
    let unknown = sleep.ask("GET /", "elsewhere.example.com", &[]);
    cases.check("REGISTRY_ONLY: an unknown host", unknown.status == 502, &unknown);
    let hidden = To::new(&sleep.pod, "240.240.0.9:80").ask("GET /", "static.example.com", &[]);
    cases.check("egress.hosts: a service that is not among them", hidden.status == 502, &hidden);
    let (bytes, _) = To::new(&sleep.pod, "10.50.0.9:9999").send(b"hello");
    cases.check("REGISTRY_ONLY: an address that answers outside", bytes.is_empty(), bytes);
    let (bytes, _) = To::new(&sleep.pod, HTTPBIN).send(b"\x00\x01 no HTTP\r\n\r\n");
    cases.check("REGISTRY_ONLY: what is not HTTP on a port of HTTP", bytes.is_empty(), bytes);
    let other = To::new(&sleep.pod, "10.96.1.10:80").ask("GET /", "httpbin.side.svc.cluster.local", &[]);
    cases.check("a port that the service does not have has no cluster", other.status == 503, &other);
}

fn traffic(protocol: Protocol, serve: Serve) {
    let sleep = Sleep::start(protocol, serve);
    let mut cases = Cases::default();
    header_match(&sleep, &mut cases);
    other_routes(&sleep, &mut cases);
    cross_origin(&sleep, &mut cases);
    retries(&sleep, &mut cases);
    identities(&sleep, &mut cases);
    registry_only(&sleep, &mut cases);
    shares(&sleep, &mut cases);
    cases.end(58);
}

#[test]
fn a_workload_s_requests_go_where_its_manifests_say_by_deltas() {
    traffic(Protocol::Delta, Place::serve);
}

#[test]
fn a_workload_s_requests_go_where_its_manifests_say_by_the_state_of_the_world() {
    traffic(Protocol::Sotw, Place::serve);
}

#[test]
fn they_go_there_as_well_by_a_view_of_their_namespace() {
    traffic(Protocol::Delta, Place::serve_by_view);
}
