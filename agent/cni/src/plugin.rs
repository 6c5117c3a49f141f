//! What the plugin does for each call.

use std::{
    io::Write,
    os::fd::AsFd,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use serde_json::{json, value::RawValue};

use crate::{
    ask::{Asked, NoAnswer},
    call::{Call, Command},
    config::{self, Config, Settings, VERSIONS},
    error::{Code, Error},
    namespaces::Namespaces,
    open,
    protocol::{self, Answer, Request, Verdict},
};

/// How long an agent may take to say whether a pod that is not known to be enrolled is to be. One that hangs must not
/// keep the pods of others from starting for longer.
const FIRST_ANSWER: Duration = Duration::from_secs(2);
/// A DEL or a CHECK waits no longer than this for the agent.
const BRIEF: Duration = Duration::from_secs(1);
/// Between two attempts to reach the agent.
const PAUSE: Duration = Duration::from_millis(200);

/// What the runtime gets: what goes to standard output, and the version that it is of.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All is well; this is the output.
    Done(String),
    /// An error, in the version that was asked for.
    Failed(Error, String),
}

/// Serves one call.
pub fn serve(variable: impl Fn(&str) -> Option<String>, input: &str) -> Outcome {
    let version = || config::version_of(input).filter(|version| config::understands(version));
    let failed = |error| Outcome::Failed(error, version().unwrap_or_else(|| VERSIONS[VERSIONS.len() - 1].to_owned()));
    let call = match Call::of(variable) {
        Ok(call) => call,
        Err(error) => return failed(error),
    };
    let config = Config::parse(input);
    match (call.command, config) {
        (Command::Version, _) => Outcome::Done(versions(config::version_of(input).as_deref())),
        (Command::Del, Ok(config)) => {
            del(&call, &config.settings);
            Outcome::Done(String::new())
        }
        (Command::Del, Err(error)) => {
            say(&call, None, &format!("passed, although {error}"));
            Outcome::Done(String::new())
        }
        (_, Err(error)) => failed(error),
        (Command::Add, Ok(config)) => match add(&call, &config) {
            Ok(output) => Outcome::Done(output),
            Err(error) => failed(error),
        },
        (Command::Check, Ok(config)) => match check(&call, &config.settings) {
            Ok(()) => Outcome::Done(String::new()),
            Err(error) => failed(error),
        },
        // An agent that is away is no reason to call the node's network not ready: pods of others start without it.
        (Command::Status | Command::Gc, Ok(_)) => Outcome::Done(String::new()),
    }
}

fn versions(asked: Option<&str>) -> String {
    let asked = asked.unwrap_or(VERSIONS[VERSIONS.len() - 1]);
    json!({ "cniVersion": asked, "supportedVersions": config::understood_up_to(asked) }).to_string()
}

/// Passes the pod on when it is enrolled, or is not to be.
fn add(call: &Call, config: &Config) -> Result<String, Error> {
    let Some(previous) = &config.previous else {
        let message = "prevResult: missing, expected the result of the plugin that makes the pod's interface: weir-cni \
                       comes after it";
        return Err(Error::new(Code::Configuration, message));
    };
    let settings = &config.settings;
    let pod = &call.arguments;
    if pod.namespace.is_empty() || pod.namespace == settings.own_namespace {
        say(call, settings.log.as_deref(), "passed: none that weir enrolls");
    } else {
        let said = hold(call, settings)?;
        say(call, settings.log.as_deref(), &said);
    }
    Ok(result(previous, &config.cni_version))
}

/// Waits until the agent has said that the pod may start, and gives what is to be logged.
fn hold(call: &Call, settings: &Settings) -> Result<String, Error> {
    let start = Instant::now();
    let end = start + settings.wait;
    let pod = &call.arguments;
    let netns = open::regular(Path::new(&call.netns));
    let known = Namespaces::read(&settings.namespaces);
    // What the list should say and does not keeps no pod from starting.
    let listed = known.as_ref().is_ok_and(|known| known.enrolled.contains(&pod.namespace));
    let mut held = listed;
    let refused = |reason: &str| {
        let message = format!("weir holds the pod {}/{}: {reason}; it is tried again", pod.namespace, pod.name);
        say(call, settings.log.as_deref(), &message);
        Err(Error::new(Code::TryAgainLater, message))
    };
    let mut last = None;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let request = request(call, protocol::Command::Add, left);
        let first = if held { end } else { Instant::now() + FIRST_ANSWER.min(settings.wait) };
        let answered = Asked::send(&settings.socket, &request, netns.as_ref().ok().map(AsFd::as_fd), first).and_then(
            |mut asked| {
                let mut answer = asked.answer(first)?;
                while answer.verdict == Verdict::Wait {
                    // Whatever comes of it: the pod is one to be enrolled, or may be.
                    held = true;
                    answer = asked.answer(end)?;
                }
                Ok(answer)
            },
        );
        let reason = match answered {
            Ok(Answer { verdict: Verdict::Pass, reason, .. }) => return Ok(format!("passed: {reason}")),
            Ok(Answer { verdict: Verdict::Enrolled, .. }) => {
                return Ok(format!("enrolled after {} ms", start.elapsed().as_millis()));
            }
            Ok(Answer { verdict: Verdict::Refused, reason, .. }) => return refused(&reason),
            Ok(Answer { reason, .. }) => reason,
            // What was said before says more than that time ran out.
            Err(NoAnswer::Silent) => last.unwrap_or_else(|| NoAnswer::Silent.to_string()),
            Err(no_answer) => no_answer.to_string(),
        };
        if !held {
            let listed = match &known {
                Ok(_) => format!("{} is not listed as enrolled", pod.namespace),
                Err(error) => format!("{}: {error}", settings.namespaces.display()),
            };
            return Ok(format!("passed: {reason}, and {listed}"));
        }
        if Instant::now() + PAUSE >= end {
            let waited = humantime::format_duration(settings.wait);
            let why = if listed { "its namespace is enrolled, and " } else { "" };
            return refused(&format!("{why}for {waited} {reason}"));
        }
        last = Some(reason);
        thread::sleep(PAUSE);
    }
}

fn request(call: &Call, command: protocol::Command, wait: Duration) -> Request {
    let pod = call.arguments.clone();
    Request {
        version: protocol::VERSION,
        command,
        container_id: call.container_id.clone(),
        netns: call.netns.clone(),
        uid: pod.uid,
        namespace: pod.namespace,
        name: pod.name,
        wait_ms: wait.as_millis() as u64,
    }
}

/// Asks once, briefly.
fn ask(call: &Call, command: protocol::Command, settings: &Settings) -> Result<Answer, NoAnswer> {
    let deadline = Instant::now() + BRIEF;
    let netns = open::regular(Path::new(&call.netns));
    let netns = netns.as_ref().ok().map(AsFd::as_fd);
    Asked::send(&settings.socket, &request(call, command, BRIEF), netns, deadline)?.answer(deadline)
}

/// Tells the agent. If it cannot be told, it finds out otherwise.
fn del(call: &Call, settings: &Settings) {
    let pod = &call.arguments;
    if pod.namespace.is_empty() || pod.namespace == settings.own_namespace {
        return;
    }
    match ask(call, protocol::Command::Del, settings) {
        Ok(_) => say(call, settings.log.as_deref(), "passed"),
        Err(error) => say(call, settings.log.as_deref(), &format!("passed, although {error}")),
    }
}

/// An error if the agent says that the pod is not redirected.
fn check(call: &Call, settings: &Settings) -> Result<(), Error> {
    let pod = &call.arguments;
    if pod.namespace.is_empty() || pod.namespace == settings.own_namespace {
        return Ok(());
    }
    match ask(call, protocol::Command::Check, settings) {
        Ok(Answer { verdict: Verdict::Refused, reason, .. }) => {
            let message = format!("the pod {}/{} is not redirected: {reason}", pod.namespace, pod.name);
            Err(Error::new(Code::NotRedirected, message))
        }
        Ok(_) | Err(_) => Ok(()),
    }
}

/// The result of the plugins before, unchanged; it has to name its version, which old runtimes left out.
fn result(previous: &RawValue, version: &str) -> String {
    let text = previous.get();
    if config::version_of(text).is_some() {
        return text.to_owned();
    }
    let rest = text.trim_start_matches('{').trim_start();
    let separator = if rest.starts_with('}') { "" } else { "," };
    format!("{{\"cniVersion\":{}{separator}{rest}", json!(version))
}

/// A line for whoever looks: to standard error, which runtimes log, and to the log file where there is one.
fn say(call: &Call, log: Option<&Path>, what: &str) {
    let pod = &call.arguments;
    let name = match pod.namespace.as_str() {
        "" => String::new(),
        namespace => format!(" {namespace}/{}", pod.name),
    };
    let line = format!("weir-cni: {:?}{name} {}: {what}\n", call.command, call.container_id);
    // Neither may keep a pod from starting.
    let _ = std::io::stderr().write_all(line.as_bytes());
    let Some(log) = log else { return };
    let stamped = format!("{} {line}", humantime::format_rfc3339_millis(std::time::SystemTime::now()));
    let _ = open::append(log).and_then(|mut file| file.write_all(stamped.as_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn the_result_is_what_was_given_with_a_version() {
        let given = "{\"cniVersion\":\"0.4.0\",  \"ips\":[] , \"dns\":{} }";
        assert_eq!(result(&raw(given), "1.0.0"), given);
        assert_eq!(result(&raw("{ \"ips\":[] }"), "1.0.0"), "{\"cniVersion\":\"1.0.0\",\"ips\":[] }");
        assert_eq!(result(&raw("{}"), "1.0.0"), "{\"cniVersion\":\"1.0.0\"}");
    }

    #[test]
    fn versions_are_those_of_the_specification() {
        assert_eq!(
            versions(Some("1.0.0")),
            "{\"cniVersion\":\"1.0.0\",\"supportedVersions\":[\"0.3.0\",\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]}"
        );
    }
}
