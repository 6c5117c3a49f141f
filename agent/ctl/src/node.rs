//! Asks this node's agent.

use std::{io, path::Path, time::Duration};

use tokio_stream::StreamExt;
use tonic::{Code, transport::Channel};
use weir_proto::agent::v1::{self as pb, agent_client::AgentClient};

use crate::{
    agent::{self, Unreachable},
    answer::Answer,
    output::Output,
    question::{Program, Question, Trace},
    show::{
        event::{Event, Lines},
        map::{Entry, Map},
        pod::Pod,
        prog,
        redirect::{Redirect, Verdict},
        rows::{One, Rows},
    },
    stop::interrupted,
};

/// What is said when a trace of no pod in particular starts.
pub const TRACING_ALL: &str = "tracing all pods";

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
    #[error("the agent does not answer within {}", humantime::format_duration(*.0))]
    Silent(Duration),
    /// Nothing fits what was asked for.
    #[error("{0}")]
    Nothing(String),
    /// The answer could not be written.
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
}

/// The agent of this node.
pub struct Node {
    agent: AgentClient<Channel>,
    timeout: Duration,
}

impl Node {
    /// The agent at a socket, which may take so long for an answer.
    pub async fn connect(socket: &Path, timeout: Duration) -> Result<Self, Error> {
        Ok(Self { agent: agent::connect(socket, timeout).await?, timeout })
    }

    /// Asks one question and prints the answer. Whether nothing needs attention, where that was asked.
    pub async fn ask(&mut self, question: &Question, output: &mut Output) -> Result<bool, Error> {
        if let Question::Trace(what) = question {
            self.trace(what, output).await?;
            return Ok(true);
        }
        let answer = self.answer(question, output).await?;
        let well = match (question, &answer) {
            (Question::Status { check: true }, Answer::Status(status)) => status.is_healthy(),
            _ => true,
        };
        answer.print(output)?;
        Ok(well)
    }

    fn error(&self, status: &tonic::Status) -> Error {
        // tonic makes statuses, too, from what goes wrong on the way: those have a source, the agent's have not.
        match (std::error::Error::source(status), status.code()) {
            (Some(_), Code::Cancelled | Code::DeadlineExceeded) => Error::Silent(self.timeout),
            (Some(_), _) => Error::Gone,
            (None, _) => Error::Agent(status.message().to_owned()),
        }
    }

    async fn answer(&mut self, question: &Question, output: &mut Output) -> Result<Answer, Error> {
        let answer = match question {
            Question::Programs(which) => return self.programs(which, output).await,
            question => self.question(question).await,
        };
        answer.map_err(|status| self.error(&status))
    }

    async fn question(&mut self, question: &Question) -> Result<Answer, tonic::Status> {
        Ok(match question {
            Question::Status { .. } => {
                let status = self.agent.status(pb::StatusRequest {}).await?.into_inner();
                Answer::Status(Box::new(status.into()))
            }
            Question::Pods { pod, all } => {
                let mut pods = self.pods(pod).await?;
                // Whoever names one wants it.
                pods.retain(|shown| *all || !pod.is_empty() || shown.is_wanted());
                Answer::Pods(Rows::here(pods))
            }
            Question::Pod(name) => Answer::Pod(Box::new(One::here(self.pod(name).await?))),
            Question::Setup(name) => Answer::Setup(Box::new(One::here(self.pod(name).await?.into()))),
            Question::Redirects { pod, all } => {
                let request = pb::ListRedirectsRequest { pod: pod.clone() };
                let rows = self.agent.list_redirects(request).await?.into_inner().redirects;
                let mut rows: Vec<Redirect> = rows.into_iter().map(Redirect::from).collect();
                rows.retain(|row| *all || !row.is_the_proxys());
                Answer::Redirects(Rows::here(rows))
            }
            Question::Explain(asked) => {
                let request = pb::ExplainRequest {
                    pod: asked.pod.clone(),
                    to: asked.to.to_string(),
                    from: asked.from.clone(),
                    protocol: asked.protocol.clone(),
                };
                let answer = self.agent.explain(request).await?.into_inner();
                Answer::Verdict(Box::new(One::here(Verdict::new(answer, asked))))
            }
            Question::Dump(name) => {
                let mut stream = self.agent.dump_map(pb::DumpMapRequest { name: name.clone() }).await?.into_inner();
                let mut entries = Vec::new();
                while let Some(entry) = stream.next().await {
                    entries.push(Entry::from(entry?));
                }
                Answer::Entries(Rows::here(entries))
            }
            Question::Xds { .. } | Question::Proxy { .. } => {
                return Err(tonic::Status::unimplemented("the proxy's admin server answers this, not the agent"));
            }
            Question::Maps | Question::Programs(_) | Question::Trace(_) => {
                let maps = self.agent.list_maps(pb::ListMapsRequest {}).await?.into_inner().maps;
                Answer::Maps(Rows::here(maps.into_iter().map(Map::from).collect()))
            }
        })
    }

    async fn pods(&mut self, pod: &str) -> Result<Vec<Pod>, tonic::Status> {
        let pods = self.agent.list_pods(pb::ListPodsRequest { pod: pod.to_owned() }).await?.into_inner().pods;
        Ok(pods.into_iter().map(Pod::from).collect())
    }

    async fn pod(&mut self, name: &str) -> Result<Pod, tonic::Status> {
        let pod = self.pods(name).await?.into_iter().next();
        pod.ok_or_else(|| tonic::Status::not_found(format!("no pod {name:?}")))
    }

    async fn programs(&mut self, which: &Program, output: &mut Output) -> Result<Answer, Error> {
        let answer = self.agent.list_programs(pb::ListProgramsRequest {}).await;
        let answer = answer.map_err(|status| self.error(&status))?.into_inner();
        let mut programs: Vec<prog::Program> = answer.programs.into_iter().map(prog::Program::from).collect();
        let missing = match which {
            Program::Any => None,
            Program::Id(id) => {
                programs.retain(|program| program.id == *id);
                Some(format!("no program of weir with id {id}"))
            }
            Program::Name(name) => {
                programs.retain(|program| program.name == *name);
                Some(format!("no program of weir with name {name:?}"))
            }
        };
        if let Some(missing) = missing.filter(|_| programs.is_empty()) {
            return Err(Error::Nothing(missing));
        }
        if !answer.stats_enabled {
            output
                .note("runs were not counted until now (kernel.bpf_stats_enabled=0); they are for a minute from here");
        }
        Ok(Answer::Programs(Rows::here(programs)))
    }

    async fn trace(&mut self, what: &Trace, output: &mut Output) -> Result<(), Error> {
        let request = pb::TraceEventsRequest { pod: what.pod.clone(), verdict: what.verdict.clone() };
        // The agent answers once events are written.
        let events = self.agent.trace_events(request).await.map_err(|status| self.error(&status))?;
        let mut events = events.into_inner();
        if what.pod.is_empty() {
            output.note(TRACING_ALL);
        } else {
            output.note(format_args!("tracing {}", what.pod));
            // Without this answer there is less to say; events come all the same.
            let pod = self.pod(&what.pod).await.ok();
            if let Some((pod, why)) = pod.as_ref().and_then(|pod| Some((pod, pod.not_yet()?))) {
                output.note(format_args!(
                    "pod {} is pending, so that there are no events of it yet: {why}",
                    pod.full_name()
                ));
            }
        }
        let lines = Lines::new();
        let (mut shown, mut lost) = (0, 0);
        let end = stop(what)?;
        tokio::pin!(end);
        while what.count.is_none_or(|count| shown < count) {
            let event = tokio::select! {
                event = events.next() => event,
                () = &mut end => break,
            };
            let event = match event {
                Some(Ok(event)) => Event::from(event),
                Some(Err(status)) => return Err(self.error(&status)),
                None => return Err(Error::Gone),
            };
            if event.lost > 0 {
                output.note(format_args!("{} events lost", event.lost));
                lost += event.lost;
            }
            let event = One::here(event);
            output.answer(lines.plain(&event), || event.json())?;
            shown += 1;
        }
        output.note(format_args!("{shown} events, {lost} lost"));
        Ok(())
    }
}

/// Whatever ends a trace first, but for its count.
fn stop(what: &Trace) -> io::Result<impl Future<Output = ()> + use<>> {
    let end = what.duration.map(|duration| tokio::time::Instant::now() + duration);
    let until_stdin_ends = what.until_stdin_ends;
    let interrupted = interrupted()?;
    Ok(async move {
        let deadline = async {
            match end {
                Some(end) => tokio::time::sleep_until(end).await,
                None => std::future::pending().await,
            }
        };
        let input = async { if until_stdin_ends { stdin_ends().await } else { std::future::pending().await } };
        tokio::select! {
            () = deadline => {},
            () = input => {},
            () = interrupted => {},
        }
    })
}

/// Standard input's end. What is on it is of no interest. On a thread of its own, which nothing waits for: a read of a
/// terminal does not end before a line does.
async fn stdin_ends() {
    let (ended, end) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        let _ = ended.send(());
    });
    let _ = end.await;
}
