//! Asking services whether connections may go on.

use std::rc::Rc;

use crate::{
    downstream::Downstream,
    http::{
        call::authorization::{about_connection, ask},
        stream::behalf::Behalf,
    },
    tcp::gate::{Ask, Said},
    wire::proxy_header::Client,
    worker::state::Worker,
};

/// What asks about a connection whose handshake is done.
pub(super) fn asker<'a>(worker: &'a Worker, downstream: &Downstream) -> Ask<'a> {
    let (dialer, id, peer, local) = (downstream.dialer(), downstream.id, downstream.peer, downstream.destination);
    let destination = downstream.original_destination();
    let (server_name, tls) = (downstream.server_name.clone(), downstream.tls.clone());
    let known = Rc::new((dialer.scope(), dialer));
    Box::new(move |filter, metadata| {
        let question = about_connection(filter, peer, local, server_name.as_deref(), tls.as_deref(), metadata);
        let known = known.clone();
        Box::pin(async move {
            let behalf = Behalf {
                worker,
                id,
                destination,
                dialer: &known.1,
                scope: &known.0,
                multiplexed: false,
                client: Client { source: peer, destination: local },
                node: filter.node,
            };
            let answer = ask(behalf, filter, &question).await;
            Said { allowed: answer.allowed, metadata: answer.metadata }
        })
    })
}
