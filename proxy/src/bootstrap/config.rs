//! The bootstrap: read from a file and from the command line, merged, checked, and turned into the model.

use std::{fs, io, path::PathBuf};

use prost::Message;
use weir_proto::{ConfigError, Segment, envoy::config::bootstrap::v3::Bootstrap};

use crate::{
    config::{
        self, Built,
        convert::{AdminSettings, StatsSettings},
        snapshot::Snapshot,
    },
    options::Options,
    runtime::Runtime,
    telemetry::stats::Store,
};

/// What errors call the text given with --config-yaml.
const INLINE: &str = "--config-yaml";

/// Why the bootstrap is refused: one line that names the file, the line and the field as far as they are known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What it says is not a bootstrap, or not one that can be served.
    #[error("{}", error.in_file(file))]
    Refused {
        /// Where it was read from.
        file: String,
        /// What is wrong.
        error: ConfigError,
    },
}

/// A configuration to serve.
#[derive(Debug)]
pub struct Loaded {
    /// The model.
    pub snapshot: Snapshot,
    /// Fields that were set and have no effect, by path.
    pub ignored: Vec<String>,
    /// The statistics, with the names of what is configured.
    pub stats: Store,
    /// How they are kept and shown.
    pub stats_settings: StatsSettings,
    /// The admin server, if there is to be one.
    pub admin: Option<AdminSettings>,
    /// Runtime values.
    pub runtime: Runtime,
    /// What was read.
    pub bootstrap: Bootstrap,
}

/// Loads what the command line names; nothing but --handoff is an empty configuration.
pub fn load(options: &Options) -> Result<Loaded, Error> {
    let source = &options.source;
    let mut texts = Vec::new();
    if let Some(path) = &source.config_path {
        let text = fs::read_to_string(path).map_err(|source| Error::Read { path: path.clone(), source })?;
        texts.push((path.display().to_string(), text));
    }
    if let Some(text) = &source.config_yaml {
        texts.push((INLINE.to_owned(), text.clone()));
    }
    let mut bootstrap = read_and_merge(&texts)?;
    name_node(&mut bootstrap, options);
    build(bootstrap, options.workers()).map_err(|error| place(&texts, &error))
}

/// What the command line says of this node holds where the bootstrap says nothing.
fn name_node(bootstrap: &mut Bootstrap, options: &Options) {
    let said = [&options.service_cluster, &options.service_node, &options.service_zone];
    if said.iter().all(|said| said.is_none()) {
        return;
    }
    let node = bootstrap.node.get_or_insert_default();
    let fill = |field: &mut String, said: &Option<String>| {
        if let (true, Some(said)) = (field.is_empty(), said) {
            field.clone_from(said);
        }
    };
    fill(&mut node.cluster, &options.service_cluster);
    fill(&mut node.id, &options.service_node);
    if options.service_zone.is_some() {
        fill(&mut node.locality.get_or_insert_default().zone, &options.service_zone);
    }
}

fn build(bootstrap: Bootstrap, workers: usize) -> Result<Loaded, config::Error> {
    let (stats_settings, stats) = StatsSettings::read(&bootstrap, workers)?;
    let Built { snapshot, ignored } = config::from_bootstrap(&bootstrap, &stats.root())?;
    let admin = AdminSettings::read(&bootstrap)?;
    let runtime = Runtime::from_config(bootstrap.layered_runtime.as_ref())?;
    Ok(Loaded { snapshot, ignored, stats, stats_settings, admin, runtime, bootstrap })
}

/// Merges as protobuf does, which is how Envoy merges --config-yaml: single fields are replaced, messages merged,
/// lists joined.
fn read_and_merge(texts: &[(String, String)]) -> Result<Bootstrap, Error> {
    let mut merged = Bootstrap::default();
    for (file, text) in texts {
        let refused = |error| Error::Refused { file: file.clone(), error };
        let bootstrap: Bootstrap = weir_proto::from_yaml(text).map_err(refused)?;
        merged
            .merge(&*bootstrap.encode_to_vec())
            .map_err(|error| refused(ConfigError::new(format!("cannot be merged: {error}"))))?;
    }
    Ok(merged)
}

/// Where the field of an error is; in a merge, list items are counted through, and only the field is known.
fn place(texts: &[(String, String)], error: &config::Error) -> Error {
    let unplaced = segments(&error.path).into_iter().rev().fold(ConfigError::new(&error.message), ConfigError::inside);
    match texts {
        [(file, text)] => Error::Refused { file: file.clone(), error: weir_proto::locate(text, unplaced) },
        texts => {
            let files: Vec<_> = texts.iter().map(|(file, _)| &**file).collect();
            Error::Refused { file: files.join(" with "), error: unplaced }
        }
    }
}

/// The steps of a path as [`config::Error`] spells it, outermost first: `a.b[0]["key"]`.
fn segments(path: &str) -> Vec<Segment> {
    let mut segments = Vec::new();
    for step in path.split('.') {
        let mut parts = step.split('[');
        if let Some(field) = parts.next().filter(|field| !field.is_empty()) {
            segments.push(Segment::Field(field.to_owned()));
        }
        for part in parts {
            let inside = part.trim_end_matches(']');
            segments.push(match inside.parse() {
                Ok(index) => Segment::Index(index),
                Err(_) => Segment::Key(inside.trim_matches('"').to_owned()),
            });
        }
    }
    segments
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use clap::Parser;

    use super::*;

    fn options(arguments: &[&str]) -> Options {
        Options::try_parse_from([&["weir-proxy"], arguments].concat()).unwrap()
    }

    fn source(file: Option<&str>, yaml: Option<&str>) -> (Options, Option<tempfile::NamedTempFile>) {
        let file = file.map(|text| {
            let mut file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            file
        });
        let path = file.as_ref().map(|file| file.path().to_str().unwrap().to_owned());
        let mut arguments = Vec::new();
        arguments.extend(path.iter().flat_map(|path| ["-c", path]));
        arguments.extend(yaml.iter().flat_map(|yaml| ["--config-yaml", yaml]));
        (options(&arguments), file)
    }

    fn refusal(file: Option<&str>, yaml: Option<&str>) -> String {
        let (options, file) = source(file, yaml);
        let message = load(&options).unwrap_err().to_string();
        assert!(!message.contains('\n'), "{message}");
        match file {
            Some(file) => message.replace(&*file.path().to_string_lossy(), "FILE"),
            None => message,
        }
    }

    const LISTENER: &str = "static_resources:\n  listeners:\n  - name: NAME\n    address: {socket_address: {address: \
        127.0.0.1, port_value: 0}}\n    filter_chains:\n    - filters:\n      - name: envoy.filters.network.tcp_proxy\n        \
        typed_config:\n          \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy\n          \
        stat_prefix: p\n          cluster: c\n";
    const CLUSTER: &str = "static_resources:\n  clusters:\n  - name: c\n    connect_timeout: 1s\n";

    #[test]
    fn a_missing_file_is_named() {
        let message = load(&options(&["-c", "/nonexistent.yaml"])).unwrap_err().to_string();
        assert_eq!(message, "/nonexistent.yaml: No such file or directory (os error 2)");
    }

    #[test]
    fn errors_name_file_line_and_field() {
        let unknown = refusal(Some("static_resources:\n  listenerz: []\n"), None);
        assert!(unknown.starts_with("FILE:2: static_resources.listenerz"), "{unknown}");
        let duration = refusal(Some("static_resources:\n  clusters:\n  - name: c\n    connect_timeout: fast\n"), None);
        assert!(duration.starts_with("FILE:4: static_resources.clusters[0].connect_timeout"), "{duration}");
        let inline = refusal(None, Some("static_resources: 7"));
        assert!(inline.starts_with("--config-yaml:1: static_resources"), "{inline}");
    }

    #[test]
    fn what_the_model_refuses_has_its_line_too() {
        let message =
            refusal(Some(&LISTENER.replace("stat_prefix: p", "stat_prefix: p\n          on_demand: {}")), None);
        assert!(message.starts_with("FILE:") && message.contains("static_resources.listeners[0]"), "{message}");
        let line: usize = message.split(':').nth(1).unwrap().parse().unwrap();
        assert!((3..=12).contains(&line), "{message}");
    }

    #[test]
    fn inline_text_is_merged_over_the_file() {
        let (both, _file) = source(Some(LISTENER), Some(CLUSTER));
        let loaded = load(&both).unwrap();
        assert_eq!(loaded.snapshot.listeners().len(), 1);
        assert!(loaded.snapshot.cluster("c").is_some());
    }

    #[test]
    fn what_is_not_supported_of_a_bootstrap_is_refused_by_name() {
        for (field, value) in [
            ("stats_sinks", "[{ name: envoy.stat_sinks.statsd }]"),
            ("dynamic_resources", "{}"),
            ("tracing", "{}"),
            ("hds_config", "{ api_type: GRPC }"),
        ] {
            let message = refusal(None, Some(&format!("{field}: {value}")));
            assert_eq!(message, format!("--config-yaml:1: {field}: not supported yet"));
        }
    }

    #[test]
    fn the_command_line_names_the_node_where_the_bootstrap_does_not() {
        let arguments = ["--config-yaml", "node: { id: node-1 }", "--service-node", "other", "--service-zone", "z"];
        let node = load(&options(&arguments)).unwrap().bootstrap.node.unwrap();
        assert_eq!((&*node.id, &*node.locality.unwrap().zone), ("node-1", "z"));
    }
}
