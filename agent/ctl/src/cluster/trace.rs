//! Events of several nodes in one stream, as they come.

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    sync::mpsc,
    task::JoinSet,
};

use super::{
    Outcome,
    connect::Connection,
    error::Error,
    exec::{Remote, Stream, Unanswered, failure, other_version},
    find::Asked,
};
use crate::{
    answer::is_in,
    node::TRACING_ALL,
    output::Output,
    question::{Question, Trace},
    show::{
        event::{Event, Lines},
        rows::One,
    },
    stop::interrupted,
};

/// Events that may wait to be printed.
const WAITING: usize = 1024;

/// What comes from a node.
enum Said {
    Event(Box<Event>),
    /// Something beside the events.
    Beside(String),
    /// No more comes, though it was not asked to end.
    Failed(Failure),
}

/// Why no more comes.
struct Failure {
    why: String,
    /// Whether it was said beside the events.
    told: bool,
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Self { why, told: false }
    }
}

/// Follows events on all nodes until whatever ends the trace, here or there. It ends on the nodes, too.
pub async fn trace(
    connection: &Connection,
    asked: &Asked,
    what: &Trace,
    output: &mut Output,
) -> Result<Outcome, Error> {
    let interrupted = interrupted()?;
    tokio::pin!(interrupted);
    // Counted here, over all nodes, and ended here: but for its time, which starts there when it starts to watch.
    let question = match asked.question.clone() {
        Question::Trace(trace) => Question::Trace(Trace { count: None, until_stdin_ends: true, ..trace }),
        question => question,
    };
    let (said, mut saying) = mpsc::channel(WAITING);
    // Dropped at the end, whereupon the connections close, their standard inputs end there, and so do the traces.
    let mut tasks = JoinSet::new();
    for (node, pod) in &asked.nodes {
        let (node, pod, said) = (node.clone(), pod.clone(), said.clone());
        let (connection, question) = (connection.clone(), question.clone());
        tasks.spawn(async move {
            let end = match pod {
                Ok(pod) => follow(&Remote { connection: &connection, pod }, &question, &node, &said).await,
                Err(why) => Err(why.into()),
            };
            if let Err(failure) = end {
                let _ = said.send((node, Said::Failed(failure))).await;
            }
        });
    }
    drop(said);
    let lines = Lines::new();
    let (mut shown, mut lost, mut failed) = (0, 0, false);
    while what.count.is_none_or(|count| shown < count) {
        let next = tokio::select! {
            next = saying.recv() => next,
            () = &mut interrupted => break,
        };
        match next {
            None => break,
            Some((node, Said::Beside(line))) => {
                // The node watches all; what is shown is chosen here.
                let line = match &connection.namespace {
                    Some(namespace) if line == TRACING_ALL => {
                        format!("tracing the pods of namespace {namespace}; -A for all namespaces")
                    }
                    _ => line,
                };
                output.note(format_args!("node {node}: {line}"));
            }
            Some((node, Said::Failed(Failure { why, told }))) => {
                failed = true;
                if !told || !output.notes() {
                    output.complain(format_args!("node {node}: {why}"));
                }
            }
            Some((node, Said::Event(event))) => {
                lost += event.lost;
                let wanted = asked.one_pod || connection.namespace.as_ref().is_none_or(|of| is_in(&event.pod, of));
                if wanted {
                    let event = One::here(*event).of_node(&node);
                    output.answer(lines.plain(&event), || event.json())?;
                    shown += 1;
                }
            }
        }
    }
    output.note(format_args!("{shown} events, {lost} lost"));
    Ok(if failed { Outcome::Incomplete } else { Outcome::Done })
}

type Sender = mpsc::Sender<(String, Said)>;

/// Follows the events of one node to their end.
async fn follow(remote: &Remote<'_>, question: &Question, node: &str, said: &Sender) -> Result<(), Failure> {
    let mut running = remote.start(question, true).await?;
    let (stdout, stderr) = running.streams();
    let broken = running.broken();
    let events = lines(stdout, node, said, |line| {
        let line: Value = serde_json::from_str(line)?;
        // The last one, if it fails; it is on standard error, too.
        let event = line.get("error").is_none().then(|| serde_json::from_value(line)).transpose()?;
        Ok(event.map(|event| Said::Event(Box::new(event))))
    });
    let (mut last, mut over) = (None, false);
    let beside = lines(stderr, node, said, |line| {
        // What follows an empty line is help.
        over |= line.is_empty();
        if over {
            return Ok(None);
        }
        let line = line.strip_prefix("weirctl: ").unwrap_or(line).to_owned();
        last = Some(line.clone());
        Ok(Some(Said::Beside(line)))
    });
    tokio::select! {
        biased;
        read = async { tokio::try_join!(events, beside) } => read.map(|_| ())?,
        () = broken => {}
    }
    match (running.end().await, last) {
        (Ok(Ok(0)), _) => Ok(()),
        (Ok(Ok(1)), Some(why)) => Err(Failure { why, told: true }),
        (Ok(Ok(code)), last) => Err(match failure(code, last.as_deref()) {
            Unanswered::Other(why) => why.into(),
            Unanswered::OtherVersion(why) => other_version(None, &why).into(),
        }),
        (Ok(Err(why)), _) => Err(format!("weirctl in its weir pod: {why}").into()),
        (Err(why), _) => Err(format!("the connection broke off{why}").into()),
    }
}

/// Reads lines to their end and passes on what each means.
async fn lines(
    stream: Option<Stream>,
    node: &str,
    said: &Sender,
    mut read: impl FnMut(&str) -> Result<Option<Said>, serde_json::Error>,
) -> Result<(), String> {
    let Some(stream) = stream else { return Ok(()) };
    let mut lines = BufReader::new(stream).lines();
    while let Some(line) = lines.next_line().await.map_err(|error| error.to_string())? {
        let read = read(&line);
        let read = read.map_err(|error| other_version(None, &format!("its events cannot be read: {error}")))?;
        if let Some(read) = read
            && said.send((node.to_owned(), read)).await.is_err()
        {
            return Ok(());
        }
    }
    Ok(())
}
