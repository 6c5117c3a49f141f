//! The grammar of the command line as tables: what the parser takes, what help prints, what shells complete and what the
//! manual pages say all come from here.

use weir_abi::map::name;

/// An option.
#[derive(Debug, PartialEq, Eq)]
pub struct Opt {
    /// Its name after `--`.
    pub long: &'static str,
    /// Its letter after `-`.
    pub short: Option<char>,
    /// What follows it, if anything does.
    pub value: Option<Value>,
    /// What it does.
    pub about: &'static str,
}

/// A word that stands for something.
#[derive(Debug, PartialEq, Eq)]
pub struct Value {
    /// Its name in usage lines.
    pub name: &'static str,
    /// What was expected, in an error.
    pub expected: &'static str,
    /// What it may be, as usage says it; "" where the name says it all.
    pub is: &'static str,
    /// The words that it may be, if only those (others are not completed, not refused).
    pub among: &'static [&'static str],
    /// Whether it is a path.
    pub path: bool,
}

/// A command of an object.
#[derive(Debug, PartialEq, Eq)]
pub struct Command {
    /// Its name; "" where the object alone is the command.
    pub name: &'static str,
    /// What follows it.
    pub value: Option<Value>,
    /// Whether that has to.
    pub required: bool,
    /// The options it has beside the general ones.
    pub options: &'static [Opt],
    /// What it does.
    pub about: &'static str,
}

/// An object.
#[derive(Debug, PartialEq, Eq)]
pub struct Object {
    /// Its name.
    pub name: &'static str,
    /// Its commands. The first one is meant where none is named.
    pub commands: &'static [Command],
    /// Whether its name may be shortened.
    pub abbreviated: bool,
    /// What it is.
    pub about: &'static str,
    /// What there is to know beside its commands.
    pub notes: &'static str,
}

const fn named(name: &'static str, expected: &'static str) -> Option<Value> {
    Some(Value { name, expected, is: "", among: &[], path: false })
}

const fn path(name: &'static str, expected: &'static str) -> Option<Value> {
    Some(Value { name, expected, is: "", among: &[], path: true })
}

const fn among(
    name: &'static str,
    expected: &'static str,
    is: &'static str,
    among: &'static [&'static str],
) -> Option<Value> {
    Some(Value { name, expected, is, among, path: false })
}

const fn flag(long: &'static str, short: Option<char>, about: &'static str) -> Opt {
    Opt { long, short, value: None, about }
}

const fn option(long: &'static str, short: Option<char>, value: Option<Value>, about: &'static str) -> Opt {
    Opt { long, short, value, about }
}

const POD: Option<Value> = among("POD", "a pod", "{ UID | NAMESPACE/NAME | NAME }", &[]);
const DURATION: &str = "a duration like 500ms, 10s or 1m";

/// Options of every command.
pub const GENERAL: &[Opt] = &[
    flag("json", Some('j'), "JSON: one array or object; event trace: one object a line"),
    flag("pretty", Some('p'), "JSON, indented"),
    option(
        "output",
        Some('o'),
        among("FORMAT", "json or yaml", "{ json | yaml }", &["json", "yaml"]),
        "indented JSON, or YAML",
    ),
    flag("notes", None, "say what is beside the answer (standard error) with JSON, too"),
    option(
        "socket",
        Some('s'),
        path("PATH", "a path"),
        "the agent's socket, also --agent; default: $WEIR_AGENT_SOCKET, else /run/weir/agent.sock",
    ),
    option(
        "timeout",
        None,
        named("DURATION", DURATION),
        "how long an agent may take; default: 5s, in a cluster 10s a node",
    ),
    flag("version", Some('V'), "this program's version"),
    flag("help", Some('h'), "this help"),
];

/// The other name of `--socket`.
pub const AGENT: Opt = option("agent", None, path("PATH", "a path"), "the agent's socket");

/// Options of every command in a whole cluster.
pub const CLUSTER: &[Opt] = &[
    flag("cluster", None, "ask the nodes of a cluster through its API server, as kubectl weir does"),
    option(
        "kubeconfig",
        None,
        path("FILE", "a path"),
        "default: $KUBECONFIG, else ~/.kube/config, else the service account of the pod that this runs in",
    ),
    option("context", None, named("NAME", "a context's name"), "the context in it; default: the current one"),
    option(
        "namespace",
        Some('n'),
        named("NAME", "a namespace"),
        "pods of this namespace; default: that of the context",
    ),
    flag("all-namespaces", Some('A'), "pods of all namespaces"),
    option("weir-namespace", None, named("NAME", "a namespace"), "weir's own namespace; default: weir-system"),
    option("node", None, named("NODE", "a node's name"), "this node only"),
];

const ALL_PODS: Opt = flag("all", Some('a'), "pods that are passed over, too, with the reason");
const ALL_REDIRECTS: Opt =
    flag("all", Some('a'), "the proxy's own connections, too (rule proxy-socket), with which it carries the others on");

const fn command(name: &'static str, value: Option<Value>, options: &'static [Opt], about: &'static str) -> Command {
    Command { name, value, required: false, options, about }
}

const fn command_of(name: &'static str, value: Option<Value>, options: &'static [Opt], about: &'static str) -> Command {
    Command { name, value, required: true, options, about }
}

/// Help, which every object has.
pub const HELP: &str = "help";

/// The objects.
pub const OBJECTS: &[Object] = &[
    Object {
        name: "pod",
        commands: &[
            command("list", POD, &[ALL_PODS], "pods that the agent knows: state, addresses, and why one is pending"),
            command("show", POD, &[], "everything of a pod; without POD the list"),
        ],
        abbreviated: true,
        about: "pods: enrolled, pending or passed over, and why",
        notes: "",
    },
    Object {
        name: "redirect",
        commands: &[
            command(
                "list",
                POD,
                &[ALL_REDIRECTS],
                "original destinations that were decided on: where they went, how often, when last",
            ),
            command(
                "show",
                POD,
                &[
                    option(
                        "to",
                        None,
                        named("IP:PORT", "IP:PORT"),
                        "the verdict on a connection to there and the rule that gives it, by the kernel's own tables",
                    ),
                    option(
                        "from",
                        None,
                        among(
                            "FROM",
                            "pod, node, host-pod or an IP address",
                            "{ pod | node | host-pod | IP }",
                            &["pod", "node", "host-pod"],
                        ),
                        "who connects: a process of the pod (default); a process of the node, outside the pods' \
                         cgroups; one of a pod on the host's network; somebody at an address",
                    ),
                    option(
                        "protocol",
                        None,
                        among("PROTOCOL", "tcp, mptcp or udp", "{ tcp | mptcp | udp }", &["tcp", "mptcp", "udp"]),
                        "default: tcp",
                    ),
                    ALL_REDIRECTS,
                ],
                "how a pod is redirected: listeners, exclusions, probe ports, decisions by rule; without POD the list",
            ),
        ],
        abbreviated: true,
        about: "what was redirected, where and why, and what would be",
        notes: "",
    },
    Object {
        name: "prog",
        commands: &[
            command(
                "list",
                PROG,
                &[],
                "weir's eBPF programs: id, type, tag, where attached, runs and time spent in them",
            ),
            command("show", PROG, &[], "the same"),
        ],
        abbreviated: true,
        about: "weir's eBPF programs",
        notes: "Runs count while the kernel is told to count them: always with sysctl kernel.bpf_stats_enabled=1, else \
                for a minute after each prog list.",
    },
    Object {
        name: "map",
        commands: &[
            command("list", None, &[], "weir's eBPF maps"),
            command("show", None, &[], "the same"),
            command_of(
                "dump",
                among("NAME", "the name of a map", "", MAPS),
                &[],
                "the entries of a map, decoded; per-CPU values summed, unused array entries left out",
            ),
        ],
        abbreviated: true,
        about: "weir's eBPF maps and what is in them",
        notes: "",
    },
    Object {
        name: "event",
        commands: &[command(
            "trace",
            POD,
            &[
                option(
                    "verdict",
                    None,
                    among(
                        "VERDICT",
                        "an action, close or a rule",
                        "{ redirect | steer | pass | refuse | close | RULE }",
                        &["redirect", "steer", "pass", "refuse", "close"],
                    ),
                    "only these: an outcome, the end of connections, or a rule as redirect list shows it",
                ),
                flag("follow", Some('f'), "until interrupted"),
                option("count", Some('c'), named("N", "a number"), "until N events were shown"),
                option("for", None, named("DURATION", "a duration"), "for that long (500ms, 10s, 1m)"),
                flag("stdin", None, "until standard input ends: through kubectl exec -i, when its client goes away"),
            ],
            "decisions and closed connections as they happen, one line each",
        )],
        abbreviated: true,
        about: "decisions and closed connections as they happen",
        notes: "Without --follow, --count, --for and --stdin: what happens within 2 s. With several: whichever comes \
                first. Standard error says when it starts and how many events were lost; with --json each event says \
                how many were lost before it.",
    },
    Object {
        name: "status",
        commands: &[
            command(
                "show",
                None,
                STATUS,
                "the agent, proxies, pods enrolled and pending with reasons, what was refused",
            ),
            command("list", None, STATUS, "the same"),
        ],
        abbreviated: true,
        about: "the agent, its proxies, and what needs attention; of a whole cluster one line a node",
        notes: "",
    },
    Object {
        name: "xds",
        commands: &[command(
            "status",
            None,
            &[ADMIN],
            "what the proxy follows, by view, source and type: SYNCED, STALE, NOT SENT or NACKED, with versions, ages and reasons",
        )],
        abbreviated: true,
        about: "management servers, as the proxy follows them",
        notes: "STALE: there is no stream to the server, or what is in force was saved by the process before. NOT SENT: \
                something was asked for and has not come. NACKED: something was refused, and what was in force stays.",
    },
    Object {
        name: "proxy",
        commands: &[
            command(
                "all",
                None,
                &[ADMIN, VIEW, FQDN, PORT, SUBSET, DIRECTION, NAME, ADDRESS, KIND, HEALTH],
                "all tables below",
            ),
            command("cluster", None, &[ADMIN, VIEW, FQDN, PORT, SUBSET, DIRECTION], "clusters in force"),
            command(
                "listener",
                None,
                &[ADMIN, VIEW, PORT, ADDRESS, KIND],
                "listeners in force, a line for each filter chain",
            ),
            command("route", None, &[ADMIN, VIEW, NAME], "routes in force"),
            command("endpoint", None, &[ADMIN, VIEW, FQDN, PORT, ADDRESS, HEALTH], "endpoints of clusters"),
            command("secret", None, &[ADMIN, VIEW, NAME], "certificates, and how long they are valid"),
            command("bootstrap", None, &[ADMIN, VIEW], "the bootstrap that the proxy was started with"),
            command(
                "log",
                among("LEVEL", "a level, or LOGGER:LEVEL,...", "{ LEVEL | LOGGER:LEVEL,... }", LEVELS),
                &[ADMIN],
                "levels of the proxy's log; with LEVEL after it is set",
            ),
        ],
        abbreviated: false,
        about: "the proxy's configuration in force, in the columns of istioctl proxy-config",
        notes: "Without -o, -j or -p a table; with them the messages that it is made from. Filters are parts of names, but \
                --name, --address, --type and --status, which are whole and in any case.",
    },
    Object {
        name: "uninstall",
        commands: &[command(
            "",
            None,
            &[option("wait", None, named("DURATION", "a duration"), "how long the nodes may take; default: 2m")],
            "has every node of the cluster withdraw its pods and remove all that weir left there, and waits for it",
        )],
        abbreviated: false,
        about: "take weir off the nodes of a cluster, before its DaemonSet goes",
        notes: "Open connections drain first. The agents then idle until the DaemonSet is deleted. It marks weir's \
                namespace with the annotation weir.dev/uninstall, whose value is the UID of the DaemonSet.",
    },
    Object {
        name: "version",
        commands: &[command("", None, &[], "this program's version; in a cluster also those that run there")],
        abbreviated: true,
        about: "versions",
        notes: "",
    },
    Object {
        name: "completion",
        commands: &[command_of(
            "",
            among("SHELL", "bash, zsh or fish", "{ bash | zsh | fish }", SHELLS),
            &[],
            "a script for a shell that completes command lines, on standard output",
        )],
        abbreviated: false,
        about: "completion for a shell",
        notes: "bash: source <(weirctl completion bash). zsh: weirctl completion zsh > \"${fpath[1]}/_weirctl\". fish: \
                weirctl completion fish > ~/.config/fish/completions/weirctl.fish. For `kubectl weir`: link this \
                program as kubectl-weir and as kubectl_complete-weir on the PATH; kubectl's own completion then asks it.",
    },
    Object {
        name: "man",
        commands: &[command_of(
            "",
            path("DIRECTORY", "a directory"),
            &[],
            "writes manual pages into a directory: weirctl.1, kubectl-weir.1 and one for each object",
        )],
        abbreviated: false,
        about: "manual pages",
        notes: "",
    },
];

const PROG: Option<Value> = among("PROG", "a program", "{ NAME | id ID }", &[]);
const STATUS: &[Opt] = &[flag(
    "check",
    None,
    "exit with 3 unless a proxy is ready, all answer, the pod source is well and no pod waits for weir",
)];
const ADMIN: Opt = option(
    "admin",
    None,
    path("ADDRESS", "an address or a path"),
    "the proxy's admin server, HOST:PORT or the path of a unix socket; default: 127.0.0.1:15000",
);
const VIEW: Opt = option(
    "view",
    None,
    named("NAME", "a view's name"),
    "of the view of this name (a namespace's, with --view of the proxy); default: the process's own",
);
const FQDN: Opt =
    option("fqdn", None, named("NAME", "a name"), "only of services, or clusters, with this in their name");
const PORT: Opt = option("port", None, named("PORT", "a port"), "only with this port");
const SUBSET: Opt = option("subset", None, named("SUBSET", "a subset"), "only of this subset");
const DIRECTION: Opt = option(
    "direction",
    None,
    among("DIRECTION", "inbound or outbound", "{ inbound | outbound }", &["inbound", "outbound"]),
    "only of this direction",
);
const NAME: Opt = option("name", None, named("NAME", "a name"), "only the routes, or the secret, of this name");
const ADDRESS: Opt = option("address", None, named("IP", "an address"), "only at this address");
const KIND: Opt = option(
    "type",
    None,
    among("TYPE", "a type of listener", "{ HTTP | TCP | HTTP+TCP | UNKNOWN }", &["HTTP", "TCP", "HTTP+TCP", "UNKNOWN"]),
    "only listeners of this type",
);
const HEALTH: Opt = option(
    "status",
    None,
    among(
        "STATUS",
        "a status",
        "{ HEALTHY | UNHEALTHY | DRAINING | DEGRADED | UNKNOWN }",
        &["HEALTHY", "UNHEALTHY", "DRAINING", "DEGRADED", "UNKNOWN"],
    ),
    "only endpoints of this status",
);
const LEVELS: &[&str] = &["trace", "debug", "info", "warning", "error", "critical", "off"];
/// Shells that completion is written for.
pub const SHELLS: &[&str] = &["bash", "zsh", "fish"];
/// Those whose entries can be told; the others hold sockets, or what is gone when it was read.
const MAPS: &[&str] = &[
    name::CONFIG,
    name::ENROLLED,
    name::SLOTS,
    name::PORT_RULES,
    name::EXCLUDED_CIDRS,
    name::PENDING,
    name::NODE_CONNECTIONS,
    name::COUNTERS,
    name::FLOWS,
    name::FAULTS,
];

/// Every option there is.
pub fn options() -> impl Iterator<Item = &'static Opt> {
    let commands = OBJECTS.iter().flat_map(|object| object.commands);
    GENERAL.iter().chain([&AGENT]).chain(CLUSTER).chain(commands.flat_map(|command| command.options))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Options may stand before their object: what follows one cannot depend on it.
    #[test]
    fn an_option_reads_the_same_everywhere() {
        for option in options() {
            for other in options() {
                if option.long == other.long {
                    assert_eq!(option.short, other.short, "--{}", option.long);
                    assert_eq!(option.value.is_some(), other.value.is_some(), "--{}", option.long);
                } else {
                    assert!(option.short.is_none() || option.short != other.short, "{} {}", option.long, other.long);
                }
            }
        }
    }
}
