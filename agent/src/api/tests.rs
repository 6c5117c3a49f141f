//! The API over a real unix socket, with a kernel in memory.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    sync::atomic::Ordering,
    time::{Duration, SystemTime},
};

use hyper_util::rt::TokioIo;
use parking_lot::RwLock;
use tokio::net::UnixStream;
use tokio_stream::StreamExt;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use weir_abi::{
    Rule,
    event::{Event, EventKind},
    map::{FlowKey, FlowValue, PortKey, PortRule},
};
use weir_proto::agent::v1::{self as pb, agent_client::AgentClient};

use super::*;
use crate::{
    handoff::ProxyState,
    reason::Reason,
    redirect::inspect::{LinkFacts, LinkTarget, ProgramFacts, fake::Fake},
    status::{Board, PodState, PodStatus, ProxyStatus},
};

pub(crate) fn board(pods: Vec<PodStatus>) -> Board {
    Board {
        instance: "test".to_owned(),
        node: "node-a".to_owned(),
        cgroup2: "/sys/fs/cgroup".into(),
        pin_path: "/sys/fs/bpf/weir/test".into(),
        adopted: false,
        started: SystemTime::now(),
        pods,
        proxies: Vec::new(),
        source_listed: true,
        source_error: String::new(),
        source_notes: Vec::new(),
        pods_cgroup: None,
        pods_cgroup_error: String::new(),
        cni: None,
        keeper: crate::keeper::Keeper::off(),
    }
}

/// An enrolled pod whose last address byte is its slot.
pub(crate) fn pod(uid: &str, full_name: &str, cookie: u64, slot: u32) -> PodStatus {
    let (namespace, name) = full_name.split_once('/').unwrap();
    PodStatus {
        uid: uid.to_owned(),
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        service_account: "default".to_owned(),
        netns: Some(format!("/run/netns/{name}").into()),
        netns_cookie: Some(cookie),
        ips: vec![format!("10.0.0.{slot}").parse().unwrap()],
        slot: Some(slot),
        state: PodState::Enrolled,
        probe_ports: vec![9000, 8080],
        excluded_outbound_ports: Vec::new(),
        excluded_outbound_cidrs: Vec::new(),
        excluded_inbound_ports: Vec::new(),
        fail_open: false,
        listeners: 4,
        enrolled: Some(SystemTime::now()),
    }
}

struct Running {
    kernel: Arc<Fake>,
    client: AgentClient<Channel>,
    shutdown: CancellationToken,
    server: tokio::task::JoinHandle<Result<(), Error>>,
    _directory: tempfile::TempDir,
}

async fn start(kernel: Fake, board: Board) -> Running {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run/agent.sock");
    let listener = bind(&path).unwrap();
    let (kernel, shutdown) = (Arc::new(kernel), CancellationToken::new());
    let server = tokio::spawn(serve(listener, Arc::new(RwLock::new(board)), kernel.clone(), shutdown.clone()));
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://agent").connect_with_connector(connector).await.unwrap();
    Running { kernel, client: AgentClient::new(channel), shutdown, server, _directory: directory }
}

fn two_pods() -> Board {
    let mut pending = pod("u2", "default/late", 12, 9);
    (pending.slot, pending.state) = (None, PodState::pending(Reason::starting("netns /run/netns/late: no such file")));
    let mut board = board(vec![pod("u1", "default/web", 11, 4), pending]);
    board.proxies.push(ProxyStatus {
        version: "0.1.0".to_owned(),
        generation: 1,
        pid: 42,
        uid: 65532,
        workers: 2,
        state: ProxyState::Ready,
        connected: SystemTime::now(),
        open: 0,
        unanswered: None,
    });
    board
}

fn message(result: Result<impl std::fmt::Debug, Status>) -> (Code, String) {
    let status = result.unwrap_err();
    (status.code(), status.message().to_owned())
}

#[tokio::test]
async fn status_tells_what_is_pending_refused_and_lost() {
    let mut kernel = Fake::with_pod(11, 4, &["10.0.0.4"]);
    kernel.counters.insert((4, Rule::NoListener), 5);
    kernel.counters.insert((4, Rule::Redirected), 100);
    kernel.faults.lock().insert("pending-insert", 2);
    let mut running = start(kernel, two_pods()).await;
    let status = running.client.status(pb::StatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.pods_enrolled, status.pods_pending), (1, 1));
    assert_eq!(status.pending[0].reason, "netns /run/netns/late: no such file");
    assert_eq!(status.refused.into_iter().collect::<Vec<_>>(), [("no-listener".to_owned(), 5)]);
    assert_eq!((status.faults["pending-insert"], status.faults["event-dropped"]), (2, 0));
    assert_eq!((status.proxies[0].state.as_str(), status.proxies[0].pid), ("ready", 42));
    assert_eq!(status.watchers, 0);
}

#[tokio::test]
async fn pods_come_with_their_counters_and_listeners() {
    let mut kernel = Fake::with_pod(11, 4, &["10.0.0.4"]);
    kernel.counters.insert((4, Rule::Steered), 3);
    let mut running = start(kernel, two_pods()).await;
    let mut list = async |pod: &str| running.client.list_pods(pb::ListPodsRequest { pod: pod.to_owned() }).await;
    let pods = list("").await.unwrap().into_inner().pods;
    assert_eq!(pods.iter().map(|pod| pod.name.as_str()).collect::<Vec<_>>(), ["late", "web"]);
    let web = &list("web").await.unwrap().into_inner().pods[0];
    assert_eq!(web.counters.iter().collect::<Vec<_>>(), [(&"steered".to_owned(), &3)]);
    assert_eq!(
        (&web.outbound_listeners[..], &web.inbound_listeners[..]),
        (&["10.0.0.4:15001".to_owned()][..], &["10.0.0.4:15006".to_owned()][..])
    );
    assert_eq!(web.probe_ports, [8080, 9000]);
    assert_eq!(message(list("nobody").await).0, Code::NotFound);
}

#[tokio::test]
async fn a_pod_that_is_passed_over_says_why_everywhere() {
    let mut dns = pod("u3", "kube-system/dns", 13, 0);
    (dns.slot, dns.netns_cookie, dns.ips) = (None, None, Vec::new());
    dns.state = PodState::PassedOver { reason: "it is on the host's network".to_owned(), ended: false };
    let mut board = two_pods();
    board.pods.push(dns);
    let mut running = start(Fake::with_pod(11, 4, &["10.0.0.4"]), board).await;
    let client = &mut running.client;
    let status = client.status(pb::StatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.pods_passed_over, status.pods_pending, status.keeper), (1, 1, None));
    let list = client.list_pods(pb::ListPodsRequest { pod: "dns".to_owned() }).await.unwrap().into_inner().pods;
    assert_eq!(
        (list[0].state.as_str(), list[0].reason.as_str(), list[0].netns_cookie),
        ("passed-over", "it is on the host's network", 0)
    );
    let asked = pb::ExplainRequest { pod: "dns".to_owned(), to: "10.96.0.10:80".to_owned(), ..Default::default() };
    let answer = client.explain(asked).await.unwrap().into_inner();
    assert_eq!(
        (answer.rule.as_str(), answer.hint.as_str()),
        ("not-enrolled", "the network namespace is not enrolled: it is on the host's network")
    );
    let trace = pb::TraceEventsRequest { pod: "dns".to_owned(), verdict: String::new() };
    assert_eq!(
        message(client.trace_events(trace).await.map(|_| ())).1,
        "pod kube-system/dns is passed over, so that there are no events of it: it is on the host's network"
    );
}

#[tokio::test]
async fn redirects_are_sorted_and_named() {
    let mut kernel = Fake::with_pod(11, 4, &["10.0.0.4"]);
    let flow = |slot, rule, ip: &str, port| {
        let ip = ip.parse::<std::net::IpAddr>().unwrap().into();
        (FlowKey { slot, rule: rule as u32, ip, port, reserved: 0 }, FlowValue { count: 2, last_seen: 1 })
    };
    kernel.flows = vec![
        flow(4, Rule::Steered, "10.0.0.4", 80),
        flow(4, Rule::Redirected, "10.96.0.10", 443),
        flow(4, Rule::Redirected, "10.96.0.9", 80),
        flow(8, Rule::ExcludedPort, "10.96.0.9", 25),
    ];
    let mut running = start(kernel, two_pods()).await;
    let mut list = async |pod: &str| {
        let request = pb::ListRedirectsRequest { pod: pod.to_owned() };
        let rows = running.client.list_redirects(request).await.unwrap().into_inner().redirects;
        let row = |row: &pb::Redirect| {
            format!(
                "{:?} {} {} -> {} {}/{}",
                row.pod, row.direction, row.original_destination, row.listener, row.action, row.rule
            )
        };
        rows.iter().map(row).collect::<Vec<_>>()
    };
    let web = [
        "\"default/web\" outbound 10.96.0.9:80 -> 10.0.0.4:15001 redirect/redirected",
        "\"default/web\" outbound 10.96.0.10:443 -> 10.0.0.4:15001 redirect/redirected",
        "\"default/web\" inbound 10.0.0.4:80 -> 10.0.0.4:15006 steer/steered",
    ];
    assert_eq!(list("default/web").await, web);
    assert_eq!(list("").await[0], "\"\" outbound 10.96.0.9:25 -> - pass/excluded-port");
    assert_eq!(list("").await[1..], web);
    assert!(list("late").await.is_empty());
}

#[tokio::test]
async fn explain_answers_and_refuses_bad_questions() {
    let mut kernel = Fake::with_pod(11, 4, &["10.0.0.4"]);
    kernel.ports.insert(PortKey { slot: 4, port: 8080, kind: PortRule::Probe as u16 });
    let mut running = start(kernel, two_pods()).await;
    let mut explain = async |pod: &str, to: &str, from: &str, protocol: &str| {
        let [pod, to, from, protocol] = [pod, to, from, protocol].map(str::to_owned);
        running.client.explain(pb::ExplainRequest { pod, to, from, protocol }).await.map(tonic::Response::into_inner)
    };
    let redirected = explain("web", "10.96.0.10:80", "", "").await.unwrap();
    assert_eq!(
        (redirected.action.as_str(), redirected.rule.as_str(), redirected.listener.as_str(), redirected.enrolled),
        ("redirect", "redirected", "10.0.0.4:15001", true)
    );
    assert_eq!(explain("web", "10.0.0.4:8080", "node", "").await.unwrap().rule, "node-probe");
    assert_eq!(explain("late", "10.96.0.10:80", "", "").await.unwrap().rule, "not-enrolled");
    for (question, answer) in [
        (("web", "10.96.0.10", "", ""), "to: \"10.96.0.10\": expected IP:PORT"),
        (("web", "10.96.0.10:80", "moon", ""), "from: \"moon\": expected pod, node, host-pod or an IP address"),
        (("web", "10.96.0.10:80", "", "sctp"), "protocol: \"sctp\": expected tcp, mptcp or udp"),
        (
            ("web", "10.96.0.10:80", "node", ""),
            "to: 10.96.0.10:80 is no address of the pod, which only its own processes could connect to; \
             expected one of 10.0.0.4",
        ),
    ] {
        let (pod, to, from, protocol) = question;
        assert_eq!(message(explain(pod, to, from, protocol).await), (Code::InvalidArgument, answer.to_owned()));
    }
}

#[tokio::test]
async fn programs_say_where_they_are_attached() {
    let facts = |pinned_as: &str, id, target: Option<LinkTarget>| ProgramFacts {
        pinned_as: pinned_as.to_owned(),
        pin: format!("/sys/fs/bpf/weir/test/programs/{pinned_as}").into(),
        id,
        name: pinned_as.chars().take(15).collect(),
        kind: "sk_lookup",
        tag: 0xab,
        link: target.map(|target| LinkFacts { id: id + 100, program_id: 2, target }),
        run_count: 7,
        run_time: Duration::from_nanos(70),
        loaded: None,
        bytes_translated: 1,
        bytes_jited: 2,
        memlock: 4096,
    };
    let mut kernel = Fake::with_pod(11, 4, &["10.0.0.4"]);
    kernel.programs = vec![
        facts("weir_connect4", 1, Some(LinkTarget::Cgroup)),
        facts("weir_sklookup_4", 2, Some(LinkTarget::Netns)),
        facts("weir_sockops", 3, None),
    ];
    let mut running = start(kernel, two_pods()).await;
    let programs = running.client.list_programs(pb::ListProgramsRequest {}).await.unwrap().into_inner();
    let attach: Vec<_> = programs.programs.iter().map(|program| program.attach.as_str()).collect();
    assert_eq!(attach, ["cgroup /sys/fs/cgroup (runs program 2)", "netns default/web", ""]);
    assert_eq!(programs.programs[0].tag, "00000000000000ab");
    assert!(!programs.stats_enabled);
}

#[tokio::test]
async fn dumps_name_the_pods() {
    let mut kernel = Fake::with_pod(11, 4, &["10.0.0.4"]);
    let field = |name, value: &str| (name, value.to_owned());
    kernel.dumps.insert(
        "ENROLLED",
        vec![crate::redirect::inspect::Entry {
            key: vec![field("netns", "11")],
            value: vec![field("slot", "4"), field("flags", "enrolled")],
        }],
    );
    let mut running = start(kernel, two_pods()).await;
    let entries =
        running.client.dump_map(pb::DumpMapRequest { name: "ENROLLED".to_owned() }).await.unwrap().into_inner();
    let entries: Vec<_> = entries.map(Result::unwrap).collect().await;
    let text = |fields: &[pb::Field]| {
        fields.iter().map(|field| format!("{}={}", field.name, field.value)).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(text(&entries[0].key), "netns=11 pod=default/web");
    assert_eq!(text(&entries[0].value), "slot=4 flags=enrolled");
    let unknown = running.client.dump_map(pb::DumpMapRequest { name: "NOPE".to_owned() }).await;
    assert_eq!(message(unknown.map(|_| ())).0, Code::NotFound);
}

#[tokio::test]
async fn events_stop_when_the_client_is_gone_and_when_the_agent_ends() {
    let running = start(Fake::with_pod(11, 4, &["10.0.0.4"]), two_pods()).await;
    let (kernel, mut client) = (running.kernel.clone(), running.client);
    let watched = || kernel.watched.load(Ordering::SeqCst);
    let trace = pb::TraceEventsRequest { pod: "web".to_owned(), verdict: String::new() };

    let mut events = client.trace_events(trace.clone()).await.unwrap().into_inner();
    assert!(watched());
    let ring = kernel.ring.lock().clone().unwrap();
    let event = Event {
        netns: 11,
        kind: EventKind::Close as u32,
        rule: Rule::Redirected as u32,
        bytes_sent: 9,
        ..Default::default()
    };
    ring.send(vec![event]).await.unwrap();
    let event = events.next().await.unwrap().unwrap();
    assert_eq!((event.kind.as_str(), event.pod.as_str(), event.bytes_sent), ("close", "default/web", 9));

    drop((events, client));
    let mut waits = 0;
    while watched() {
        waits += 1;
        assert!(waits < 500, "the flag stays on");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    running.shutdown.cancel();
    running.server.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_old_flag_is_taken_down_at_start_and_bad_verdicts_are_refused() {
    let kernel = Fake::with_pod(11, 4, &["10.0.0.4"]);
    kernel.watched.store(true, Ordering::SeqCst);
    let mut running = start(kernel, two_pods()).await;
    let bad = pb::TraceEventsRequest { pod: String::new(), verdict: "drop".to_owned() };
    let (code, text) = message(running.client.trace_events(bad).await.map(|_| ()));
    assert_eq!(code, Code::InvalidArgument);
    assert!(text.starts_with("verdict: \"drop\": expected redirect, steer, "), "{text}");
    assert!(!running.kernel.watched.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_socket_is_replaced_and_anything_else_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.sock");
    drop(bind(&path).unwrap());
    let _second = bind(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(UnixStream::connect(&path).await.is_ok());
    let taken = bind(&path).unwrap_err().to_string();
    assert!(taken.contains("is served by another process (pid "), "{taken}");

    let file = directory.path().join("file");
    fs::write(&file, "precious").unwrap();
    assert_eq!(
        bind(&file).unwrap_err().to_string(),
        format!("paths.api: {} exists and is not a socket", file.display())
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    let long = directory.path().join("x".repeat(120));
    let message = bind(&long).unwrap_err().to_string();
    assert!(message.starts_with("paths.api: cannot bind ") && message.contains("name too long"), "{message}");
}
