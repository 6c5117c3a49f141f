//! What an admin request is answered with.

pub(super) use http::StatusCode as Status;

/// A whole answer.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) status: Status,
    pub(super) content_type: &'static str,
    pub(super) body: String,
    /// It is in the statistics: those that it shows.
    pub(super) counted: bool,
    /// It says of its type twice that it is not to be guessed.
    pub(super) insists: bool,
}

impl Reply {
    /// Plain text.
    pub(super) fn text(status: Status, body: impl Into<String>) -> Self {
        Self { status, content_type: "text/plain; charset=UTF-8", body: body.into(), counted: false, insists: false }
    }

    /// `OK` and the end of a line: something was done.
    pub(super) fn ok() -> Self {
        Self::text(Status::OK, "OK\n")
    }

    /// JSON text.
    pub(super) fn json(body: impl Into<String>) -> Self {
        Self { status: Status::OK, content_type: "application/json", body: body.into(), counted: false, insists: false }
    }

    /// JSON as Envoy's printer lays it out: one space a level, and an end of line.
    pub(super) fn pretty(value: &serde_json::Value) -> Self {
        Self::json(pretty(value))
    }

    /// A page.
    pub(super) fn html(body: impl Into<String>) -> Self {
        Self {
            status: Status::OK,
            content_type: "text/html; charset=UTF-8",
            body: body.into(),
            counted: false,
            insists: false,
        }
    }
}

fn pretty(value: &serde_json::Value) -> String {
    use serde::Serialize;
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b" ");
    // A value whose keys are strings, into memory: does not fail.
    let _ = value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter));
    out.push(b'\n');
    String::from_utf8(out).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_laid_out_as_envoys() {
        let value = serde_json::json!({"a": {}, "b": [], "c": [1, {"d": "e"}]});
        let text = "{\n \"a\": {},\n \"b\": [],\n \"c\": [\n  1,\n  {\n   \"d\": \"e\"\n  }\n ]\n}\n";
        assert_eq!(Reply::pretty(&value).body, text);
    }
}
