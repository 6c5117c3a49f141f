use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::*;
use crate::{config::error::Error, telemetry::stats::Scope};

fn subject(name: &str, source: Source) -> Subject {
    Subject { kind: Kind::Secret, source, name: name.into() }
}

fn file(path: &str) -> Source {
    Source::File(path.into())
}

/// Numbers in text.
fn numbers() -> Making<u32> {
    let read: Read<u32> = Box::new(|body| {
        let text = String::from_utf8_lossy(body);
        text.parse().map_err(|_| Error::at("number", format!("\"{text}\" is none")))
    });
    Making {
        timeout: Some(INITIAL_FETCH_TIMEOUT),
        scope: Scope::default(),
        read,
        reloads: None,
        further: nothing_further,
    }
}

fn offer(cell: &Cell<u32>, text: &'static str, version: &str) -> Result<bool, String> {
    cell.offer(&Bytes::from_static(text.as_bytes()), &version.into(), SystemTime::UNIX_EPOCH)
}

fn value(cell: &Cell<u32>) -> Option<u32> {
    cell.current().as_deref().copied()
}

fn state(cell: &Cell<u32>) -> State {
    *cell.state().borrow()
}

#[test]
fn what_is_refused_leaves_the_value_as_it_is() {
    let registry = Registry::default();
    let cell = registry.cell(subject("a", file("f")), numbers);
    assert_eq!((value(&cell), state(&cell)), (None, State::Waiting));
    assert_eq!(offer(&cell, "1", "v1"), Ok(true));
    assert_eq!((value(&cell), state(&cell)), (Some(1), State::Ready));
    assert_eq!(offer(&cell, "x", "v2"), Err("number: \"x\" is none".into()));
    let told = cell.told();
    let refused = told.refused.unwrap();
    assert_eq!((&*refused.version, refused.why.as_str()), ("v2", "number: \"x\" is none"));
    assert_eq!(&*told.accepted.unwrap().version, "v1");
    // The same again is nothing new, and all is well.
    assert_eq!(offer(&cell, "1", "v3"), Ok(false));
    let told = cell.told();
    assert!(told.refused.is_none());
    assert_eq!((&*told.accepted.unwrap().version, value(&cell), state(&cell)), ("v1", Some(1), State::Ready));
}

#[test]
fn who_asks_for_the_same_gets_the_same_cell_for_as_long_as_somebody_has_it() {
    let registry = Registry::default();
    let cell = registry.cell(subject("a", file("f")), numbers);
    let again = registry.cell(subject("a", file("f")), numbers);
    assert!(Arc::ptr_eq(&cell, &again));
    let others = [subject("b", file("f")), subject("a", file("g")), subject("a", Source::Ads)];
    let others = others.map(|subject| registry.cell(subject, numbers));
    assert!(others.iter().all(|other| !Arc::ptr_eq(other, &cell)));
    assert_eq!(told(&registry, Feeder::Files), ["+0", "+1", "+2"]);
    assert_eq!(told(&registry, Feeder::Servers), ["+3"]);
    assert_eq!(registry.all().len(), 4);
    drop(others);
    drop(cell);
    assert_eq!(told(&registry, Feeder::Files), ["-1", "-2"]);
    assert_eq!(told(&registry, Feeder::Servers), ["-3"]);
    drop(again);
    let cell = registry.cell(subject("a", file("f")), numbers);
    assert_eq!(told(&registry, Feeder::Files), ["-0", "+4"]);
    assert_eq!((registry.all().len(), state(&cell)), (1, State::Waiting));
}

/// What a feeder is told: cells that come and go, names that are asked for.
fn told(registry: &Registry, feeder: Feeder) -> Vec<String> {
    let said = registry.take(feeder).into_iter().map(|note| match note {
        Note::Wanted(feed) => feed.upgrade().map_or("?".into(), |feed| format!("+{}", feed.number())),
        Note::Gone(number) => format!("-{number}"),
        Note::Asked(number, name) => format!("{number}: {name}"),
        Note::Forgotten(number, names) => format!("{number}: -{}", names.join(" -")),
        Note::Cluster(_, name) => format!("cluster {name}"),
        Note::ForgottenClusters(names) => format!("cluster -{}", names.join(" -")),
    });
    said.collect()
}

#[test]
fn a_cell_sleeps_until_it_is_wanted() {
    let registry = Registry::default();
    let cell = registry.sleeping(subject("a", Source::Ads), numbers);
    assert_eq!((told(&registry, Feeder::Servers).len(), state(&cell)), (0, State::Sleeping));
    cell.want();
    cell.want();
    assert_eq!((told(&registry, Feeder::Servers), state(&cell)), (vec!["+0".to_owned()], State::Waiting));
    // Who asks for it as for any other wants it.
    let other = registry.sleeping(subject("b", Source::Ads), numbers);
    let again = registry.cell(subject("b", Source::Ads), numbers);
    assert!(Arc::ptr_eq(&other, &again) && state(&other) == State::Waiting);
}

#[test]
fn names_and_clusters_are_asked_for_once() {
    let registry = Registry::default();
    let cell = registry.cell(subject("a", Source::Ads), numbers);
    let name: Arc<str> = "a/b".into();
    assert!(cell.ask(&name).is_some() && cell.ask(&name).is_some());
    assert!(registry.ask_for_cluster(&Source::Ads, &name).is_some());
    assert!(registry.ask_for_cluster(&Source::Ads, &name).is_some());
    assert_eq!(told(&registry, Feeder::Servers), ["+0", "0: a/b", "cluster a/b"]);
    cell.answer("a/b", true);
    assert!(cell.ask(&name).is_none());
}

#[tokio::test]
async fn who_waits_for_a_cell_waits_for_what_its_value_names() {
    let registry = Arc::new(Registry::default());
    let inner = registry.cell(subject("inner", Source::Ads), numbers);
    let outer = registry.cell(subject("outer", Source::Ads), numbers);
    let named: Arc<dyn Feed> = inner.clone();
    // Whatever the outer one has, what is made of it names the inner one.
    let build = move |number: Option<&u32>| Ok(number.map(|_| named.clone()));
    let slot = Slot::naming(&registry, outer.clone(), build, |named: &Arc<dyn Feed>| vec![named.clone()]).unwrap();
    let feeds: [Arc<dyn Feed>; 1] = [outer.clone()];
    let waiting = tokio::spawn(async move { settled(&feeds).await });
    offer(&outer, "1", "v1").unwrap();
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished() && slot.current().is_some());
    offer(&inner, "2", "v1").unwrap();
    waiting.await.unwrap();
}

/// Follows a cell, and can't do with odd numbers.
struct Even {
    cell: Arc<Cell<u32>>,
    made: Mutex<Option<u32>>,
    times: AtomicUsize,
}

impl Even {
    fn of(cell: &Arc<Cell<u32>>) -> Arc<Self> {
        let even = Arc::new(Self { cell: cell.clone(), made: Mutex::default(), times: AtomicUsize::default() });
        let weak: Weak<dyn Follower> = Arc::downgrade(&(even.clone() as Arc<dyn Follower>));
        cell.followed_by(weak);
        even
    }
}

impl Follower for Even {
    fn prepare(&self) -> Result<Box<dyn FnOnce() + '_>, Error> {
        self.times.fetch_add(1, Ordering::Relaxed);
        let value = value(&self.cell);
        if value.is_some_and(|value| value % 2 == 1) {
            return Err(Error::at("", "is odd"));
        }
        Ok(Box::new(move || *self.made.lock() = value))
    }
}

#[test]
fn all_that_follow_take_a_value_or_none_does() {
    let registry = Registry::default();
    let cell = registry.cell(subject("a", file("f")), numbers);
    let (one, other) = (Even::of(&cell), Even::of(&cell));
    assert_eq!(offer(&cell, "2", "v1"), Ok(true));
    assert_eq!(offer(&cell, "3", "v2"), Err("is odd".into()));
    assert_eq!([value(&cell), *one.made.lock(), *other.made.lock()], [Some(2); 3]);
    let times = other.times.load(Ordering::Relaxed);
    drop(one);
    assert_eq!(offer(&cell, "4", "v3"), Ok(true));
    assert_eq!((*other.made.lock(), other.times.load(Ordering::Relaxed)), (Some(4), times + 1));
}

#[test]
fn routes_and_secrets_outlive_their_source_and_extensions_do_not() {
    let registry = Registry::default();
    let of = |kind, source| registry.cell(Subject { kind, ..subject("a", source) }, numbers);
    for (kind, left) in [(Kind::Routes, Some(2)), (Kind::Secret, Some(2)), (Kind::Extension, None)] {
        let (cell, empty) = (of(kind, Source::Ads), of(kind, file("f")));
        let even = Even::of(&cell);
        offer(&cell, "2", "v").unwrap();
        cell.withdraw();
        assert_eq!((value(&cell), *even.made.lock()), (left, left), "{kind:?}");
        empty.withdraw();
        assert_eq!(state(&empty), State::Absent);
    }
}

#[tokio::test]
async fn nobody_waits_for_what_was_refused_is_late_or_absent() {
    let registry = Registry::default();
    let cells =
        ["ready", "refused", "late", "absent", "missed"].map(|name| registry.cell(subject(name, Source::Ads), numbers));
    let feeds: Vec<_> = cells.iter().map(|cell| cell.clone() as Arc<dyn Feed>).collect();
    let waiting = tokio::spawn(async move { settled(&feeds).await });
    let [ready, refused, late, absent, missed] = &cells;
    offer(ready, "1", "v").unwrap();
    offer(refused, "x", "v").unwrap_err();
    late.time_out();
    absent.withdraw();
    missed.miss(true);
    waiting.await.unwrap();
    let states = [State::Ready, State::Refused, State::TimedOut, State::Absent, State::Refused];
    assert_eq!(cells.each_ref().map(|cell| state(cell)), states);
    // It may come yet, and what is there is not lost by time.
    offer(late, "2", "v").unwrap();
    late.time_out();
    assert_eq!((value(late), state(late)), (Some(2), State::Ready));
}
