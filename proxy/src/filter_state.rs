//! Filter state: objects that filters keep by name of a connection or of a request, for those after them.
//!
//! What a connection has, its requests see; what a request has, ends with it. Objects are small, and but for counts
//! immutable: copies share them.

use std::{
    fmt,
    hash::{Hash, Hasher},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use smallvec::SmallVec;

/// The objects of a connection, or of a request on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct FilterState {
    objects: SmallVec<[Object; 1]>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Object {
    /// Its name.
    pub key: Arc<str>,
    /// What it is.
    pub value: Value,
    /// Who else has it.
    pub shared: Shared,
    /// How long it lasts.
    pub span: Span,
}

/// What an object is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Value {
    /// A text.
    Text(Arc<str>),
    /// A text by which upstream connections are told apart, where they have it.
    Keyed(Arc<str>),
    /// An address.
    Address(SocketAddr),
    /// A number.
    Number(u32),
    /// The messages of a call of gRPC; there from the first one on.
    Messages(Arc<MessageCounts>),
}

/// How many messages of a call of gRPC have passed.
#[derive(Debug, Default)]
pub struct MessageCounts {
    /// The request's.
    pub requests: AtomicU64,
    /// The response's.
    pub responses: AtomicU64,
}

impl MessageCounts {
    /// The request's and the response's.
    pub fn now(&self) -> (u64, u64) {
        (self.requests.load(Relaxed), self.responses.load(Relaxed))
    }
}

impl PartialEq for MessageCounts {
    fn eq(&self, other: &Self) -> bool {
        self.now() == other.now()
    }
}

impl Eq for MessageCounts {}

impl Hash for MessageCounts {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.now().hash(state);
    }
}

/// Whether upstream connections inside this process have an object, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Shared {
    /// They do not.
    #[default]
    No,
    /// The next one has.
    Once,
    /// The next one has, and those that it leads to.
    Transitive,
}

/// How long an object lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Span {
    /// As long as the request.
    Request,
    /// As long as the connection.
    Connection,
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) | Self::Keyed(text) => f.write_str(text),
            Self::Address(address) => address.fmt(f),
            Self::Number(number) => number.fmt(f),
            Self::Messages(messages) => {
                let (requests, responses) = messages.now();
                write!(f, "{requests},{responses}")
            }
        }
    }
}

impl Value {
    /// Whether it is there already.
    fn is_there(&self) -> bool {
        !matches!(self, Self::Messages(messages) if messages.now() == (0, 0))
    }
}

impl FilterState {
    /// The object of this name.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let value = self.objects.iter().find(|object| *object.key == *key).map(|object| &object.value);
        value.filter(|value| value.is_there())
    }

    /// An address that is kept by this name.
    pub fn address(&self, key: &str) -> Option<SocketAddr> {
        match self.get(key)? {
            Value::Address(address) => Some(*address),
            Value::Text(_) | Value::Keyed(_) | Value::Number(_) | Value::Messages(_) => None,
        }
    }

    /// A text that is kept by this name.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.get(key)? {
            Value::Text(text) | Value::Keyed(text) => Some(text),
            Value::Address(_) | Value::Number(_) | Value::Messages(_) => None,
        }
    }

    /// A number that is kept by this name, if it is a port.
    pub fn port(&self, key: &str) -> Option<u16> {
        match self.get(key)? {
            Value::Number(number) => u16::try_from(*number).ok().filter(|port| *port > 0),
            Value::Text(_) | Value::Keyed(_) | Value::Address(_) | Value::Messages(_) => None,
        }
    }

    /// Adds an object, or takes it for the one of its name, if that may change and lasts as long. False: it stays as it
    /// was, as in Envoy.
    pub fn set(&mut self, object: Object) -> bool {
        match self.objects.iter_mut().find(|known| known.key == object.key) {
            None => self.objects.push(object),
            Some(known) if known.span == object.span => *known = object,
            Some(_) => return false,
        }
        true
    }

    /// What of it upstream connections inside this process may have; none: nothing.
    pub fn shareable(&self) -> Option<Box<Self>> {
        let objects: SmallVec<_> = self.objects.iter().filter(|object| object.shared != Shared::No).cloned().collect();
        (!objects.is_empty()).then(|| Box::new(Self { objects }))
    }

    /// The same as the next connection has it.
    pub fn shared(&self) -> Option<Box<Self>> {
        let mut next = self.shareable()?;
        for object in &mut next.objects {
            object.span = Span::Connection;
            if object.shared == Shared::Once {
                object.shared = Shared::No;
            }
        }
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(key: &str, value: &str) -> Object {
        let value = Value::Text(value.into());
        Object { key: key.into(), value, shared: Shared::No, span: Span::Request }
    }

    #[test]
    fn objects_change_unless_they_last_longer() {
        let mut state = FilterState::default();
        assert!(state.set(object("a", "1")) && state.set(object("a", "2")));
        assert!(state.set(Object { span: Span::Connection, ..object("c", "1") }) && !state.set(object("c", "2")));
        let text = |key: &str| state.get(key).map(ToString::to_string);
        assert_eq!(["a", "b", "c"].map(text), [Some("2".into()), None, Some("1".into())]);
    }

    #[test]
    fn messages_are_there_once_one_has_passed() {
        let (mut state, counts) = (FilterState::default(), Arc::new(MessageCounts::default()));
        state.set(Object { value: Value::Messages(counts.clone()), ..object("m", "") });
        assert!(state.get("m").is_none());
        counts.responses.fetch_add(2, Relaxed);
        assert_eq!(state.get("m").unwrap().to_string(), "0,2");
    }

    #[test]
    fn what_is_shared_once_is_not_shared_on() {
        let mut state = FilterState::default();
        for (key, shared) in [("no", Shared::No), ("once", Shared::Once), ("on", Shared::Transitive)] {
            state.set(Object { shared, ..object(key, key) });
        }
        let next = state.shared().unwrap();
        assert_eq!(
            [next.get("no").is_some(), next.get("once").is_some(), next.get("on").is_some()],
            [false, true, true]
        );
        let last = next.shared().unwrap();
        assert_eq!([last.get("once").is_some(), last.get("on").is_some()], [false, true]);
        assert!(FilterState::default().shared().is_none());
    }
}
