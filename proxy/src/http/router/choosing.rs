//! Which endpoint an attempt is for.

use std::sync::Arc;

use http::{HeaderMap, header};

use super::{attempts::Attempts, hashing::hashed, upstream::Attempted};
use crate::{
    cluster::{PickContext, Reach},
    config::cluster::{Cluster, Discovery, Endpoint},
    http::body::{BodySource, ReadAhead},
};

/// Where a request says that it goes, if its cluster asks it.
fn named_destination<'a>(cluster: &Cluster, headers: &'a HeaderMap) -> Option<&'a str> {
    let Discovery::OriginalDestination { header: Some(name), .. } = &cluster.discovery else { return None };
    headers.get(name)?.to_str().ok()
}

/// The host that a request is for, if its cluster asks it.
fn named_host<'a>(cluster: &Cluster, headers: &'a HeaderMap) -> Option<&'a str> {
    let Discovery::ForwardProxy(_) = &cluster.discovery else { return None };
    headers.get(header::HOST)?.to_str().ok()
}

impl Attempts<'_> {
    /// Waits until the host that is meant has been resolved, if the cluster is one of a dynamic forward proxy. What comes
    /// back instead of an attempt: it can't be.
    pub async fn reach(&mut self, body: &mut BodySource) -> Option<Attempted> {
        let context = PickContext {
            host: named_host(&self.cluster, &self.parts.headers),
            filter_state: self.stream.record.entry.filter_state.as_deref(),
            ..PickContext::default()
        };
        match self.cluster.reach(&context) {
            Reach::Known => {}
            Reach::Failed(why) => self.unresolved = Some(why),
            Reach::Wait(resolving) => {
                let resolving = body.ahead_while(resolving.failure());
                match self.stream.record.within(&mut self.timers, resolving).await {
                    Ok(None) => {}
                    Ok(why) => {
                        self.unresolved = why;
                        self.stream.keep_request(&self.parts);
                        return Some(Attempted::NoHost);
                    }
                    Err(expired) => return Some(Attempted::Expired(expired)),
                }
            }
        }
        None
    }

    /// Picks an endpoint, of which other attempts may have had some.
    pub fn pick(&mut self) -> Option<Arc<Endpoint>> {
        if self.retries > 0 {
            // As in Envoy, each attempt makes a cookie of its own where the client has none.
            let again = hashed(&self.stream, &self.cluster, self.forward, &self.parts);
            self.hashed.hash = again.hash;
            self.hashed.cookies.extend(again.cookies);
        }
        let connection = &self.stream.connection;
        let mut context = PickContext {
            destination: connection.original_destination(),
            destination_header: named_destination(&self.cluster, &self.parts.headers),
            host: named_host(&self.cluster, &self.parts.headers),
            metadata: [self.stream.record.entry.metadata.as_deref(), connection.metadata.as_deref()],
            filter_state: self.stream.record.entry.filter_state.as_deref(),
            hash: self.hashed.hash,
            ..PickContext::default()
        };
        if let Some(policy) = self.policy.as_deref().filter(|_| !self.tried.is_empty()) {
            context.repicks = policy.repicks;
            context.avoid = if policy.avoid_previous_hosts { &self.tried } else { &[] };
            context.omit_canaries = policy.omit_canaries;
            context.omit_metadata = policy.omit_metadata.as_deref();
            // The priorities of the attempts since the load was last spread anew.
            if let Some(frequency) = policy.previous_priorities {
                let known = self.priorities.len() - self.priorities.len() % frequency as usize;
                context.previous_priorities = &self.priorities[..known];
            }
        }
        let picked = connection.worker.balancers.pick(&self.cluster, &context)?;
        if picked.anew {
            self.priorities.clear();
        }
        self.priorities.push(picked.priority);
        self.member = picked.member;
        Some(picked.endpoint)
    }

    /// The cluster that the endpoint of the last attempt is of.
    pub fn chosen(&self) -> &Arc<Cluster> {
        self.member.as_ref().unwrap_or(&self.cluster)
    }
}
