//! Headers to add and to remove.

use http::{HeaderName, HeaderValue};

use crate::access_log::format::Format;

/// What happens to a header that is there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Append {
    /// Another value is added.
    #[default]
    AppendIfExistsOrAdd,
    /// Nothing.
    AddIfAbsent,
    /// It is replaced; an absent one is added.
    OverwriteIfExistsOrAdd,
    /// It is replaced; an absent one is not added.
    OverwriteIfExists,
}

/// A header to add.
#[derive(Clone, Debug)]
pub struct Addition {
    /// Its name; `host` stands for `:authority` too.
    pub name: HeaderName,
    /// Its value.
    pub value: Value,
    /// What happens to one that is there.
    pub append: Append,
    /// Add it even if its value is empty.
    pub keep_empty: bool,
}

/// The value of a header to add.
#[derive(Clone, Debug)]
pub enum Value {
    /// As it is.
    Fixed(HeaderValue),
    /// With operators.
    Format(Format),
}

/// Changes to a set of headers: removals first, then additions.
#[derive(Clone, Debug, Default)]
pub struct Mutations {
    /// To remove.
    pub remove: Vec<HeaderName>,
    /// To add.
    pub add: Vec<Addition>,
}

impl Mutations {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }
}

/// Changes to the requests and to the responses of a route, a virtual host or a route configuration.
#[derive(Clone, Debug, Default)]
pub struct HeaderChanges {
    /// To the request.
    pub request: Mutations,
    /// To the response.
    pub response: Mutations,
}
