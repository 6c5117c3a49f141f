//! What `help` prints, as bpftool does.

/// What help is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// weirctl.
    General,
    /// `pod`.
    Pod,
    /// `redirect`.
    Redirect,
    /// `prog`.
    Prog,
    /// `map`.
    Map,
    /// `event`.
    Event,
    /// `status`.
    Status,
}

/// The help text, ending with a line break.
pub fn text(topic: Topic) -> &'static str {
    match topic {
        Topic::General => GENERAL,
        Topic::Pod => POD,
        Topic::Redirect => REDIRECT,
        Topic::Prog => PROG,
        Topic::Map => MAP,
        Topic::Event => EVENT,
        Topic::Status => STATUS,
    }
}

const GENERAL: &str = "\
Usage: weirctl [OPTIONS] OBJECT { COMMAND | help }
       weirctl version

       OBJECT := { pod | redirect | prog | map | event | status }
       OPTIONS := { {-j|--json} | {-p|--pretty} | {-s|--socket} PATH | {-V|--version} | {-h|--help} }

       Objects and commands may be shortened to any prefix that only one of them has.

    -j, --json         JSON: one array or object; event trace: one object a line
    -p, --pretty       JSON, indented
    -s, --socket PATH  the agent's socket, also --agent; default: $WEIR_AGENT_SOCKET,
                       else /run/weir/agent.sock
    -V, --version      weirctl's version
    -h, --help         this help

       Exit codes: 0 done; 1 the agent is unreachable or has no answer; 2 the command line is
       wrong; 3 (status --check) something needs attention.
";

const POD: &str = "\
Usage: weirctl pod { list | show } [POD]
       weirctl pod help

       POD := { UID | NAMESPACE/NAME | NAME }

    list         pods that the agent knows: state, addresses, and why one is pending
    show         the same; with POD: everything of that pod
";

const REDIRECT: &str = "\
Usage: weirctl redirect list [POD] [--all]
       weirctl redirect show POD
       weirctl redirect show POD --to IP:PORT [--from FROM] [--protocol PROTOCOL]
       weirctl redirect help

       POD := { UID | NAMESPACE/NAME | NAME }
       FROM := { pod | node | host-pod | IP }
       PROTOCOL := { tcp | mptcp | udp }

    list         original destinations that were decided on: where they went, how often, when last
    -a, --all    the proxy's own connections too (rule proxy-socket), with which it carries the others on
    show POD     how the pod is redirected: listeners, exclusions, probe ports, decisions by rule
    show POD --to IP:PORT
                 the verdict on a connection and the rule that gives it, by the kernel's own tables
    --from       who connects: a process of the pod (default); a process of the node, outside the
                 pods' cgroups; one of a pod on the host's network; somebody at an address
    --protocol   default tcp
";

const PROG: &str = "\
Usage: weirctl prog { list | show } [PROG]
       weirctl prog help

       PROG := { NAME | id ID }

    list         weir's eBPF programs: id, type, tag, where attached, runs and time spent in them

       Runs count while the kernel is told to count them: always with sysctl
       kernel.bpf_stats_enabled=1, else for a minute after each prog list.
";

const MAP: &str = "\
Usage: weirctl map { list | show }
       weirctl map dump NAME
       weirctl map help

    list         weir's eBPF maps
    dump         the entries of a map, decoded; per-CPU values summed, unused array entries left out
";

const EVENT: &str = "\
Usage: weirctl event trace [POD] [--verdict VERDICT] [--follow] [--count N] [--for DURATION]
       weirctl event help

       POD := { UID | NAMESPACE/NAME | NAME }
       VERDICT := { redirect | steer | pass | refuse | close | RULE }

    trace           decisions and closed connections as they happen, one line each
    --verdict       only these: an outcome, the end of connections, or a rule as redirect list shows it
    -f, --follow    until interrupted
    -c, --count N   until N events were shown
    --for DURATION  for that long (500ms, 10s, 1m)

       Without --follow, --count and --for: what happens within 2 s. With several: whichever
       comes first. Standard error says when it starts and how many events were lost; with
       --json each event says how many were lost before it.
";

const STATUS: &str = "\
Usage: weirctl status [--check]
       weirctl status help

    status       the agent, connected proxies, pods enrolled and pending with reasons, refused
                 connections, faults of the eBPF programs
    --check      exit with 3 unless a proxy is ready, no pod is pending and the pod source is well
";
