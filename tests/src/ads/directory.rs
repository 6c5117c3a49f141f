//! A server from a directory, for use by hand: files of resources, served as they change, and a script of what goes wrong.
//!
//! A file `*.yaml`, `*.json` or `*.pb` is a `DiscoveryResponse`: `resources:` with a list of messages that say their
//! `"@type"`. `script.yaml` is a list of steps:
//!
//! ```yaml
//! - wait: 5s            # from the last step on
//!   do: drop            # end every stream
//! - wait: 1s
//!   do: refuse          # refuse new streams, as UNAVAILABLE
//! - wait: 3s
//!   do: welcome         # no longer
//! - do: remove
//!   kind: cds
//!   name: some-cluster  # a file that changes brings it back
//! - do: corrupt         # send a response that can't be decoded, of this type
//!   kind: lds
//! - do: flood           # send the type's resources again, so many times
//!   kind: eds
//!   times: 1000
//! - do: delay           # send everything so much later
//!   by: 500ms
//! - do: reverse         # push types, and resources of a type, in the reverse order
//! - do: mute            # answer nothing
//! - do: speak           # again
//! ```

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use prost::Message;
use prost_types::Any;
use serde::Deserialize;
use tonic::Code;
use weir_proto::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse};

use super::{Ads, world};

/// The script's name.
const SCRIPT: &str = "script.yaml";

/// One step of a script.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// How long after the last one.
    #[serde(default)]
    wait: Pause,
    /// What happens.
    #[serde(rename = "do")]
    act: Act,
    /// The abbreviation of a type, where one is meant.
    #[serde(default)]
    kind: String,
    /// The name of a resource.
    #[serde(default)]
    name: String,
    /// How often.
    #[serde(default)]
    times: usize,
    /// How much later.
    #[serde(default)]
    by: Pause,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Act {
    Drop,
    Refuse,
    Welcome,
    Remove,
    Corrupt,
    Flood,
    Delay,
    Reverse,
    Mute,
    Speak,
}

/// `5s`, `500ms`.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(try_from = "String")]
struct Pause(Duration);

impl TryFrom<String> for Pause {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (number, unit) = match text.strip_suffix("ms") {
            Some(number) => (number, Duration::from_millis(1)),
            None => (text.strip_suffix('s').unwrap_or_default(), Duration::from_secs(1)),
        };
        let number: u32 = number.parse().map_err(|_| format!("expected a time such as 5s or 500ms, not {text:?}"))?;
        Ok(Self(number * unit))
    }
}

impl Step {
    /// How long after the last one it is due.
    pub fn wait(&self) -> Duration {
        self.wait.0
    }

    /// Does it.
    pub fn act(&self, ads: &Ads) {
        let type_url = world::type_url(&self.kind);
        match self.act {
            Act::Drop => ads.drop_streams(Code::Unavailable, "dropped by the script"),
            Act::Refuse => ads.refuse(Some((Code::Unavailable, "refused by the script"))),
            Act::Welcome => ads.refuse(None),
            Act::Remove => ads.remove(&self.kind, &self.name),
            Act::Corrupt => {
                let resource = || Any { type_url: type_url.to_owned(), value: b"\x0a\xffcorrupt".to_vec() };
                let wrapped = weir_proto::envoy::service::discovery::v3::Resource {
                    name: "corrupt".to_owned(),
                    resource: Some(resource()),
                    ..Default::default()
                };
                let (type_url, nonce) = (type_url.to_owned(), "corrupt".to_owned());
                let sotw = DiscoveryResponse {
                    resources: vec![resource()],
                    type_url: type_url.clone(),
                    nonce: nonce.clone(),
                    ..DiscoveryResponse::default()
                };
                let resources = vec![wrapped];
                ads.send(&sotw, &DeltaDiscoveryResponse { resources, type_url, nonce, ..Default::default() });
            }
            Act::Flood => ads.flood(&self.kind, self.times),
            Act::Delay => ads.delay(self.by.0),
            Act::Reverse => ads.change(|world| world.reversed = !world.reversed),
            Act::Mute => ads.mute(true),
            Act::Speak => ads.mute(false),
        }
    }
}

/// What tells a file from its successor.
type Stamps = BTreeMap<PathBuf, Option<(SystemTime, u64)>>;

/// A directory that is watched.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    seen: Stamps,
}

impl Directory {
    /// One that nothing was read of yet.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), seen: Stamps::new() }
    }

    /// The steps of its script; none: there is no script.
    pub fn script(&self) -> Result<Vec<Step>, String> {
        let path = self.path.join(SCRIPT);
        match fs::read_to_string(&path) {
            Ok(text) => serde_saphyr::from_str(&text).map_err(|error| format!("{}: {error}", path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(format!("{}: {error}", path.display())),
        }
    }

    /// All resources of all files, if any file has changed since the last look.
    pub fn look(&mut self) -> Result<Option<Vec<Any>>, String> {
        let stamps = self.stamps().map_err(|error| format!("{}: {error}", self.path.display()))?;
        if stamps == self.seen {
            return Ok(None);
        }
        self.seen = stamps;
        let mut resources = Vec::new();
        for path in self.seen.keys() {
            resources.extend(read(path).map_err(|why| format!("{}: {why}", path.display()))?);
        }
        Ok(Some(resources))
    }

    fn stamps(&self) -> io::Result<Stamps> {
        let mut stamps = Stamps::new();
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            let known =
                path.extension().is_some_and(|extension| ["yaml", "json", "pb"].iter().any(|of| extension == *of));
            if known && !path.ends_with(SCRIPT) {
                let found = fs::metadata(&path).ok();
                stamps.insert(path, found.and_then(|found| Some((found.modified().ok()?, found.len()))));
            }
        }
        Ok(stamps)
    }
}

fn read(path: &Path) -> Result<Vec<Any>, String> {
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    let response = match path.extension().is_some_and(|extension| extension == "pb") {
        true => DiscoveryResponse::decode(&*bytes).map_err(|error| error.to_string())?,
        false => {
            let text = String::from_utf8(bytes).map_err(|error| error.to_string())?;
            weir_proto::from_yaml_unvalidated(&text).map_err(|error| error.to_string())?
        }
    };
    Ok(response.resources)
}

/// The resources of recorded `DeltaDiscoveryResponse`s, one in each `*.pb` of a directory, with their names.
pub fn recorded(directory: &Path) -> Result<Vec<(String, Any)>, String> {
    let failed = |path: &Path, why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    let mut resources = Vec::new();
    for entry in fs::read_dir(directory).map_err(|error| failed(directory, &error))? {
        let path = entry.map_err(|error| failed(directory, &error))?.path();
        if path.extension().is_none_or(|extension| extension != "pb") {
            continue;
        }
        let bytes = fs::read(&path).map_err(|error| failed(&path, &error))?;
        let response = DeltaDiscoveryResponse::decode(&*bytes).map_err(|error| failed(&path, &error))?;
        let named = response.resources.into_iter().filter_map(|resource| Some((resource.name, resource.resource?)));
        resources.extend(named);
    }
    Ok(resources)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_again_when_one_of_them_changes() {
        let temporary = tempfile::tempdir().unwrap();
        let mut directory = Directory::new(temporary.path());
        let write = |name: &str, text: &str| fs::write(temporary.path().join(name), text).unwrap();
        let cluster = |name: &str| {
            format!("resources:\n- \"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster\n  name: {name}\n")
        };
        write("a.yaml", &cluster("a"));
        write("b.yaml", &cluster("b"));
        write("notes.txt", "nothing");
        let names = |resources: Vec<Any>| resources.iter().filter_map(world::name_of).collect::<Vec<_>>();
        assert_eq!(names(directory.look().unwrap().unwrap()), ["a", "b"]);
        assert_eq!(directory.look(), Ok(None));
        fs::remove_file(temporary.path().join("a.yaml")).unwrap();
        assert_eq!(names(directory.look().unwrap().unwrap()), ["b"]);
        write("b.yaml", "resources: 7");
        let why = directory.look().unwrap_err();
        assert!(why.contains("b.yaml: ") && why.contains("resources"), "{why}");
    }

    #[test]
    fn a_script_is_a_list_of_steps() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = Directory::new(temporary.path());
        assert_eq!(directory.script(), Ok(Vec::new()));
        let write = |text: &str| fs::write(temporary.path().join(SCRIPT), text).unwrap();
        write("- wait: 5s\n  do: drop\n- do: flood\n  kind: eds\n  times: 3\n- do: delay\n  by: 500ms\n");
        let steps = directory.script().unwrap();
        let acts: Vec<_> = steps.iter().map(|step| (step.wait().as_secs(), step.act)).collect();
        assert_eq!(acts, [(5, Act::Drop), (0, Act::Flood), (0, Act::Delay)]);
        assert_eq!((steps[1].times, steps[2].by.0), (3, Duration::from_millis(500)));
        write("- wait: soon\n  do: drop\n");
        let why = directory.script().unwrap_err();
        assert!(why.contains("expected a time such as 5s or 500ms, not \"soon\""), "{why}");
    }
}
