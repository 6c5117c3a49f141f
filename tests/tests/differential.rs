//! The same bootstrap and the same traffic through real Envoy and through weir: what both show must be equal.
//!
//! Every `tests/data/differential/*.yaml` is a case file. The runner starts Envoy and weir with its bootstrap (each with
//! its own ports and its own scripted servers), runs its cases one after the other on both at once, and compares what
//! the client got, what the scripted servers saw, what was logged, stats, and admin answers. Each thing compared is a
//! *comparison*; their number is printed at the end. Real Envoy is `envoy` on PATH; without it this fails.
//!
//! ```text
//! cargo test -p weir-tests --test differential                    # all files
//! cargo test -p weir-tests --test differential -- --show tcp      # one, printing Envoy's side of all that is compared
//! cargo test -p weir-tests --test differential -- http redirect   # files named *http*, cases named *redirect*
//! ```
//!
//! # A case file
//!
//! ```yaml
//! bootstrap: |                      # with placeholders; or `bootstrap_of: other.yaml`
//!   admin: { address: { socket_address: { address: 127.0.0.1, port_value: "${port:admin}" } } }   # if stats or admin are asked
//!   static_resources: ...
//! upstreams:                        # scripted servers; see case.rs (Upstream, Rule) and script.rs (what answers by path)
//!   up: {}                          # HTTP/1 with the built-in script
//!   two: { protocol: h2, rules: [{ path: /late, delay: 200ms, status: 503, trailers: ["grpc-status: 14"] }] }
//!   bytes: { protocol: tcp, echo: true }
//!   early: { rules: [{ path: /early, early: true, status: 413 }] }               # at a request's head; see case.rs
//!   slow: { certificate: server, handshake_delay: 1s }
//!   safe: { certificate: server, client_authority: ca, alpn: [h2, http/1.1] }     # TLS; ALPN h2 makes it HTTP/2
//!   said: { proxy_protocol: true }  # reads a PROXY header first
//!   names: { protocol: dns }        # a name server: NAME.test is 127.0.0.1, others are not; see dns.rs
//!                                   # rules: `path` begins the name, `status` is a response code (3: there is no such name)
//! certificates:                     # ${cert:server} ${key:server} ${crl:ca} in the bootstrap, ${hash:server} and ${pin:server}: SHA-256 of it and its key
//!   ca: { authority: true, revokes: [client] }
//!   server: { issuer: ca, names: [a.test, "*.b.test", 127.0.0.1, "spiffe://c/d"] }      # also common_name, expired, usages, key, first_version
//!                                 # in requests: ${x:70000} is so many x, ${headers:150} so many header lines
//! files: { endpoints.json: "..." }  # beside the bootstrap: ${file:endpoints.json}
//! to: main                          # the listener that steps go to: ${port:main} (the default)
//! log: main                         # an access log (${log:main}) that gets a line for every `request`
//! replace: [["a regex", "text"]]    # further normalisation, of all texts
//! arguments: ["--log-level", "debug"]   # for both proxies
//! timed: true                       # what shows when depends on the clock: cases that do not agree are done again
//! cases:
//! - name: a plain request           # unique
//!   request: GET /echo              # `host: any.test` and framing are added where they are not given
//!   expect: 200                     # what Envoy must answer, so that the case tests what it means to test
//! - name: "post to ${path}"
//!   each: [{ path: /a, code: 200 }, { path: /b, code: 404 }]      # a case each; of plain elements `${each}`
//!   request: "POST ${path}\nx-a: 1\n\nbody"
//!   expect: ${code}
//! - name: several steps on one connection
//!   steps:
//!   - { request: "GET /1", connection: c }
//!   - { request: "GET /2", connection: c, end: closed }           # waits for the close; `open`: looks a moment
//!   - { send: "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n" }    # bytes as they stand, then an HTTP response is read
//!   - { send: "hello\n", to: tcp, read: line }                    # or: echo, end (after FIN), nothing
//!   - { request: "GET /x", http: 2, tls: { sni: a.test, alpn: [h2], certificate: client, version: "1.2" } }
//!   - { request: "GET /x", first: "50524f..." }                   # bytes in hexadecimal before all else; `send: "hex:00ff"`
//!   - { request: "GET /x", http: 2, trailers: ["x-t: 1"] }        # HTTP/2 with prior knowledge
//!   - { request: "GET /slow/9000", abandon: true }                # gone once a scripted server has it
//!   - { request: "POST /x\n\nabc", http: 2, open: true }         # the body's end is not sent
//!   - concurrent: [{ request: "GET /slow/300" }, { request: "GET /slow/300" }]
//!   - { admin: "GET /clusters", lines: "^up::.*cx_total" }        # without `lines`: the whole answer
//!   - { wait: { "cluster.up.membership_healthy": 1 } }            # until a stat has the value, on both
//!   - { write: { endpoints.json: "..." } }                        # replaces a file by renaming
//!   - { request: "POST /x\n\nabc", http: 2, open: true, read: echo, connection: c }      # the stream stays open, too
//!   - { close: c }                  # or `reset: c`: the end of a held connection (of HTTP/2 `reset` is its stream's)
//!   - { upstream: { up: stop } }                                  # or start
//!   - { request: "GET /", repeat: 3, from: 127.0.0.9, body_size: 100000, ordered: true }
//!   logs: { main: 5, tcp: 1 }       # lines to wait for; default: of the file's log, one a `request`
//!   seen: { up: 3 }                 # requests that an upstream must have got (TCP: connections ended): waited for
//!   stats: ["cluster\\.up\\.upstream_rq_.*", "listener\\.127\\.0\\.0\\.1_<main>\\.downstream_cx_total"]
//!   unordered: true                 # upstreams' requests and log lines come in no particular order
//!   skip: ["body"]                  # what differs between two runs of one proxy (never: between Envoy and weir)
//!   differs: [{ what: "response status", id: http-1.0, weir: "HTTP/1.1 505" }]
//! configurations:                   # each a changed bootstrap, run with --mode validate
//! - { name: no domains, find: 'domains: ["*"]', replace: "domains: []", accepted: false, message: "domains" }
//! ```
//!
//! Labels of what is compared: `response connection` (a failed one) `|tls|status|headers|body|trailers|end` (of several steps `1 status`, of repeated
//! ones `1.2 status`, of concurrent ones `1/2 status`), `upstream NAME #1 connection|request|headers|body|trailers`,
//! `log NAME #1`, `stat NAME`, `1 line NAME`.
//!
//! `differs` is for deliberate differences only: `id` is a row of the table in docs/envoy-differences.md, and what weir
//! does instead is asserted. Such things are not counted as equal. A row that no case meets is an error, as is an entry
//! without a row, and a difference that is none any more.
//!
//! Before texts are compared, ports become `<main>`, `<upstream up>` or `<ephemeral>`, and what no two requests share
//! (date, request ids, service times) a word. Headers are sorted by name unless `ordered`.

#[path = "differential/client.rs"]
mod client;
#[path = "differential/compare.rs"]
mod compare;
#[expect(dead_code, reason = "the conformance tests use all of it")]
#[path = "differential/pair.rs"]
mod pair;
#[path = "differential/steps.rs"]
mod steps;
#[path = "differential/table.rs"]
mod table;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Instant,
};

use case::File;
use compare::Tally;
use pair::{case, certificates, http1, script, seen, side, tls, upstream_h2, wire};
use tokio::{sync::Semaphore, task::JoinSet};

/// Case files under way at once.
const AT_ONCE: usize = 4;

/// The case files, by name.
fn files(filter: Option<&str>) -> Vec<(String, PathBuf)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/differential");
    let entries = std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files: Vec<_> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .map(|path| (path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), path))
        .filter(|(name, _)| filter.is_none_or(|filter| name.contains(filter)))
        .collect();
    files.sort();
    files
}

/// Runs one file; what it cannot do is a failure of that file only.
async fn run_file(name: String, path: PathBuf, only: Option<String>) -> Tally {
    let failed = |failure: String| Tally { failures: vec![failure], ..Tally::default() };
    let file = match File::load(&path) {
        Ok(file) => Arc::new(file),
        Err(error) => return failed(format!("{name}: {error}")),
    };
    let label = name.clone();
    let run = tokio::spawn(async move { compare::run(&label, &file, only.as_deref()).await });
    run.await.unwrap_or_else(|error| failed(format!("{name}: {error}")))
}

fn main() -> ExitCode {
    let filters: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    if std::env::args().any(|argument| argument == "--show") {
        compare::SHOW.store(true, std::sync::atomic::Ordering::Relaxed);
    }
    let files = files(filters.first().map(String::as_str));
    let only = filters.get(1).cloned();
    let started = Instant::now();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let (mut passed, mut failed) = (0, 0);
    let mut sum = Tally::default();
    runtime.block_on(async {
        let room = Arc::new(Semaphore::new(AT_ONCE));
        let mut running = JoinSet::new();
        for (name, path) in files {
            let (room, only) = (room.clone(), only.clone());
            running.spawn(async move {
                let _room = room.acquire_owned().await;
                let started = Instant::now();
                let tally = run_file(name.clone(), path, only).await;
                (name, tally, started.elapsed())
            });
        }
        while let Some(Ok((name, tally, took))) = running.join_next().await {
            let good = tally.failures.is_empty();
            *if good { &mut passed } else { &mut failed } += 1;
            let verdict = if good { "ok" } else { "FAILED" };
            println!("test {name} ... {verdict} ({} comparisons, {:.1} s)", tally.equal, took.as_secs_f64());
            tally.failures.iter().for_each(|failure| println!("    {}", failure.trim_end().replace('\n', "\n    ")));
            sum.add(tally);
        }
    });
    if filters.is_empty() {
        let mistakes = table::mistakes(&sum.met);
        *if mistakes.is_empty() { &mut passed } else { &mut failed } += 1;
        println!("test table of differences ... {}", if mistakes.is_empty() { "ok" } else { "FAILED" });
        mistakes.iter().for_each(|mistake| println!("    {mistake}"));
    }
    println!(
        "\ndifferential: {} comparisons equal, {} differ deliberately, {} do not agree",
        sum.equal,
        sum.deliberate,
        sum.failures.len()
    );
    println!(
        "\ntest result: {}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out; finished in {:.2}s",
        if failed == 0 { "ok" } else { "FAILED" },
        started.elapsed().as_secs_f64()
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
