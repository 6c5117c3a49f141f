//! The command line: Envoy's names where Envoy has one.

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Parser, ValueEnum};

use crate::telemetry::{
    log::{self, Level},
    unknown_fields::Policy,
    writer::LogFile,
};

/// The user and group that a proxy started as root becomes (as Istio's proxies, 1337, and distroless images, 65532).
pub const USER: u32 = 65532;

/// weir's L4/L7 data plane.
///
/// Runs alone with an Envoy v3 bootstrap, on a node with --handoff, or both.
#[derive(Clone, Debug, Parser)]
#[command(name = "weir-proxy", version, args_override_self = true)]
pub struct Options {
    #[command(flatten)]
    pub source: Source,
    /// Worker threads, at least one [default: cores]
    #[arg(long, value_name = "N")]
    pub concurrency: Option<usize>,
    /// Least severity of messages: trace, debug, info, warning, error, critical, off
    #[arg(short, long, value_name = "LEVEL", default_value = "info", value_parser = level)]
    pub log_level: Level,
    /// Least severity by component: upstream:debug,connection:trace
    #[arg(long, value_name = "NAME:LEVEL,...", value_parser = component_levels)]
    pub component_log_level: Option<String>,
    /// Shape of messages: a pattern of spdlog, or json [default: Envoy's]
    #[arg(long, value_name = "PATTERN", value_parser = log_format)]
    pub log_format: Option<String>,
    /// Escape line ends and tabs in messages
    #[arg(long)]
    pub log_format_escaped: bool,
    /// File for messages instead of standard error
    #[arg(long, value_name = "FILE")]
    pub log_path: Option<PathBuf>,
    /// File to write the admin server's address to
    #[arg(long, value_name = "FILE")]
    pub admin_address_path: Option<PathBuf>,
    /// Name of this node's cluster, where a bootstrap (or that of a view) has none
    #[arg(long, value_name = "NAME")]
    pub service_cluster: Option<String>,
    /// Name of this node, where a bootstrap (or that of a view) has none
    #[arg(long, value_name = "NAME")]
    pub service_node: Option<String>,
    /// Zone of this node, where a bootstrap (or that of a view) has none
    #[arg(long, value_name = "NAME")]
    pub service_zone: Option<String>,
    /// How often access logs are written, in milliseconds; sooner when 64 KiB have gathered
    #[arg(long, value_name = "MILLISECONDS", default_value = "10000", value_parser = milliseconds)]
    pub file_flush_interval_msec: Duration,
    /// Where connections of pods that no listener is for are logged; empty: nowhere
    #[arg(long, value_name = "FILE", default_value = "/dev/stdout")]
    pub passthrough_log_path: String,
    /// How much of an access log is gathered before it is written in any case, in KiB [default: 64]
    #[arg(long, value_name = "KIB", value_parser = clap::value_parser!(u32).range(0..=MAX_FLUSH_SIZE))]
    pub file_flush_min_size_kb: Option<u32>,
    /// Tag that every metric has; may be given several times
    #[arg(long, value_name = "TAG:VALUE", value_parser = stats_tag)]
    pub stats_tag: Vec<(String, String)>,
    /// Serve, or only check the configuration
    #[arg(long, value_enum, default_value_t = Mode::Serve)]
    pub mode: Mode,
    /// No effect yet: unknown fields of the bootstrap are refused
    #[arg(long, alias = "allow-unknown-fields")]
    pub allow_unknown_static_fields: bool,
    /// What the resources of all management servers may take, with what is made of them, in MiB: more are refused
    #[arg(long, value_name = "MIB", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..))]
    pub discovery_memory_mib: u32,
    /// Refuse unknown fields in dynamic configuration
    #[arg(long)]
    pub reject_unknown_dynamic_fields: bool,
    /// Do not warn of unknown fields in dynamic configuration
    #[arg(long)]
    pub ignore_unknown_dynamic_fields: bool,
    /// How long open connections may go on after SIGTERM, in seconds; a second signal ends them
    /// [default: 0, at once as Envoy; 5 with --handoff]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub drain_time_s: Option<Duration>,
    /// How connections are asked to end while draining
    #[arg(long, value_enum, default_value_t = DrainStrategy::Gradual)]
    pub drain_strategy: DrainStrategy,
    /// No effect: there is no parent process to shut down
    #[arg(long, value_name = "SECONDS", default_value = "900", value_parser = seconds)]
    pub parent_shutdown_time_s: Duration,
    /// No effect: there is no hot restart
    #[arg(long)]
    pub disable_hot_restart: bool,
    /// No effect: there is no hot restart
    #[arg(long, value_name = "ID", default_value_t = 0)]
    pub base_id: u32,
    /// No effect: there is no hot restart
    #[arg(long)]
    pub use_dynamic_base_id: bool,
    /// No effect: there is no hot restart
    #[arg(long, value_name = "EPOCH", default_value_t = 0)]
    pub restart_epoch: u32,
    /// Print the hot restart compatibility version, and end
    #[arg(long, exclusive = true)]
    pub hot_restart_version: bool,
    #[command(flatten)]
    pub ineffective: Ineffective,
    /// As many workers by default as CPUs that this process may use; so it is in any case
    #[arg(long)]
    pub cpuset_threads: bool,
    /// IP version for addresses of this host where any would do
    #[arg(long, value_enum, default_value_t = IpVersion::V4)]
    pub local_address_ip_version: IpVersion,
    /// No effect: deprecated fields are not logged
    #[arg(long)]
    pub skip_deprecated_logs: bool,
    /// Directory where resources that were accepted are kept, and served from before a management server is there
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// What to do when another proxy accepts instead
    #[arg(long, value_enum, default_value_t = WhenSuperseded::Exit)]
    pub when_superseded: WhenSuperseded,
    /// Bootstrap of a view: its node, resources and management servers serve the pods of the namespace NAME instead of those
    /// of --config-path; may be given several times
    #[arg(long = "view", value_name = "NAME=FILE", value_parser = view)]
    pub views: Vec<ViewFile>,
    /// User and group id to become when started as root; 0: stay root, without capabilities, for files that are only root's
    #[arg(long, value_name = "UID", default_value_t = USER)]
    pub user: u32,
    /// What follows `--` is ignored
    #[arg(last = true, hide = true)]
    pub rest: Vec<String>,
}

/// What command lines written for Envoy say and nothing here goes by.
#[derive(Args, Clone, Debug)]
pub struct Ineffective {
    /// No effect: there is no hot restart
    #[arg(long, value_name = "FILE")]
    pub base_id_path: Option<PathBuf>,
    /// No effect: there is no hot restart
    #[arg(long)]
    pub skip_hot_restart_on_no_parent: bool,
    /// No effect: there is no hot restart
    #[arg(long)]
    pub skip_hot_restart_parent_stats: bool,
    /// No effect: there is no hot restart
    #[arg(long, value_name = "PATH", default_value = "@envoy_domain_socket")]
    pub socket_path: String,
    /// No effect: there is no hot restart
    #[arg(long, value_name = "MODE", default_value = "0")]
    pub socket_mode: String,
    /// No effect: contention is not traced
    #[arg(long)]
    pub enable_mutex_tracing: bool,
    /// No effect: limits of the process stay as they are
    #[arg(long)]
    pub enable_core_dump: bool,
    /// No effect: levels are those of components
    #[arg(long)]
    pub enable_fine_grain_logging: bool,
    /// No effect: nothing runs that is not configured
    #[arg(long, value_name = "NAME,...")]
    pub disable_extensions: Option<String>,
    /// No effect: no stack traces are logged
    #[arg(long)]
    pub log_stacktrace_single_entry: bool,
}

impl Ineffective {
    /// Flags that ask for something which does not happen.
    pub fn asked(&self) -> impl Iterator<Item = &'static str> {
        [
            (self.base_id_path.is_some(), "--base-id-path"),
            (self.enable_mutex_tracing, "--enable-mutex-tracing"),
            (self.enable_core_dump, "--enable-core-dump"),
            (self.disable_extensions.is_some(), "--disable-extensions"),
            (self.enable_fine_grain_logging, "--enable-fine-grain-logging"),
        ]
        .into_iter()
        .filter_map(|(asked, flag)| asked.then_some(flag))
    }
}

/// Where work comes from; at least one is needed.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = true)]
pub struct Source {
    /// Envoy v3 bootstrap, YAML or JSON
    #[arg(short, long, value_name = "FILE")]
    pub config_path: Option<PathBuf>,
    /// Bootstrap as text, merged over that of --config-path
    #[arg(long, value_name = "TEXT")]
    pub config_yaml: Option<String>,
    /// Socket of weir-agent, which hands over the connections of this node's pods
    #[arg(long, value_name = "PATH")]
    pub handoff: Option<PathBuf>,
}

/// A view that is to be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewFile {
    /// Its name, which is a namespace's.
    pub name: String,
    /// Its bootstrap.
    pub path: PathBuf,
}

/// What a proxy does when another one accepts instead of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WhenSuperseded {
    /// Let connections drain, and end
    Exit,
    /// Let connections drain, and stand by: accept again if no other proxy does, end on SIGTERM
    Wait,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    Serve,
    Validate,
}

/// How connections are asked to end while draining.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DrainStrategy {
    /// More and more of them over the drain time.
    Gradual,
    /// All at once.
    Immediate,
}

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Mode {
    /// As `/server_info` shows it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Serve => "Serve",
            Self::Validate => "Validate",
        }
    }
}

impl DrainStrategy {
    /// As `/server_info` shows it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gradual => "Gradual",
            Self::Immediate => "Immediate",
        }
    }
}

impl IpVersion {
    /// As `/server_info` shows it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V4 => "v4",
            Self::V6 => "v6",
        }
    }
}

/// Drain time on a node when none is given.
const NODE_DRAIN: Duration = Duration::from_secs(5);
/// Most of `--file-flush-min-size-kb`.
const MAX_FLUSH_SIZE: i64 = 1 << 20;
/// Envoy's default of `--drain-time-s`.
const ENVOY_DRAIN: Duration = Duration::from_secs(600);

impl Options {
    /// Workers to run.
    pub fn workers(&self) -> usize {
        self.concurrency.map_or_else(cores, |workers| workers.max(1))
    }

    /// What the resources of a management server may take, in bytes.
    pub fn discovery_memory(&self) -> usize {
        (self.discovery_memory_mib as usize) << 20
    }

    /// What is done with unknown fields of what comes while the process runs.
    pub fn unknown_dynamic_fields(&self) -> Policy {
        match (self.reject_unknown_dynamic_fields, self.ignore_unknown_dynamic_fields) {
            (true, _) => Policy::Refuse,
            (false, true) => Policy::Ignore,
            (false, false) => Policy::Tell,
        }
    }

    /// How long connections may drain after SIGTERM.
    pub fn drain_time(&self) -> Duration {
        let unsaid = if self.source.handoff.is_some() { NODE_DRAIN } else { Duration::ZERO };
        self.drain_time_s.unwrap_or(unsaid)
    }

    /// Where connections that no listener is for are logged.
    pub fn passthrough_log(&self) -> Option<LogFile> {
        Some(&*self.passthrough_log_path).filter(|path| !path.is_empty()).map(LogFile::new)
    }

    /// How long `/drain_listeners?graceful` takes: Envoy's default is not that of a signal here.
    pub fn envoy_drain_time(&self) -> Duration {
        self.drain_time_s.unwrap_or(ENVOY_DRAIN)
    }

    /// What errors call the configuration.
    pub fn config_name(&self) -> &Path {
        self.source.config_path.as_deref().unwrap_or(Path::new(""))
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

fn level(text: &str) -> Result<Level, String> {
    Level::parse(text).ok_or_else(|| {
        let names: Vec<_> = Level::ALL.iter().map(|level| level.name()).collect();
        format!("expected one of {}", names.join(", "))
    })
}

fn component_levels(text: &str) -> Result<String, String> {
    for (name, level) in log::pairs(text) {
        if !log::COMPONENTS.contains(&name) {
            return Err(format!("unknown component \"{name}\""));
        }
        self::level(level).map_err(|error| format!("{name}: {error}"))?;
    }
    Ok(text.to_owned())
}

/// The longest DNS label (RFC 1123 section 2.1, RFC 1035 section 2.3.4).
const LONGEST_LABEL: usize = 63;

fn view(text: &str) -> Result<ViewFile, String> {
    let (name, path) = text.split_once('=').ok_or("expected NAME=FILE")?;
    let inner = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
    if name.is_empty()
        || name.len() > LONGEST_LABEL
        || !name.chars().all(inner)
        || name.starts_with('-')
        || name.ends_with('-')
    {
        return Err(format!("\"{name}\" is no name of a view: expected that of a namespace"));
    }
    if path.is_empty() {
        return Err("expected a file after the name".into());
    }
    Ok(ViewFile { name: name.to_owned(), path: path.into() })
}

fn stats_tag(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((tag, value))
            if !tag.is_empty()
                && tag.chars().all(|letter| letter.is_ascii_alphanumeric())
                && !value.is_empty()
                && !value.contains('.') =>
        {
            Ok((tag.to_owned(), value.to_owned()))
        }
        _ => Err("expected letters or digits, a colon, and a value without dots".into()),
    }
}

fn log_format(text: &str) -> Result<String, String> {
    if !["json", "text"].contains(&text) {
        log::Pattern::parse(text, false).map_err(|error| error.to_string())?;
    }
    Ok(text.to_owned())
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Err(_) => Err("expected a whole number of milliseconds".into()),
        Ok(number) => Ok(Duration::from_millis(number)),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse().map(Duration::from_secs).map_err(|_| "expected a whole number of seconds".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Options, String> {
        let arguments = std::iter::once("weir-proxy").chain(arguments.iter().copied());
        Options::try_parse_from(arguments).map_err(|error| error.to_string())
    }

    #[test]
    fn envoys_flags() {
        let options =
            parse(&["-c", "a.yaml", "--concurrency", "3", "-l", "warning", "--file-flush-interval-msec", "50"]);
        let options = options.unwrap();
        assert_eq!(options.workers(), 3);
        assert_eq!(options.log_level, Level::Warning);
        assert_eq!(options.file_flush_interval_msec, Duration::from_millis(50));
        assert_eq!(options.drain_time(), Duration::ZERO);
        assert_eq!(parse(&["--handoff", "/run/weir/handoff.sock"]).unwrap().drain_time(), NODE_DRAIN);
        let harmless = "--base-id 3 --restart-epoch 1 --disable-hot-restart --parent-shutdown-time-s 9 --drain-strategy \
            immediate --service-cluster c --service-node n --service-zone z --cpuset-threads \
            --ignore-unknown-dynamic-fields --component-log-level http:debug,router:trace --log-format %v -c a";
        let options = parse(&harmless.split_whitespace().collect::<Vec<_>>()).unwrap();
        assert_eq!(options.drain_strategy, DrainStrategy::Immediate);
        assert_eq!(parse(&["-c", "a", "-l", "warn"]).unwrap().log_level, Level::Warning);
        assert_eq!(parse(&["-c", "a", "--concurrency", "0"]).unwrap().workers(), 1);
        let more = "-c a --stats-tag a:b --stats-tag c:d --file-flush-min-size-kb 8 --skip-hot-restart-on-no-parent \
            --skip-hot-restart-parent-stats --socket-path /s --socket-mode 600 --log-stacktrace-single-entry \
            --enable-core-dump --disable-extensions envoy.filters.http.buffer,a -- whatever --comes";
        let options = parse(&more.split_whitespace().collect::<Vec<_>>()).unwrap();
        assert_eq!(options.stats_tag[1], ("c".to_owned(), "d".to_owned()));
        let views = parse(&["-c", "a", "--view", "shop=s.yaml", "--view", "a-1=x=y"]).unwrap().views;
        let views: Vec<_> = views.iter().map(|view| (&*view.name, view.path.to_str().unwrap())).collect();
        assert_eq!(views, [("shop", "s.yaml"), ("a-1", "x=y")]);
        assert_eq!(options.ineffective.asked().collect::<Vec<_>>(), ["--enable-core-dump", "--disable-extensions"]);
        let at_once = parse(&["-c", "a", "--file-flush-interval-msec", "0", "--file-flush-min-size-kb", "0"]).unwrap();
        assert_eq!((at_once.file_flush_interval_msec, at_once.file_flush_min_size_kb), (Duration::ZERO, Some(0)));
    }

    #[test]
    fn what_no_listener_is_for_is_logged_unless_there_is_no_path() {
        let path = |arguments: &[&str]| parse(arguments).unwrap().passthrough_log().map(|log| log.path().to_owned());
        assert_eq!(path(&["--handoff", "h"]).as_deref(), Some("/dev/stdout"));
        assert_eq!(path(&["--handoff", "h", "--passthrough-log-path", "/tmp/log"]).as_deref(), Some("/tmp/log"));
        assert_eq!(path(&["--handoff", "h", "--passthrough-log-path", ""]), None);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let error = parse(&[]).unwrap_err();
        assert!(error.contains("--config-path <FILE>|--config-yaml <TEXT>|--handoff <PATH>"), "{error}");
        let error = parse(&["-c", "a", "--concurrency", "many"]).unwrap_err();
        assert!(error.contains("invalid value 'many' for '--concurrency <N>'"), "{error}");
        let error = parse(&["-c", "a", "--file-flush-interval-msec", "1s"]).unwrap_err();
        assert!(error.contains("expected a whole number of milliseconds"), "{error}");
        for (arguments, message) in [
            (&["-l", "loud"][..], "expected one of trace, debug, info, warning, error, critical, off"),
            (&["--component-log-level", "nope:info"], "unknown component \"nope\""),
            (&["--component-log-level", "http"], "http: expected one of trace"),
            (&["--log-format", "%q"], "unknown flag %q in a log format"),
            (&["--stats-tag", "a"], "expected letters or digits, a colon"),
            (&["--stats-tag", "a.b:c"], "expected letters or digits, a colon"),
            (&["--file-flush-min-size-kb", "1048577"], "1048577 is not in 0..=1048576"),
            (&["--view", "shop"], "invalid value 'shop' for '--view <NAME=FILE>': expected NAME=FILE"),
            (&["--view", "Shop=f"], "\"Shop\" is no name of a view: expected that of a namespace"),
            (&["--view", "a.b=f"], "\"a.b\" is no name of a view"),
            (&["--view=-a=f"], "\"-a\" is no name of a view"),
            (&["--view", "=f"], "\"\" is no name of a view"),
            (&["--view", "shop="], "expected a file after the name"),
        ] {
            let error = parse(&[&["-c", "a"], arguments].concat()).unwrap_err();
            assert!(error.contains(message), "{error}");
        }
        assert_eq!(parse(&["-c", "a", "--user", "0"]).unwrap().user, 0);
        let error = parse(&["-c", "a", "--user", "-1"]).unwrap_err();
        assert!(error.contains("'-1'"), "{error}");
    }
}
