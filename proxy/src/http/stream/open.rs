//! A connection in the statistics of its manager: from when it has a filter chain, before its TLS handshake and before it
//! is known which HTTP it speaks, to its end.

use std::{cell::Cell, rc::Rc, sync::Arc, time::Instant};

use super::activity::Activity;
use crate::{config::http::HttpConnectionManager, worker::state::Worker};

/// A connection that is open until this is dropped.
#[derive(Debug)]
pub struct Open {
    pub(super) worker: Rc<Worker>,
    pub(super) manager: Arc<HttpConnectionManager>,
    tls: bool,
    http2: Cell<Option<bool>>,
    began: Instant,
    /// Its requests.
    pub(in crate::http) activity: Rc<Activity>,
}

impl Open {
    /// A connection begins; `tls`: it is to be under TLS.
    pub fn new(worker: Rc<Worker>, manager: Arc<HttpConnectionManager>, tls: bool) -> Self {
        manager.stats.connected(&worker.stats, tls);
        Self { worker, manager, tls, http2: Cell::new(None), began: Instant::now(), activity: Rc::new(Activity::new()) }
    }

    /// It speaks HTTP/2, or HTTP/1: said as often as something comes.
    pub(super) fn speaks(&self, http2: bool) {
        if self.http2.get().is_none() {
            self.http2.set(Some(http2));
            self.manager.stats.speaks(&self.worker.stats, http2);
        }
    }

    /// Resolves, and is counted, when it has existed for as long as it may.
    pub(in crate::http) async fn too_old(&self) {
        match self.manager.max_connection_duration {
            // Few have one.
            Some(limit) => Box::pin(tokio::time::sleep_until((self.began + limit).into())).await,
            None => std::future::pending().await,
        }
        self.worker.stats.inc(self.manager.stats.own.downstream_cx_max_duration_reached);
    }

    /// Resolves when nothing has been said on it for as long as that may be, with the reason that logs give.
    pub async fn silent_too_long(&self) -> &'static str {
        let idle = async {
            match self.manager.idle_timeout {
                Some(limit) => tokio::time::sleep_until((self.began + limit).into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.too_old() => "duration_timeout",
            () = idle => {
                self.worker.stats.inc(self.manager.stats.own.downstream_cx_idle_timeout);
                "on_idle_timeout"
            }
        }
    }

    /// The client ended it, or had it end.
    pub fn client_ended(&self) {
        self.activity.client_ended_during(self.activity.active());
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let lasted = self.began.elapsed();
        let left = self.activity.left();
        let active = left.unwrap_or_else(|| self.activity.active());
        let kind = (self.http2.get(), self.tls);
        self.manager.stats.disconnected(&self.worker.stats, kind, lasted, active, left.is_none());
    }
}
