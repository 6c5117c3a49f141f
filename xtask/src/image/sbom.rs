//! What is compiled into an image, in CycloneDX 1.6 (ECMA-424).
//!
//! cargo says which crates the programs are made of for the platform; the standard library and the C library that they
//! are linked with are added.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// A crate, as [`FORMAT`] prints it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Component {
    name: String,
    version: String,
    /// SPDX expression.
    license: String,
    repository: String,
}

/// For `cargo tree --format`.
pub const FORMAT: &str = "{p}|{l}|{r}";

/// Reads what `cargo tree` printed: `name v1.2.3 (path)|licence|repository`, a line a crate, any of them repeatedly.
pub fn components(tree: &str) -> Result<BTreeSet<Component>> {
    tree.lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| component(line).with_context(|| format!("cargo tree: no name, version and licence in {line:?}")))
        .collect()
}

fn component(line: &str) -> Option<Component> {
    let mut fields = line.split('|');
    let mut package = fields.next()?.split(' ');
    Some(Component {
        name: package.next()?.to_owned(),
        version: package.next()?.strip_prefix('v')?.to_owned(),
        // Old manifests write MIT/Apache-2.0.
        license: fields.next()?.replace('/', " OR "),
        repository: fields.next()?.to_owned(),
    })
}

/// The document for an image called `name`.
pub fn document(name: &str, version: &str, crates: &BTreeSet<Component>, linked: &[(&str, &str)]) -> String {
    let library = |name: &str, version: &str, purl: String| json!({"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl});
    let mut components: Vec<Value> = crates
        .iter()
        .map(|found| {
            // Package URLs write a plus sign by its number.
            let purl = format!("pkg:cargo/{}@{}", found.name, found.version.replace('+', "%2B"));
            let mut component = library(&found.name, &found.version, purl);
            if !found.license.is_empty() {
                component["licenses"] = json!([{"expression": found.license}]);
            }
            if !found.repository.is_empty() {
                component["externalReferences"] = json!([{"type": "vcs", "url": found.repository}]);
            }
            component
        })
        .collect();
    components
        .extend(linked.iter().map(|(name, version)| library(name, version, format!("pkg:generic/{name}@{version}"))));
    let purl = format!("pkg:oci/{name}@{version}");
    let document = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "container", "bom-ref": purl, "name": name, "version": version}},
        "components": components,
    });
    format!("{document:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_are_read_once_each() {
        let tree = "weirctl v0.1.0 (/src/agent/ctl)|Apache-2.0|\n\
                    bytes v1.12.1|MIT|https://github.com/tokio-rs/bytes\n\n\
                    bytes v1.12.1|MIT|https://github.com/tokio-rs/bytes\n\
                    old v0.1.0+1.2|MIT/Apache-2.0|\n";
        let crates = components(tree).unwrap();
        assert_eq!(crates.len(), 3);
        let document: Value =
            serde_json::from_str(&document("weir-agent", "0.1.0", &crates, &[("glibc", "2.36")])).unwrap();
        let components = document["components"].as_array().unwrap();
        assert_eq!(components[0]["purl"], "pkg:cargo/bytes@1.12.1");
        assert_eq!(components[0]["externalReferences"][0]["url"], "https://github.com/tokio-rs/bytes");
        assert_eq!(components[1]["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(components[1]["purl"], "pkg:cargo/old@0.1.0%2B1.2");
        assert_eq!(components[3]["purl"], "pkg:generic/glibc@2.36");
    }

    #[test]
    fn a_line_that_is_no_crate_is_told() {
        let error = components("warning: something\n").unwrap_err();
        assert_eq!(error.to_string(), "cargo tree: no name, version and licence in \"warning: something\"");
    }
}
