//! Envoy's format strings: literals and command operators, `%COMMAND(PARAMETER):LENGTH%`.
//!
//! Parsed once, off the data path; a format is a flat list of pieces, written into a buffer without further allocation.
//! The same strings are used in access logs (an absent value is `-`) and in headers to add (an absent value is empty).

mod cel;
mod coalesce;
mod error;
mod field;
mod filter_state;
mod grpc;
mod json;
mod metadata;
mod number;
mod parse;
mod quote;
#[cfg(test)]
mod tests;
mod time;
mod tls;
mod write;

pub use self::{
    error::FormatError,
    field::{Bytes, Field, Selected, Span},
};
use self::{
    field::{Piece, each_of},
    json::Node,
    write::write_pieces,
};
use super::view::View;

/// Envoy's own default for a file access log without a format.
pub const ENVOY_DEFAULT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
     %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \
     \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \
     \"%UPSTREAM_HOST%\"\n";

/// Istio's default: of the lines of a node's own passthrough, which no configuration describes.
pub const ISTIO_DEFAULT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
     %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \
     \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
     %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \
     \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% \
     %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

/// What a line looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    shape: Shape,
    /// Absent values are empty in texts, and not there in objects and lists.
    omit: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Shape {
    Text(Vec<Piece>),
    Json(Node),
}

impl Format {
    /// Parses a text format; it must bring its own line end.
    pub fn text(source: &str) -> Result<Self, FormatError> {
        Ok(Self { shape: Shape::Text(parse::pieces(source)?), omit: false })
    }

    /// Parses a JSON format: strings in `value` are formats.
    pub fn json(value: &serde_json::Value) -> Result<Self, FormatError> {
        Ok(Self { shape: Shape::Json(Node::parse(value)?), omit: false })
    }

    /// `omit_empty_values`.
    #[must_use]
    pub fn omitting(self, omit: bool) -> Self {
        Self { omit, ..self }
    }

    /// Whether it is a literal without operators.
    pub fn as_literal(&self) -> Option<&str> {
        match &self.shape {
            Shape::Text(pieces) => match pieces.as_slice() {
                [] => Some(""),
                [Piece::Literal(text)] => Some(text),
                _ => None,
            },
            Shape::Json(_) => None,
        }
    }

    /// Visits its operators.
    pub fn each_field(&self, visit: &mut impl FnMut(&Field)) {
        match &self.shape {
            Shape::Text(pieces) => each_of(pieces, visit),
            Shape::Json(node) => node.each_field(visit),
        }
    }
}

impl Format {
    /// Appends a line.
    pub fn write_line(&self, out: &mut Vec<u8>, view: &View<'_>) {
        match &self.shape {
            Shape::Text(pieces) => write_pieces(pieces, out, view, self.omit),
            Shape::Json(node) => {
                if !node.write(out, view, self.omit) {
                    out.extend_from_slice(b"{}");
                }
                out.push(b'\n');
            }
        }
    }

    /// Appends a header value: absent values are empty.
    pub fn write_header(&self, out: &mut Vec<u8>, view: &View<'_>) {
        match &self.shape {
            Shape::Text(pieces) => write_pieces(pieces, out, view, true),
            Shape::Json(node) => {
                node.write(out, view, self.omit);
            }
        }
    }
}
