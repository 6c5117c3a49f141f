//! Asks the agent and prints the answer.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::StreamExt;
use tonic::{Code, transport::Channel};
use weir_proto::agent::v1::{self as pb, agent_client::AgentClient};

use crate::{
    OK, UNHEALTHY,
    cli::{Program, Question, Trace},
    client::{self, Unreachable},
    output::Output,
    show, time,
};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The agent cannot be reached.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    /// The agent says why not.
    #[error("{0}")]
    Agent(String),
    /// The agent ended while it was asked.
    #[error("the agent went away")]
    Gone,
    /// The agent is there and does not answer.
    #[error("the agent does not answer")]
    Silent,
    /// Nothing fits what was asked for.
    #[error("{0}")]
    Nothing(String),
    /// The answer could not be written.
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        // tonic makes statuses, too, from what goes wrong on the way: those have a source, the agent's have not.
        match (std::error::Error::source(&status), status.code()) {
            (Some(_), Code::Cancelled | Code::DeadlineExceeded) => Self::Silent,
            (Some(_), _) => Self::Gone,
            (None, _) => Self::Agent(status.message().to_owned()),
        }
    }
}

/// Prints weirctl's version.
pub fn version(output: &mut Output) -> io::Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    output.write(format_args!("weirctl {version}\n"), || serde_json::json!({ "version": version }))
}

/// Asks one question. The exit code.
pub async fn ask(question: &Question, socket: &std::path::Path, output: &mut Output) -> Result<u8, Error> {
    let mut agent = client::connect(socket).await?;
    let now = time::now();
    match question {
        Question::Status { check } => {
            let status = agent.status(pb::StatusRequest {}).await?.into_inner();
            output.write(show::status::plain(&status, now), || show::status::json(&status))?;
            if *check && !show::status::is_healthy(&status) {
                return Ok(UNHEALTHY);
            }
        }
        Question::Pods(pod) => {
            let pods = pods(&mut agent, pod).await?;
            output.write(show::pod::table(&pods, now), || pods.iter().map(show::pod::json).collect())?;
        }
        Question::Pod(name) => {
            for pod in pods(&mut agent, name).await? {
                output.write(show::pod::facts(&pod, now), || show::pod::json(&pod))?;
            }
        }
        Question::RedirectSetup(name) => {
            for pod in pods(&mut agent, name).await? {
                output.write(show::redirect::setup(&pod), || show::redirect::setup_json(&pod))?;
            }
        }
        Question::Redirects { pod, all } => {
            let request = pb::ListRedirectsRequest { pod: pod.clone() };
            let rows = show::redirect::listed(agent.list_redirects(request).await?.into_inner().redirects, *all);
            output.write(show::redirect::table(&rows, now), || rows.iter().map(show::redirect::json).collect())?;
        }
        Question::Explain(explain) => {
            let request = pb::ExplainRequest {
                pod: explain.pod.clone(),
                to: explain.to.to_string(),
                from: explain.from.clone(),
                protocol: explain.protocol.clone(),
            };
            let answer = agent.explain(request).await?.into_inner();
            output
                .write(show::redirect::verdict(&answer, explain), || show::redirect::verdict_json(&answer, explain))?;
        }
        Question::Programs(which) => return programs(&mut agent, which, output).await,
        Question::Maps => {
            let maps = agent.list_maps(pb::ListMapsRequest {}).await?.into_inner().maps;
            output.write(show::map::table(&maps), || maps.iter().map(show::map::json).collect())?;
        }
        Question::Dump(name) => {
            let mut stream = agent.dump_map(pb::DumpMapRequest { name: name.clone() }).await?.into_inner();
            let mut entries = Vec::new();
            while let Some(entry) = stream.next().await {
                entries.push(entry?);
            }
            output.write(show::map::entries(&entries), || entries.iter().map(show::map::entry_json).collect())?;
        }
        Question::Trace(what) => return trace(&mut agent, what, output).await,
    }
    Ok(OK)
}

async fn pods(agent: &mut AgentClient<Channel>, pod: &str) -> Result<Vec<pb::Pod>, Error> {
    Ok(agent.list_pods(pb::ListPodsRequest { pod: pod.to_owned() }).await?.into_inner().pods)
}

async fn programs(agent: &mut AgentClient<Channel>, which: &Program, output: &mut Output) -> Result<u8, Error> {
    let mut answer = agent.list_programs(pb::ListProgramsRequest {}).await?.into_inner();
    let missing = match which {
        Program::Any => None,
        Program::Id(id) => {
            answer.programs.retain(|program| program.id == *id);
            Some(format!("no program of weir with id {id}"))
        }
        Program::Name(name) => {
            answer.programs.retain(|program| program.name == *name);
            Some(format!("no program of weir with name {name:?}"))
        }
    };
    if let Some(missing) = missing.filter(|_| answer.programs.is_empty()) {
        return Err(Error::Nothing(missing));
    }
    output.write(show::prog::table(&answer.programs), || answer.programs.iter().map(show::prog::json).collect())?;
    if !answer.stats_enabled {
        output.note("runs were not counted until now (kernel.bpf_stats_enabled=0); they are for a minute from here");
    }
    Ok(OK)
}

async fn trace(agent: &mut AgentClient<Channel>, what: &Trace, output: &mut Output) -> Result<u8, Error> {
    let request = pb::TraceEventsRequest { pod: what.pod.clone(), verdict: what.verdict.clone() };
    // The agent answers once events are written.
    let mut events = agent.trace_events(request).await?.into_inner();
    output.note(format_args!("tracing {}", if what.pod.is_empty() { "all pods" } else { &what.pod }));
    let lines = show::event::Lines::new();
    let (mut shown, mut lost) = (0, 0);
    let end = what.duration.map(|duration| tokio::time::Instant::now() + duration);
    let deadline = async {
        match end {
            Some(end) => tokio::time::sleep_until(end).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(deadline);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    while what.count.is_none_or(|count| shown < count) {
        let event = tokio::select! {
            event = events.next() => event,
            () = &mut deadline => break,
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
        };
        let event = match event {
            Some(Ok(event)) => event,
            Some(Err(status)) => return Err(status.into()),
            None => return Err(Error::Gone),
        };
        if event.lost > 0 {
            output.note(format_args!("{} events lost", event.lost));
            lost += event.lost;
        }
        output.write(lines.plain(&event), || show::event::json(&event))?;
        shown += 1;
    }
    output.note(format_args!("{shown} events, {lost} lost"));
    Ok(OK)
}
