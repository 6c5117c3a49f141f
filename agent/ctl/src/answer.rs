//! Answers to questions, and how they are printed: the same for one node and for a whole cluster.

use std::io;

use serde::de::DeserializeOwned;

use crate::{
    output::Output,
    proxy::{self, Shown, What},
    question::Question,
    show::{
        map::{self, Entry, Map},
        pod::{self, Pod},
        prog::{self, Program},
        redirect::{self, PodSetup, Redirect, Verdict},
        rows::{One, Rows},
        status::Status,
    },
    time::Time,
    xds,
};

/// What a node says, or several do to the same question.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// `status`.
    Status(Box<Status>),
    /// `pod list`.
    Pods(Rows<Pod>),
    /// `pod show POD`.
    Pod(Box<One<Pod>>),
    /// `redirect list`.
    Redirects(Rows<Redirect>),
    /// `redirect show POD`.
    Setup(Box<One<PodSetup>>),
    /// `redirect show POD --to`.
    Verdict(Box<One<Verdict>>),
    /// `prog list`.
    Programs(Rows<Program>),
    /// `map list`.
    Maps(Rows<Map>),
    /// `map dump`.
    Entries(Rows<Entry>),
    /// `xds status`.
    Xds(Rows<xds::Row>),
    /// `proxy`: one kind of thing, or all.
    Proxy(Vec<Shown>),
}

impl Answer {
    /// Reads the JSON that a node's weirctl wrote as an answer to a question.
    pub fn from_json(question: &Question, text: &str) -> Result<Self, serde_json::Error> {
        fn rows<T: DeserializeOwned>(text: &str) -> Result<Rows<T>, serde_json::Error> {
            serde_json::from_str(text).map(Rows::here)
        }
        fn one<T: DeserializeOwned>(text: &str) -> Result<Box<One<T>>, serde_json::Error> {
            serde_json::from_str(text).map(One::here).map(Box::new)
        }
        Ok(match question {
            Question::Status { .. } => Self::Status(serde_json::from_str(text)?),
            Question::Pods { .. } => Self::Pods(rows(text)?),
            Question::Pod(_) => Self::Pod(one(text)?),
            Question::Redirects { .. } => Self::Redirects(rows(text)?),
            Question::Setup(_) => Self::Setup(one(text)?),
            Question::Explain(_) => Self::Verdict(one(text)?),
            Question::Programs(_) => Self::Programs(rows(text)?),
            Question::Maps => Self::Maps(rows(text)?),
            Question::Dump(_) => Self::Entries(rows(text)?),
            Question::Xds { .. } => Self::Xds(rows(text)?),
            Question::Proxy { asked, .. } => Self::Proxy(shown(&asked.what, text)?),
            // Its events come one by one.
            Question::Trace(_) => return Err(serde::de::Error::custom("a trace is no single answer")),
        })
    }

    /// Says which node's it is.
    pub fn of_node(self, node: &str) -> Self {
        match self {
            Self::Pods(rows) => Self::Pods(rows.of_node(node)),
            Self::Redirects(rows) => Self::Redirects(rows.of_node(node)),
            Self::Programs(rows) => Self::Programs(rows.of_node(node)),
            Self::Maps(rows) => Self::Maps(rows.of_node(node)),
            Self::Entries(rows) => Self::Entries(rows.of_node(node)),
            Self::Xds(rows) => Self::Xds(rows.of_node(node)),
            Self::Proxy(all) => Self::Proxy(all.into_iter().map(|(what, rows)| (what, rows.of_node(node))).collect()),
            Self::Pod(one) => Self::Pod(Box::new(one.of_node(node))),
            Self::Setup(one) => Self::Setup(Box::new(one.of_node(node))),
            Self::Verdict(one) => Self::Verdict(Box::new(one.of_node(node))),
            // It names its node.
            Self::Status(status) => Self::Status(status),
        }
    }

    /// With the rows of another node's answer to the same question.
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Pods(rows), Self::Pods(more)) => Self::Pods(rows.and(more)),
            (Self::Redirects(rows), Self::Redirects(more)) => Self::Redirects(rows.and(more)),
            (Self::Programs(rows), Self::Programs(more)) => Self::Programs(rows.and(more)),
            (Self::Maps(rows), Self::Maps(more)) => Self::Maps(rows.and(more)),
            (Self::Entries(rows), Self::Entries(more)) => Self::Entries(rows.and(more)),
            (Self::Xds(rows), Self::Xds(more)) => Self::Xds(rows.and(more)),
            (Self::Proxy(all), Self::Proxy(more)) => {
                let both = all.into_iter().zip(more);
                Self::Proxy(both.map(|((what, rows), (_, more))| (what, rows.and(more))).collect())
            }
            // What is of one node only.
            (one, _) => one,
        }
    }

    /// Whether it is about pods, and there are none.
    pub fn has_no_pods(&self) -> bool {
        match self {
            Self::Pods(rows) => rows.iter().next().is_none(),
            Self::Redirects(rows) => rows.iter().next().is_none(),
            _ => false,
        }
    }

    /// What to say of a list of pods that has none of them: in this namespace, or in none in particular.
    pub fn emptiness(&self, question: &Question, namespace: Option<&str>) -> Option<String> {
        if !self.has_no_pods() {
            return None;
        }
        let (what, more) = match question {
            Question::Pods { all: true, .. } => ("pods", ""),
            Question::Pods { .. } => ("enrolled or pending pods", "--all for pods that are passed over"),
            _ => ("redirects", ""),
        };
        let place = namespace.map_or_else(String::new, |namespace| format!(" in namespace {namespace}"));
        let elsewhere = namespace.map_or("", |_| "-A for all namespaces");
        let hints: Vec<&str> = [elsewhere, more].into_iter().filter(|hint| !hint.is_empty()).collect();
        let hints = if hints.is_empty() { String::new() } else { format!("; {}", hints.join(", ")) };
        Some(format!("no {what}{place}{hints}"))
    }

    /// Only what is about pods of this namespace.
    pub fn in_namespace(mut self, namespace: &str) -> Self {
        match &mut self {
            Self::Pods(rows) => rows.retain(|pod| pod.namespace == namespace),
            Self::Redirects(rows) => {
                rows.retain(|row| row.pod.as_deref().is_some_and(|pod| is_in(pod, namespace)));
            }
            _ => {}
        }
        self
    }

    /// Prints it.
    pub fn print(self, output: &mut Output) -> io::Result<()> {
        let now = Time::now();
        match self {
            Self::Status(status) => output.answer(status.plain(now), || serde_json::to_value(status)),
            Self::Pods(mut rows) => {
                rows.sort_by_key(|pod| (pod.namespace.clone(), pod.name.clone()));
                output.answer(pod::table(&rows, now), || rows.json())
            }
            Self::Redirects(mut rows) => {
                rows.sort_by_key(|row| row.pod.clone());
                output.answer(redirect::table(&rows, now), || rows.json())
            }
            Self::Programs(rows) => output.answer(prog::table(&rows), || rows.json()),
            Self::Maps(rows) => output.answer(map::table(&rows), || rows.json()),
            Self::Entries(rows) => output.answer(map::entries(&rows), || rows.json()),
            Self::Xds(rows) => output.answer(xds::table(&rows, now), || rows.json()),
            Self::Proxy(all) => {
                let plain: Vec<_> = all.iter().map(proxy::plain).collect();
                output.answer(plain.join("\n"), || json(&all))
            }
            Self::Pod(pod) => output.answer(pod::facts(&pod, now), || pod.json()),
            Self::Setup(setup) => output.answer(redirect::setup(&setup), || setup.json()),
            Self::Verdict(verdict) => output.answer(redirect::verdict(&verdict), || verdict.json()),
        }
    }
}

/// One kind of thing as a list, several as lists by their names.
fn json(all: &[Shown]) -> Result<serde_json::Value, serde_json::Error> {
    match all {
        [(_, rows)] => rows.json(),
        several => {
            let named = several.iter().map(|(what, rows)| Ok((what.name().to_owned(), rows.json()?)));
            Ok(named.collect::<Result<serde_json::Map<_, _>, serde_json::Error>>()?.into())
        }
    }
}

/// What [`json`] has written.
fn shown(what: &[What], text: &str) -> Result<Vec<Shown>, serde_json::Error> {
    let read: serde_json::Value = serde_json::from_str(text)?;
    let of = |what: &What| {
        let list = if read.is_array() { &read } else { &read[what.name()] };
        Ok((*what, Rows::here(serde_json::from_value(list.clone())?)))
    };
    what.iter().map(of).collect()
}

/// Whether a pod named `namespace/name` is in a namespace.
pub fn is_in(pod: &str, namespace: &str) -> bool {
    pod.split_once('/').is_some_and(|(its, _)| its == namespace)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{output::Format, question::Program as Which};

    const PODS: &str = r#"[{"namespace":"demo","name":"web","state":"enrolled"},{"namespace":"prod","name":"db"}]"#;

    #[test]
    fn answers_of_several_nodes_are_one() {
        let question = Question::Pods { pod: String::new(), all: false };
        let of = |node: &str| Answer::from_json(&question, PODS).unwrap().of_node(node);
        let both = of("n1").and(of("n2")).in_namespace("demo");
        let (mut output, buffer) = Output::buffer(Format::Plain);
        both.clone().print(&mut output).unwrap();
        let text = buffer.text();
        assert!(text.starts_with("NODE  POD "), "{text}");
        let lines: Vec<&str> = text.lines().skip(1).collect();
        assert!(lines.len() == 2 && lines[0].starts_with("n1    demo/web  enrolled"), "{text}");
        let (mut output, buffer) = Output::buffer(Format::Json);
        both.print(&mut output).unwrap();
        let json: serde_json::Value = serde_json::from_str(&buffer.text()).unwrap();
        assert_eq!((&json[0]["node"], &json[1]["node"], &json[2]), (&"n1".into(), &"n2".into(), &().into()));
    }

    #[test]
    fn one_pod_is_shown_with_its_node() {
        let question = Question::Pod("demo/web".to_owned());
        let pod = Answer::from_json(&question, r#"{"namespace":"demo","name":"web","state":"pending"}"#).unwrap();
        let (mut output, buffer) = Output::buffer(Format::Json);
        pod.of_node("n1").print(&mut output).unwrap();
        let text = buffer.text();
        assert!(text.starts_with(r#"{"node":"n1","uid":"","namespace":"demo""#), "{text}");
    }

    #[test]
    fn a_list_without_pods_says_where_there_may_be_some() {
        let said = |question: Question, text: &str, namespace| {
            Answer::from_json(&question, text).unwrap().emptiness(&question, namespace)
        };
        let pods = |all| Question::Pods { pod: String::new(), all };
        let redirects = || Question::Redirects { pod: String::new(), all: false };
        for (question, namespace, expected) in [
            (
                pods(false),
                Some("default"),
                "no enrolled or pending pods in namespace default; -A for all namespaces, --all for pods that are passed \
                 over",
            ),
            (pods(false), None, "no enrolled or pending pods; --all for pods that are passed over"),
            (pods(true), Some("default"), "no pods in namespace default; -A for all namespaces"),
            (redirects(), Some("default"), "no redirects in namespace default; -A for all namespaces"),
            (redirects(), None, "no redirects"),
        ] {
            assert_eq!(said(question, "[]", namespace).as_deref(), Some(expected));
        }
        assert_eq!(said(pods(false), PODS, Some("default")), None);
        assert_eq!(said(Question::Maps, "[]", Some("default")), None);
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        assert!(Answer::from_json(&Question::Programs(Which::Any), "{}").is_err());
        assert!(Answer::from_json(&Question::Status { check: false }, "OK").is_err());
        assert!(is_in("demo/web", "demo") && !is_in("demo2/web", "demo") && !is_in("node", "node"));
    }
}
