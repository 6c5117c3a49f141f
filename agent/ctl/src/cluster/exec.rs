//! Runs a node's weirctl in its weir pod, by exec through the API server.

use std::time::Duration;

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{AttachParams, AttachedProcess};
use tokio::io::{AsyncReadExt, ReadHalf, SimplexStream};

use super::{connect::Connection, error::said, place::AGENT};
use crate::{answer::Answer, question::Question};

/// What is run there.
const WEIRCTL: &str = "weirctl";
/// Bytes that a node's answer may have.
const MAX_ANSWER: u64 = 64 << 20;
/// Bytes of an answer under way between the connection and whoever reads it.
const BUFFER: usize = 64 << 10;
/// weirctl's exit code for a command line that it does not know.
const USAGE: i32 = 2;

/// One weir pod.
#[derive(Clone)]
pub struct Remote<'a> {
    /// Its cluster.
    pub connection: &'a Connection,
    /// Its name.
    pub pod: String,
}

impl Remote<'_> {
    /// The command line of a question there.
    fn command(&self, question: &Question) -> Vec<String> {
        let mut command = vec![WEIRCTL.to_owned(), "--json".to_owned(), "--notes".to_owned()];
        if let Some(socket) = &self.connection.cluster.socket {
            command.push(format!("--socket={}", socket.display()));
        }
        // Shorter than what is waited here: it is better to hear that an agent does not answer than to hear nothing.
        let timeout = self.connection.cluster.timeout / 2;
        command.push(format!("--timeout={}ms", timeout.as_millis().max(1)));
        command.extend(question.arguments());
        command
    }

    /// Starts to ask a question. Those with a standard input end with it.
    pub async fn start(&self, question: &Question, stdin: bool) -> Result<Running, String> {
        self.run(self.command(question), stdin).await
    }

    async fn run(&self, command: Vec<String>, stdin: bool) -> Result<Running, String> {
        let parameters = AttachParams {
            container: Some(AGENT.to_owned()),
            stdin,
            max_stdout_buf_size: Some(BUFFER),
            ..AttachParams::default()
        };
        let namespace = &self.connection.cluster.weir_namespace;
        let pods = self.connection.pods(namespace);
        let started = pods.exec(&self.pod, command, &parameters);
        match tokio::time::timeout(self.connection.cluster.timeout, started).await {
            Ok(Ok(process)) => Ok(Running::new(process)),
            Ok(Err(error)) => Err(refusal(error, namespace, &self.pod)),
            Err(_) => Err(silence(self.connection.cluster.timeout)),
        }
    }

    /// Asks a question: the answer, and what the weirctl there says beside it.
    pub async fn ask(&self, question: &Question) -> Result<(Answer, Vec<String>), String> {
        let timeout = self.connection.cluster.timeout;
        let ran = tokio::time::timeout(timeout, async {
            let running = self.start(question, false).await?;
            Ran::of(running).await
        });
        match ran.await.map_err(|_| silence(timeout))??.answer(question) {
            Ok(answer) => Ok(answer),
            Err(Unanswered::Other(why)) => Err(why),
            Err(Unanswered::OtherVersion(why)) => Err(other_version(self.version().await.as_deref(), &why)),
        }
    }

    /// The version of the weirctl there, if it says so.
    pub async fn version(&self) -> Option<String> {
        let version = tokio::time::timeout(self.connection.cluster.timeout, async {
            let command = vec![WEIRCTL.to_owned(), "--version".to_owned()];
            Ran::of(self.run(command, false).await.ok()?).await.ok()
        });
        let said = version.await.ok()??;
        said.stdout.trim().strip_prefix(WEIRCTL)?.split_whitespace().next().map(str::to_owned)
    }
}

fn silence(timeout: Duration) -> String {
    format!("no answer within {}", humantime::format_duration(timeout))
}

/// Why nothing could be run.
fn refusal(error: kube::Error, namespace: &str, pod: &str) -> String {
    match error {
        kube::Error::Api(status) => match status.code {
            403 => format!(
                "exec into its weir pod {pod} is not allowed: {}; it takes the verbs create and get on pods/exec in \
                 namespace {namespace}",
                status.message
            ),
            // The kubelet says the same of a pod of which no container runs just now.
            404 => format!("its weir pod {pod} is gone, or none of its containers runs just now: {}", status.message),
            _ => format!("exec into its weir pod {pod}: {}", said(&status)),
        },
        error => format!("exec into its weir pod {pod}: {error}"),
    }
}

/// What comes from one.
pub type Stream = ReadHalf<SimplexStream>;

/// A weirctl that runs.
pub struct Running {
    process: AttachedProcess,
    end: Shared<BoxFuture<'static, Option<Status>>>,
}

impl Running {
    fn new(mut process: AttachedProcess) -> Self {
        let end = process.take_status();
        let end = async move {
            match end {
                Some(end) => end.await,
                None => None,
            }
        };
        Self { process, end: end.boxed().shared() }
    }

    /// Its standard output and standard error, once.
    pub fn streams(&mut self) -> (Option<Stream>, Option<Stream>) {
        (self.process.stdout(), self.process.stderr())
    }

    /// Waits until the connection breaks off. The streams do not end then: what is left in them can be read, and then
    /// nothing comes any more.
    pub fn broken(&self) -> impl Future<Output = ()> + use<> {
        let end = self.end.clone();
        async move {
            if end.await.is_some() {
                std::future::pending().await
            }
        }
    }

    /// Its exit code or why it has none; an error if the connection broke off.
    pub async fn end(self) -> Result<Result<i32, String>, String> {
        match self.end.await {
            Some(status) => Ok(ending(&status)),
            None => Err(self.process.join().await.err().map_or_else(String::new, |error| format!(": {error}"))),
        }
    }
}

/// What a weirctl that was run to its end wrote.
#[derive(Debug, PartialEq, Eq)]
struct Ran {
    stdout: String,
    stderr: String,
    end: Result<i32, String>,
}

impl Ran {
    async fn of(mut running: Running) -> Result<Self, String> {
        let (out, err) = running.streams();
        let read = async |stream: Option<Stream>| {
            let mut bytes = Vec::new();
            if let Some(stream) = stream {
                AsyncReadExt::take(stream, MAX_ANSWER).read_to_end(&mut bytes).await?;
            }
            Ok::<_, std::io::Error>(bytes)
        };
        let broken = running.broken();
        let (stdout, stderr) = tokio::select! {
            biased;
            read = async { tokio::try_join!(read(out), read(err)) } => read.map_err(|error| error.to_string())?,
            () = broken => Default::default(),
        };
        if stdout.len() as u64 == MAX_ANSWER {
            return Err(format!("its answer has more than {} MiB", MAX_ANSWER >> 20));
        }
        let end = running.end().await;
        let end = end.map_err(|why| format!("the connection broke off before its answer was there{why}"))?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Self { stdout: text(stdout), stderr: text(stderr), end })
    }

    /// What it means.
    fn answer(self, question: &Question) -> Result<(Answer, Vec<String>), Unanswered> {
        let said = said_beside(&self.stderr);
        match self.end {
            Ok(0) => {}
            Ok(code) => return Err(failure(code, said.first().map(String::as_str))),
            Err(why) => return Err(Unanswered::Other(format!("weirctl in its weir pod: {why}"))),
        }
        let answer = Answer::from_json(question, &self.stdout);
        answer
            .map(|answer| (answer, said))
            .map_err(|error| Unanswered::OtherVersion(format!("its answer cannot be read: {error}")))
    }
}

/// Why there is no answer of a weirctl that ran.
#[derive(Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// The two do not understand each other.
    OtherVersion(String),
    /// Anything else.
    Other(String),
}

/// Why a weirctl that ended with this exit code has no answer, by what it said.
pub fn failure(code: i32, said: Option<&str>) -> Unanswered {
    let said = said.unwrap_or("it does not say why");
    match code {
        USAGE => Unanswered::OtherVersion(format!("its weirctl refuses the question: {said}")),
        126 | 127 => Unanswered::Other(format!("no weirctl in its weir pod (exit code {code}): {said}")),
        _ => Unanswered::Other(said.to_owned()),
    }
}

/// That a weir of this version and this weirctl do not understand each other, and what to do.
pub fn other_version(theirs: Option<&str>, why: &str) -> String {
    let own = env!("CARGO_PKG_VERSION");
    match theirs {
        Some(theirs) if theirs == own => {
            format!(
                "its weir is another build of version {own} than this weirctl: {why}; use the weirctl of that build"
            )
        }
        Some(theirs) => format!(
            "its weir is version {theirs} and this weirctl {own}: {why}; use weirctl {theirs} for it, or bring its weir \
             to {own}"
        ),
        None => format!(
            "its weir is of another version than this weirctl, {own}: {why}; use the weirctl of its version, or bring its \
             weir to {own}"
        ),
    }
}

/// What weirctl wrote to standard error, but for its name, and what follows an empty line (help).
fn said_beside(stderr: &str) -> Vec<String> {
    let lines = stderr.lines().take_while(|line| !line.is_empty());
    lines.map(|line| line.strip_prefix("weirctl: ").unwrap_or(line).to_owned()).collect()
}

/// What the kubelet and the runtime write around why a container cannot be entered, each layer again.
const LAYERS: [&str; 4] = [
    "Internal error occurred: ",
    "error executing command in container: ",
    "failed to exec in container: ",
    "failed to create exec ",
];

/// Why nothing ran in a container that the runtime has, as far as the API server knows.
fn not_entered(status: &Status) -> String {
    let mut why = status.message.as_deref().unwrap_or("it did not run");
    if status.reason.as_deref() != Some("InternalError") {
        return why.to_owned();
    }
    while let Some(rest) = LAYERS.iter().find_map(|layer| why.strip_prefix(layer)) {
        why = rest;
    }
    let why = why.lines().next().unwrap_or_default();
    format!("its container cannot be entered, it may just be restarting: {why}")
}

/// The exit code that a status of the API server tells, or why there is none.
fn ending(status: &Status) -> Result<i32, String> {
    if status.status.as_deref() == Some("Success") {
        return Ok(0);
    }
    let causes = status.details.iter().flat_map(|details| details.causes.iter().flatten());
    let mut codes = causes.filter(|cause| cause.reason.as_deref() == Some("ExitCode"));
    let code = codes.find_map(|cause| cause.message.as_deref().and_then(|code| code.parse().ok()));
    code.ok_or_else(|| not_entered(status))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ran(end: Result<i32, &str>, stdout: &str, stderr: &str) -> Result<(Answer, Vec<String>), String> {
        let end = end.map_err(str::to_owned);
        let ran = Ran { stdout: stdout.to_owned(), stderr: stderr.to_owned(), end };
        ran.answer(&Question::Maps).map_err(|unanswered| match unanswered {
            Unanswered::OtherVersion(why) => other_version(Some("0.0.9"), &why),
            Unanswered::Other(why) => why,
        })
    }

    #[test]
    fn statuses_tell_exit_codes() {
        let status = |value| ending(&serde_json::from_value(value).unwrap());
        assert_eq!(status(json!({ "status": "Success" })), Ok(0));
        let causes = json!([{ "reason": "ExitCode", "message": "3" }]);
        assert_eq!(
            status(json!({ "status": "Failure", "reason": "NonZeroExitCode", "details": { "causes": causes } })),
            Ok(3)
        );
        let error = status(json!({ "status": "Failure", "message": "container not found (\"agent\")" }));
        assert_eq!(error, Err("container not found (\"agent\")".to_owned()));
        let nested = "Internal error occurred: Internal error occurred: error executing command in container: failed to \
                      exec in container: failed to create exec \"9b1\": task 7f0 not found: not found";
        let killed = status(json!({ "status": "Failure", "reason": "InternalError", "message": nested })).unwrap_err();
        assert_eq!(
            killed,
            "its container cannot be entered, it may just be restarting: \"9b1\": task 7f0 not found: not found"
        );
    }

    #[test]
    fn an_answer_comes_with_what_is_said_beside_it() {
        let (answer, said) = ran(Ok(0), "[]\n", "weirctl: runs were not counted until now\n").unwrap();
        assert!(matches!(answer, Answer::Maps(rows) if rows.iter().next().is_none()));
        assert_eq!(said, ["runs were not counted until now"]);
    }

    #[test]
    fn what_is_no_answer_says_why() {
        let own = env!("CARGO_PKG_VERSION");
        let error = |end, stdout, stderr| ran(end, stdout, stderr).unwrap_err();
        assert_eq!(
            error(Ok(1), "{\"error\":\"x\"}", "weirctl: the agent does not answer within 5s\n"),
            "the agent does not answer within 5s"
        );
        assert_eq!(
            error(Ok(2), "", "weirctl: unknown option --new\n\nUsage: weirctl\n"),
            format!(
                "its weir is version 0.0.9 and this weirctl {own}: its weirctl refuses the question: unknown option --new; \
                 use weirctl 0.0.9 for it, or bring its weir to {own}"
            )
        );
        let unreadable = format!("its weir is version 0.0.9 and this weirctl {own}: its answer cannot be read: ");
        assert!(error(Ok(0), "OK", "").starts_with(&unreadable));
        assert_eq!(error(Ok(127), "", ""), "no weirctl in its weir pod (exit code 127): it does not say why");
        assert_eq!(error(Err("no container"), "", ""), "weirctl in its weir pod: no container");
    }

    #[test]
    fn a_refused_exec_names_the_verbs() {
        let api = |code, message: &str| {
            let status = kube::core::Status { code, message: message.to_owned(), ..Default::default() };
            refusal(kube::Error::Api(Box::new(status)), "weir-system", "weir-x")
        };
        assert_eq!(
            api(403, "pods \"weir-x\" is forbidden"),
            "exec into its weir pod weir-x is not allowed: pods \"weir-x\" is forbidden; it takes the verbs create and \
             get on pods/exec in namespace weir-system"
        );
        assert_eq!(
            api(404, "not found"),
            "its weir pod weir-x is gone, or none of its containers runs just now: not found"
        );
        assert_eq!(
            api(500, "error dialing backend: connection refused"),
            "exec into its weir pod weir-x: error dialing backend: connection refused"
        );
    }
}
