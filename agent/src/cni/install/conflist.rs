//! weir's entry in the text of a CNI configuration list.
//!
//! The text is edited, not written anew: every other byte stays as it is, so that taking the entry out gives back what
//! was there before.

use std::{collections::BTreeMap, ops::Range};

use serde::Deserialize;
use serde_json::{json, value::RawValue};
use weir_cni::config::{TYPE, not_understood, understands};

/// Why a configuration cannot get an entry.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// It is not JSON, or not an object.
    #[error("not a JSON object: {0}")]
    Json(#[from] serde_json::Error),
    /// It lists no plugins.
    #[error("plugins: expected a list with the plugin that makes the pods' interfaces")]
    NoPlugins,
    /// A plugin in it has no type.
    #[error("{0}: expected text")]
    NoText(&'static str),
    /// Of a version in which the plugin could not be run.
    #[error("{key}: {}", not_understood(found))]
    Version {
        /// The key that names it.
        key: &'static str,
        /// The version.
        found: String,
    },
}

/// A plugin in the list.
struct Entry {
    /// Where in the text.
    span: Range<usize>,
    is_weir: bool,
}

/// The list's text with `entry` in it, and with nothing else changed: after the last plugin, or where it was.
pub fn with_entry(text: &str, entry: &str) -> Result<String, Malformed> {
    check_version(text)?;
    let entries = entries(text)?;
    let present: Vec<&Entry> = entries.iter().filter(|entry| entry.is_weir).collect();
    match present.as_slice() {
        [] => {}
        [one] => return Ok(format!("{}{entry}{}", &text[..one.span.start], &text[one.span.end..])),
        _ => return with_entry(&without_entry(text)?, entry),
    }
    let Some(last) = entries.last() else { return Err(Malformed::NoPlugins) };
    let before = &text[..last.span.start];
    // On a line of its own where the others are.
    let separator = &before[before.trim_end().len()..];
    Ok(format!("{},{separator}{entry}{}", &text[..last.span.end], &text[last.span.end..]))
}

/// The list's text without an entry of weir's; the same if there is none.
pub fn without_entry(text: &str) -> Result<String, Malformed> {
    let entries = entries(text)?;
    let Some(index) = entries.iter().position(|entry| entry.is_weir) else { return Ok(text.to_owned()) };
    let own = &entries[index].span;
    let gone = match (index.checked_sub(1).map(|before| &entries[before]), entries.get(index + 1)) {
        (Some(before), _) => before.span.end..own.end,
        (None, Some(after)) => own.start..after.span.start,
        (None, None) => own.clone(),
    };
    without_entry(&format!("{}{}", &text[..gone.start], &text[gone.end..]))
}

/// A list of one configuration that is no list, and `entry`.
pub fn list_of(configuration: &str, entry: &str) -> Result<String, Malformed> {
    check_version(configuration)?;
    let keys = keys(configuration)?;
    text_of(&keys, "type")?;
    let (name, version) = (text_of(&keys, "name")?, text_of(&keys, "cniVersion")?);
    Ok(format!(
        "{{\n\"cniVersion\": {},\n\"name\": {},\n\"plugins\": [\n{},\n{entry}\n]\n}}\n",
        json!(version),
        json!(name),
        configuration.trim()
    ))
}

/// Whether there is an entry of weir's.
pub fn has_entry(text: &str) -> bool {
    entries(text).is_ok_and(|entries| entries.iter().any(|entry| entry.is_weir))
}

fn keys(text: &str) -> Result<BTreeMap<String, &RawValue>, Malformed> {
    Ok(serde_json::from_str(text)?)
}

fn text_of(keys: &BTreeMap<String, &RawValue>, key: &'static str) -> Result<String, Malformed> {
    let value = keys.get(key).and_then(|value| serde_json::from_str(value.get()).ok());
    value.filter(|value: &String| !value.is_empty()).ok_or(Malformed::NoText(key))
}

fn entries(text: &str) -> Result<Vec<Entry>, Malformed> {
    let keys = keys(text)?;
    let plugins = keys.get("plugins").ok_or(Malformed::NoPlugins)?;
    let plugins: Vec<&RawValue> = serde_json::from_str(plugins.get()).map_err(|_| Malformed::NoPlugins)?;
    plugins
        .into_iter()
        .map(|plugin| {
            let plugin_type = text_of(&self::keys(plugin.get())?, "type")?;
            // A borrowed value is the part of the text that it was read from.
            let start = plugin.get().as_ptr() as usize - text.as_ptr() as usize;
            Ok(Entry { span: start..start + plugin.get().len(), is_weir: plugin_type == TYPE })
        })
        .collect()
}

/// The runtime takes whichever of the versions it knows, and the plugin must not fail for it: every pod of the node would.
fn check_version(text: &str) -> Result<(), Malformed> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Versions {
        cni_version: Option<String>,
        // Since 1.1.0 a list may name several.
        #[serde(default)]
        cni_versions: Vec<String>,
    }
    let Versions { cni_version, cni_versions } = serde_json::from_str(text)?;
    let one = match cni_version {
        None if !cni_versions.is_empty() => None,
        one => Some(("cniVersion", one.unwrap_or_default())),
    };
    let all = one.into_iter().chain(cni_versions.into_iter().map(|version| ("cniVersions", version)));
    match all.into_iter().find(|(_, version)| !understands(version)) {
        Some((key, found)) => Err(Malformed::Version { key, found }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: &str = r#"{"type":"weir-cni","socket":"/run/weir/cni.sock"}"#;

    const KINDNET: &str = r#"
{
	"cniVersion": "0.3.1",
	"name": "kindnet",
	"plugins": [
	{
		"type": "ptp",
		"ipMasq": false,
		"ipam": {
			"type": "host-local",
			"dataDir": "/run/cni-ipam-state",
			"routes": [ { "dst": "0.0.0.0/0" } ],
			"ranges": [ [ { "subnet": "10.244.0.0/24" } ] ]
		}
		,
		"mtu": 1500
	},
	{
		"type": "portmap",
		"capabilities": {
			"portMappings": true
		}
	}
	]
}
"#;
    const FLANNEL: &str = r#"{
  "name": "cbr0",
  "cniVersion": "0.3.1",
  "plugins": [
    {
      "type": "flannel",
      "delegate": {
        "hairpinMode": true,
        "isDefaultGateway": true
      }
    },
    {
      "type": "portmap",
      "capabilities": {
        "portMappings": true
      }
    }
  ]
}
"#;
    const CALICO: &str = r#"{
  "name": "k8s-pod-network",
  "cniVersion": "0.3.1",
  "plugins": [
    {
      "type": "calico",
      "log_level": "info",
      "log_file_path": "/var/log/calico/cni/cni.log",
      "datastore_type": "kubernetes",
      "nodename": "n1",
      "mtu": 0,
      "ipam": {"type": "calico-ipam"},
      "policy": {"type": "k8s"},
      "kubernetes": {"kubeconfig": "/etc/cni/net.d/calico-kubeconfig"}
    },
    {"type": "portmap", "snat": true, "capabilities": {"portMappings": true}},
    {"type": "bandwidth", "capabilities": {"bandwidth": true}}
  ]
}"#;
    const CILIUM: &str = r#"
{
  "cniVersion": "0.3.1",
  "name": "cilium",
  "plugins": [
    {
       "type": "cilium-cni",
       "enable-debug": false,
       "log-file": "/var/run/cilium/cilium-cni.log"
    }
  ]
}
"#;
    const BRIDGE: &str = r#"{"cniVersion":"1.0.0","name":"bridge","plugins":[{"type":"bridge","bridge":"cni0","isGateway":true,"ipMasq":true,"ipam":{"type":"host-local","ranges":[[{"subnet":"10.244.0.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}]}},{"type":"portmap","capabilities":{"portMappings":true}}]}"#;

    fn plugins(text: &str) -> Vec<serde_json::Value> {
        let value: serde_json::Value = serde_json::from_str(text).unwrap();
        value["plugins"].as_array().unwrap().clone()
    }

    #[test]
    fn taking_the_entry_out_gives_back_every_byte() {
        let crlf = FLANNEL.replace('\n', "\r\n");
        let spaced =
            r#"  { "plugins" : [ {"type":"a]\"}"} , {"type" : "b"} ] , "cniVersion":"1.1.0", "name":"é\u0022" }  "#;
        let several = r#"{"cniVersions":["1.0.0","1.2.0"],"name":"x","plugins":[{"type":"a"}],"disableGC":true}"#;
        for text in [KINDNET, FLANNEL, CALICO, CILIUM, BRIDGE, &crlf, spaced, several] {
            let with = with_entry(text, ENTRY).unwrap();
            let (mut expected, found) = (plugins(text), plugins(&with));
            expected.push(serde_json::from_str(ENTRY).unwrap());
            assert_eq!(found, expected, "{text}");
            assert!(has_entry(&with) && !has_entry(text));
            // Everything else is the same.
            let mut rest: serde_json::Value = serde_json::from_str(&with).unwrap();
            rest["plugins"].as_array_mut().unwrap().pop();
            assert_eq!(rest, serde_json::from_str::<serde_json::Value>(text).unwrap());

            assert_eq!(with_entry(&with, ENTRY).unwrap(), with, "once is enough");
            assert_eq!(without_entry(&with).unwrap(), text);
            assert_eq!(without_entry(text).unwrap(), text);
            // Another version of weir has other keys.
            let other = with_entry(&with, r#"{"type":"weir-cni","wait":"1s"}"#).unwrap();
            assert_eq!(plugins(&other).len(), expected.len());
            assert_eq!(without_entry(&other).unwrap(), text);
        }
    }

    #[test]
    fn the_entry_looks_like_its_neighbours() {
        let with = with_entry(FLANNEL, ENTRY).unwrap();
        assert!(with.contains(&format!("    }},\n    {ENTRY}\n  ]\n")), "{with}");
        let with = with_entry(BRIDGE, ENTRY).unwrap();
        assert!(with.ends_with(&format!("}}}},{ENTRY}]}}")), "{with}");
        let crlf = with_entry(&FLANNEL.replace('\n', "\r\n"), ENTRY).unwrap();
        assert!(crlf.contains(&format!("    }},\r\n    {ENTRY}\r\n  ]\r\n")), "{crlf}");
    }

    #[test]
    fn an_entry_is_found_wherever_others_have_moved_it() {
        let list = |plugins: &str| format!("{{\"cniVersion\":\"1.0.0\",\"name\":\"n\",\"plugins\":[ {plugins} ]}}");
        let (a, b) = (r#"{"type":"a"}"#, r#"{"type":"b"}"#);
        assert_eq!(without_entry(&list(&format!("{a}, {ENTRY}, {b}"))).unwrap(), list(&format!("{a}, {b}")));
        assert_eq!(without_entry(&list(&format!("{ENTRY}, {a}"))).unwrap(), list(a));
        assert_eq!(without_entry(&list(&format!("{ENTRY},{a},{ENTRY}"))).unwrap(), list(a));
        // Kept in its place, and once.
        let moved = list(&format!("{a}, {ENTRY}, {b}"));
        assert_eq!(with_entry(&moved, ENTRY).unwrap(), moved);
        let twice = with_entry(&list(&format!("{a},{ENTRY},{ENTRY}")), ENTRY).unwrap();
        assert_eq!(plugins(&twice).len(), 2);
    }

    #[test]
    fn a_configuration_that_is_no_list_becomes_one() {
        let configuration = "{\"cniVersion\":\"0.4.0\",\"name\":\"multus\",\"type\":\"multus\",\"x\":[1]}\n";
        let list = list_of(configuration, ENTRY).unwrap();
        let value: serde_json::Value = serde_json::from_str(&list).unwrap();
        assert_eq!((&value["cniVersion"], &value["name"]), (&json!("0.4.0"), &json!("multus")));
        assert_eq!(value["plugins"][0], serde_json::from_str::<serde_json::Value>(configuration).unwrap());
        assert!(has_entry(&list));
    }

    #[test]
    fn what_is_malformed_is_named() {
        let with = |text: &str| with_entry(text, ENTRY).unwrap_err().to_string();
        let no_plugins = "plugins: expected a list with the plugin that makes the pods' interfaces";
        assert_eq!(with("{"), "not a JSON object: EOF while parsing an object at line 1 column 1");
        assert_eq!(with("{\"cniVersion\":\"1.0.0\"}"), no_plugins);
        assert_eq!(with("{\"cniVersion\":\"1.0.0\",\"plugins\":{}}"), no_plugins);
        assert_eq!(with("{\"cniVersion\":\"1.0.0\",\"plugins\":[]}"), no_plugins);
        assert_eq!(with("{\"cniVersion\":\"1.0.0\",\"plugins\":[{}]}"), "type: expected text");
        // weir-cni would refuse every pod's sandbox.
        assert_eq!(
            with("{\"cniVersion\":\"0.2.0\",\"plugins\":[{\"type\":\"a\"}]}"),
            "cniVersion: \"0.2.0\" is not known, expected one of 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0, or a later 1.x.y"
        );
        // Whichever of several the runtime takes.
        assert_eq!(
            with("{\"cniVersion\":\"1.1.0\",\"cniVersions\":[\"1.1.0\",\"2.0.0\"],\"plugins\":[{\"type\":\"a\"}]}"),
            "cniVersions: \"2.0.0\" is not known, expected one of 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0, or a later 1.x.y"
        );
        assert!(with("{\"plugins\":[{\"type\":\"a\"}]}").starts_with("cniVersion: \"\" is not known"));
        let list = |text: &str| list_of(text, ENTRY).unwrap_err().to_string();
        assert_eq!(list("{\"cniVersion\":\"1.0.0\",\"type\":\"a\"}"), "name: expected text");
        assert_eq!(list("{\"cniVersion\":\"1.0.0\",\"name\":\"a\",\"plugins\":[]}"), "type: expected text");
    }
}
