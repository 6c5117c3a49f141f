//! What can be asked of a node: the same question is asked over the agent's socket there, and as a command line of the
//! weirctl there from anywhere else.

use std::{net::SocketAddr, time::Duration};

use crate::proxy;

/// What to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// `status`.
    Status {
        /// Whether the exit code tells of what needs attention.
        check: bool,
    },
    /// `pod list`.
    Pods {
        /// The pod, "" for all.
        pod: String,
        /// Whether to show those that are passed over, too.
        all: bool,
    },
    /// `pod show POD`.
    Pod(String),
    /// `redirect list`.
    Redirects {
        /// The pod, "" for all.
        pod: String,
        /// Whether to show the proxy's own connections, too.
        all: bool,
    },
    /// `redirect show POD`.
    Setup(String),
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
    /// `xds status`.
    Xds {
        /// Where the proxy's admin server is, if not where it is by default.
        admin: Option<String>,
    },
    /// `proxy`.
    Proxy {
        /// What.
        asked: Box<proxy::Asked>,
        /// Where the proxy's admin server is, if not where it is by default.
        admin: Option<String>,
    },
}

/// Which programs to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// All.
    Any,
    /// The one with this kernel id.
    Id(u32),
    /// Those of this name.
    Name(String),
}

/// A connection to explain.
#[derive(Clone, Debug, PartialEq, Eq)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The pod, "" for all.
    pub pod: String,
    /// The verdict, "" for all.
    pub verdict: String,
    /// Stop after so many events.
    pub count: Option<u64>,
    /// Stop after so long.
    pub duration: Option<Duration>,
    /// Stop at the end of standard input.
    pub until_stdin_ends: bool,
}

impl Question {
    /// Where it is answered, if that is the proxy's admin server; none: where that is by default.
    pub fn admin(&self) -> Option<Option<&str>> {
        match self {
            Self::Xds { admin } | Self::Proxy { admin, .. } => Some(admin.as_deref()),
            _ => None,
        }
    }

    /// The pod that it is about; "" for all, none where pods are not what it is about.
    pub fn pod(&self) -> Option<&str> {
        match self {
            Self::Status { .. } | Self::Programs(_) | Self::Maps | Self::Dump(_) => None,
            Self::Xds { .. } | Self::Proxy { .. } => None,
            Self::Pods { pod, .. } | Self::Redirects { pod, .. } | Self::Pod(pod) | Self::Setup(pod) => Some(pod),
            Self::Explain(explain) => Some(&explain.pod),
            Self::Trace(trace) => Some(&trace.pod),
        }
    }

    /// The same about a pod by another name.
    pub fn about(&self, name: &str) -> Self {
        let mut question = self.clone();
        match &mut question {
            Self::Status { .. } | Self::Programs(_) | Self::Maps | Self::Dump(_) => {}
            Self::Xds { .. } | Self::Proxy { .. } => {}
            Self::Pods { pod, .. } | Self::Redirects { pod, .. } | Self::Pod(pod) | Self::Setup(pod) => {
                name.clone_into(pod);
            }
            Self::Explain(explain) => name.clone_into(&mut explain.pod),
            Self::Trace(trace) => name.clone_into(&mut trace.pod),
        }
        question
    }

    /// The command line that asks it.
    pub fn arguments(&self) -> Vec<String> {
        let mut line: Vec<String> = Vec::new();
        let mut add = |words: &[&str]| line.extend(words.iter().map(|word| (*word).to_owned()));
        let some = |pod: &'_ String| Some(pod.clone()).filter(|pod| !pod.is_empty());
        // What users name may begin with anything.
        let mut named: Option<String> = None;
        match self {
            Self::Status { check } => {
                add(&["status", "show"]);
                add(if *check { &["--check"] } else { &[] });
            }
            Self::Pods { pod, all } => {
                add(&["pod", "list"]);
                add(if *all { &["--all"] } else { &[] });
                named = some(pod);
            }
            Self::Pod(pod) => {
                add(&["pod", "show"]);
                named = some(pod);
            }
            Self::Redirects { pod, all } => {
                add(&["redirect", "list"]);
                add(if *all { &["--all"] } else { &[] });
                named = some(pod);
            }
            Self::Setup(pod) => {
                add(&["redirect", "show"]);
                named = some(pod);
            }
            Self::Explain(Explain { pod, to, from, protocol }) => {
                add(&["redirect", "show", "--to", &to.to_string(), "--from", from, "--protocol", protocol]);
                named = some(pod);
            }
            Self::Programs(program) => {
                add(&["prog", "list"]);
                match program {
                    Program::Any => {}
                    Program::Id(id) => add(&["id", &id.to_string()]),
                    Program::Name(name) => named = Some(name.clone()),
                }
            }
            Self::Maps => add(&["map", "list"]),
            Self::Dump(name) => {
                add(&["map", "dump"]);
                named = Some(name.clone());
            }
            Self::Xds { admin } => {
                add(&["xds", "status"]);
                if let Some(admin) = admin {
                    add(&["--admin", admin]);
                }
            }
            Self::Proxy { asked, admin } => {
                let only = asked.what.first().filter(|_| asked.what.len() == 1);
                add(&["proxy", only.map_or("all", |what| what.name())]);
                if let Some(view) = &asked.view {
                    add(&["--view", view]);
                }
                for (option, value) in asked.filter.options() {
                    add(&[&format!("--{option}={value}")]);
                }
                if let Some(admin) = admin {
                    add(&["--admin", admin]);
                }
                named.clone_from(&asked.level);
            }
            Self::Trace(trace) => {
                add(&["event", "trace", "--follow"]);
                if !trace.verdict.is_empty() {
                    add(&["--verdict", &trace.verdict]);
                }
                if let Some(count) = trace.count {
                    add(&["--count", &count.to_string()]);
                }
                if let Some(duration) = trace.duration {
                    add(&["--for", &humantime::format_duration(duration).to_string().replace(' ', "")]);
                }
                add(if trace.until_stdin_ends { &["--stdin"] } else { &[] });
                named = some(&trace.pod);
            }
        }
        line.extend(named.into_iter().flat_map(|name| ["--".to_owned(), name]));
        line
    }
}
