//! Where a connection manager's routes are: in the configuration, in a cell, or in several tables of which what a request
//! says in its headers (its scope) chooses one.

use std::sync::Arc;

use arc_swap::Guard;
use hashbrown::{Equivalent, HashMap};
use http::{HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;
use tokio::sync::watch;

use crate::config::{
    cell::{Asked, Cell, Feed, Slot, State},
    route::RouteTable,
};

/// Virtual hosts and routes.
#[derive(Debug)]
pub enum Routes {
    /// One table for all.
    One(Table),
    /// One for each scope.
    Scoped(Box<ScopedRoutes>),
}

/// A table, where it is known.
#[derive(Clone, Debug)]
pub enum Table {
    /// In the configuration.
    Fixed(Arc<RouteTable>),
    /// It comes by itself (`rds`).
    Discovered(Arc<Cell<RouteTable>>),
}

/// `scoped_routes`.
#[derive(Debug)]
pub struct ScopedRoutes {
    /// How the scope of a request is found.
    pub key: Vec<Fragment>,
    /// The scopes.
    pub scopes: Scopes,
}

/// What scopes there are.
#[derive(Debug)]
pub enum Scopes {
    /// Those of the configuration.
    Fixed(ScopeTable),
    /// They come by themselves.
    Discovered(Arc<Slot<ScopeTable>>),
}

/// One part of a scope's key: a header's first value, or a part of that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// The header.
    pub header: HeaderName,
    /// What separates the elements of its value; empty: it is one.
    pub separator: Box<str>,
    /// Which of them it is.
    pub element: Element,
}

/// An element of a header's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Element {
    /// By its place.
    At(usize),
    /// The value of the first one that has this key.
    Of {
        /// The key.
        key: Box<str>,
        /// What separates it from the value.
        separator: Box<str>,
    },
}

/// Scopes by key.
#[derive(Debug, Default)]
pub struct ScopeTable(HashMap<Key, Table>);

/// A scope's key, one part after the other.
type Key = SmallVec<[Box<[u8]>; 1]>;

/// The routes in force, for who uses them for a moment.
#[derive(Debug)]
pub enum Current<'a> {
    /// Those of the configuration; none: the request has no scope.
    Known(Option<&'a Arc<RouteTable>>),
    /// What came last.
    Loaded(Guard<Option<Arc<RouteTable>>>),
    /// What came last of parts that come by themselves.
    Whole(Arc<RouteTable>),
}

impl Table {
    fn current(&self) -> Current<'_> {
        match self {
            Self::Fixed(table) => table.whole().map_or(Current::Known(Some(table)), Current::Whole),
            Self::Discovered(cell) => Current::of(cell),
        }
    }

    /// The cell that it is in, or parts of it are.
    fn cell(&self) -> Option<Arc<dyn Feed>> {
        match self {
            Self::Fixed(table) => table.discovered.as_ref().map(|hosts| hosts.cell.clone()),
            Self::Discovered(cell) => Some(cell.clone()),
        }
    }

    /// The same, for who does not keep this.
    fn to_current(&self) -> Current<'static> {
        match self {
            Self::Fixed(table) => Current::Whole(table.whole().unwrap_or_else(|| table.clone())),
            Self::Discovered(cell) => Current::of(cell),
        }
    }

    /// Asks for what a request lacks. None: there is nothing to wait for.
    fn ask(&self, authority: &[u8]) -> Option<Needed> {
        let of_table = |table: &RouteTable| table.discovered.as_ref()?.ask(authority).map(Needed::Host);
        match self {
            Self::Fixed(table) => of_table(table),
            Self::Discovered(cell) => {
                cell.want();
                match cell.current().as_deref() {
                    Some(table) => of_table(table),
                    None => Some(cell.state()).filter(|state| *state.borrow() == State::Waiting).map(Needed::Table),
                }
            }
        }
    }
}

/// What a request lacks that has been asked for.
#[derive(Debug)]
pub enum Needed {
    /// Its virtual host.
    Host(Asked),
    /// The table of its scope.
    Table(watch::Receiver<State>),
}

impl Needed {
    /// Resolves when it is there, or is known not to be.
    pub async fn answered(self) {
        match self {
            Self::Host(asked) => asked.answered().await,
            // One that is gone is not waited for.
            Self::Table(mut state) => drop(state.wait_for(|state| *state != State::Waiting).await),
        }
    }
}

impl Routes {
    /// Cells that they are in.
    pub fn cells(&self) -> Vec<Arc<dyn Feed>> {
        match self {
            Self::One(table) => table.cell().into_iter().collect(),
            Self::Scoped(scoped) => match &scoped.scopes {
                Scopes::Fixed(scopes) => scopes.cells(),
                Scopes::Discovered(slot) => slot.current().map(|scopes| scopes.cells()).unwrap_or_default(),
            },
        }
    }

    /// The routes in force for a request with these headers.
    pub fn current(&self, headers: &HeaderMap) -> Current<'_> {
        match self {
            Self::One(table) => table.current(),
            Self::Scoped(scoped) => scoped.current(headers).unwrap_or(Current::Known(None)),
        }
    }

    /// Asks for what a request without a route lacks. None: there is nothing to wait for.
    pub fn ask(&self, headers: &HeaderMap, authority: &[u8]) -> Option<Needed> {
        match self {
            Self::One(table) => table.ask(authority),
            Self::Scoped(scoped) => scoped.with(headers, |table| table.ask(authority))?,
        }
    }
}

impl ScopedRoutes {
    fn current(&self, headers: &HeaderMap) -> Option<Current<'_>> {
        self.with(headers, Table::to_current)
    }

    /// Looks at the table of a request's scope, if it has one.
    fn with<T>(&self, headers: &HeaderMap, look: impl FnOnce(&Table) -> T) -> Option<T> {
        let key = self.key.iter().map(|fragment| fragment.find(headers));
        let key: SmallVec<[&[u8]; 4]> = key.collect::<Option<_>>()?;
        match &self.scopes {
            Scopes::Fixed(scopes) => scopes.find(&key).map(look),
            Scopes::Discovered(slot) => slot.current()?.find(&key).map(look),
        }
    }
}

impl ScopeTable {
    /// Adds a scope, which replaces one of the same key.
    pub fn add(&mut self, key: &[&str], table: Table) {
        let key = key.iter().map(|part| part.as_bytes().into()).collect();
        self.0.insert(key, table);
    }

    /// Cells that its tables are in.
    pub fn cells(&self) -> Vec<Arc<dyn Feed>> {
        self.0.values().filter_map(Table::cell).collect()
    }

    fn find(&self, key: &[&[u8]]) -> Option<&Table> {
        self.0.get(&KeyRef(key))
    }
}

/// A key that is looked for; its hash is that of the key.
#[derive(Hash)]
struct KeyRef<'a>(&'a [&'a [u8]]);

impl Equivalent<Key> for KeyRef<'_> {
    fn equivalent(&self, known: &Key) -> bool {
        known.len() == self.0.len() && known.iter().zip(self.0).all(|(known, part)| **known == **part)
    }
}

impl Fragment {
    fn find<'a>(&self, headers: &'a HeaderMap) -> Option<&'a [u8]> {
        let value = headers.get(&self.header).map(HeaderValue::as_bytes)?;
        let mut elements = split(value, self.separator.as_bytes());
        match &self.element {
            Element::At(place) => elements.nth(*place),
            Element::Of { key, separator } => elements.find_map(|element| {
                let mut parts = split(element, separator.as_bytes());
                let found = parts.next()?;
                if found != key.as_bytes() {
                    return None;
                }
                let rest = element.len().min(found.len() + separator.len());
                Some(&element[rest..])
            }),
        }
    }
}

/// What is between separators; with an empty one, all of it.
fn split<'a, 's>(value: &'a [u8], separator: &'s [u8]) -> impl Iterator<Item = &'a [u8]> + use<'a, 's> {
    let mut rest = Some(value);
    std::iter::from_fn(move || {
        let value = rest?;
        let at = match separator {
            [] => None,
            separator => value.windows(separator.len()).position(|window| window == separator),
        };
        rest = at.map(|at| &value[at + separator.len()..]);
        Some(&value[..at.unwrap_or(value.len())])
    })
}

impl Current<'_> {
    fn of(cell: &Cell<RouteTable>) -> Self {
        let loaded = cell.current();
        match loaded.as_ref().and_then(|table| table.whole()) {
            Some(whole) => Self::Whole(whole),
            None => Self::Loaded(loaded),
        }
    }

    /// The table; none: there is none for the request, or none has come yet.
    pub fn table(&self) -> Option<&Arc<RouteTable>> {
        match self {
            Self::Known(table) => *table,
            Self::Loaded(loaded) => loaded.as_ref(),
            Self::Whole(table) => Some(table),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragment(separator: &str, element: Element) -> Fragment {
        Fragment { header: HeaderName::from_static("x-scope"), separator: separator.into(), element }
    }

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(HeaderName::from_static("x-scope"), HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn a_part_of_a_header_is_found_as_it_is_said() {
        let of = |separator: &str, key: &str| Element::Of { key: key.into(), separator: separator.into() };
        for (fragment, value, found) in [
            (fragment("", Element::At(0)), "a;b", Some("a;b")),
            (fragment("", Element::At(1)), "a;b", None),
            (fragment(";", Element::At(1)), "a;b", Some("b")),
            (fragment(";", Element::At(2)), "a;b;", Some("")),
            (fragment(";", of("=", "k")), "z=1;k=a=c;k=b", Some("a=c")),
            (fragment(";", of("=", "k")), "k", Some("")),
            (fragment(";", of("=", "k")), "k = a", None),
            (fragment(",,", of("=>", "k")), "a,,k=>b", Some("b")),
        ] {
            let headers = headers(value);
            assert_eq!(fragment.find(&headers), found.map(str::as_bytes), "{fragment:?} {value}");
            assert_eq!(fragment.find(&HeaderMap::new()), None);
        }
    }

    #[test]
    fn a_scope_has_a_table_of_its_own() {
        let mut scopes = ScopeTable::default();
        let tables = [(); 2].map(|()| Arc::new(RouteTable::default()));
        scopes.add(&["a", "b"], Table::Fixed(tables[1].clone()));
        scopes.add(&["ab", ""], Table::Fixed(tables[1].clone()));
        scopes.add(&["a", "b"], Table::Fixed(tables[0].clone()));
        let key = vec![fragment(";", Element::At(0)), fragment(";", Element::At(1))];
        let routes = Routes::Scoped(Box::new(ScopedRoutes { key, scopes: Scopes::Fixed(scopes) }));
        for (value, table) in [("a;b", Some(0)), ("ab;", Some(1)), ("a", None), ("b;a", None)] {
            let headers = headers(value);
            let found = routes.current(&headers);
            let expected = table.map(|index: usize| Arc::as_ptr(&tables[index]));
            assert_eq!(found.table().map(Arc::as_ptr), expected, "{value}");
        }
    }
}
