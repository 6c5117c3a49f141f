//! A whole cluster, from anywhere: asks weirctl on each node that has an answer, through the API server, and prints what
//! they say as one answer.
//!
//! Nodes are asked at the same time, each within the same limit; one that does not answer is said on standard error and
//! in the exit code, and holds nobody up.

mod connect;
mod error;
mod exec;
mod find;
mod place;
mod trace;
mod uninstall;

use futures_util::{StreamExt, stream};

pub use error::Error;
pub use uninstall::uninstall;

use self::{connect::Connection, exec::Remote, find::Asked, place::Stalled};
use crate::{
    answer::Answer,
    cli::Cluster,
    output::Output,
    question::Question,
    show::status::{self, Node},
};

/// Nodes that are asked at the same time.
const AT_ONCE: usize = 16;

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All answered.
    Done,
    /// Some did not.
    Incomplete,
    /// All answered, and something needs attention.
    Unhealthy,
}

/// What one node said.
struct Reply {
    node: String,
    answer: Result<Answer, String>,
    beside: Vec<String>,
}

/// Asks the nodes of a cluster, and prints what they say.
pub async fn ask(question: &Question, cluster: &Cluster, output: &mut Output) -> Result<Outcome, Error> {
    let connection = Connection::open(cluster).await?;
    let asked = find::whom(&connection, question).await?;
    if let Question::Trace(what) = question {
        return trace::trace(&connection, &asked, what, output).await;
    }
    // What it means for the exit code is decided here.
    let question = match question {
        Question::Status { .. } => Question::Status { check: false },
        _ => asked.question.clone(),
    };
    let replies = replies(&connection, &asked, &question).await;
    for reply in &replies {
        for line in &reply.beside {
            output.note(format_args!("node {}: {line}", reply.node));
        }
        if let Err(why) = &reply.answer {
            output.complain(format_args!("node {}: {why}", reply.node));
        }
    }
    let failed = replies.iter().any(|reply| reply.answer.is_err());
    let check = matches!(asked.question, Question::Status { check: true });
    let well = if matches!(question, Question::Status { .. }) && cluster.node.is_none() {
        statuses(replies, &asked.stalled, output)?
    } else {
        let answers = replies.into_iter().filter_map(|reply| Some((reply.node, reply.answer.ok()?)));
        let of_nodes = answers.map(|(node, answer)| answer.of_node(&node));
        let Some(answer) = of_nodes.reduce(Answer::and) else { return nothing(output) };
        let well = !matches!(&answer, Answer::Status(status) if !status.is_healthy());
        let shown = match (&connection.namespace, asked.one_pod) {
            (Some(namespace), false) => answer.in_namespace(namespace),
            _ => answer,
        };
        if let Some(namespace) = &connection.namespace
            && shown.has_no_pods()
            && connection.lacks_namespace(namespace).await
        {
            return Err(Error::Pod(format!("no namespace {namespace}")));
        }
        if let Some(none) = shown.emptiness(&question, connection.namespace.as_deref())
            && !asked.one_pod
        {
            output.note(none);
        }
        shown.print(output)?;
        for stalled in &asked.stalled {
            output.note(stalled);
        }
        well && asked.stalled.is_empty()
    };
    Ok(match (failed, well || !check) {
        (true, _) => Outcome::Incomplete,
        (false, false) => Outcome::Unhealthy,
        (false, true) => Outcome::Done,
    })
}

/// Prints the versions of this program and of what runs in the cluster.
pub async fn versions(cluster: &Cluster, output: &mut Output) -> Result<Outcome, Error> {
    let own = env!("CARGO_PKG_VERSION");
    let question = Question::Status { check: false };
    let connection = Connection::open(cluster).await?;
    let asked = find::whom(&connection, &question).await?;
    let nodes = nodes(replies(&connection, &asked, &question).await, &[]);
    for node in &nodes {
        if let Err(why) = &node.status {
            output.complain(format_args!("node {}: {why}", node.name));
        }
    }
    let name = output.name();
    let table = status::versions(&nodes);
    output.answer(format_args!("{name} {own}\n{table}"), || {
        Ok(serde_json::json!({ "version": own, "nodes": status::versions_json(&nodes) }))
    })?;
    Ok(if nodes.iter().any(|node| node.status.is_err()) { Outcome::Incomplete } else { Outcome::Done })
}

/// All have been told on standard error, in text; JSON's readers look at standard output.
fn nothing(output: &mut Output) -> Result<Outcome, Error> {
    output.json_error("no node answered")?;
    Ok(Outcome::Incomplete)
}

/// Asks all at the same time.
async fn replies(connection: &Connection, asked: &Asked, question: &Question) -> Vec<Reply> {
    let reply = async |(node, pod): (&String, &Result<String, String>)| {
        let said = match pod {
            Ok(pod) => Remote { connection, pod: pod.clone() }.ask(question).await,
            Err(why) => Err(why.clone()),
        };
        let (answer, beside) = match said {
            Ok((answer, beside)) => (Ok(answer), beside),
            Err(why) => (Err(why), Vec::new()),
        };
        Reply { node: node.clone(), answer, beside }
    };
    let mut replies: Vec<Reply> = stream::iter(&asked.nodes).map(reply).buffer_unordered(AT_ONCE).collect().await;
    uninstall::explain(connection, &mut replies).await;
    replies.sort_by(|one, other| one.node.cmp(&other.node));
    replies
}

fn nodes(replies: Vec<Reply>, stalled: &[Stalled]) -> Vec<Node> {
    let node = |reply: Reply| {
        let status = reply.answer.and_then(|answer| match answer {
            Answer::Status(status) => Ok(*status),
            _ => Err("its answer is no status".to_owned()),
        });
        let stalled = stalled.iter().find(|stalled| stalled.node == reply.node).map(|stalled| stalled.what.clone());
        Node { name: reply.node, status, stalled }
    };
    replies.into_iter().map(node).collect()
}

/// Prints one line a node. Whether none needs attention.
fn statuses(replies: Vec<Reply>, stalled: &[Stalled], output: &mut Output) -> Result<bool, Error> {
    let nodes = nodes(replies, stalled);
    let skew = status::skew(&nodes, env!("CARGO_PKG_VERSION"));
    output.answer(status::table(&nodes), || status::nodes_json(&nodes))?;
    if let Some(skew) = skew {
        output.note(skew);
    }
    Ok(nodes.iter().all(Node::is_well))
}
