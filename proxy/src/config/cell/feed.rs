//! A cell as those see it who do not know what is in it.

use std::{
    any::Any,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use tokio::sync::watch;

use super::{
    asks::Asked,
    subject::{Refused, State, Subject, Told},
};
use crate::{config::error::Error, telemetry::stats::Scope};

/// A cell as those see it who feed it, wait for it or show it.
pub trait Feed: Any + Send + Sync + fmt::Debug {
    /// What tells it from others.
    fn subject(&self) -> &Subject;
    /// What tells it from an earlier one of the same subject.
    fn number(&self) -> u64;
    /// How long is waited for a first value; none: for ever.
    fn timeout(&self) -> Option<Duration>;
    /// Where the statistics of its subscription are.
    fn scope(&self) -> &Scope;
    /// Since when it is there.
    fn since(&self) -> SystemTime;
    /// How it stands.
    fn state(&self) -> watch::Receiver<State>;
    /// What is known of what came.
    fn told(&self) -> Told;
    /// Offers an encoded message. Whether it is another than before; or why it is refused.
    fn offer(&self, body: &Bytes, version: &Arc<str>, now: SystemTime) -> Result<bool, String>;
    /// Something came that could not be offered.
    fn refuse(&self, refused: Refused);
    /// What came could not be read, or, if `empty`, had nothing for it: nobody waits any longer.
    fn miss(&self, empty: bool);
    /// The source says that there is none any more. As in Envoy, routes and secrets stay.
    fn withdraw(&self);
    /// Nothing came in time.
    fn time_out(&self);
    /// Asks for what it has under a name. None: there is nothing to wait for.
    fn ask(&self, name: &Arc<str>) -> Option<Asked>;
    /// The source has said of a name that was asked for whether there is something.
    fn answer(&self, name: &str, found: bool);
    /// Cells that the value in force, or what is made of it, names: who waits for this one waits for them, too.
    fn further(&self) -> Vec<Arc<dyn Feed>>;
}

/// What is made from cells, and made anew when one of them changes. Those of one change are prepared one after the other,
/// before any is put in force: what one of them can't be made of is refused.
pub trait Follower: Send + Sync {
    /// Makes it anew; what is given back puts it in force.
    fn prepare(&self) -> Result<Box<dyn FnOnce() + '_>, Error>;

    /// Cells that what was made names.
    fn further(&self) -> Vec<Arc<dyn Feed>> {
        Vec::new()
    }
}

/// Resolves once none of them is waited for any longer.
pub async fn settled(cells: &[Arc<dyn Feed>]) {
    for cell in cells {
        // The sender lives in the cell.
        let _ = cell.state().wait_for(|state| *state != State::Waiting).await;
        Box::pin(settled(&cell.further())).await;
    }
}
