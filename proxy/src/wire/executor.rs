//! Where hyper's own tasks run.

use std::future::Future;

use crate::telemetry::panics;

/// Runs hyper's tasks on the thread that they belong to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LocalExecutor {
    /// The number of the connection that they are of, if it has one.
    pub connection: Option<u64>,
}

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        panics::spawn_for(self.connection, future);
    }
}
