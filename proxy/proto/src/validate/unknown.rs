//! Fields of encoded messages that their types do not have.

use std::fmt;

use prost_reflect::{DynamicMessage, ReflectMessage};

/// Fields of one message that its type does not have, in Envoy's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownFields {
    message: String,
    /// From the outermost message to this one.
    path: Vec<String>,
    numbers: Vec<u32>,
}

impl fmt::Display for UnknownFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers: Vec<_> = self.numbers.iter().map(u32::to_string).collect();
        write!(f, "type {}(root", self.message)?;
        self.path.iter().try_for_each(|field| write!(f, ".{field}"))?;
        write!(f, ") with unknown field set {{{}}}", numbers.join(", "))
    }
}

/// What a message has of them, not looking at what is inside of it.
pub(super) fn of(message: &DynamicMessage) -> Option<UnknownFields> {
    let mut numbers: Vec<u32> = message.unknown_fields().map(|field| field.number()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let message = message.descriptor().full_name().to_owned();
    (!numbers.is_empty()).then_some(UnknownFields { message, path: Vec::new(), numbers })
}

/// These were found inside of a field.
pub(super) fn within(found: &mut [UnknownFields], field: &str) {
    found.iter_mut().for_each(|unknown| unknown.path.insert(0, field.to_owned()));
}
