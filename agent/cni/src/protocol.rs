//! What the plugin and the agent say to each other.
//!
//! A SOCK_SEQPACKET connection for each call, a JSON object a packet: one [`Request`], with the pod's network namespace
//! as a file descriptor beside it, then [`Answer`]s, of which the last is final. Plugin and agent may be of different
//! versions of weir, so the protocol only grows: both ignore fields that they do not know and have a value for every
//! field that is absent. An answer that the plugin does not know counts as none.

use serde::{Deserialize, Serialize};

/// The version of the protocol that is spoken here; told for whoever reads logs.
pub const VERSION: u32 = 1;
/// No message is longer than this, in bytes.
pub const LONGEST: usize = 64 * 1024;

/// What the plugin was called for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Command {
    /// A sandbox was made; it has its interface.
    Add,
    /// A sandbox is taken down.
    Del,
    /// Is the pod redirected?
    Check,
    /// Something that this side does not know.
    #[default]
    #[serde(other)]
    Other,
}

/// A call of the plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Request {
    /// [`VERSION`] of the plugin.
    pub version: u32,
    /// What it was called for.
    pub command: Command,
    /// The sandbox.
    pub container_id: String,
    /// Path of its network namespace on the node.
    pub netns: String,
    /// UID of the pod; empty if the runtime did not tell.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// For how many milliseconds the plugin waits for an answer.
    pub wait_ms: u64,
}

/// What the agent says of a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// weir has nothing to do with it.
    Pass,
    /// It is redirected.
    Enrolled,
    /// It is to be enrolled, or may be, and must not start meanwhile; what came of it comes in a further answer.
    Wait,
    /// It is to be enrolled and is not.
    Refused,
    /// The agent cannot tell whether it is to be enrolled: what is known on the node counts, unless it is to wait.
    Unsure,
    /// Something that this side does not know.
    #[default]
    #[serde(other)]
    Other,
}

/// The agent's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Answer {
    /// [`VERSION`] of the agent.
    pub version: u32,
    /// What it says.
    pub verdict: Verdict,
    /// Why.
    pub reason: String,
}

impl Answer {
    /// An answer of this side's version.
    pub fn new(verdict: Verdict, reason: impl Into<String>) -> Self {
        Self { version: VERSION, verdict, reason: reason.into() }
    }
}

/// A message as it is sent.
pub fn packet(message: &impl Serialize) -> Vec<u8> {
    // Strings, numbers and unit variants always serialise.
    serde_json::to_vec(message).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_what_is_received() {
        let request = Request { command: Command::Add, name: "a\nb".to_owned(), ..Request::default() };
        assert_eq!(serde_json::from_slice::<Request>(&packet(&request)).unwrap(), request);
        let answer = packet(&Answer::new(Verdict::Wait, ""));
        assert_eq!(String::from_utf8(answer).unwrap(), "{\"version\":1,\"verdict\":\"wait\",\"reason\":\"\"}");
    }

    #[test]
    fn other_versions_are_understood() {
        let later = r#"{"version":9,"command":"gc","container_id":"c","attachments":[1,2]}"#;
        let request: Request = serde_json::from_str(later).unwrap();
        assert_eq!((request.command, request.container_id.as_str(), request.uid.as_str()), (Command::Other, "c", ""));
        let later: Answer = serde_json::from_str(r#"{"verdict":"postponed","until":1}"#).unwrap();
        assert_eq!(later.verdict, Verdict::Other);
        assert_eq!(serde_json::from_str::<Answer>("{}").unwrap().verdict, Verdict::Other);
    }
}
