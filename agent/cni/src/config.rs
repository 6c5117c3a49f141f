//! weir's entry in the node's CNI configuration, and the rest of what the runtime gives on standard input.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    error::{Code, Error},
    namespaces,
};

/// The plugin's type: the name of its program in the runtime's directory of plugins.
pub const TYPE: &str = "weir-cni";
/// Versions of the CNI specification that the plugin knows, oldest first.
pub const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// The last minor version of 1 among them. In later ones results may have keys that earlier ones do not; this plugin passes
/// results on as they are.
const LAST_MINOR: u8 = 1;
/// How long a pod is held unless the entry says otherwise.
pub const DEFAULT_WAIT: Duration = Duration::from_secs(10);
/// Longer than this no runtime waits for a plugin.
const LONGEST_WAIT: Duration = Duration::from_secs(120);
/// How much of a wrong value is shown, in characters.
const SHOWN: usize = 60;

/// weir's own keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The agent's socket.
    pub socket: PathBuf,
    /// The list of enrolled namespaces.
    pub namespaces: PathBuf,
    /// weir's own namespace, whose pods are never held.
    pub own_namespace: String,
    /// How long a pod is held before the runtime gets an error.
    pub wait: Duration,
    /// A file that gets a line for each call.
    pub log: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            socket: "/run/weir/cni.sock".into(),
            namespaces: Path::new("/var/lib/weir").join(namespaces::FILE),
            own_namespace: "weir-system".to_owned(),
            wait: DEFAULT_WAIT,
            log: None,
        }
    }
}

impl Settings {
    /// The entry that is put into the node's CNI configuration.
    pub fn entry(&self) -> String {
        #[derive(Serialize)]
        struct Entry<'a> {
            r#type: &'a str,
            socket: &'a Path,
            namespaces: &'a Path,
            #[serde(rename = "ownNamespace")]
            own_namespace: &'a str,
            wait: String,
            #[serde(skip_serializing_if = "Option::is_none")]
            log: Option<&'a Path>,
        }
        let entry = Entry {
            r#type: TYPE,
            socket: &self.socket,
            namespaces: &self.namespaces,
            own_namespace: &self.own_namespace,
            wait: humantime::format_duration(self.wait).to_string(),
            log: self.log.as_deref(),
        };
        // Paths of a configuration file are UTF-8.
        serde_json::to_string(&entry).unwrap_or_default()
    }
}

/// What the runtime gives on standard input.
#[derive(Clone, Debug)]
pub struct Config {
    /// Version of the specification.
    pub cni_version: String,
    /// The result of the plugins before this one, as it was given.
    pub previous: Option<Box<RawValue>>,
    /// weir's own keys.
    pub settings: Settings,
}

/// The version that is asked for, for answers to what cannot be read otherwise.
pub fn version_of(text: &str) -> Option<String> {
    let keys: BTreeMap<String, Box<RawValue>> = serde_json::from_str(text).ok()?;
    serde_json::from_str(keys.get("cniVersion")?.get()).ok()
}

/// Whether the plugin can be run in a version of the specification: in those that it knows, and in later ones of 1, which
/// add to what there is.
pub fn understands(version: &str) -> bool {
    VERSIONS.contains(&version) || later_minor(version).is_some()
}

/// The versions in which the plugin can be run, for a runtime that may ask for any up to this one.
pub fn understood_up_to(version: &str) -> Vec<String> {
    let later = later_minor(version).into_iter().flat_map(|last| LAST_MINOR + 1..=last);
    let mut all: Vec<String> = VERSIONS.into_iter().map(str::to_owned).collect();
    all.extend(later.map(|minor| format!("1.{minor}.0")));
    if understands(version) && !all.iter().any(|known| known == version) {
        all.push(version.to_owned());
    }
    all
}

/// What is wrong with a version in which the plugin cannot be run.
pub fn not_understood(version: &str) -> String {
    format!("{version:?} is not known, expected one of {}, or a later 1.x.y", VERSIONS.join(", "))
}

/// The minor version, if it is one of 1 and later than those that are known.
fn later_minor(version: &str) -> Option<u8> {
    let mut numbers = version.split('.').map(number);
    let (major, minor, patch) = (numbers.next()??, numbers.next()??, numbers.next()?);
    (major == 1 && minor > LAST_MINOR && patch.is_some() && numbers.next().is_none()).then_some(minor)
}

fn number(text: &str) -> Option<u8> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

impl Config {
    /// Parses it. Keys that are not weir's are of no concern.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let keys: BTreeMap<String, Box<RawValue>> = serde_json::from_str(text).map_err(|error| {
            Error::new(Code::Decoding, format!("the network configuration is no JSON object: {error}"))
        })?;
        let keys = Keys(keys);
        let cni_version: String = keys.get("cniVersion", "a version such as \"1.0.0\"", |_| true)?.unwrap_or_default();
        if !understands(&cni_version) {
            let message = format!("cniVersion: {}", not_understood(&cni_version));
            return Err(Error::new(Code::IncompatibleVersion, message));
        }
        let default = Settings::default();
        let path = |key| keys.get(key, "an absolute path", |path: &PathBuf| path.is_absolute());
        let named = |name: &String| !name.is_empty();
        let settings = Settings {
            socket: path("socket")?.unwrap_or(default.socket),
            namespaces: path("namespaces")?.unwrap_or(default.namespaces),
            own_namespace: keys.get("ownNamespace", "a namespace", named)?.unwrap_or(default.own_namespace),
            wait: keys
                .get("wait", "a time up to 2m such as \"10s\"", |_: &Wait| true)?
                .map_or(default.wait, |wait| wait.0),
            log: path("log")?,
        };
        let previous = keys.0.get("prevResult").filter(|value| value.get() != "null").cloned();
        if let Some(value) = &previous
            && !value.get().starts_with('{')
        {
            return Err(keys.wrong("prevResult", "an object"));
        }
        Ok(Self { cni_version, previous, settings })
    }
}

struct Keys(BTreeMap<String, Box<RawValue>>);

impl Keys {
    /// The value of a key; none if it is absent.
    fn get<'a, T: Deserialize<'a>>(
        &'a self,
        key: &str,
        expected: &str,
        valid: impl Fn(&T) -> bool,
    ) -> Result<Option<T>, Error> {
        let Some(value) = self.0.get(key) else { return Ok(None) };
        let parsed = serde_json::from_str(value.get()).ok().filter(valid);
        parsed.map(Some).ok_or_else(|| self.wrong(key, expected))
    }

    fn wrong(&self, key: &str, expected: &str) -> Error {
        let value = self.0.get(key).map(|value| value.get()).unwrap_or_default();
        let shown: String = value.chars().take(SHOWN).collect();
        Error::new(Code::Configuration, format!("{key}: invalid {shown}, expected {expected}"))
    }
}

struct Wait(Duration);

impl<'de> Deserialize<'de> for Wait {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wait = humantime::parse_duration(&text).ok().filter(|wait| *wait <= LONGEST_WAIT);
        wait.map(Self).ok_or_else(|| serde::de::Error::custom("not such a time"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_is_read_as_it_was_written() {
        let settings = Settings {
            socket: "/s".into(),
            namespaces: "/n".into(),
            own_namespace: "mesh".to_owned(),
            wait: Duration::from_millis(1500),
            log: Some("/l".into()),
        };
        let entry = settings.entry();
        assert!(entry.starts_with("{\"type\":\"weir-cni\",\"socket\":\"/s\""), "{entry}");
        let text = format!("{{\"cniVersion\":\"1.0.0\",{}", &entry[1..]);
        let config = Config::parse(&text).unwrap();
        assert_eq!(config.settings, settings);
        assert!(config.previous.is_none());
        let config = Config::parse("{\"cniVersion\":\"0.3.0\",\"type\":\"weir-cni\",\"runtimeConfig\":{}}").unwrap();
        assert_eq!(config.settings, Settings::default());
    }

    #[test]
    fn the_previous_result_is_kept_as_it_is() {
        let result = "{ \"cniVersion\": \"1.0.0\",\n \"ips\": [{\"address\":\"10.0.0.2/24\"}], \"x\": 1.50 }";
        let config = Config::parse(&format!("{{\"cniVersion\":\"1.1.0\",\"prevResult\":{result}}}")).unwrap();
        assert_eq!(config.previous.unwrap().get(), result);
    }

    #[test]
    fn later_versions_of_1_are_understood_and_no_others() {
        for version in ["0.3.0", "1.1.0", "1.2.0", "1.17.3"] {
            assert!(understands(version), "{version}");
        }
        for version in
            ["", "0.2.0", "0.5.0", "1.0.1", "1.2", "1.2.0.0", "1.2.x", "1.+2.0", "1.2.0-rc1", "2.0.0", "1.256.0"]
        {
            assert!(!understands(version), "{version}");
        }
        let known = understood_up_to("1.1.0");
        assert_eq!(known, VERSIONS);
        assert_eq!(understood_up_to("2.0.0"), known);
        assert_eq!(understood_up_to("1.3.0")[known.len()..], ["1.2.0", "1.3.0"]);
        assert_eq!(understood_up_to("1.2.1")[known.len()..], ["1.2.0", "1.2.1"]);
    }

    #[test]
    fn bad_input_is_named() {
        for (text, code, message) in [
            (
                "",
                Code::Decoding,
                "the network configuration is no JSON object: EOF while parsing a value at line 1 column 0",
            ),
            (
                "{}",
                Code::IncompatibleVersion,
                "cniVersion: \"\" is not known, expected one of 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0, or a \
                 later 1.x.y",
            ),
            (
                "{\"cniVersion\":\"0.2.0\"}",
                Code::IncompatibleVersion,
                "cniVersion: \"0.2.0\" is not known, expected one of 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0, or a \
                 later 1.x.y",
            ),
            ("{\"cniVersion\":1}", Code::Configuration, "cniVersion: invalid 1, expected a version such as \"1.0.0\""),
            (
                "{\"cniVersion\":\"1.0.0\",\"socket\":\"cni.sock\"}",
                Code::Configuration,
                "socket: invalid \"cni.sock\", expected an absolute path",
            ),
            (
                "{\"cniVersion\":\"1.0.0\",\"namespaces\":[]}",
                Code::Configuration,
                "namespaces: invalid [], expected an absolute path",
            ),
            (
                "{\"cniVersion\":\"1.0.0\",\"ownNamespace\":\"\"}",
                Code::Configuration,
                "ownNamespace: invalid \"\", expected a namespace",
            ),
            (
                "{\"cniVersion\":\"1.0.0\",\"wait\":\"3m\"}",
                Code::Configuration,
                "wait: invalid \"3m\", expected a time up to 2m such as \"10s\"",
            ),
            ("{\"cniVersion\":\"1.0.0\",\"log\":1}", Code::Configuration, "log: invalid 1, expected an absolute path"),
            (
                "{\"cniVersion\":\"1.0.0\",\"prevResult\":[]}",
                Code::Configuration,
                "prevResult: invalid [], expected an object",
            ),
        ] {
            let error = Config::parse(text).unwrap_err();
            assert_eq!((error.code, error.message.as_str()), (code, message));
        }
    }
}
