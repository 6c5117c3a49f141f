//! The harness by itself: namespaces, real servers and clients, without weir.

use std::{
    net::TcpStream,
    path::Path,
    time::{Duration, Instant},
};

use weir_tests::{
    echo::{Bind, Echo, dial, volume},
    load::{Connections, Load},
    net::Net,
    poll::wait_for,
    web::{Nginx, WHOAMI, curl, get},
};

#[test]
fn pods_of_two_nodes_reach_each_other_at_both_families() {
    let mut net = Net::new();
    let (a, b) = (net.node("a"), net.node("b"));
    let (client, near, far) = (a.pod("client"), a.pod("near"), b.pod("far"));
    for server in [&near, &far] {
        let _nginx = Nginx::start(server, 80, WHOAMI);
        let answer = get(&client, &format!("http://{}/", server.v4(80)));
        assert_eq!(answer.address("client").ip(), client.ipv4);
        assert_eq!(answer.address("server"), server.v4(80));
        let answer = get(&client, &format!("http://{}/", server.v6(80)));
        assert_eq!(answer.address("client").ip(), client.ipv6);
        let node = a.netns.run(|| TcpStream::connect(server.v4(80)).map(|stream| stream.local_addr()));
        assert!(node.expect("the node reaches its pods").expect("connected").is_ipv4());
    }
    assert_eq!(curl(&client, &[&format!("http://{}/", near.v4(81))]).exit, 7, "refused");
}

#[test]
fn echo_tells_what_it_sees_and_volume_dials_it() {
    let mut net = Net::new();
    let node = net.node("a");
    let (client, server) = (node.pod("client"), node.pod("server"));
    for bind in [Bind::Separate, Bind::DualStack] {
        let echo = Echo::start(&server.netns, 20_000..20_050, bind);
        let to: Vec<_> = (20_000..20_050).flat_map(|port| [server.v4(port), server.v6(port)]).collect();
        let dialled = volume(&client.netns, 1_000, 16, &to);
        assert_eq!(dialled.len(), 1_000);
        for one in dialled {
            let one = one.expect("dialled");
            assert!(one.destination_is_true() && one.client_is_true(), "{one:?}");
        }
        assert_eq!((echo.accepted(), echo.take_seen().len()), (1_000, 1_000));
        dial(&client.netns, server.v4(19_999)).expect_err("nobody listens");
    }
}

#[test]
fn load_keeps_its_rate_and_tells_of_failures() {
    let mut net = Net::new();
    let node = net.node("a");
    let (client, server) = (node.pod("client"), node.pod("server"));
    let nginx = Nginx::start(&server, 80, r#"location / { return 200 "ok"; }"#);
    let started = Instant::now();
    let loads =
        [Connections::New, Connections::KeepAlive].map(|kind| Load::start(&client.netns, server.v4(80), 250, kind));
    while loads.iter().any(|load| load.ended() < 250) {
        assert!(started.elapsed() < Duration::from_secs(5), "250 requests take a second");
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(nginx);
    std::thread::sleep(Duration::from_millis(200));
    let [new, kept] = loads.map(Load::stop);
    for requests in [&new, &kept] {
        let succeeded = requests.iter().filter(|request| request.succeeded()).count();
        let failed = requests.len() - succeeded;
        assert!(succeeded >= 250 && failed >= 10, "{failed} of {} failed in the last 200 ms", requests.len());
    }
    assert!(new.iter().all(|request| !request.reused) && kept.iter().any(|request| request.reused));
}

#[test]
fn a_dropped_net_leaves_nothing() {
    let mut net = Net::new();
    let node = net.node("a");
    let pod = node.pod("pod");
    let pause = pod.pause();
    let cgroup = node.cgroups().pods();
    wait_for("the process is in its pod's cgroup", Duration::from_secs(5), || {
        let cgroups = std::fs::read_to_string(format!("/proc/{}/cgroup", pause.pid())).expect("it runs");
        if cgroups.contains(&format!("{}/kubepods/a-pod", net.prefix())) { Ok(()) } else { Err(cgroups) }
    });
    let (pid, prefix, veth) = (pause.pid(), net.prefix().to_owned(), pod.veth().to_owned());
    drop(pause);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    drop(pod);
    node.wait_until_gone(&veth);
    drop((node, net));
    assert!(!cgroup.exists());
    let left: Vec<_> = std::fs::read_dir("/run/netns")
        .expect("netns were made")
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&format!("{prefix}-")))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
