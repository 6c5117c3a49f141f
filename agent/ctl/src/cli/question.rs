//! What an agent is asked: the part of a command line after its object.

use std::{net::IpAddr, time::Duration};

use weir_abi::Rule;

use super::{UsageError, line::Line};
use crate::{
    grammar::{Command, Object},
    proxy::{Asked, Filter, What},
    question::{Explain, Program, Question, Trace},
};

/// How long `event trace` watches when nothing says when to stop.
const SNAPSHOT: Duration = Duration::from_secs(2);

/// The question of an object's command.
pub(super) fn question(line: &mut Line, object: &Object, command: &Command) -> Result<Question, UsageError> {
    Ok(match object.name {
        "pod" => line.pod(command),
        "redirect" => line.redirect(command)?,
        "prog" => line.prog()?,
        "map" if command.name == "dump" => Question::Dump(line.required(command, "map dump")?.to_ascii_uppercase()),
        "map" => Question::Maps,
        "event" => line.trace()?,
        "xds" => Question::Xds { admin: line.value("admin") },
        "proxy" => line.proxy(command)?,
        _ => Question::Status { check: line.flag("check") },
    })
}

impl Line {
    fn pod(&mut self, command: &Command) -> Question {
        match (command.name, self.word()) {
            ("show", Some(pod)) => Question::Pod(pod),
            (_, pod) => Question::Pods { pod: pod.unwrap_or_default(), all: self.flag("all") },
        }
    }

    fn redirect(&mut self, command: &Command) -> Result<Question, UsageError> {
        match (command.name, self.word()) {
            ("show", Some(pod)) => self.redirect_show(pod),
            ("show", None) if ["to", "from", "protocol"].iter().any(|option| self.has(option)) => {
                Err(self.error("redirect show: expected a pod".to_owned()))
            }
            (_, pod) => Ok(Question::Redirects { pod: pod.unwrap_or_default(), all: self.flag("all") }),
        }
    }

    fn redirect_show(&mut self, pod: String) -> Result<Question, UsageError> {
        let (to, from, protocol) = (self.value("to"), self.value("from"), self.value("protocol"));
        let Some(to) = to else {
            return match (from, protocol) {
                (None, None) => Ok(Question::Setup(pod)),
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

    fn prog(&mut self) -> Result<Question, UsageError> {
        Ok(Question::Programs(match self.word() {
            None => Program::Any,
            Some(word) if word == "id" => {
                let id = self.word().ok_or_else(|| self.error("id: expected a number after it".to_owned()))?;
                Program::Id(id.parse().map_err(|_| self.error(format!("id: {id:?}: expected a number")))?)
            }
            Some(name) => Program::Name(name),
        }))
    }

    fn proxy(&mut self, command: &Command) -> Result<Question, UsageError> {
        let level = if command.name == "log" { self.word() } else { None };
        let port = match self.value("port") {
            None => None,
            Some(text) => match text.parse() {
                Ok(port) => Some(port),
                Err(_) => return Err(self.error(format!("--port: {text:?}: expected a port"))),
            },
        };
        let mut option = |name: &str| self.value(name);
        let filter = Filter {
            fqdn: option("fqdn"),
            port,
            subset: option("subset"),
            direction: option("direction"),
            name: option("name"),
            address: option("address"),
            kind: option("type"),
            status: option("status"),
        };
        // What a command has no such column of is not filtered by it.
        let own = |name: &str| command.options.iter().any(|own| own.long == name);
        if let Some((name, _)) = filter.options().iter().find(|(name, _)| !own(name)) {
            return Err(self.error(format!("--{name} means nothing here")));
        }
        let view = self.value("view");
        if view.is_some() && !own("view") {
            return Err(self.error("--view means nothing here".to_owned()));
        }
        let what = What::of(command.name).map_or_else(|| What::TABLES.to_vec(), |what| vec![what]);
        let admin = self.value("admin");
        Ok(Question::Proxy { asked: Box::new(Asked { what, view, filter, level }), admin })
    }

    fn trace(&mut self) -> Result<Question, UsageError> {
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
        let duration = self.duration("for")?;
        let until_stdin_ends = self.flag("stdin");
        let bounded = self.flag("follow") || count.is_some() || duration.is_some() || until_stdin_ends;
        let duration = if bounded { duration } else { Some(SNAPSHOT) };
        Ok(Question::Trace(Trace { pod, verdict, count, duration, until_stdin_ends }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{
        Action, Name, parse,
        tests::{asked, refused},
    };

    fn trace(pod: &str, verdict: &str, count: Option<u64>, duration: Option<Duration>) -> Question {
        let (pod, verdict) = (pod.to_owned(), verdict.to_owned());
        Question::Trace(Trace { pod, verdict, count, duration, until_stdin_ends: false })
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
    fn a_question_is_the_command_line_that_asks_it() {
        for line in [
            "status",
            "status --check",
            "pod list",
            "pod list -a web",
            "pod show -- -web",
            "redirect list",
            "redirect list demo/web --all",
            "redirect show web",
            "redirect show web --to [fd00::1]:80 --from node --protocol mptcp",
            "prog",
            "prog show id 7",
            "prog show weir_connect4",
            "map",
            "map dump flows",
            "event trace",
            "event trace web --stdin --verdict refuse -c 5 --for 1m",
            "xds",
            "xds status --admin /run/admin.sock",
            "proxy",
            "proxy all --fqdn reviews --port 80",
            "proxy cluster --subset v1 --direction outbound --admin 127.0.0.1:9901",
            "proxy listener --address 0.0.0.0 --type TCP",
            "proxy endpoint --status HEALTHY --view shop",
            "proxy log upstream:debug",
        ] {
            let question = asked(line);
            let again = parse(Name::Weirctl, question.arguments(), None).unwrap().action;
            assert!(matches!(again, Action::Ask { question: again, .. } if again == question), "{line}");
        }
        let renamed = asked("redirect show web --to 10.0.0.1:80").about("demo/web");
        assert_eq!(renamed.pod(), Some("demo/web"));
        assert_eq!(asked("map list").about("demo/web"), Question::Maps);
    }
}
