//! Resources from a file (`path_config_source`): a `DiscoveryResponse` as YAML, JSON or, if its name ends in `.pb`, as bytes.
//!
//! Looking at a file twice a second needs no permission and sees every way of replacing it, links among them, so that a
//! `watched_directory` adds nothing.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use prost::Message;
use weir_proto::envoy::service::discovery::v3::DiscoveryResponse;

use super::{
    interest::Interest,
    kind::Kind,
    sotw::{self, Read},
    store::Store,
    update::{Consumer, Origin, Refused, offer},
};
use crate::{config::reload::FileState, telemetry::unknown_fields};

/// How often files are looked at.
pub const LOOK: Duration = Duration::from_millis(500);

/// Why a file has no resources.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// It can't be read.
    #[error("{}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It is no such message.
    #[error("{}: {why}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// A file that may be replaced.
#[derive(Debug)]
pub struct Watched {
    path: PathBuf,
    seen: Option<FileState>,
}

impl Watched {
    /// A file that has not been looked at.
    pub fn new(path: PathBuf) -> Self {
        Self { path, seen: None }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is another than at the last look; at the first it is.
    pub fn changed(&mut self) -> bool {
        let state = FileState::of(&self.path);
        self.seen.replace(state) != Some(state)
    }

    /// Reads it. What is in its resources is not looked at.
    pub fn read(&self) -> Result<DiscoveryResponse, Unreadable> {
        let path = || self.path.clone();
        let bytes = fs::read(&self.path).map_err(|error| Unreadable::Read { path: path(), error })?;
        let syntax = |why: String| Unreadable::Syntax { path: path(), why };
        if self.path.extension().is_some_and(|extension| extension == "pb") {
            return DiscoveryResponse::decode(&*bytes).map_err(|error| syntax(error.to_string()));
        }
        let text = String::from_utf8(bytes).map_err(|error| syntax(error.to_string()))?;
        let (response, unknown) = weir_proto::from_yaml_known(&text).map_err(|error| syntax(error.to_string()))?;
        unknown_fields::met(&unknown).map_err(syntax)?;
        Ok(response)
    }
}

/// A file of resources of one type.
#[derive(Debug)]
pub struct Source {
    file: Watched,
    kind: Kind,
}

/// What a look at a file came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Looked {
    /// It is as it was.
    Same,
    /// It was applied.
    Applied,
    /// It was not, or not whole: what there was before stays. With the reason.
    Refused(String),
    /// It is not there, or can't be read: what there was before stays. With the reason.
    Unreadable(String),
}

impl Source {
    /// A file that has not been looked at.
    pub fn new(path: PathBuf, kind: Kind) -> Self {
        Self { file: Watched::new(path), kind }
    }

    /// Applies the file if it is another than at the last look.
    pub fn look(&mut self, store: &Store, consumer: &mut dyn Consumer, now: SystemTime) -> Looked {
        if !self.file.changed() {
            return Looked::Same;
        }
        let kind = self.kind;
        let response = match self.file.read() {
            Ok(response) => response,
            Err(unreadable) => return Looked::Unreadable(unreadable.to_string()),
        };
        let mut interest = Interest::default();
        interest.add(None);
        let refused = |told: String| {
            store.refused(kind, &told, now);
            Looked::Refused(format!("{}: {told}", self.file.path.display()))
        };
        let Read { mut content, .. } = match sotw::read(kind, response, &interest) {
            Ok(read) => read,
            Err(why) => return refused(why),
        };
        let faults = std::mem::take(&mut content.faults);
        let update = match store.changes(kind, content, Origin::File) {
            Ok(update) => update,
            Err(why) => return refused(why),
        };
        let verdict = offer(consumer, &update);
        let told = Refused::told(&verdict, kind, &faults);
        store.settle(&update, &verdict, told.as_deref(), now);
        told.map_or(Looked::Applied, refused)
    }

    /// Looks at the file for as long as it is polled.
    pub async fn follow(mut self, store: Arc<Store>, consumer: &mut dyn Consumer, mut looked: impl FnMut(Looked)) {
        loop {
            looked(self.look(&store, consumer, SystemTime::now()));
            tokio::time::sleep(LOOK).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xds::update::Update;

    /// Takes what is not called `bad`, and says what it saw.
    #[derive(Default)]
    struct Seen(Vec<String>);

    impl Consumer for Seen {
        fn update(&mut self, update: &Update) -> Result<(), Refused> {
            let added = update.added.iter().map(|resource| format!("+{}", resource.name));
            let unchanged = update.unchanged.iter().map(|resource| format!("={}", resource.name));
            let removed = update.removed.iter().map(|name| format!("-{name}"));
            self.0.push(added.chain(unchanged).chain(removed).collect::<Vec<_>>().join(" "));
            let bad = update.added.iter().filter(|resource| resource.name.starts_with("bad"));
            let bad: Vec<_> = bad.map(|resource| (resource.name.clone(), "is bad".to_owned())).collect();
            if bad.is_empty() { Ok(()) } else { Err(Refused::Some(bad)) }
        }

        fn timed_out(&mut self, _: Kind, _: Option<&Arc<str>>) {}
    }

    fn clusters(names: &[&str]) -> String {
        let each = names
            .iter()
            .map(|name| format!("- \"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster\n  name: {name}\n"));
        format!("version_info: \"1\"\nresources:\n{}", each.collect::<String>())
    }

    #[test]
    fn a_file_is_applied_whenever_it_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cds.yaml");
        let (store, mut seen) = (Store::default(), Seen::default());
        let mut source = Source::new(path.clone(), Kind::Cluster);
        let mut look = |seen: &mut Seen| source.look(&store, seen, SystemTime::UNIX_EPOCH);
        let at = path.display();
        let Looked::Unreadable(why) = look(&mut seen) else { panic!() };
        assert_eq!(why, format!("{at}: No such file or directory (os error 2)"));
        let replace = |text: &str| {
            let beside = directory.path().join("new");
            fs::write(&beside, text).unwrap();
            fs::rename(beside, &path).unwrap();
        };
        replace(&clusters(&["a", "b"]));
        assert_eq!([look(&mut seen), look(&mut seen)], [Looked::Applied, Looked::Same]);
        replace(&clusters(&["b", "bad"]));
        let refused = Looked::Refused(format!("{at}: Error adding/updating cluster(s) bad: is bad"));
        assert_eq!(look(&mut seen), refused);
        replace("resources: {");
        let Looked::Unreadable(why) = look(&mut seen) else { panic!() };
        assert!(why.starts_with(&format!("{at}: ")), "{why}");
        replace("{\"resources\": [{\"@type\": \"type.googleapis.com/envoy.config.listener.v3.Listener\"}]}");
        let refused = Looked::Refused(format!(
            "{at}: type.googleapis.com/envoy.config.listener.v3.Listener does not match the message-wide type URL \
             type.googleapis.com/envoy.config.cluster.v3.Cluster in DiscoveryResponse"
        ));
        assert_eq!(look(&mut seen), refused);
        assert_eq!(seen.0, ["+a +b", "+bad =b -a"]);
        let of = store.of(Kind::Cluster);
        assert_eq!(of.entries["b"].accepted.as_ref().unwrap().origin, Origin::File);
    }

    #[test]
    fn bytes_are_read_from_files_that_are_called_so() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cds.pb");
        let mut source = Source::new(path.clone(), Kind::Cluster);
        let (store, mut seen) = (Store::default(), Seen::default());
        fs::write(&path, DiscoveryResponse::default().encode_to_vec()).unwrap();
        assert_eq!(source.look(&store, &mut seen, SystemTime::UNIX_EPOCH), Looked::Applied);
        fs::write(&path, "no protobuf").unwrap();
        assert!(matches!(source.look(&store, &mut seen, SystemTime::UNIX_EPOCH), Looked::Unreadable(_)));
        assert_eq!(seen.0, [""]);
    }
}
