//! What is followed and what has become of it, as the client status discovery service tells it
//! (`envoy.service.status.v3.ClientStatusDiscoveryService`): to gRPC clients, and as JSON at the path that its `.proto` file
//! gives, `/v3/discovery:client_status`. `weirctl xds` reads it.

mod grpc;
mod told;

pub(super) use self::{
    grpc::{Calls, Method},
    told::{PATH, answer},
};
