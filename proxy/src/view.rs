//! Whose configuration something goes by. A view is one node's: its bootstrap, what its management servers send it, and the
//! listeners and clusters that are made of both. The process has its own, and as many named ones as it is told.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering::SeqCst},
    },
};

use tokio::sync::watch;

/// Which view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ViewId(u16);

impl ViewId {
    /// The process's own.
    pub const OWN: Self = Self(0);

    /// Its place among all views, the process's own first.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// The names of the views besides the process's own. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct ViewNames(Arc<[Arc<str>]>);

/// There are more views than can be told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany;

impl fmt::Display for TooMany {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there may be {} views at most", u16::MAX)
    }
}

impl ViewNames {
    /// Views of these names, which are unique, in this order.
    pub fn new(names: impl IntoIterator<Item = Arc<str>>) -> Result<Self, TooMany> {
        let names: Arc<[_]> = names.into_iter().collect();
        if names.len() > usize::from(u16::MAX) { Err(TooMany) } else { Ok(Self(names)) }
    }

    /// All views, the process's own first, which has no name.
    pub fn all(&self) -> impl Iterator<Item = (ViewId, Option<&Arc<str>>)> {
        let named = (1..).zip(self.0.iter()).map(|(number, name)| (ViewId(number), Some(name)));
        std::iter::once((ViewId::OWN, None)).chain(named)
    }

    /// The view of a name.
    pub fn find(&self, name: &str) -> Option<ViewId> {
        let (view, _) = self.all().find(|(_, known)| known.is_some_and(|known| **known == *name))?;
        Some(view)
    }

    /// The view that serves the pods of a namespace: the one of its name, else the process's own.
    pub fn serving(&self, namespace: &str) -> ViewId {
        self.find(namespace).unwrap_or(ViewId::OWN)
    }

    /// What a view is called; none: it is the process's own.
    pub fn name(&self, view: ViewId) -> Option<&Arc<str>> {
        self.0.get(view.index().checked_sub(1)?)
    }
}

/// What connections wait for until it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Awaited {
    /// What a view starts with, or that it was waited for as long as it was to be.
    Start = 1,
    /// That, and what its server says of its listeners: whatever came of it, a view that has never heard of them is not one
    /// without any.
    Listeners = 3,
}

/// What of a view is there.
#[derive(Debug)]
pub struct Gate {
    known: AtomicU8,
    changed: watch::Sender<()>,
    complained: AtomicBool,
}

impl Gate {
    /// Nothing is there. Whether the view's listeners come from somewhere.
    pub fn closed(follows_listeners: bool) -> Self {
        let known = if follows_listeners { 0 } else { Awaited::Listeners as u8 & !(Awaited::Start as u8) };
        Self { known: AtomicU8::new(known), changed: watch::Sender::default(), complained: AtomicBool::default() }
    }

    /// All is there, and was from the beginning.
    pub fn open() -> Self {
        let gate = Self::closed(false);
        gate.start();
        gate
    }

    /// What the view starts with is there.
    pub fn start(&self) {
        self.add(Awaited::Start as u8);
    }

    /// The server has said which listeners there are.
    pub fn hear(&self) {
        self.add(Awaited::Listeners as u8 & !(Awaited::Start as u8));
    }

    fn add(&self, known: u8) {
        if self.known.fetch_or(known, SeqCst) & known != known {
            self.changed.send_replace(());
        }
    }

    /// Whether this is there.
    pub fn has(&self, awaited: Awaited) -> bool {
        let wanted = awaited as u8;
        self.known.load(SeqCst) & wanted == wanted
    }

    /// Resolves once it is.
    pub async fn wait(&self, awaited: Awaited) {
        let mut changes = self.changed.subscribe();
        while !self.has(awaited) {
            // The sender is here.
            let _ = changes.changed().await;
        }
    }

    /// Whether nobody has complained before of what is not there.
    pub fn may_complain(&self) -> bool {
        !self.complained.swap(true, SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_has_the_view_of_its_name_or_the_process_s_own() {
        let names = ViewNames::new(["shop".into(), "bank".into()]).unwrap();
        assert_eq!(names.serving("other"), ViewId::OWN);
        let [shop, bank] = ["shop", "bank"].map(|name| names.serving(name));
        assert_eq!([shop.index(), bank.index()], [1, 2]);
        assert_eq!((names.find("bank"), names.find("other")), (Some(bank), None));
        assert_eq!([ViewId::OWN, bank].map(|view| names.name(view).map(|name| &**name)), [None, Some("bank")]);
        assert_eq!(names.all().map(|(view, _)| view).collect::<Vec<_>>(), [ViewId::OWN, shop, bank]);
        assert_eq!(ViewNames::default().serving("shop"), ViewId::OWN);
    }

    #[tokio::test]
    async fn a_gate_opens_once_all_that_is_awaited_is_there() {
        let gate = Gate::closed(true);
        gate.start();
        gate.wait(Awaited::Start).await;
        let waiting = gate.wait(Awaited::Listeners);
        tokio::pin!(waiting);
        assert!(!gate.has(Awaited::Listeners) && futures_util::poll!(&mut waiting).is_pending());
        gate.hear();
        waiting.await;
        let heard = Gate::closed(true);
        heard.hear();
        assert!(!heard.has(Awaited::Start) && !heard.has(Awaited::Listeners));
        let fixed = Gate::closed(false);
        assert!(!fixed.has(Awaited::Start));
        fixed.start();
        assert!(fixed.has(Awaited::Listeners) && Gate::open().has(Awaited::Listeners));
    }
}
