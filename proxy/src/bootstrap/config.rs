//! The bootstrap: read from a file and from the command line, merged, checked, and turned into the model.

use std::{
    collections::HashSet,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use prost::Message;
use weir_proto::{ConfigError, Segment, envoy::config::bootstrap::v3::Bootstrap};

use crate::{
    config::{
        self, Built,
        cell::Registry,
        cluster::DnsCaches,
        convert::{AdminSettings, Converter, DiscoveredLayer, StatsSettings, runtime_layers},
        overload::Settings,
        snapshot::Snapshot,
    },
    dynamic::resources::Resources,
    intake::claims,
    options::{Options, ViewFile},
    runtime::Runtime,
    telemetry::stats::Store,
    view::{ViewId, ViewNames},
    wire::named::NamedAddress,
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
    /// It is written in a way that is not read.
    #[error("{}: protobuf's text format is not supported: expected YAML, JSON, or protobuf's binary format (.pb)", path.display())]
    TextFormat {
        /// Which.
        path: PathBuf,
    },
    /// A view can't be had.
    #[error("--view {name}: {why}")]
    View {
        /// Its name.
        name: String,
        /// Why not.
        why: String,
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
    /// The statistics, with the names of what is configured.
    pub stats: Store,
    /// How they are kept and shown.
    pub stats_settings: StatsSettings,
    /// The admin server, if there is to be one.
    pub admin: Option<AdminSettings>,
    /// Runtime values.
    pub runtime: Arc<Runtime>,
    /// Layers of them that come by themselves.
    pub layers: Vec<Arc<DiscoveredLayer>>,
    /// What the overload manager is to do.
    pub overload: Settings,
    /// The process's own view.
    pub own: LoadedView,
    /// The others, in their order.
    pub others: Vec<LoadedView>,
    /// What those are called.
    pub names: ViewNames,
}

/// What one node has of its own.
#[derive(Debug)]
pub struct LoadedView {
    /// Which it is.
    pub id: ViewId,
    /// What it is called; none: it is the process's own.
    pub name: Option<Arc<str>>,
    /// The model.
    pub snapshot: Snapshot,
    /// Fields that were set and have no effect, by path.
    pub ignored: Vec<String>,
    /// The statistics as they are seen from there.
    pub stats: Store,
    /// What is followed.
    pub resources: Resources,
    /// Converts what comes from there.
    pub converter: Converter,
    /// What was read.
    pub bootstrap: Bootstrap,
    /// What the configuration names and comes by itself.
    pub cells: Arc<Registry>,
    /// Caches of names that somebody is to resolve.
    pub dns_caches: DnsCaches,
}

impl Loaded {
    /// All views, the process's own first.
    pub fn views(&self) -> impl Iterator<Item = &LoadedView> {
        std::iter::once(&self.own).chain(&self.others)
    }
}

/// Loads what the command line names; nothing but --handoff is an empty configuration.
pub fn load(options: &Options) -> Result<Loaded, Error> {
    let source = &options.source;
    let mut given = Vec::new();
    if let Some(path) = &source.config_path {
        given.push(Given::read(path)?);
    }
    if let Some(text) = source.config_yaml.as_ref().filter(|text| !text.is_empty()) {
        given.push(Given { name: INLINE.to_owned(), form: Form::Text(text.clone()) });
    }
    let mut bootstrap = read_and_merge(&given)?;
    name_node(&mut bootstrap, options);
    let names = view_names(&options.views)?;
    let mut loaded = build(bootstrap, options, names).map_err(|error| place(&given, &error))?;
    for (file, (id, name)) in options.views.iter().zip(loaded.names.clone().all().skip(1)) {
        let view = load_view(file, (id, name), &loaded, options)?;
        loaded.others.push(view);
    }
    Ok(loaded)
}

fn view_names(files: &[ViewFile]) -> Result<ViewNames, Error> {
    let mut names = HashSet::new();
    if let Some(twice) = files.iter().find(|file| !names.insert(&file.name)) {
        return Err(Error::View { name: twice.name.clone(), why: "there are several views of this name".to_owned() });
    }
    let names = ViewNames::new(files.iter().map(|file| Arc::from(&*file.name)));
    names.map_err(|why| Error::View { name: String::new(), why: why.to_string() })
}

/// Loads a view beside those that are loaded.
fn load_view(
    file: &ViewFile,
    (id, name): (ViewId, Option<&Arc<str>>),
    loaded: &Loaded,
    options: &Options,
) -> Result<LoadedView, Error> {
    let unreadable = |error: Error| Error::View { name: file.name.clone(), why: error.to_string() };
    let given = [Given::read(&file.path).map_err(unreadable)?];
    let mut bootstrap = read_and_merge(&given)?;
    name_node(&mut bootstrap, options);
    // Listeners of a node's views serve its pods.
    let for_pods = options.source.handoff.is_some();
    let build = || {
        let stats = loaded.stats.of_view(&file.name);
        let built = config::of_view(&bootstrap, &stats.root(), id, &loaded.own.converter, for_pods)?;
        refuse_twins(&built.snapshot, loaded)?;
        let resources = Resources::read(&bootstrap)?;
        Ok((stats, built, resources))
    };
    let (stats, built, resources) = build().map_err(|error| place(&given, &error))?;
    let Built { snapshot, ignored, cells, converter, dns_caches, .. } = built;
    let name = name.cloned();
    Ok(LoadedView { id, name, snapshot, ignored, stats, resources, converter, bootstrap, cells, dns_caches })
}

/// No two views have listeners bound at the same address: connections would go to either.
fn refuse_twins(snapshot: &Snapshot, loaded: &Loaded) -> Result<(), config::Error> {
    for (index, listener) in snapshot.listeners().iter().enumerate() {
        for view in loaded.views() {
            for other in view.snapshot.listeners() {
                let overlaps = |one: &SocketAddr| listener.bound_at().any(|address| claims::overlap(one, &address));
                if let Some(address) = other.bound_at().find(overlaps) {
                    let of =
                        view.name.as_ref().map_or("of the process".to_owned(), |name| format!("of the view {name}"));
                    let address = NamedAddress::text(&address);
                    let message = format!("the listener {} {of} has the address {address}", other.name);
                    return Err(config::Error::at(format!("static_resources.listeners[{index}].address"), message));
                }
            }
        }
    }
    Ok(())
}

/// A bootstrap as it is given.
struct Given {
    /// What errors call it.
    name: String,
    form: Form,
}

enum Form {
    /// YAML or JSON.
    Text(String),
    /// Protobuf's encoding.
    Binary(Vec<u8>),
}

impl Given {
    /// A file; its name says how it is written, as in Envoy.
    fn read(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Read { path: path.to_owned(), source };
        let form = match path.extension().and_then(|extension| extension.to_str()) {
            Some("pb_text") => return Err(Error::TextFormat { path: path.to_owned() }),
            Some("pb") => Form::Binary(fs::read(path).map_err(failed)?),
            _ => Form::Text(fs::read_to_string(path).map_err(failed)?),
        };
        Ok(Self { name: path.display().to_string(), form })
    }

    fn bootstrap(&self) -> Result<Bootstrap, ConfigError> {
        match &self.form {
            Form::Text(text) => weir_proto::from_yaml(text),
            Form::Binary(bytes) => {
                let bootstrap = Bootstrap::decode(&**bytes)
                    .map_err(|error| ConfigError::new(format!("is not an encoded bootstrap: {error}")))?;
                weir_proto::validate(&bootstrap)?;
                Ok(bootstrap)
            }
        }
    }
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

fn build(bootstrap: Bootstrap, options: &Options, names: ViewNames) -> Result<Loaded, config::Error> {
    let (mut stats_settings, stats) = StatsSettings::read(&bootstrap, options.workers(), names.clone())?;
    for (tag, value) in &options.stats_tag {
        stats_settings.tags.fix(tag, value);
    }
    let built = config::from_bootstrap(&bootstrap, &stats.root())?;
    let Built { snapshot, ignored, cells, converter, dns_caches, overload } = built;
    let resources = Resources::read(&bootstrap)?;
    let admin = AdminSettings::read(&bootstrap)?;
    let (runtime, layers) = runtime_layers(bootstrap.layered_runtime.as_ref(), &cells, &stats.root())?;
    let own = LoadedView {
        id: ViewId::OWN,
        name: None,
        snapshot,
        ignored,
        stats: stats.clone(),
        resources,
        converter,
        bootstrap,
        cells,
        dns_caches,
    };
    Ok(Loaded { stats, stats_settings, admin, runtime, layers, overload, own, others: Vec::new(), names })
}

/// Merges as protobuf does, which is how Envoy merges --config-yaml: single fields are replaced, messages merged,
/// lists joined.
fn read_and_merge(given: &[Given]) -> Result<Bootstrap, Error> {
    let mut merged = Bootstrap::default();
    for one in given {
        let refused = |error| Error::Refused { file: one.name.clone(), error };
        let bootstrap = one.bootstrap().map_err(refused)?;
        merged
            .merge(&*bootstrap.encode_to_vec())
            .map_err(|error| refused(ConfigError::new(format!("cannot be merged: {error}"))))?;
    }
    Ok(merged)
}

/// Where the field of an error is; in a merge, list items are counted through, and only the field is known.
fn place(given: &[Given], error: &config::Error) -> Error {
    let unplaced = segments(&error.path).into_iter().rev().fold(ConfigError::new(&error.message), ConfigError::inside);
    match given {
        [Given { name, form: Form::Text(text) }] => {
            Error::Refused { file: name.clone(), error: weir_proto::locate(text, unplaced) }
        }
        given => {
            let files: Vec<_> = given.iter().map(|one| &*one.name).collect();
            Error::Refused { file: files.join(" with "), error: unplaced }
        }
    }
}

/// The steps of a path as [`config::Error`] spells it, outermost first: `a.b[0]["key"]`.
fn segments(path: &str) -> Vec<Segment> {
    let (mut segments, mut rest) = (Vec::new(), path);
    while !rest.is_empty() {
        // A key may have anything in it.
        let (segment, left) = if let Some(keyed) = rest.strip_prefix("[\"") {
            let (key, left) = keyed.split_once("\"]").unwrap_or((keyed, ""));
            (Segment::Key(key.to_owned()), left)
        } else if let Some(indexed) = rest.strip_prefix('[') {
            let (inside, left) = indexed.split_once(']').unwrap_or((indexed, ""));
            (inside.parse().map_or_else(|_| Segment::Key(inside.to_owned()), Segment::Index), left)
        } else {
            let field = rest.strip_prefix('.').unwrap_or(rest);
            let (field, left) = field.split_at(field.find(['.', '[']).unwrap_or(field.len()));
            (Segment::Field(field.to_owned()), left)
        };
        if !matches!(&segment, Segment::Field(field) if field.is_empty()) {
            segments.push(segment);
        }
        rest = left;
    }
    segments
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use clap::Parser;

    use super::*;
    use crate::telemetry::stats::{Kind, Metric};

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
    fn keys_may_have_dots_and_brackets() {
        let spelled = segments("a.b[0].options[\"x.y[1].z\"].c[\"\"]");
        let expected = [
            Segment::Field("a".into()),
            Segment::Field("b".into()),
            Segment::Index(0),
            Segment::Field("options".into()),
            Segment::Key("x.y[1].z".into()),
            Segment::Field("c".into()),
            Segment::Key(String::new()),
        ];
        assert_eq!(spelled, expected);
    }

    #[test]
    fn a_missing_file_is_named() {
        let message = load(&options(&["-c", "/nonexistent.yaml"])).unwrap_err().to_string();
        assert_eq!(message, "/nonexistent.yaml: No such file or directory (os error 2)");
    }

    #[test]
    fn an_empty_text_adds_nothing_to_a_file() {
        let (options, _file) = source(Some("node: { id: own }\n"), Some(""));
        assert_eq!(load(&options).map(drop).map_err(|error| error.to_string()), Ok(()));
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
    fn the_name_of_a_file_says_how_it_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let load_from = |name: &str, bytes: &[u8]| {
            let path = directory.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            load(&options(&["-c", path.to_str().unwrap()]))
                .map_err(|error| error.to_string().split_off(directory.path().as_os_str().len() + 1))
        };
        let bootstrap: Bootstrap = weir_proto::from_yaml(CLUSTER).unwrap();
        assert!(load_from("a.pb", &bootstrap.encode_to_vec()).unwrap().own.snapshot.cluster("c").is_some());
        assert!(load_from("b.pb", b"\xff").unwrap_err().starts_with("b.pb: is not an encoded bootstrap"));
        let refused = load_from("a.pb_text", b"static_resources {}").unwrap_err();
        assert!(refused.starts_with("a.pb_text: protobuf's text format is not supported"), "{refused}");
        let json = br#"{"static_resources": {"clusters": [{"name": "c", "connect_timeout": "1s"}]}}"#;
        assert!(load_from("a.json", json).is_ok());
    }

    #[test]
    fn inline_text_is_merged_over_the_file() {
        let (both, _file) = source(Some(LISTENER), Some(CLUSTER));
        let loaded = load(&both).unwrap();
        assert_eq!(loaded.own.snapshot.listeners().len(), 1);
        assert!(loaded.own.snapshot.cluster("c").is_some());
    }

    #[test]
    fn what_is_not_supported_of_a_bootstrap_is_refused_by_name() {
        for (field, value) in [
            ("stats_sinks", "[{ name: envoy.stat_sinks.statsd }]"),
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
        let node = load(&options(&arguments)).unwrap().own.bootstrap.node.unwrap();
        assert_eq!((&*node.id, &*node.locality.unwrap().zone), ("node-1", "z"));
    }

    #[test]
    fn nor_do_views_have_to() {
        let files = ["node: { id: shop-1 }\nstatic_resources: {}", "static_resources: {}"].map(|text| {
            let mut file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            file
        });
        let [shop, bank] = files.each_ref().map(|file| file.path().display());
        let views = [format!("--view=shop={shop}"), format!("--view=bank={bank}")];
        let node = ["--service-node", "n", "--service-cluster", "c", "--service-zone", "z"];
        let arguments = [&["--config-yaml", "node: { cluster: own }", &views[0], &views[1]], &node[..]].concat();
        let loaded = load(&options(&arguments)).unwrap();
        let nodes = loaded.views().map(|view| {
            let node = view.bootstrap.node.clone().unwrap();
            [node.id, node.cluster, node.locality.unwrap().zone]
        });
        assert_eq!(nodes.collect::<Vec<_>>(), [["n", "own", "z"], ["shop-1", "c", "z"], ["n", "c", "z"]]);
    }

    fn with_view(own: &str, view: &str) -> Result<Loaded, String> {
        let mut file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
        file.write_all(view.as_bytes()).unwrap();
        let path = file.path().to_str().unwrap();
        load(&options(&["--config-yaml", own, "--view", &format!("shop={path}")]))
            .map_err(|error| error.to_string().replace(path, "FILE"))
    }

    #[test]
    fn a_view_has_its_own_names_and_node() {
        let view = CLUSTER.to_owned() + "node: { id: shop-1 }";
        let loaded = with_view(&(CLUSTER.to_owned() + "node: { id: own }"), &view).unwrap();
        let [view] = &loaded.others[..] else { panic!("one view") };
        assert_eq!((view.id, view.name.as_deref()), (loaded.names.serving("shop"), Some("shop")));
        assert_eq!([&loaded.own, view].map(|view| &*view.bootstrap.node.as_ref().unwrap().id), ["own", "shop-1"]);
        assert_eq!(view.snapshot.cluster("c").unwrap().view, view.id);
        let names = loaded.stats.read(Kind::Counter, |name| name.ends_with("cluster.c.upstream_rq_total"));
        let mut names: Vec<_> = names.iter().map(Metric::name).collect();
        names.sort();
        assert_eq!(names, ["cluster.c.upstream_rq_total", "view.shop.cluster.c.upstream_rq_total"]);
    }

    #[test]
    fn what_is_wrong_with_a_view_names_it_or_its_file() {
        let refused = |own: &str, view: &str| with_view(own, view).unwrap_err();
        let expected = "expected node, dynamic_resources, static_resources, cluster_manager";
        assert_eq!(
            refused("{}", "node: { id: a }\nadmin: {}\n"),
            format!("FILE:2: admin: a view has no such field of its own: {expected}")
        );
        let unknown = refused("{}", "static_resources:\n  listenerz: []\n");
        assert!(unknown.starts_with("FILE:2: static_resources.listenerz"), "{unknown}");
        let bound = LISTENER.replace("port_value: 0", "port_value: 9") + &CLUSTER["static_resources:\n".len()..];
        let twice = refused(&bound, &bound);
        let why = "static_resources.listeners[0].address: the listener NAME of the process has the address 127.0.0.1:9";
        assert!(twice.starts_with("FILE:") && twice.ends_with(why), "{twice}");
        let missing = load(&options(&["--config-yaml", "{}", "--view", "shop=/nonexistent"])).unwrap_err().to_string();
        assert_eq!(missing, "--view shop: /nonexistent: No such file or directory (os error 2)");
        let twice = ["--config-yaml", "{}", "--view", "shop=/a", "--view", "shop=/b"];
        let twice = load(&options(&twice)).unwrap_err().to_string();
        assert_eq!(twice, "--view shop: there are several views of this name");
    }
}
