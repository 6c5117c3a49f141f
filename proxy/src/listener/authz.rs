//! Asking services whether connections may go on.

use std::rc::Rc;

use super::behalf::Known;
use crate::{
    downstream::Downstream,
    http::call::authorization::{about_connection, ask},
    tcp::gate::{Ask, Said},
    worker::state::Worker,
};

/// What asks about a connection whose handshake is done.
pub(super) fn asker<'a>(worker: &'a Worker, downstream: &Downstream) -> Ask<'a> {
    let (peer, local) = (downstream.peer, downstream.destination);
    let (server_name, tls) = (downstream.server_name.clone(), downstream.tls.clone());
    let known = Rc::new(Known::of(downstream));
    Box::new(move |filter, metadata| {
        let question = about_connection(filter, peer, local, server_name.as_deref(), tls.as_deref(), metadata);
        let known = known.clone();
        Box::pin(async move {
            let answer = ask(known.behalf(worker, filter.node), filter, &question).await;
            Said { allowed: answer.allowed, metadata: answer.metadata }
        })
    })
}
