//! What becomes of a request that is forwarded.

use http::{Response, request::Parts};

use crate::http::{
    body::client::ClientBody,
    stream::{Stream, response_body::ResponseBody},
};

/// What becomes of a request.
pub(in crate::http) enum Answer {
    Response(Response<ResponseBody>),
    /// None: the client is gone.
    None,
    /// It begins anew.
    Redirected(Box<Redirected>),
}

impl From<Response<ResponseBody>> for Answer {
    fn from(response: Response<ResponseBody>) -> Self {
        Self::Response(response)
    }
}

/// A request that begins anew.
pub(in crate::http) struct Redirected {
    pub stream: Stream,
    pub parts: Parts,
    pub body: ClientBody,
}
