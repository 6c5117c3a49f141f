//! What a scraper reads, parsed back as strictly as the format's definitions are.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::Ordering,
    time::{Instant, SystemTime},
};

use parking_lot::RwLock;
use weir_abi::Rule;

use super::*;
use crate::{
    api::tests::{board, pod},
    handoff::ProxyState,
    reason::Reason,
    redirect::{Retired, inspect::fake::Fake},
    status::{PodState, PodStatus, ProxyStatus},
};

const DOCUMENT: &str = include_str!("../../../docs/metrics.md");

/// A family of metrics, by the name that its samples begin with.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    help: String,
    /// By the name with labels.
    samples: BTreeMap<String, f64>,
}

impl Family {
    /// The names of its labels; those of a histogram's buckets aside.
    fn labels(&self) -> BTreeSet<&str> {
        let sets = self.samples.keys().filter_map(|sample| sample.split_once('{')?.1.strip_suffix('}'));
        sets.flat_map(|set| set.split(','))
            .filter_map(|label| Some(label.split_once('=')?.0))
            .filter(|l| *l != "le")
            .collect()
    }
}

/// What each type's samples end in.
fn suffixes(kind: &str, format: Format) -> &'static [&'static str] {
    match (kind, format) {
        ("counter", Format::OpenMetrics) => &["_total"],
        ("info", Format::OpenMetrics) => &["_info"],
        ("histogram", _) => &["_bucket", "_sum", "_count"],
        ("gauge" | "counter", _) => &[""],
        other => panic!("{other:?}"),
    }
}

fn is_name(name: &str) -> bool {
    let mut letters = name.chars();
    letters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
}

/// Parses, and fails at whatever a scraper would refuse or take for something else.
fn parse(text: &str, format: Format) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    let body = match format {
        Format::OpenMetrics => text.strip_suffix("# EOF\n").expect("an end"),
        Format::Text => text,
    };
    assert!(body.ends_with('\n'));
    for line in body.lines() {
        assert_eq!(line.trim(), line);
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            assert!(is_name(name) && help.ends_with('.') && !help.contains('\\'), "{line}");
            current = name.to_owned();
            let family = Family { help: help.to_owned(), ..Family::default() };
            assert!(families.insert(current.clone(), family).is_none(), "twice: {name}");
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let family = families.get_mut(name).expect(line);
            assert!(name == current && family.kind.is_empty() && family.samples.is_empty(), "{line}");
            family.kind = kind.to_owned();
        } else if let Some((name, unit)) = line.strip_prefix("# UNIT ").and_then(|rest| rest.split_once(' ')) {
            assert!(format == Format::OpenMetrics && name == current && name.ends_with(&format!("_{unit}")), "{line}");
        } else {
            let (sample, value) = line.rsplit_once(' ').expect(line);
            let name = sample.split('{').next().unwrap();
            let family = families.get_mut(&current).expect(line);
            let named = |suffix: &&str| name.strip_suffix(*suffix) == Some(current.as_str());
            assert!(is_name(name) && suffixes(&family.kind, format).iter().any(named), "{line}");
            if let Some(labels) = sample.split_once('{').map(|(_, labels)| labels) {
                for label in labels.strip_suffix('}').expect(line).split(',') {
                    let (name, value) = label.split_once('=').expect(line);
                    assert!(
                        is_name(name) && value.len() >= 2 && value.starts_with('"') && value.ends_with('"'),
                        "{line}"
                    );
                }
            }
            let twice = family.samples.insert(sample.to_owned(), value.parse().expect(line));
            assert!(twice.is_none(), "twice: {line}");
        }
    }
    for (name, family) in &families {
        assert!(!family.samples.is_empty(), "nothing of {name}");
        assert_eq!(format == Format::Text && family.kind == "counter", name.ends_with("_total"), "{name}");
        if family.kind == "histogram" {
            let end = family.samples[&format!("{name}_bucket{{le=\"+Inf\"}}")];
            assert_eq!(end, family.samples[&format!("{name}_count")]);
            assert!(family.samples.values().all(|value| *value >= 0.0));
        }
    }
    families
}

/// Metrics of an agent that leads a node with a pod of each state.
fn leading() -> (Metrics, Leads) {
    let pending = |reason| PodState::pending(reason);
    let states = [
        PodState::Enrolled,
        pending(Reason::owner("secret-reason")),
        pending(Reason::not_begun("secret-reason")),
        pending(Reason::starting("secret-reason")),
        PodState::Pending { reason: Reason::node("secret-reason"), overdue: true },
        PodState::Withdrawing,
        PodState::PassedOver { reason: "secret-reason".to_owned(), ended: false },
    ];
    let pods = states.into_iter().zip(1..).map(|(state, number)| {
        let slot = (state == PodState::Enrolled).then_some(3);
        PodStatus { state, slot, ..pod(&format!("secret-uid-{number}"), "secret-namespace/secret-name", number, 3) }
    });
    let proxy = |state, unanswered| ProxyStatus {
        version: "1".to_owned(),
        generation: 1,
        pid: 2,
        uid: 65532,
        workers: 1,
        state,
        connected: SystemTime::now(),
        open: 5,
        unanswered,
    };
    let hung = Some(tokio::time::Instant::now());
    let mut board = board(pods.collect());
    board.pods_cgroup_error = "secret-reason".to_owned();
    board.proxies = vec![proxy(ProxyState::Ready, None), proxy(ProxyState::Draining, hung)];
    let mut kernel = Fake::with_pod(9, 3, &["10.0.0.3"]);
    kernel.counters.extend([((3, Rule::Redirected), 7), ((3, Rule::NoListener), 2), ((4, Rule::Steered), 99)]);
    let kernel = Arc::new(kernel);
    let heard: Heard = Box::new(|| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)));
    // Nothing was enrolled when it began to lead.
    let led = Led::new(Arc::new(RwLock::new(board)), kernel, Arc::new(Retired::default()), &[], heard).unwrap();
    let metrics = Metrics::default();
    metrics.counts.redirected.inc_by(3);
    metrics.counts.failed.inc();
    for seconds in [0.004, 0.2, 100.0] {
        metrics.counts.enrolment.observe(seconds);
    }
    metrics.counts.upstream_sockets.inc_by(64);
    let leads = metrics.lead(led);
    (metrics, leads)
}

async fn read(metrics: &Metrics, format: Format) -> String {
    String::from_utf8(metrics.text(format).await.unwrap().to_vec()).unwrap()
}

#[tokio::test]
async fn a_leading_agent_says_what_its_node_does() {
    let (metrics, _leads) = leading();
    let text = read(&metrics, Format::Text).await;
    let families = parse(&text, Format::Text);
    let value = |sample: &str| {
        let family = families.values().find_map(|family| family.samples.get(sample));
        *family.unwrap_or_else(|| panic!("no {sample} in {text}"))
    };
    for (sample, expected) in [
        ("weir_leader", 1.0),
        ("weir_pods{state=\"enrolled\"}", 1.0),
        ("weir_pods{state=\"pending\"}", 4.0),
        ("weir_pods{state=\"withdrawing\"}", 1.0),
        ("weir_pods{state=\"passed-over\"}", 1.0),
        ("weir_pods_pending{cause=\"owner\"}", 1.0),
        ("weir_pods_pending{cause=\"node\"}", 1.0),
        ("weir_pods_overdue", 1.0),
        ("weir_proxies{state=\"ready\"}", 1.0),
        ("weir_proxies{state=\"standby\"}", 0.0),
        ("weir_proxies_hung", 1.0),
        ("weir_problems{part=\"cni\"}", 0.0),
        ("weir_problems{part=\"pods-cgroup\"}", 1.0),
        ("weir_source_connected", 1.0),
        ("weir_source_last_sync_timestamp_seconds", 1_700_000_000.0),
        ("weir_redirect_decisions_total{action=\"redirect\",direction=\"outbound\",rule=\"redirected\"}", 7.0),
        ("weir_redirect_decisions_total{action=\"refuse\",direction=\"inbound\",rule=\"no-listener\"}", 2.0),
        ("weir_redirect_decisions_total{action=\"steer\",direction=\"inbound\",rule=\"steered\"}", 0.0),
        ("weir_event_records_lost_total", 0.0),
        ("weir_enrolments_total{outcome=\"done\"}", 3.0),
        ("weir_enrolments_total{outcome=\"failed\"}", 1.0),
        ("weir_enrolment_duration_seconds_count", 3.0),
        ("weir_enrolment_duration_seconds_bucket{le=\"0.005\"}", 1.0),
        ("weir_enrolment_duration_seconds_bucket{le=\"30.0\"}", 2.0),
        ("weir_upstream_sockets_total", 64.0),
    ] {
        assert_eq!(value(sample), expected, "{sample}");
    }
    assert!(value("process_resident_memory_bytes") > 0.0 && value("process_open_fds") > 0.0);
    for secret in ["secret", "10.0.0"] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}

#[tokio::test]
async fn both_formats_say_the_same() {
    let (metrics, _leads) = leading();
    let all = |families: BTreeMap<String, Family>| {
        families.into_values().flat_map(|family| family.samples).collect::<BTreeMap<_, _>>()
    };
    let plain = all(parse(&read(&metrics, Format::Text).await, Format::Text));
    let open = all(parse(&read(&metrics, Format::OpenMetrics).await, Format::OpenMetrics));
    assert_eq!(plain, open);
}

#[tokio::test]
async fn one_that_does_not_lead_says_nothing_of_the_node() {
    let (metrics, leads) = leading();
    drop(leads);
    let families = parse(&read(&metrics, Format::Text).await, Format::Text);
    assert_eq!(families["weir_leader"].samples["weir_leader"], 0.0);
    for absent in ["weir_pods", "weir_proxies", "weir_redirect_decisions_total", "weir_source_connected"] {
        assert!(!families.contains_key(absent), "{absent}");
    }
    assert!(families.contains_key("weir_enrolments_total") && families.contains_key("process_open_fds"));
}

#[tokio::test]
async fn a_fresh_reading_is_given_again() {
    let (metrics, _leads) = leading();
    let begun = Instant::now();
    let (first, second) = (metrics.text(Format::Text).await.unwrap(), metrics.text(Format::Text).await.unwrap());
    let same = first.as_ptr() == second.as_ptr();
    assert!(same || begun.elapsed() >= FRESH, "read twice within {FRESH:?}");
    metrics.latest.lock().await.as_mut().unwrap().at = Instant::now().checked_sub(FRESH).unwrap();
    metrics.counts.takeovers.inc();
    assert!(read(&metrics, Format::Text).await.contains("\nweir_proxy_takeovers_total 1\n"), "an old one is read anew");
}

#[tokio::test]
async fn what_cannot_be_read_is_counted_and_stays() {
    let board = Arc::new(RwLock::new(board(vec![pod("u", "n/p", 9, 3)])));
    let mut kernel = Fake::with_pod(9, 3, &["10.0.0.3"]);
    kernel.counters.insert((3, Rule::Redirected), 7);
    let kernel = Arc::new(kernel);
    let metrics = Metrics::default();
    let _leads = metrics
        .lead(Led::new(board, kernel.clone(), Arc::default(), &[], Box::new(|| None)).expect("nothing is broken"));
    for (broken, errors) in [(false, 0.0), (true, 1.0), (true, 2.0), (false, 2.0)] {
        kernel.broken.store(broken, Ordering::Relaxed);
        *metrics.latest.lock().await = None;
        let families = parse(&read(&metrics, Format::Text).await, Format::Text);
        assert_eq!(families["weir_metrics_errors_total"].samples["weir_metrics_errors_total"], errors);
        let redirected =
            "weir_redirect_decisions_total{action=\"redirect\",direction=\"outbound\",rule=\"redirected\"}";
        assert_eq!(families["weir_redirect_decisions_total"].samples[redirected], 7.0, "{broken}");
        assert!(!families.contains_key("weir_source_last_sync_timestamp_seconds"), "a file says no time");
    }
}

/// The rows of the document's table: name, type, labels.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let rows = DOCUMENT.lines().filter(|line| line.starts_with("| `weir_") || line.starts_with("| `process_"));
    let row = |line: &str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let labels = cells[3].split(", ").filter(|label| !label.is_empty());
        let labels = labels.map(|label| label.trim_matches('`').to_owned()).collect();
        (cells[1].trim_matches('`').to_owned(), (cells[2].to_owned(), labels))
    };
    rows.map(row).collect()
}

#[tokio::test]
async fn the_document_lists_what_there_is() {
    let (metrics, _leads) = leading();
    let families = parse(&read(&metrics, Format::Text).await, Format::Text);
    let told: BTreeMap<String, (String, BTreeSet<String>)> = families
        .iter()
        .map(|(name, family)| {
            let labels = family.labels().into_iter().map(str::to_owned).collect();
            (name.clone(), (family.kind.clone(), labels))
        })
        .collect();
    assert_eq!(documented(), told, "docs/metrics.md");
    assert!(families.values().all(|family| !family.help.is_empty()));
}
