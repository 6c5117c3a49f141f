//! What a node is like, as far as weir may change it.

use std::collections::BTreeMap;

use super::{Cluster, kubectl};

/// A shell's script that writes `SECTION<tab>LINE`. Ids and times differ without meaning anything, so they are left out.
/// Directories that the kubelet made for hostPaths stay, empty.
const SCRIPT: &str = r#"
say() { sed "s/^/$1\t/"; }
if command -v bpftool >/dev/null; then
  if [ -z "$SHARED_KERNEL" ]; then
    bpftool prog show | grep -oE 'name [^ ]+' | sort | uniq -c | say programs
    bpftool map show | grep -oE 'name [^ ]+' | sort | uniq -c | say maps
  fi
  # Links of this node: those of its cgroups, and of network namespaces that its processes or its pods are in.
  namespaces=" $(stat -Lc %i /proc/[0-9]*/ns/net /run/netns/* 2>/dev/null | sort -u | tr '\n' ' ')"
  cgroups=" $(find "$CGROUP2" -maxdepth 6 -type d -exec stat -c %i {} + 2>/dev/null | tr '\n' ' ')"
  bpftool link show | tr '\n' ' ' | sed 's/ \([0-9]*: \)/\n\1/g' | while read -r id kind _ program rest; do
    case "$kind $rest" in
      cgroup*) cgroup=$(echo "$rest" | sed -n 's/.*cgroup_id \([0-9]*\).*/\1/p')
        case "$cgroups" in *" $cgroup "*) ;; *) continue;; esac;;
      netns*) namespace=$(echo "$rest" | sed -n 's/.*netns_ino \([0-9]*\).*/\1/p')
        case "$namespaces" in *" $namespace "*) ;; *) continue;; esac;;
    esac
    echo "$kind $(echo "$rest" | grep -oE 'attach_type [a-z0-9_]+')"
  done | sort | uniq -c | say links
  bpftool cgroup tree "$CGROUP2" 2>/dev/null | awk 'NF > 1 && $1 ~ /^[0-9]+$/ && $2 != "cgroup_device" { print $2, $NF }' | sort | uniq -c | say cgroup
else
  echo 'no bpftool on this node' | say programs
fi
find /sys/fs/bpf | sort | say bpffs
for directory in "$CNI_CONF" "$CNI_BIN"; do
  find "$directory" -mindepth 1 -exec stat -c '%n %F %a %u:%g' {} + | sort | say cni
  find "$directory" -type f -exec sha256sum {} + | sort | say cni
done
for directory in /run/weir /var/lib/weir /var/lib/kubelet/seccomp; do
  find "$directory" -mindepth 1 2>/dev/null | sort | say files
done
for process in /proc/[0-9]*; do
  read -r name < "$process/comm" && case $name in weir-load) ;; weir*) echo "$name"; esac
done 2>/dev/null | sort | uniq -c | say processes
find "$CGROUP2" -type d -name 'weir*' 2>/dev/null | sort | say cgroup
true
"#;

/// What a pod's namespace is like.
const POD_SCRIPT: &str = "ss -Hltn | awk '{ print $4 }' | sort; cat /proc/sys/net/ipv4/ip_local_reserved_ports /proc/sys/net/ipv4/tcp_tw_reuse";

/// Where nodes keep things.
#[derive(Clone, Debug)]
pub struct Places {
    /// The cgroup2 mount.
    pub cgroup2: String,
    /// CNI configurations.
    pub cni_conf: String,
    /// CNI plugins.
    pub cni_bin: String,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            cgroup2: "/sys/fs/cgroup".to_owned(),
            cni_conf: "/etc/cni/net.d".to_owned(),
            cni_bin: "/opt/cni/bin".to_owned(),
        }
    }
}

/// Lines by node or pod.
pub type Snapshot = BTreeMap<String, Vec<String>>;

/// Takes one of every node, and of these pods' namespaces.
pub fn take(cluster: &Cluster, pods: &[&str]) -> Result<Snapshot, String> {
    let places = Places::default();
    let variables = format!(
        "CGROUP2={} CNI_CONF={} CNI_BIN={} SHARED_KERNEL={}\n",
        places.cgroup2,
        places.cni_conf,
        places.cni_bin,
        if cluster.shared_kernel { "yes" } else { "" }
    );
    let mut snapshot = Snapshot::new();
    for node in kubectl::names(&cluster.kubectl.json(&["get", "nodes"])?) {
        let text = cluster.nodes.sh(&node, &(variables.clone() + SCRIPT))?;
        snapshot.insert(format!("node {node}"), text.lines().map(str::to_owned).collect());
    }
    for pod in pods {
        let text = cluster.kubectl.sh(pod, POD_SCRIPT)?;
        snapshot.insert(format!("pod {pod}"), text.lines().map(str::to_owned).collect());
    }
    Ok(snapshot)
}

/// Lines that only one of them has: `- ` of the first, `+ ` of the second.
pub fn differences(first: &Snapshot, second: &Snapshot) -> Vec<String> {
    let mut found = Vec::new();
    for place in first.keys().chain(second.keys().filter(|place| !first.contains_key(*place))) {
        let none = Vec::new();
        let (one, other) = (first.get(place).unwrap_or(&none), second.get(place).unwrap_or(&none));
        found.extend(one.iter().filter(|line| !other.contains(line)).map(|line| format!("- {place}: {line}")));
        found.extend(other.iter().filter(|line| !one.contains(line)).map(|line| format!("+ {place}: {line}")));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_name_the_place_and_the_side() {
        let of = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        let one = Snapshot::from([("a".to_owned(), of(&["x", "y"])), ("b".to_owned(), of(&["z"]))]);
        let two = Snapshot::from([("a".to_owned(), of(&["y", "w"])), ("c".to_owned(), of(&["v"]))]);
        assert_eq!(differences(&one, &two), ["- a: x", "+ a: w", "- b: z", "+ c: v"]);
        assert!(differences(&one, &one).is_empty());
    }
}
