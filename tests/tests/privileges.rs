//! The proxy starts as root only to drop everything.

use std::{collections::BTreeMap, fs};

use weir_abi::Rule;
use weir_tests::{
    echo::{Bind, Echo, dial},
    mesh::{Mesh, PodSpec},
    net::Net,
};

/// The user and group that the proxy runs as.
const NOBODY: u32 = 65532;

#[test]
fn the_proxy_holds_no_privilege_in_any_thread() {
    let mut net = Net::new();
    let node = net.node("a");
    let (client, server) = (node.pod("client"), node.pod("server"));
    let spec = PodSpec::of(&client);
    let mesh = Mesh::start(&node, &[&spec]);
    let _echo = Echo::start(&server.netns, [80], Bind::Separate);
    // It looks up and updates the agent's maps all the same.
    assert!(dial(&client.netns, server.v4(80)).expect("redirected").destination_is_true());
    assert_eq!(mesh.ctl.counters(&spec.full_name()).of(Rule::Redirected), 1);

    let pid = mesh.proxy.process.pid();
    let tasks: Vec<_> = fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").flatten().collect();
    assert!(tasks.len() > 2, "workers and control have threads of their own: {}", tasks.len());
    for task in tasks {
        let status = fs::read_to_string(task.path().join("status")).expect("the thread runs");
        let field: BTreeMap<&str, &str> =
            status.lines().filter_map(|line| line.split_once(':')).map(|(name, value)| (name, value.trim())).collect();
        let name = field["Name"];
        let ids = [NOBODY; 4].map(|id| id.to_string()).join("\t");
        assert_eq!((field["Uid"], field["Gid"]), (ids.as_str(), ids.as_str()), "{name}");
        assert!(["", "65532"].contains(&field["Groups"]), "{name}: groups {}", field["Groups"]);
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(field[set], "0000000000000000", "{set} of {name}");
        }
        assert_eq!(field["NoNewPrivs"], "1", "{name}");
        assert_eq!(field["Seccomp"], "2", "{name}: a filter");
    }
    let environment = fs::read(format!("/proc/{pid}/environ"));
    assert!(environment.is_ok(), "root may still look into it");
}
