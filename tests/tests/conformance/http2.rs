//! Runs the cases of raw frames on both proxies: weir does what is demanded, and so does Envoy where nothing else is said.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use weir_tests::figure;

use super::{
    bad_server,
    case::{Case, Instead},
    downgrade, floods, frames, gone, greeting, messages,
    outcome::Client,
    pair::{
        case::TlsClient,
        side::Side,
        tls,
        wire::{PATIENCE, Wire},
    },
    place::Place,
};

/// The listener with TLS.
const SECURE: &str = "secure";
/// Cases under way at once.
const AT_ONCE: usize = 16;
/// How long a case may take.
const LONGEST: Duration = PATIENCE;
/// How long a connection is looked at that should neither answer nor end.
const A_WHILE: Duration = Duration::from_millis(700);

#[test]
fn frames_and_streams() {
    drop(run(frames::cases()));
}

/// The same where ALPN has settled on HTTP/2.
#[test]
fn frames_and_streams_over_tls() {
    let cases = frames::cases().into_iter().filter(|case| case.listener == "main");
    drop(run(cases.map(|case| case.on(SECURE)).collect()));
}

#[test]
fn messages_and_header_compression() {
    drop(run(messages::cases()));
}

#[test]
fn floods() {
    drop(run(floods::cases()));
}

/// What becomes of them is logged alike.
#[test]
fn heads_that_take_too_long() {
    let place = run(floods::slow_heads());
    let [envoy, weir] = place.sides().map(|side| {
        let mut lines = written(&side.log(floods::IMPATIENT), floods::IMPATIENT_LINES);
        lines.sort();
        lines
    });
    assert_eq!(weir.iter().filter(|line| line.contains("|408 ")).count(), 3, "{weir:?}");
    assert_eq!(weir, envoy);
}

/// The lines of an access log once it has `count` of them, as both proxies write theirs after a while.
fn written(log: &Path, count: usize) -> Vec<String> {
    let begun = Instant::now();
    loop {
        let text = std::fs::read_to_string(log).expect("its access log");
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        if lines.len() >= count || begun.elapsed() > PATIENCE {
            return lines;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Every row of the table that the documentation has, and no other, is met by a case.
#[test]
fn the_table_of_differences() {
    let all = [frames::cases(), messages::cases(), floods::cases(), floods::slow_heads(), downgrade::cases()].concat();
    let mut met: BTreeSet<String> =
        all.iter().flat_map(|case| [case.weir, case.envoy]).flatten().map(|instead| instead.row.to_owned()).collect();
    met.extend(bad_server::rows());
    met.extend([greeting::ROW, gone::ROW].map(str::to_owned));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/envoy-differences.md");
    let text = std::fs::read_to_string(&path).expect("the documentation");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| *`")?.split_once("`* |"));
    let rows: BTreeSet<String> = rows.map(|(id, _)| id.to_owned()).collect();
    assert_eq!(rows, met);
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn run(cases: Vec<Case>) -> Arc<Place> {
    let place = Arc::new(Place::start("http2", |_| {}).await);
    let count = cases.len();
    let failures: Vec<String> = stream::iter(cases)
        .map(|case| {
            let place = place.clone();
            async move { tokio::spawn(async move { check(&place, &case).await }).await.expect("a case runs to its end") }
        })
        .buffered(AT_ONCE)
        .filter_map(std::future::ready)
        .collect()
        .await;
    for side in place.sides().into_iter().filter(|_| !failures.is_empty()) {
        let log = std::fs::read_to_string(side.log("main")).unwrap_or_default();
        let lines: BTreeSet<&str> = log.lines().filter(|line| !line.contains("|200 - ")).collect();
        eprintln!("{:?} has logged:\n    {}", side.which, lines.into_iter().collect::<Vec<_>>().join("\n    "));
    }
    assert!(failures.is_empty(), "{} of {count} cases fail:\n{}", failures.len(), failures.join("\n"));
    figure!("{count} cases alike");
    place
}

async fn check(place: &Place, case: &Case) -> Option<String> {
    let (envoy, weir) =
        tokio::join!(outcome(&place.envoy, case, case.of_envoy()), outcome(&place.weir, case, case.of_weir()));
    if alike(&envoy, case.of_envoy()) && weir == case.of_weir() {
        return None;
    }
    let but = |instead: Option<Instead>| instead.map_or(String::new(), |instead| format!(" (not {})", instead.outcome));
    Some(format!(
        "{} {}\n    demanded: {}\n    weir:     {weir}{}\n    Envoy:    {envoy}{}",
        case.section,
        case.name,
        case.demanded,
        but(case.weir),
        but(case.envoy)
    ))
}

/// Whether Envoy does what is expected. It ends most connections without the GOAWAY that section 5.4.1 asks for.
pub fn alike(envoy: &str, expected: &str) -> bool {
    let without = |told: &str| match told.rsplit_once("GOAWAY ") {
        Some((before, code)) if !code.contains(' ') => format!("{before}closed"),
        _ => told.to_owned(),
    };
    envoy == expected || envoy == without(expected)
}

pub async fn outcome(side: &Side, case: &Case, expected: &str) -> String {
    let address = side.address(case.listener);
    let tcp = Wire::connect(address, None).await.unwrap_or_else(|error| panic!("connect to {address}: {error}"));
    let wire = if case.listener == SECURE {
        let how = TlsClient { sni: Some("a.test".to_owned()), alpn: vec!["h2".to_owned()], ..TlsClient::default() };
        tls::connect(tcp, &how, &side.certificates).await.expect("a TLS handshake").0
    } else {
        Wire::Tcp(tcp)
    };
    let mut client = Client::new(wire);
    if case.greets {
        client.greet().await;
    }
    // The streams that the expected outcome says have ended.
    let awaited: Vec<u32> = expected
        .split("; ")
        .filter_map(|part| part.split_once(": "))
        .filter(|(_, told)| !told.ends_with(" bytes"))
        .filter_map(|(number, _)| number.parse().ok())
        .collect();
    // That nothing comes can only be looked at for a while.
    let within = if expected.ends_with("hangs") { A_WHILE } else { LONGEST };
    client.run(&case.steps, &awaited, within).await
}
