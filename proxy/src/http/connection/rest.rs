//! Rest: an HTTP/1 connection without a request for a while is taken from hyper, which keeps a page to read into and one to
//! write from, and is handed back when bytes come. Of ten thousand idle connections that is 80 MB.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::http::stream::connection::Connection;

/// A connection that had no request for so long rests. Clients that ask again and again do so sooner.
const QUIET: Duration = Duration::from_millis(250);
/// When a connection that was at work is looked at again.
const AT_WORK: Duration = Duration::from_secs(10);

/// Resolves when a connection is at rest: nothing is under way, and nothing of a next request has come.
pub(super) async fn begins(connection: &Connection) {
    let activity = &connection.activity;
    let mut look = Instant::now() + QUIET;
    loop {
        sleep_until(look).await;
        let rests = activity.idle_since() + QUIET;
        if activity.active() > 0 || !connection.between_requests.get() || connection.unflushed.get() {
            look = Instant::now() + AT_WORK;
        } else if rests > Instant::now() {
            look = rests;
        } else {
            return;
        }
    }
}
