//! Whose configuration something goes by. A view is one node's: its bootstrap, what its management servers send it, and the
//! listeners and clusters that are made of both. The process has its own, and as many named ones as it is told.

use std::{fmt, sync::Arc};

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
}
