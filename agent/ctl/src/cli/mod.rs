//! The command line: `[OPTIONS] OBJECT COMMAND [ARGUMENTS]`, options anywhere, names by unique prefix.

mod line;
mod question;

use std::{ffi::OsString, path::PathBuf, time::Duration};

use self::line::Line;
use crate::{
    grammar::{self, Command, HELP, OBJECTS, Object},
    output::Format,
    question::Question,
};

/// Names the agent's socket when no option does.
pub const SOCKET_VARIABLE: &str = "WEIR_AGENT_SOCKET";
/// Where the agent's socket is by default.
const SOCKET: &str = "/run/weir/agent.sock";
/// How long an agent may take to answer, and, for a trace, to start.
const AGENT_TIMEOUT: Duration = Duration::from_secs(5);
/// The same for a node of a cluster: through the API server, the kubelet and the container runtime.
const NODE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an uninstall waits.
const UNINSTALL_WAIT: Duration = Duration::from_secs(120);
/// weir's own namespace.
const WEIR_NAMESPACE: &str = "weir-system";

/// The object that is a whole cluster's always.
const UNINSTALL: &str = "uninstall";

/// What this program was started as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// weirctl: on a node, or for a cluster if an option says so.
    Weirctl,
    /// kubectl's plugin: for a cluster.
    Kubectl,
    /// What kubectl asks to complete that plugin's command lines.
    Completer,
}

impl Name {
    /// As which path it was started: kubectl finds its plugins by name.
    pub fn of(path: &std::path::Path) -> Self {
        match path.file_stem().and_then(|name| name.to_str()) {
            Some("kubectl-weir" | "kubectl_weir") => Self::Kubectl,
            Some("kubectl_complete-weir") => Self::Completer,
            _ => Self::Weirctl,
        }
    }

    /// As users type it.
    pub fn typed(self) -> &'static str {
        match self {
            Self::Weirctl => "weirctl",
            Self::Kubectl | Self::Completer => "kubectl weir",
        }
    }
}

/// A whole command line.
#[derive(Debug, PartialEq, Eq)]
pub struct Invocation {
    /// How to print.
    pub format: Format,
    /// Whether to say what is beside the answer whatever the format.
    pub notes: bool,
    /// What to do.
    pub action: Action,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Print help, on an object or in general.
    Help(Option<&'static Object>),
    /// Print this program's version.
    Version,
    /// Print versions, those in the cluster too.
    Versions(Cluster),
    /// Ask the agent of this node.
    Ask {
        /// What.
        question: Question,
        /// Its socket.
        socket: PathBuf,
        /// How long it may take.
        timeout: Duration,
    },
    /// Ask nodes of a cluster.
    AskCluster {
        /// What; pods by name.
        question: Question,
        /// Which cluster, and whom there.
        cluster: Cluster,
    },
    /// Take weir off the nodes of a cluster.
    Uninstall {
        /// Which.
        cluster: Cluster,
        /// How long they may take.
        wait: Duration,
    },
    /// Write a completion script for a shell.
    Completion(&'static str),
    /// Write manual pages.
    Man(PathBuf),
}

/// A cluster, and whom to ask there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Its kubeconfig, if not one that is found.
    pub kubeconfig: Option<PathBuf>,
    /// The context there, if not the current one.
    pub context: Option<String>,
    /// Pods of which namespaces.
    pub namespace: Namespace,
    /// weir's own.
    pub weir_namespace: String,
    /// Only this node.
    pub node: Option<String>,
    /// How long a node may take.
    pub timeout: Duration,
    /// The agents' socket, if not where it is by default.
    pub socket: Option<PathBuf>,
}

/// Pods of which namespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// That of the context.
    Current,
    /// This one.
    Named(String),
    /// All.
    All,
}

/// A command line that means nothing.
#[derive(Debug, PartialEq, Eq)]
pub struct UsageError {
    /// What is wrong and what was expected.
    pub message: String,
    /// Whose help may help.
    pub topic: Option<&'static Object>,
}

/// Parses the arguments after the program's name.
pub fn parse(
    name: Name,
    arguments: impl IntoIterator<Item = String>,
    socket_variable: Option<OsString>,
) -> Result<Invocation, UsageError> {
    let mut line = Line::split(arguments)?;
    let json = line.flag("json");
    let format = match (line.flag("pretty"), json, line.value("output").as_deref()) {
        (_, _, Some(other)) if !["json", "yaml"].contains(&other) => {
            return Err(line.error(format!("--output: {other:?}: expected json or yaml")));
        }
        (true, ..) => Format::Pretty,
        (false, true, _) => Format::Json,
        (false, false, Some("yaml")) => Format::Yaml,
        (false, false, Some(_)) => Format::Pretty,
        (false, false, None) => Format::Plain,
    };
    let notes = line.flag("notes");
    let action = line.action(name, socket_variable)?;
    line.finish()?;
    Ok(Invocation { format, notes, action })
}

impl Line {
    /// What is left means nothing any more.
    fn help(&mut self) -> Action {
        self.words.clear();
        self.options.clear();
        Action::Help(self.topic)
    }

    /// Help on what the next words name, an object and perhaps a command of it.
    fn help_on(&mut self) -> Result<Action, UsageError> {
        if let Some(topic) = self.word() {
            let names = OBJECTS.iter().map(|object| (object.name, object.abbreviated)).chain([(HELP, true)]);
            let topic = self.name("object", &topic, &names.collect::<Vec<_>>())?;
            self.topic = OBJECTS.iter().find(|known| known.name == topic);
            if let (Some(object), false) = (self.topic, self.words.is_empty()) {
                self.command(object)?;
            }
        }
        match self.word() {
            Some(word) => Err(self.error(format!("unexpected argument {word:?}"))),
            None => Ok(self.help()),
        }
    }

    fn action(&mut self, name: Name, socket_variable: Option<OsString>) -> Result<Action, UsageError> {
        if self.flag("version") {
            self.help();
            return Ok(Action::Version);
        }
        let help = self.flag("help");
        let Some(object) = self.word() else {
            return if help { Ok(self.help()) } else { Err(self.error("expected an object".to_owned())) };
        };
        let names = OBJECTS.iter().map(|object| (object.name, object.abbreviated)).chain([(HELP, true)]);
        let object = self.name("object", &object, &names.collect::<Vec<_>>())?;
        self.topic = OBJECTS.iter().find(|known| known.name == object);
        if object == HELP && !help {
            return self.help_on();
        }
        let Some(object) = self.topic.filter(|_| !help) else { return Ok(self.help()) };
        let Some(command) = self.command(object)? else { return Ok(self.help()) };

        let given = self.value("agent").or(self.value("socket")).map(PathBuf::from);
        let timeout = self.duration("timeout")?;
        let cluster = self.cluster(name, timeout, given.clone())?;
        match object.name {
            "version" => return Ok(cluster.map_or(Action::Version, Action::Versions)),
            "completion" => return self.completion(command),
            "man" => return Ok(Action::Man(self.required(command, "man")?.into())),
            UNINSTALL => {
                let wait = self.duration("wait")?.unwrap_or(UNINSTALL_WAIT);
                let mut cluster = cluster.ok_or_else(|| self.error("uninstall is for a cluster".to_owned()))?;
                // It is about no pods: the only namespace that can be meant is weir's own.
                if let Namespace::Named(namespace) = &cluster.namespace {
                    cluster.weir_namespace.clone_from(namespace);
                }
                return Ok(Action::Uninstall { cluster, wait });
            }
            _ => {}
        }
        let question = question::question(self, object, command)?;
        Ok(match cluster {
            Some(cluster) => Action::AskCluster { question, cluster },
            None => Action::Ask {
                question,
                socket: given.or(socket_variable.map(PathBuf::from)).unwrap_or_else(|| SOCKET.into()),
                timeout: timeout.unwrap_or(AGENT_TIMEOUT),
            },
        })
    }

    /// The name that `given` is, or that only it begins, of those that may be shortened.
    fn name(&self, what: &str, given: &str, names: &[(&'static str, bool)]) -> Result<&'static str, UsageError> {
        if let Some((name, _)) = names.iter().find(|(name, _)| *name == given) {
            return Ok(name);
        }
        let begun = names.iter().filter(|(name, abbreviated)| *abbreviated && name.starts_with(given));
        let matches: Vec<&'static str> = begun.map(|(name, _)| *name).collect();
        match matches[..] {
            [name] if !given.is_empty() => Ok(name),
            [] | [_] => {
                let names: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
                Err(self.error(format!("unknown {what} {given:?}; expected {}", names.join(", "))))
            }
            _ => Err(self.error(format!("{what} {given:?} is ambiguous: {}", matches.join(", ")))),
        }
    }

    /// The next word as a command of the object, the first one when there is none; none for help.
    fn command(&mut self, object: &'static Object) -> Result<Option<&'static Command>, UsageError> {
        let first = object.commands.first();
        if let Some(alone) = first.filter(|command| command.name.is_empty()) {
            return Ok(Some(alone).filter(|_| self.words.front().is_none_or(|word| word != HELP)));
        }
        let Some(given) = self.word() else {
            // What goes on until it is interrupted is not begun by the way.
            return if object.name == "event" {
                Err(self.error("event: expected trace or help".to_owned()))
            } else {
                Ok(first)
            };
        };
        let names = object.commands.iter().map(|command| command.name).chain([HELP]);
        let name = self.name("command", &given, &names.map(|name| (name, true)).collect::<Vec<_>>())?;
        Ok(object.commands.iter().find(|command| command.name == name))
    }

    /// The cluster to ask, if one is to be asked.
    fn cluster(
        &mut self,
        name: Name,
        timeout: Option<Duration>,
        socket: Option<PathBuf>,
    ) -> Result<Option<Cluster>, UsageError> {
        let own = self.topic.is_some_and(|object| object.name == UNINSTALL);
        let asked = self.flag("cluster") || self.has("kubeconfig") || self.has("context");
        if !asked && !own && name == Name::Weirctl {
            return match grammar::CLUSTER.iter().find(|option| self.has(option.long)) {
                Some(option) => {
                    Err(self
                        .error(format!("--{} is for a whole cluster: kubectl weir, or weirctl --cluster", option.long)))
                }
                None => Ok(None),
            };
        }
        let namespace = match (self.value("namespace"), self.flag("all-namespaces")) {
            (Some(_), true) => return Err(self.error("--namespace and --all-namespaces exclude each other".to_owned())),
            (Some(namespace), false) => Namespace::Named(namespace),
            (None, true) => Namespace::All,
            (None, false) => Namespace::Current,
        };
        Ok(Some(Cluster {
            kubeconfig: self.value("kubeconfig").map(PathBuf::from),
            context: self.value("context"),
            namespace,
            weir_namespace: self.value("weir-namespace").unwrap_or_else(|| WEIR_NAMESPACE.to_owned()),
            node: self.value("node"),
            timeout: timeout.unwrap_or(NODE_TIMEOUT),
            socket,
        }))
    }

    fn completion(&mut self, command: &Command) -> Result<Action, UsageError> {
        let given = self.required(command, "completion")?;
        match grammar::SHELLS.iter().find(|shell| **shell == given) {
            Some(shell) => Ok(Action::Completion(shell)),
            None => Err(self.error(format!("completion: {given:?}: expected bash, zsh or fish"))),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::question::Program;

    fn parse_line(line: &str) -> Result<Invocation, UsageError> {
        parse(Name::Weirctl, line.split_whitespace().map(str::to_owned), None)
    }

    #[track_caller]
    pub(super) fn asked(line: &str) -> Question {
        match parse_line(line).unwrap().action {
            Action::Ask { question, .. } => question,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub(super) fn refused(line: &str) -> String {
        parse_line(line).unwrap_err().message
    }

    #[test]
    fn objects_and_commands_shorten_to_unique_prefixes() {
        let pods = |pod: &str, all| Question::Pods { pod: pod.to_owned(), all };
        assert_eq!(asked("pod list"), pods("", false));
        assert_eq!(asked("po"), pods("", false));
        assert_eq!(asked("pod show"), pods("", false));
        assert_eq!(asked("pod l web"), pods("web", false));
        assert_eq!(asked("pod list --all"), pods("", true));
        assert_eq!(asked("pod sh default/web"), Question::Pod("default/web".to_owned()));
        let redirects = |pod: &str, all| Question::Redirects { pod: pod.to_owned(), all };
        assert_eq!(asked("r"), redirects("", false));
        assert_eq!(asked("red l web"), redirects("web", false));
        assert_eq!(asked("redirect list --all"), redirects("", true));
        assert_eq!(asked("redirect list web -a"), redirects("web", true));
        assert_eq!(refused("prog list --all"), "--all means nothing here");
        assert_eq!(asked("red s web"), Question::Setup("web".to_owned()));
        assert_eq!(asked("pr"), Question::Programs(Program::Any));
        assert_eq!(asked("prog show id 7"), Question::Programs(Program::Id(7)));
        assert_eq!(asked("prog show weir_connect4"), Question::Programs(Program::Name("weir_connect4".to_owned())));
        assert_eq!(asked("m d config"), Question::Dump("CONFIG".to_owned()));
        assert_eq!(asked("s"), Question::Status { check: false });
        assert_eq!(asked("status show --check"), Question::Status { check: true });
        assert_eq!(refused("p"), "object \"p\" is ambiguous: pod, prog");
        assert_eq!(
            refused("pods"),
            "unknown object \"pods\"; expected pod, redirect, prog, map, event, status, xds, proxy, uninstall, version, \
             completion, man, help"
        );
        assert_eq!(refused("map drop"), "unknown command \"drop\"; expected list, show, dump, help");
        assert_eq!(refused(""), "expected an object");
    }

    #[test]
    fn options_stand_anywhere() {
        for line in [
            "-j -s /a pod list web",
            "pod list web --json --socket=/a",
            "pod -js/a list web",
            "pod --agent /a l web -j",
        ] {
            let question = Question::Pods { pod: "web".to_owned(), all: false };
            let action = Action::Ask { question, socket: "/a".into(), timeout: AGENT_TIMEOUT };
            assert_eq!(parse_line(line).unwrap(), Invocation { format: Format::Json, notes: false, action }, "{line}");
        }
        assert_eq!(parse_line("-p pod").unwrap().format, Format::Pretty);
        assert_eq!(parse_line("-jp pod").unwrap().format, Format::Pretty);
        assert_eq!(parse_line("-o json pod").unwrap().format, Format::Pretty);
        assert_eq!(parse_line("pod -oyaml").unwrap().format, Format::Yaml);
        assert_eq!(refused("pod -o xml"), "--output: \"xml\": expected json or yaml");
        assert_eq!(asked("pod show -- -web"), Question::Pod("-web".to_owned()));
    }

    #[test]
    fn the_socket_comes_from_the_option_the_environment_or_the_default() {
        let socket = |line: &str, variable: Option<&str>| {
            let words = line.split_whitespace().map(str::to_owned);
            match parse(Name::Weirctl, words, variable.map(Into::into)).unwrap().action {
                Action::Ask { socket, .. } => socket,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(socket("-s /a pod", Some("/b")), PathBuf::from("/a"));
        assert_eq!(socket("pod", Some("/b")), PathBuf::from("/b"));
        assert_eq!(socket("pod", None), PathBuf::from("/run/weir/agent.sock"));
    }

    #[test]
    fn help_and_version_are_found_at_every_level() {
        for (line, topic) in [
            ("help", None),
            ("-h", None),
            ("-j help", None),
            ("pod help", Some("pod")),
            ("redirect -h", Some("redirect")),
            ("redirect show --to 1.1.1.1:1 --help", Some("redirect")),
            ("prog h", Some("prog")),
            ("map help", Some("map")),
            ("event help", Some("event")),
            ("help", None),
            ("help help", None),
            ("help event", Some("event")),
            ("help ev tr", Some("event")),
            ("help pod help", Some("pod")),
            ("status help", Some("status")),
            ("uninstall help", Some("uninstall")),
            ("completion help", Some("completion")),
            ("man -h", Some("man")),
            ("version help", Some("version")),
        ] {
            match parse_line(line).unwrap().action {
                Action::Help(object) => assert_eq!(object.map(|object| object.name), topic, "{line}"),
                other => panic!("{line}: {other:?}"),
            }
        }
        for line in ["version", "-V", "--version", "v"] {
            assert_eq!(parse_line(line).unwrap().action, Action::Version, "{line}");
        }
    }

    #[test]
    fn what_means_nothing_is_refused() {
        assert!(refused("help pdo").starts_with("unknown object \"pdo\"; expected "));
        assert_eq!(refused("help pod lst"), "unknown command \"lst\"; expected list, show, help");
        assert_eq!(refused("help pod list a"), "unexpected argument \"a\"");
        assert_eq!(refused("pod list a b"), "unexpected argument \"b\"");
        assert_eq!(refused("pod list --follow"), "--follow means nothing here");
        assert_eq!(refused("--nope pod"), "unknown option --nope");
        assert_eq!(refused("-x pod"), "unknown option -x");
        assert_eq!(refused("pod --json=yes"), "--json takes no value, got \"yes\"");
        assert_eq!(refused("map dump"), "map dump: expected the name of a map");
        assert_eq!(refused("prog show id x"), "id: \"x\": expected a number");
        assert_eq!(parse_line("map drop").unwrap_err().topic.unwrap().name, "map");
    }

    #[track_caller]
    fn cluster(name: Name, line: &str) -> (Question, Cluster) {
        match parse(name, line.split_whitespace().map(str::to_owned), None).unwrap().action {
            Action::AskCluster { question, cluster } => (question, cluster),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn a_cluster_is_asked_by_name_or_option() {
        assert_eq!(Name::of("/usr/local/bin/kubectl-weir".as_ref()), Name::Kubectl);
        assert_eq!(Name::of("./weirctl".as_ref()), Name::Weirctl);
        assert_eq!(Name::of("/usr/bin/kubectl_complete-weir".as_ref()), Name::Completer);
        let (question, asked) = cluster(Name::Kubectl, "pod list -n demo");
        assert_eq!(question, Question::Pods { pod: String::new(), all: false });
        let all = Cluster {
            kubeconfig: None,
            context: None,
            namespace: Namespace::Named("demo".to_owned()),
            weir_namespace: "weir-system".to_owned(),
            node: None,
            timeout: NODE_TIMEOUT,
            socket: None,
        };
        assert_eq!(asked, all);
        let line = "map dump flows --kubeconfig /k --context c -A --weir-namespace w --node n1 --timeout 3s -s /a";
        let (question, asked) = cluster(Name::Weirctl, line);
        assert_eq!(question, Question::Dump("FLOWS".to_owned()));
        let every = Cluster {
            kubeconfig: Some("/k".into()),
            context: Some("c".to_owned()),
            namespace: Namespace::All,
            weir_namespace: "w".to_owned(),
            node: Some("n1".to_owned()),
            timeout: Duration::from_secs(3),
            socket: Some("/a".into()),
        };
        assert_eq!(asked, every);
        assert_eq!(cluster(Name::Weirctl, "--cluster status").1.namespace, Namespace::Current);
        for (line, message) in [
            ("pod list -n demo", "--namespace is for a whole cluster: kubectl weir, or weirctl --cluster"),
            ("pod list -A", "--all-namespaces is for a whole cluster: kubectl weir, or weirctl --cluster"),
            ("--cluster pod list -A -n demo", "--namespace and --all-namespaces exclude each other"),
            ("pod list --timeout 0s", "--timeout: \"0s\": expected a duration like 500ms, 10s or 1m"),
        ] {
            assert_eq!(refused(line), message, "{line}");
        }
    }

    #[test]
    fn an_uninstall_is_a_clusters_always() {
        match parse_line("uninstall --wait 30s -n mesh").unwrap().action {
            Action::Uninstall { cluster, wait } => {
                assert_eq!((cluster.weir_namespace.as_str(), wait), ("mesh", Duration::from_secs(30)));
            }
            other => panic!("{other:?}"),
        }
        assert!(refused("uninst").starts_with("unknown object \"uninst\""), "what removes is written out");
        assert_eq!(refused("uninstall --wait soon"), "--wait: \"soon\": expected a duration like 500ms, 10s or 1m");
    }

    #[test]
    fn completion_and_pages_say_where_to() {
        assert_eq!(parse_line("completion bash").unwrap().action, Action::Completion("bash"));
        assert_eq!(parse_line("man /tmp/man").unwrap().action, Action::Man("/tmp/man".into()));
        assert_eq!(refused("completion"), "completion: expected bash, zsh or fish");
        assert_eq!(refused("completion tcsh"), "completion: \"tcsh\": expected bash, zsh or fish");
        assert_eq!(refused("man"), "man: expected a directory");
    }
}
