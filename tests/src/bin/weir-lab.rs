//! The kernel matrix's guest program: weir on one node with two enrolled pods and one that is not.
//!
//! `cargo xtask kernel-matrix` runs it inside a guest of QEMU, where nothing but busybox and iproute2 is beside it. It
//! can run on any machine as root. Each check prints one line, which the host counts:
//!
//! ```text
//! lab: ok NAME
//! lab: FAILED NAME: WHY
//! lab: verdict passed|failed
//! ```

use std::any::Any;
use std::net::SocketAddr;
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;

use weir_abi::Rule;
use weir_tests::echo::{Bind, Dialled, Echo, volume};
use weir_tests::mesh::{Mesh, PodSpec, Proxy};
use weir_tests::net::{Net, Pod};

/// Dials in each direction and of each family.
const DIALS: usize = 100;
/// Dials of each family while no agent is there: what the proxy's stash of upstream sockets must carry by itself.
const DIALS_WITHOUT_AGENT: usize = 8;
/// Threads that dial.
const THREADS: usize = 8;
/// Ports that the servers listen on: each is an original destination of its own.
const PORTS: std::ops::Range<u16> = 20_000..20_020;

fn main() -> ExitCode {
    let outcome = panic::catch_unwind(AssertUnwindSafe(checks));
    let passed = match &outcome {
        Ok(()) => true,
        Err(panic) => {
            println!("lab: FAILED {}", message(panic.as_ref()));
            false
        }
    };
    println!("lab: verdict {}", if passed { "passed" } else { "failed" });
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without a message").replace('\n', " / ")
}

fn ok(name: &str) {
    println!("lab: ok {name}");
}

/// All checks, one after another: each needs the state that the one before left. Panics where one fails.
fn checks() {
    let mut net = Net::new();
    let node = net.node("node");
    let (a, b, outsider) = (node.pod("a"), node.pod("b"), node.pod("outsider"));
    let _servers: Vec<Echo> =
        [&a, &b, &outsider].into_iter().map(|pod| Echo::start(&pod.netns, PORTS, Bind::Separate)).collect();
    dial("before weir", &outsider, &a);

    let (spec_a, spec_b) = (PodSpec::of(&a), PodSpec::of(&b));
    let mut mesh = Mesh::start(&node, &[&spec_a, &spec_b]);
    ok("agent loads and attaches, proxy connects, two pods are enrolled");

    let before = mesh.ctl.counters(&spec_a.full_name());
    dial("outbound", &a, &outsider);
    dial("inbound", &outsider, &a);
    dial("pod to pod, one way", &a, &b);
    dial("pod to pod, the other way", &b, &a);
    let counted = mesh.ctl.counters(&spec_a.full_name()).since(&before);
    // Both families, twice each way.
    let expected = 4 * DIALS as u64;
    assert_eq!(counted.of(Rule::Redirected), expected, "redirected connections of pod a: {counted:?}");
    // sk_lookup decides on packets: a SYN that an emulated machine answers too late is sent, and decided on, again.
    let steered = counted.of(Rule::Steered);
    assert!((expected..expected + expected / 10).contains(&steered), "steered connections of pod a: {counted:?}");
    ok("weirctl counts every one of them");

    mesh.agent.process.kill9();
    dial_times(DIALS_WITHOUT_AGENT, "without an agent", &a, &b);
    mesh.agent.restart();
    let status = mesh.ctl.json(&["status"]);
    assert_eq!(status["adopted"], true, "a restarted agent adopts the pins: {status}");
    mesh.proxy.wait_until_ready(&mesh.agent);
    mesh.agent.wait_enrolled(&[&spec_a, &spec_b]);
    dial("with the agent that adopted the pins", &a, &b);

    mesh.proxy.process.kill9();
    mesh.proxy = Proxy::start(&mesh.agent);
    dial("through the proxy's successor", &a, &b);

    mesh.agent.set_pods(std::slice::from_ref(&spec_b));
    mesh.agent.wait_withdrawn(&[&spec_a]);
    dial("from a withdrawn pod", &a, &b);

    let pins = mesh.agent.place.pins();
    drop(mesh);
    assert!(!pins.exists(), "uninstall left {}", pins.display());
    dial("after uninstall", &a, &b);
}

/// Dials [`DIALS`] times.
fn dial(what: &str, from: &Pod, to: &Pod) {
    dial_times(DIALS, what, from, to);
}

/// Dials from one pod to another, over both families; every connection must reach its true destination, and the server
/// see its true client.
fn dial_times(dials: usize, what: &str, from: &Pod, to: &Pod) {
    for family in ["IPv4", "IPv6"] {
        let address = |port| if family == "IPv4" { to.v4(port) } else { to.v6(port) };
        let targets: Vec<SocketAddr> = PORTS.map(address).collect();
        let results = volume(&from.netns, dials, THREADS, &targets);
        let arrived: Vec<&Dialled> = results.iter().flatten().collect();
        let lost: Vec<&String> = results.iter().filter_map(|result| result.as_ref().err()).collect();
        let name = format!("{what}: {family}, {} to {}", from.name(), to.name());
        assert!(lost.is_empty(), "{name}: {} of {dials} lost: {}", lost.len(), lost[0]);
        assert_eq!(arrived.len(), dials, "{name}");
        if let Some(wrong) = arrived.iter().find(|dialled| !dialled.destination_is_true()) {
            panic!("{name}: not the true destination: {wrong:?}");
        }
        if let Some(wrong) = arrived.iter().find(|dialled| dialled.server.peer.ip() != dialled.local.ip()) {
            panic!("{name}: not the true client: {wrong:?}");
        }
        ok(&format!("{name}: {dials} dials"));
    }
}
