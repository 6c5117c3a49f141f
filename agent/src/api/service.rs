//! The gRPC service: each method asks the board and the kernel, and presents the answer.

use std::{collections::HashMap, net::SocketAddr, pin::Pin, sync::Arc};

use futures_util::{Stream, StreamExt, stream};
use tonic::{Request, Response, Status};
use weir_abi::verdict::Action;
use weir_proto::agent::v1::{self as pb, agent_server::Agent};

use super::{
    clock::unix_ns,
    pods::{self, Lookup, Names},
    present,
    trace::{Filter, Hub},
};
use crate::{
    redirect::inspect::{Error, ExplainError, Kernel, explain},
    status::{Board, PodState, PodStatus, SharedBoard},
};

/// Answers requests.
pub struct Service {
    board: SharedBoard,
    kernel: Arc<dyn Kernel>,
    hub: Arc<Hub>,
}

impl Service {
    /// Answers from these.
    pub fn new(board: SharedBoard, kernel: Arc<dyn Kernel>, hub: Arc<Hub>) -> Self {
        Self { board, kernel, hub }
    }

    /// Asks the kernel, with a copy of the board, on a thread that may block.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Board, &dyn Kernel) -> Result<T, Status> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let (board, kernel) = (self.board.read().clone(), self.kernel.clone());
        let answer = tokio::task::spawn_blocking(move || question(&board, &*kernel));
        answer.await.map_err(|error| Status::internal(error.to_string()))?.map(Response::new)
    }
}

type Streaming<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Agent for Service {
    async fn status(&self, _: Request<pb::StatusRequest>) -> Result<Response<pb::StatusResponse>, Status> {
        let watchers = self.hub.watchers() as u32;
        self.ask(move |board, kernel| Ok(status(board, kernel, watchers)?)).await
    }

    async fn list_pods(&self, request: Request<pb::ListPodsRequest>) -> Result<Response<pb::ListPodsResponse>, Status> {
        let query = request.into_inner().pod;
        self.ask(move |board, kernel| {
            let chosen = match query.as_str() {
                "" => board.pods.iter().collect(),
                query => vec![pods::find(board, query)?],
            };
            let mut pods = chosen.into_iter().map(|pod| present::pod(pod, kernel)).collect::<Result<Vec<_>, _>>()?;
            pods.sort_by(|one, other| {
                (&one.namespace, &one.name, &one.uid).cmp(&(&other.namespace, &other.name, &other.uid))
            });
            Ok(pb::ListPodsResponse { pods })
        })
        .await
    }

    async fn list_redirects(
        &self,
        request: Request<pb::ListRedirectsRequest>,
    ) -> Result<Response<pb::ListRedirectsResponse>, Status> {
        let query = request.into_inner().pod;
        self.ask(move |board, kernel| {
            let mut flows = kernel.flows()?;
            if !query.is_empty() {
                let slot = pods::find(board, &query)?.slot;
                flows.retain(|(key, _)| Some(key.slot) == slot);
            }
            let names = Names::of(board, kernel.config()?.node_netns);
            Ok(pb::ListRedirectsResponse { redirects: present::redirects(kernel, &names, flows)? })
        })
        .await
    }

    async fn explain(&self, request: Request<pb::ExplainRequest>) -> Result<Response<pb::ExplainResponse>, Status> {
        let request = request.into_inner();
        self.ask(move |board, kernel| {
            let pod = pods::find(board, &request.pod)?;
            let to: SocketAddr = request
                .to
                .parse()
                .map_err(|_| Status::invalid_argument(format!("to: {:?}: expected IP:PORT", request.to)))?;
            let from = request.from.parse().map_err(Status::invalid_argument)?;
            let protocol = request.protocol.parse().map_err(Status::invalid_argument)?;
            let mut explained = explain(kernel, pod.netns_cookie, from, protocol, to)?;
            if let Some(reason) = pod.state.reason()
                && !explained.enrolled
            {
                explained.hint = format!("{}: {reason}", explained.hint);
            }
            Ok(pb::ExplainResponse {
                pod: pod.full_name(),
                direction: explained.direction.name().to_owned(),
                action: explained.rule.action().name().to_owned(),
                rule: explained.rule.name().to_owned(),
                hint: explained.hint,
                to: to.to_string(),
                listener: explained.listener.map_or_else(String::new, |address| address.to_string()),
                enrolled: explained.enrolled,
            })
        })
        .await
    }

    async fn list_programs(
        &self,
        _: Request<pb::ListProgramsRequest>,
    ) -> Result<Response<pb::ListProgramsResponse>, Status> {
        self.ask(|board, kernel| {
            let stats_enabled = kernel.count_runs()?;
            let names = Names::of(board, kernel.config()?.node_netns);
            let programs = kernel.programs()?;
            let programs = programs.iter().map(|facts| present::program(facts, board, &names)).collect();
            Ok(pb::ListProgramsResponse { programs, stats_enabled })
        })
        .await
    }

    async fn list_maps(&self, _: Request<pb::ListMapsRequest>) -> Result<Response<pb::ListMapsResponse>, Status> {
        self.ask(|_, kernel| {
            let maps = kernel.maps()?.into_iter().map(present::map).collect();
            Ok(pb::ListMapsResponse { maps })
        })
        .await
    }

    type DumpMapStream = Streaming<pb::MapEntry>;

    async fn dump_map(&self, request: Request<pb::DumpMapRequest>) -> Result<Response<Self::DumpMapStream>, Status> {
        let name = request.into_inner().name;
        let entries = self
            .ask(move |board, kernel| {
                let names = Names::of(board, kernel.config()?.node_netns);
                let entries = kernel.dump(&name)?;
                Ok(entries.into_iter().map(|entry| present::entry(entry, &names)).collect::<Vec<_>>())
            })
            .await?;
        Ok(entries.map(|entries| stream::iter(entries).map(Ok).boxed()))
    }

    type TraceEventsStream = Streaming<pb::Event>;

    async fn trace_events(
        &self,
        request: Request<pb::TraceEventsRequest>,
    ) -> Result<Response<Self::TraceEventsStream>, Status> {
        let request = request.into_inner();
        let verdict = request.verdict.parse().map_err(Status::invalid_argument)?;
        let hub = self.hub.clone();
        self.ask(move |board, _| {
            let pod = match request.pod.as_str() {
                "" => None,
                query => Some(watched(pods::find(board, query)?)?),
            };
            let watch = hub.watch(Filter { pod, verdict })?;
            Ok(Box::pin(watch) as Self::TraceEventsStream)
        })
        .await
    }
}

/// The uid of a pod that there may be events of.
fn watched(pod: &PodStatus) -> Result<String, Status> {
    match &pod.state {
        PodState::PassedOver { reason, .. } => Err(Status::failed_precondition(format!(
            "pod {} is passed over, so that there are no events of it: {reason}",
            pod.full_name()
        ))),
        _ => Ok(pod.uid.clone()),
    }
}

fn status(board: &Board, kernel: &dyn Kernel, watchers: u32) -> Result<pb::StatusResponse, Error> {
    let slots: Vec<_> = board.pods.iter().filter_map(|pod| pod.slot).collect();
    let decisions = kernel.decisions(&slots)?.into_iter();
    let refused: HashMap<_, _> = decisions
        .filter(|(rule, count)| rule.action() == Action::Refuse && *count > 0)
        .map(|(rule, count)| (rule.name().to_owned(), count))
        .collect();
    let faults = kernel.faults()?.into_iter().map(|(fault, count)| (fault.name().to_owned(), count)).collect();
    let mut pending = board
        .pods
        .iter()
        .filter(|pod| matches!(pod.state, PodState::Pending { .. }))
        .map(|pod| present::pod(pod, kernel))
        .collect::<Result<Vec<_>, _>>()?;
    pending
        .sort_by(|one, other| (&one.namespace, &one.name, &one.uid).cmp(&(&other.namespace, &other.name, &other.uid)));
    Ok(pb::StatusResponse {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        instance: board.instance.clone(),
        pid: std::process::id(),
        started: unix_ns(board.started),
        kernel: nix::sys::utsname::uname()
            .map_or_else(|_| String::new(), |uname| uname.release().to_string_lossy().into_owned()),
        cgroup2: board.cgroup2.display().to_string(),
        pin_path: board.pin_path.display().to_string(),
        adopted: board.adopted,
        proxies: board.proxies.iter().map(present::proxy).collect(),
        pods_enrolled: board.pods.iter().filter(|pod| pod.state == PodState::Enrolled).count() as u32,
        pods_pending: pending.len() as u32,
        pending,
        faults,
        refused,
        watchers,
        source_error: board.source_error.clone(),
        source_notes: board.source_notes.clone(),
        node: board.node.clone(),
        pods_cgroup: board.pods_cgroup.as_ref().map_or_else(String::new, |path| path.display().to_string()),
        pods_cgroup_error: board.pods_cgroup_error.clone(),
        pods_passed_over: board.pods.iter().filter(|pod| matches!(pod.state, PodState::PassedOver { .. })).count()
            as u32,
        keeper: board.keeper.status().map(present::keeper),
        cni: board.cni.as_ref().and_then(|cni| cni.file()).map_or_else(String::new, |path| path.display().to_string()),
        cni_error: board.cni.as_ref().and_then(|cni| cni.problem()).unwrap_or_default().to_owned(),
    })
}

impl From<Lookup> for Status {
    fn from(error: Lookup) -> Self {
        match error {
            Lookup::None { .. } => Self::not_found(error.to_string()),
            Lookup::Several { .. } => Self::failed_precondition(error.to_string()),
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        match error {
            Error::UnknownMap(_) => Self::not_found(error.to_string()),
            Error::NotIterable { .. } => Self::failed_precondition(error.to_string()),
            _ => Self::internal(error.to_string()),
        }
    }
}

impl From<ExplainError> for Status {
    fn from(error: ExplainError) -> Self {
        match error {
            ExplainError::Kernel(error) => error.into(),
            ExplainError::NotThePods { .. } => Self::invalid_argument(error.to_string()),
        }
    }
}
