//! What the answers are made from, and what the control thread is asked to do.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use weir_proto::envoy::config::bootstrap::v3::Bootstrap;

use super::{
    counts::Counts,
    query::Query,
    reply::{Reply, Status as Code},
};
use crate::{
    config::{cell::Registry, convert::StatsSettings, snapshot::Snapshot},
    dynamic::status::Status,
    intake::listening::Listening,
    lifecycle::Lifecycle,
    matcher::StringMatcher,
    options::Options,
    runtime::Runtime,
    telemetry::{stats::Store, writer::Reopener},
    view::ViewId,
};

/// What the control thread is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// End now.
    Quit,
    /// Stop accepting.
    DrainListeners {
        /// Only after the drain time, in which connections are asked to end.
        graceful: bool,
        /// Only listeners of inbound traffic.
        inbound_only: bool,
        /// Have connections end, but go on accepting.
        skip_exit: bool,
    },
}

/// A view.
#[derive(Debug)]
pub struct View {
    /// Which.
    pub id: ViewId,
    /// What it is called; none: it is the process's own.
    pub name: Option<Arc<str>>,
    /// The configuration in force.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// What the configuration names and comes by itself.
    pub cells: Arc<Registry>,
    /// The bootstrap as read.
    pub bootstrap: Arc<Bootstrap>,
    /// What has become of what is followed; none: nothing is.
    pub dynamic: Option<Arc<Status>>,
}

/// What the answers are made from.
#[derive(Debug)]
pub struct Admin {
    /// The metrics.
    pub stats: Store,
    /// How they are shown.
    pub settings: Arc<StatsSettings>,
    /// The views, the process's own first.
    pub views: Vec<View>,
    /// Runtime values.
    pub runtime: Arc<Runtime>,
    /// The process's state.
    pub lifecycle: Arc<Lifecycle>,
    /// The command line.
    pub options: Options,
    /// The listeners and where they are bound.
    pub listening: Arc<Listening>,
    /// When the process started, for durations.
    pub started: Instant,
    /// When the configuration was loaded.
    pub loaded: SystemTime,
    /// Opens access logs again.
    pub reopener: Reopener,
    /// To the control thread.
    pub commands: mpsc::Sender<Command>,
    /// What is counted of this server itself.
    pub counts: Arc<Counts>,
    /// Paths that are answered; empty: all.
    pub allow_paths: Vec<StringMatcher>,
}

impl Admin {
    /// The process's own view.
    pub(super) fn own(&self) -> &View {
        &self.views[ViewId::OWN.index()]
    }

    /// The view that a request names, or else the process's own. Error: what is answered where there is none of the name.
    pub(super) fn view(&self, query: &Query) -> Result<&View, Reply> {
        let Some(name) = query.get("view").filter(|name| !name.is_empty()) else { return Ok(self.own()) };
        self.views.iter().find(|view| view.name.as_deref() == Some(name)).ok_or_else(|| {
            let known: Vec<_> = self.views.iter().filter_map(|view| view.name.as_deref()).collect();
            let known = match &known[..] {
                [] => "there is none but the process's own".to_owned(),
                known => format!("expected one of {}", known.join(", ")),
            };
            Reply::text(Code::BAD_REQUEST, format!("unknown view \"{name}\": {known}\n"))
        })
    }

    /// An answer that is of one view.
    pub(super) fn of_view(&self, query: &Query, answer: impl FnOnce(&View) -> Reply) -> Reply {
        self.view(query).map_or_else(|refusal| refusal, answer)
    }
}
