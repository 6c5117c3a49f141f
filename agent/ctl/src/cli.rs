//! The command line: `[OPTIONS] OBJECT COMMAND [ARGUMENTS]`, options anywhere, names by unique prefix.

use std::{ffi::OsString, net::IpAddr, net::SocketAddr, path::PathBuf, time::Duration};

use weir_abi::Rule;

use crate::{output::Format, usage::Topic};

/// Names the agent's socket when no option does.
pub const SOCKET_VARIABLE: &str = "WEIR_AGENT_SOCKET";
/// Where the agent's socket is by default.
const SOCKET: &str = "/run/weir/agent.sock";
/// How long `event trace` watches when nothing says when to stop.
const SNAPSHOT: Duration = Duration::from_secs(2);

/// A whole command line.
#[derive(Debug, PartialEq, Eq)]
pub struct Invocation {
    /// How to print.
    pub format: Format,
    /// The agent's socket.
    pub socket: PathBuf,
    /// What to do.
    pub action: Action,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Print help.
    Help(Topic),
    /// Print weirctl's version.
    Version,
    /// Ask the agent.
    Ask(Question),
}

/// What to ask the agent.
#[derive(Debug, PartialEq, Eq)]
pub enum Question {
    /// `status`.
    Status {
        /// Whether the exit code tells of what needs attention.
        check: bool,
    },
    /// `pod list`, "" for all.
    Pods(String),
    /// `pod show POD`.
    Pod(String),
    /// `redirect list`.
    Redirects {
        /// The pod, "" for all.
        pod: String,
        /// Whether to show the proxy's own connections too.
        all: bool,
    },
    /// `redirect show POD`.
    RedirectSetup(String),
    /// `redirect show POD --to`.
    Explain(Explain),
    /// `prog list`.
    Programs(Program),
    /// `map list`.
    Maps,
    /// `map dump`.
    Dump(String),
    /// `event trace`.
    Trace(Trace),
}

/// Which programs to show.
#[derive(Debug, PartialEq, Eq)]
pub enum Program {
    /// All.
    Any,
    /// The one with this kernel id.
    Id(u32),
    /// Those of this name.
    Name(String),
}

/// A connection to explain.
#[derive(Debug, PartialEq, Eq)]
pub struct Explain {
    /// The pod.
    pub pod: String,
    /// The destination.
    pub to: SocketAddr,
    /// Who connects.
    pub from: String,
    /// What it speaks.
    pub protocol: String,
}

/// What to watch and when to stop.
#[derive(Debug, PartialEq, Eq)]
pub struct Trace {
    /// The pod, "" for all.
    pub pod: String,
    /// The verdict, "" for all.
    pub verdict: String,
    /// Stop after so many events.
    pub count: Option<u64>,
    /// Stop after so long.
    pub duration: Option<Duration>,
}

/// A command line that means nothing.
#[derive(Debug, PartialEq, Eq)]
pub struct UsageError {
    /// What is wrong and what was expected.
    pub message: String,
    /// Whose help may help.
    pub topic: Topic,
}

const OBJECTS: &[&str] = &["pod", "redirect", "prog", "map", "event", "status", "version", "help"];
const LIST_SHOW: &[&str] = &["list", "show", "help"];
const MAP_COMMANDS: &[&str] = &["list", "show", "dump", "help"];
const EVENT_COMMANDS: &[&str] = &["trace", "help"];

/// An option: its names and whether a value follows.
struct Spec {
    long: &'static str,
    short: Option<char>,
    takes: Option<&'static str>,
}

const OPTIONS: &[Spec] = &[
    Spec { long: "json", short: Some('j'), takes: None },
    Spec { long: "pretty", short: Some('p'), takes: None },
    Spec { long: "socket", short: Some('s'), takes: Some("a path") },
    Spec { long: "agent", short: None, takes: Some("a path") },
    Spec { long: "version", short: Some('V'), takes: None },
    Spec { long: "help", short: Some('h'), takes: None },
    Spec { long: "to", short: None, takes: Some("IP:PORT") },
    Spec { long: "from", short: None, takes: Some("pod, node, host-pod or an IP address") },
    Spec { long: "protocol", short: None, takes: Some("tcp, mptcp or udp") },
    Spec { long: "verdict", short: None, takes: Some("an action, close or a rule") },
    Spec { long: "follow", short: Some('f'), takes: None },
    Spec { long: "count", short: Some('c'), takes: Some("a number") },
    Spec { long: "for", short: None, takes: Some("a duration") },
    Spec { long: "check", short: None, takes: None },
    Spec { long: "all", short: Some('a'), takes: None },
];

/// Parses the arguments after the program's name.
pub fn parse(
    arguments: impl IntoIterator<Item = String>,
    socket_variable: Option<OsString>,
) -> Result<Invocation, UsageError> {
    let mut line = Line::split(arguments)?;
    let json = line.flag("json");
    let format = match (line.flag("pretty"), json) {
        (true, _) => Format::Pretty,
        (false, true) => Format::Json,
        (false, false) => Format::Plain,
    };
    let socket = line.value("agent").or(line.value("socket")).map(PathBuf::from);
    let socket = socket.or(socket_variable.map(PathBuf::from)).unwrap_or_else(|| SOCKET.into());
    let action = line.action()?;
    line.finish()?;
    Ok(Invocation { format, socket, action })
}

/// The arguments, taken off as they are understood.
struct Line {
    topic: Topic,
    words: std::collections::VecDeque<String>,
    options: Vec<(&'static str, String)>,
}

impl Line {
    fn split(arguments: impl IntoIterator<Item = String>) -> Result<Self, UsageError> {
        let mut line = Self { topic: Topic::General, words: Default::default(), options: Vec::new() };
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            if argument == "--" {
                line.words.extend(arguments);
                break;
            }
            if let Some(long) = argument.strip_prefix("--") {
                let (name, value) = long.split_once('=').map_or((long, None), |(name, value)| (name, Some(value)));
                let spec = OPTIONS.iter().find(|spec| spec.long == name);
                let spec = spec.ok_or_else(|| line.error(format!("unknown option --{name}")))?;
                line.option(spec, &format!("--{name}"), value.map(str::to_owned), &mut arguments)?;
            } else if let Some(shorts) = argument.strip_prefix('-').filter(|shorts| !shorts.is_empty()) {
                for (at, short) in shorts.char_indices() {
                    let spec = OPTIONS.iter().find(|spec| spec.short == Some(short));
                    let spec = spec.ok_or_else(|| line.error(format!("unknown option -{short}")))?;
                    let rest = &shorts[at + short.len_utf8()..];
                    let value = (spec.takes.is_some() && !rest.is_empty()).then(|| rest.to_owned());
                    line.option(spec, &format!("-{short}"), value, &mut arguments)?;
                    if spec.takes.is_some() {
                        break;
                    }
                }
            } else {
                line.words.push_back(argument);
            }
        }
        Ok(line)
    }

    fn option(
        &mut self,
        spec: &Spec,
        written: &str,
        value: Option<String>,
        rest: &mut impl Iterator<Item = String>,
    ) -> Result<(), UsageError> {
        let value = match (spec.takes, value) {
            (None, None) => String::new(),
            (None, Some(value)) => return Err(self.error(format!("{written} takes no value, got {value:?}"))),
            (Some(_), Some(value)) => value,
            (Some(expected), None) => {
                rest.next().ok_or_else(|| self.error(format!("{written}: expected {expected} after it")))?
            }
        };
        if spec.takes.is_some() && self.options.iter().any(|(name, _)| *name == spec.long) {
            return Err(self.error(format!("{written} is given twice")));
        }
        self.options.push((spec.long, value));
        Ok(())
    }

    fn error(&self, message: String) -> UsageError {
        UsageError { message, topic: self.topic }
    }

    fn flag(&mut self, name: &str) -> bool {
        let before = self.options.len();
        self.options.retain(|(given, _)| *given != name);
        self.options.len() < before
    }

    fn value(&mut self, name: &str) -> Option<String> {
        let at = self.options.iter().position(|(given, _)| *given == name)?;
        Some(self.options.remove(at).1)
    }

    fn word(&mut self) -> Option<String> {
        self.words.pop_front()
    }

    /// Nothing may be left over.
    fn finish(mut self) -> Result<(), UsageError> {
        if let Some(word) = self.word() {
            return Err(self.error(format!("unexpected argument {word:?}")));
        }
        match self.options.first() {
            Some((name, _)) => Err(self.error(format!("--{name} means nothing here"))),
            None => Ok(()),
        }
    }

    fn action(&mut self) -> Result<Action, UsageError> {
        if self.flag("version") {
            self.words.clear();
            return Ok(Action::Version);
        }
        let help = self.flag("help");
        let Some(object) = self.word() else {
            return if help {
                Ok(Action::Help(Topic::General))
            } else {
                Err(self.error("expected an object".to_owned()))
            };
        };
        let object = self.name("object", &object, OBJECTS)?;
        self.topic = match object {
            "pod" => Topic::Pod,
            "redirect" => Topic::Redirect,
            "prog" => Topic::Prog,
            "map" => Topic::Map,
            "event" => Topic::Event,
            "status" => Topic::Status,
            _ => Topic::General,
        };
        if help || object == "help" {
            self.words.clear();
            return Ok(Action::Help(self.topic));
        }
        match object {
            "pod" => self.pod(),
            "redirect" => self.redirect(),
            "prog" => self.prog(),
            "map" => self.map(),
            "event" => self.event(),
            "status" => self.status(),
            _ => Ok(Action::Version),
        }
    }

    /// The name that `given` is, or that only it begins.
    fn name(&self, what: &str, given: &str, names: &[&'static str]) -> Result<&'static str, UsageError> {
        if let Some(name) = names.iter().find(|name| **name == given) {
            return Ok(name);
        }
        let matches: Vec<&'static str> = names.iter().copied().filter(|name| name.starts_with(given)).collect();
        match matches[..] {
            [name] if !given.is_empty() => Ok(name),
            [] | [_] => Err(self.error(format!("unknown {what} {given:?}; expected {}", names.join(", ")))),
            _ => Err(self.error(format!("{what} {given:?} is ambiguous: {}", matches.join(", ")))),
        }
    }

    /// The next word as a command; the first one of `names` when there is none.
    fn command(&mut self, names: &[&'static str]) -> Result<&'static str, UsageError> {
        match self.word() {
            Some(given) => self.name("command", &given, names),
            None => Ok(names[0]),
        }
    }

    fn help(&mut self) -> Result<Action, UsageError> {
        self.words.clear();
        Ok(Action::Help(self.topic))
    }

    fn pod(&mut self) -> Result<Action, UsageError> {
        let question = match (self.command(LIST_SHOW)?, self.word()) {
            ("help", _) => return self.help(),
            ("show", Some(pod)) => Question::Pod(pod),
            (_, pod) => Question::Pods(pod.unwrap_or_default()),
        };
        Ok(Action::Ask(question))
    }

    fn redirect(&mut self) -> Result<Action, UsageError> {
        let question = match (self.command(LIST_SHOW)?, self.word()) {
            ("help", _) => return self.help(),
            ("show", Some(pod)) => self.redirect_show(pod)?,
            ("show", None) if self.options.iter().any(|(name, _)| *name != "all") => {
                return Err(self.error("redirect show: expected a pod".to_owned()));
            }
            (_, pod) => Question::Redirects { pod: pod.unwrap_or_default(), all: self.flag("all") },
        };
        Ok(Action::Ask(question))
    }

    fn redirect_show(&mut self, pod: String) -> Result<Question, UsageError> {
        let (to, from, protocol) = (self.value("to"), self.value("from"), self.value("protocol"));
        let Some(to) = to else {
            return match (from, protocol) {
                (None, None) => Ok(Question::RedirectSetup(pod)),
                _ => Err(self.error("--from and --protocol belong to --to IP:PORT".to_owned())),
            };
        };
        let to = to.parse().map_err(|_| self.error(format!("--to: {to:?}: expected IP:PORT, IPv6 as [IP]:PORT")))?;
        let from = from.unwrap_or_else(|| "pod".to_owned());
        if !matches!(from.as_str(), "pod" | "node" | "host-pod") && from.parse::<IpAddr>().is_err() {
            return Err(self.error(format!("--from: {from:?}: expected pod, node, host-pod or an IP address")));
        }
        let protocol = protocol.unwrap_or_else(|| "tcp".to_owned());
        if !matches!(protocol.as_str(), "tcp" | "mptcp" | "udp") {
            return Err(self.error(format!("--protocol: {protocol:?}: expected tcp, mptcp or udp")));
        }
        Ok(Question::Explain(Explain { pod, to, from, protocol }))
    }

    fn prog(&mut self) -> Result<Action, UsageError> {
        if self.command(LIST_SHOW)? == "help" {
            return self.help();
        }
        let program = match self.word() {
            None => Program::Any,
            Some(word) if word == "id" => {
                let id = self.word().ok_or_else(|| self.error("id: expected a number after it".to_owned()))?;
                Program::Id(id.parse().map_err(|_| self.error(format!("id: {id:?}: expected a number")))?)
            }
            Some(name) => Program::Name(name),
        };
        Ok(Action::Ask(Question::Programs(program)))
    }

    fn map(&mut self) -> Result<Action, UsageError> {
        let question = match self.command(MAP_COMMANDS)? {
            "help" => return self.help(),
            "dump" => {
                let name = self.word();
                let name = name.ok_or_else(|| self.error("map dump: expected the name of a map".to_owned()))?;
                Question::Dump(name.to_ascii_uppercase())
            }
            _ => Question::Maps,
        };
        Ok(Action::Ask(question))
    }

    fn event(&mut self) -> Result<Action, UsageError> {
        let Some(given) = self.word() else { return Err(self.error("event: expected trace or help".to_owned())) };
        if self.name("command", &given, EVENT_COMMANDS)? == "help" {
            return self.help();
        }
        let pod = self.word().unwrap_or_default();
        let verdict = self.value("verdict").unwrap_or_default();
        const OUTCOMES: [&str; 6] = ["", "redirect", "steer", "pass", "refuse", "close"];
        if !OUTCOMES.contains(&verdict.as_str()) && !Rule::ALL.iter().any(|rule| rule.name() == verdict) {
            let rules = Rule::ALL.map(Rule::name).join(", ");
            let message = format!("--verdict: {verdict:?}: expected {} or a rule: {rules}", OUTCOMES[1..].join(", "));
            return Err(self.error(message));
        }
        let count = match self.value("count") {
            None => None,
            Some(text) => match text.parse() {
                Ok(count) if count > 0 => Some(count),
                _ => return Err(self.error(format!("--count: {text:?}: expected a number of events, at least 1"))),
            },
        };
        let duration = match self.value("for") {
            None => None,
            Some(text) => match humantime::parse_duration(&text) {
                Ok(duration) => Some(duration),
                Err(_) => return Err(self.error(format!("--for: {text:?}: expected a duration like 500ms, 10s or 1m"))),
            },
        };
        let bounded = self.flag("follow") || count.is_some() || duration.is_some();
        let duration = if bounded { duration } else { Some(SNAPSHOT) };
        Ok(Action::Ask(Question::Trace(Trace { pod, verdict, count, duration })))
    }

    fn status(&mut self) -> Result<Action, UsageError> {
        if let Some(given) = self.word() {
            let command = self.name("command", &given, LIST_SHOW)?;
            if command == "help" {
                return self.help();
            }
        }
        Ok(Action::Ask(Question::Status { check: self.flag("check") }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_line(line: &str) -> Result<Invocation, UsageError> {
        parse(line.split_whitespace().map(str::to_owned), None)
    }

    #[track_caller]
    fn asked(line: &str) -> Question {
        match parse_line(line).unwrap().action {
            Action::Ask(question) => question,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn refused(line: &str) -> String {
        parse_line(line).unwrap_err().message
    }

    fn trace(pod: &str, verdict: &str, count: Option<u64>, duration: Option<Duration>) -> Question {
        Question::Trace(Trace { pod: pod.to_owned(), verdict: verdict.to_owned(), count, duration })
    }

    #[test]
    fn objects_and_commands_shorten_to_unique_prefixes() {
        assert_eq!(asked("pod list"), Question::Pods(String::new()));
        assert_eq!(asked("po"), Question::Pods(String::new()));
        assert_eq!(asked("pod show"), Question::Pods(String::new()));
        assert_eq!(asked("pod l web"), Question::Pods("web".to_owned()));
        assert_eq!(asked("pod sh default/web"), Question::Pod("default/web".to_owned()));
        let redirects = |pod: &str, all| Question::Redirects { pod: pod.to_owned(), all };
        assert_eq!(asked("r"), redirects("", false));
        assert_eq!(asked("red l web"), redirects("web", false));
        assert_eq!(asked("redirect list --all"), redirects("", true));
        assert_eq!(asked("redirect list web -a"), redirects("web", true));
        assert_eq!(refused("pod list --all"), "--all means nothing here");
        assert_eq!(asked("red s web"), Question::RedirectSetup("web".to_owned()));
        assert_eq!(asked("pr"), Question::Programs(Program::Any));
        assert_eq!(asked("prog show id 7"), Question::Programs(Program::Id(7)));
        assert_eq!(asked("prog show weir_connect4"), Question::Programs(Program::Name("weir_connect4".to_owned())));
        assert_eq!(asked("m d config"), Question::Dump("CONFIG".to_owned()));
        assert_eq!(asked("s"), Question::Status { check: false });
        assert_eq!(asked("status show --check"), Question::Status { check: true });
        assert_eq!(refused("p"), "object \"p\" is ambiguous: pod, prog");
        assert_eq!(
            refused("pods"),
            "unknown object \"pods\"; expected pod, redirect, prog, map, event, status, version, help"
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
            let invocation = parse_line(line).unwrap();
            assert_eq!((invocation.format, invocation.socket), (Format::Json, PathBuf::from("/a")), "{line}");
            assert_eq!(invocation.action, Action::Ask(Question::Pods("web".to_owned())), "{line}");
        }
        assert_eq!(parse_line("-p pod").unwrap().format, Format::Pretty);
        assert_eq!(parse_line("-jp pod").unwrap().format, Format::Pretty);
        assert_eq!(asked("pod list -- -web"), Question::Pods("-web".to_owned()));
    }

    #[test]
    fn the_socket_comes_from_the_option_the_environment_or_the_default() {
        let socket = |line: &str, variable: Option<&str>| {
            parse(line.split_whitespace().map(str::to_owned), variable.map(Into::into)).unwrap().socket
        };
        assert_eq!(socket("-s /a pod", Some("/b")), PathBuf::from("/a"));
        assert_eq!(socket("pod", Some("/b")), PathBuf::from("/b"));
        assert_eq!(socket("pod", None), PathBuf::from("/run/weir/agent.sock"));
    }

    #[test]
    fn help_and_version_are_found_at_every_level() {
        for (line, topic) in [
            ("help", Topic::General),
            ("-h", Topic::General),
            ("pod help", Topic::Pod),
            ("redirect -h", Topic::Redirect),
            ("redirect show --help", Topic::Redirect),
            ("prog h", Topic::Prog),
            ("map help", Topic::Map),
            ("event help", Topic::Event),
            ("status help", Topic::Status),
        ] {
            assert_eq!(parse_line(line).unwrap().action, Action::Help(topic), "{line}");
        }
        for line in ["version", "-V", "--version", "v"] {
            assert_eq!(parse_line(line).unwrap().action, Action::Version, "{line}");
        }
    }

    #[test]
    fn a_connection_to_explain_is_checked_before_anybody_is_asked() {
        let explain = |to: &str, from: &str, protocol: &str| {
            Question::Explain(Explain {
                pod: "web".to_owned(),
                to: to.parse().unwrap(),
                from: from.to_owned(),
                protocol: protocol.to_owned(),
            })
        };
        assert_eq!(asked("redirect show web --to 10.0.0.1:80"), explain("10.0.0.1:80", "pod", "tcp"));
        assert_eq!(
            asked("redirect show web --to [fd00::1]:80 --from node --protocol mptcp"),
            explain("[fd00::1]:80", "node", "mptcp")
        );
        assert_eq!(
            asked("redirect show web --to 10.0.0.1:80 --from fd00::9"),
            explain("10.0.0.1:80", "fd00::9", "tcp")
        );
        for (line, message) in [
            ("redirect show web --to 10.0.0.1", "--to: \"10.0.0.1\": expected IP:PORT, IPv6 as [IP]:PORT"),
            ("redirect show web --to", "--to: expected IP:PORT after it"),
            ("redirect show --to 10.0.0.1:80", "redirect show: expected a pod"),
            ("redirect show web --from node", "--from and --protocol belong to --to IP:PORT"),
            (
                "redirect show web --to 10.0.0.1:80 --from kubelet",
                "--from: \"kubelet\": expected pod, node, host-pod or an IP address",
            ),
            ("redirect show web --to 10.0.0.1:80 --protocol sctp", "--protocol: \"sctp\": expected tcp, mptcp or udp"),
            ("redirect show web --to 1.1.1.1:1 --to 1.1.1.1:2", "--to is given twice"),
        ] {
            assert_eq!(refused(line), message, "{line}");
        }
    }

    #[test]
    fn a_trace_ends_when_it_is_told_to() {
        assert_eq!(asked("event trace"), trace("", "", None, Some(SNAPSHOT)));
        assert_eq!(asked("event trace web --follow"), trace("web", "", None, None));
        assert_eq!(asked("e t -f --verdict refuse"), trace("", "refuse", None, None));
        assert_eq!(asked("event trace -c 5 --verdict node-probe"), trace("", "node-probe", Some(5), None));
        assert_eq!(asked("event trace --for 10s -c5"), trace("", "", Some(5), Some(Duration::from_secs(10))));
        assert_eq!(refused("event"), "event: expected trace or help");
        assert_eq!(refused("event trace -c 0"), "--count: \"0\": expected a number of events, at least 1");
        assert_eq!(refused("event trace --for soon"), "--for: \"soon\": expected a duration like 500ms, 10s or 1m");
        let message = refused("event trace --verdict drop");
        assert!(
            message.starts_with(
                "--verdict: \"drop\": expected redirect, steer, pass, refuse, close or a rule: not-enrolled, "
            ),
            "{message}"
        );
    }

    #[test]
    fn what_means_nothing_is_refused() {
        assert_eq!(refused("pod list a b"), "unexpected argument \"b\"");
        assert_eq!(refused("pod list --follow"), "--follow means nothing here");
        assert_eq!(refused("--nope pod"), "unknown option --nope");
        assert_eq!(refused("-x pod"), "unknown option -x");
        assert_eq!(refused("pod --json=yes"), "--json takes no value, got \"yes\"");
        assert_eq!(refused("map dump"), "map dump: expected the name of a map");
        assert_eq!(refused("prog show id x"), "id: \"x\": expected a number");
        assert_eq!(parse_line("map drop").unwrap_err().topic, Topic::Map);
    }
}
