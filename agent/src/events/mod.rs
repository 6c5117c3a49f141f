//! Kubernetes events: on pods what became of them, on the node why nothing is redirected.
//!
//! `story` decides what is worth an event, `limit` how many there may be, `write` sends them. Nobody waits for an
//! event: what cannot be written, or is too much, is dropped and counted.

mod limit;
mod story;
mod write;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use self::{
    story::{Story, What},
    write::{Regarding, Writer},
};
use crate::{
    config::{Config, KubernetesSource, Source},
    counts::Counts,
    enroll::Outcome,
    sources::kubernetes::{self, Handle},
};

/// An agent that cannot start tries for so long to say so.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// Without anything due, looked at again.
const IDLE: Duration = Duration::from_secs(3600);

/// Where every wanted pod stands.
type All = Arc<BTreeMap<String, Outcome>>;

/// Writes events of what becomes of the pods, until there are no more outcomes. `instance` is the agent's own pod.
pub async fn run(handle: Handle, mut outcomes: watch::Receiver<All>, instance: Option<String>, counts: Counts) {
    let mut writer = Writer::start(handle.client(), instance, counts.events_dropped);
    let mut story = Story::new(handle.inherited().clone());
    loop {
        let all = outcomes.borrow_and_update().clone();
        let now = Instant::now();
        for (uid, what) in story.go_on(&all, now) {
            tell(&mut writer, &handle, &uid, &what, now);
        }
        let due = story.due().unwrap_or(now + IDLE);
        tokio::select! {
            changed = outcomes.changed() => if changed.is_err() { return },
            () = sleep_until(due) => {}
        }
    }
}

fn tell(writer: &mut Writer, handle: &Handle, uid: &str, what: &What, now: Instant) {
    let Some(pod) = handle.pod(uid) else { return };
    // That a pod came to its end is no news, and nobody reads events of one that is gone.
    let withdrawn = match what {
        What::Withdrawn(_) if pod.finished || !handle.is_present(uid) => return,
        What::Withdrawn(_) => Some(What::Withdrawn(handle.why_not(uid))),
        _ => None,
    };
    writer.write(Regarding::pod(&pod), withdrawn.as_ref().unwrap_or(what), now);
}

/// Says on the node that this agent cannot start, and why; tries for a few seconds. Where the API server is not the source
/// of pods there is nobody to tell.
pub async fn report_unavailable(config: &Config, reasons: &[String]) {
    let Source::Kubernetes(source) = &config.source else { return };
    let told = timeout(LAST_WORDS, tell_unavailable(config, source, reasons)).await;
    if let Err(problem) = told.unwrap_or_else(|_| Err(format!("no answer within {LAST_WORDS:?}"))) {
        tracing::warn!(problem, "could not write an event that says so");
    }
}

async fn tell_unavailable(config: &Config, source: &KubernetesSource, reasons: &[String]) -> Result<(), String> {
    let client = kubernetes::client(source.kubeconfig.as_deref()).await.map_err(|error| error.to_string())?;
    let what = What::Unavailable(reasons.join("; "));
    write::write_one(&client, source.pod.as_deref(), &Regarding::node(&config.node), &what).await
}
