//! The command line: Envoy's names where Envoy has one.

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Parser, ValueEnum};

use crate::bootstrap::privileges;

/// weir's L4/L7 data plane.
///
/// Runs alone with an Envoy v3 bootstrap, on a node with --handoff, or both.
#[derive(Clone, Debug, Parser)]
#[command(name = "weir-proxy", version)]
pub struct Options {
    #[command(flatten)]
    pub source: Source,
    /// Worker threads [default: cores]
    #[arg(long, value_name = "N")]
    pub concurrency: Option<NonZeroUsize>,
    /// Least severity of messages on standard error
    #[arg(short, long, value_enum, default_value_t = LogLevel::Info)]
    pub log_level: LogLevel,
    /// Shape of messages on standard error
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// How often access logs are written, in milliseconds; sooner when 64 KiB have gathered
    #[arg(long, value_name = "MILLISECONDS", default_value = "10000", value_parser = milliseconds)]
    pub file_flush_interval_msec: Duration,
    /// Serve, or only check the configuration
    #[arg(long, value_enum, default_value_t = Mode::Serve)]
    pub mode: Mode,
    /// How long open connections may go on after SIGTERM, in seconds; a second signal ends them
    /// [default: 0, at once as Envoy; 5 with --handoff]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub drain_time_s: Option<Duration>,
    /// When a newer proxy has taken over and no connection is open any more
    #[arg(long, value_enum, default_value_t = WhenSuperseded::Exit)]
    pub when_superseded: WhenSuperseded,
    /// User and group id to become when started as root
    #[arg(long, value_name = "UID", default_value_t = privileges::USER, value_parser = clap::value_parser!(u32).range(1..))]
    pub user: u32,
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

/// Severities, as Envoy names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    Trace,
    Debug,
    Info,
    #[value(alias = "warn")]
    Warning,
    #[value(alias = "critical")]
    Error,
    Off,
}

/// What a message looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// What a proxy does that has nothing more to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WhenSuperseded {
    /// End.
    Exit,
    /// Wait for SIGTERM: whoever supervises this process would start it again.
    Wait,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    Serve,
    Validate,
}

/// Drain time on a node when none is given.
const NODE_DRAIN: Duration = Duration::from_secs(5);

impl Options {
    /// Workers to run.
    pub fn workers(&self) -> usize {
        self.concurrency.map_or_else(cores, NonZeroUsize::get)
    }

    /// How long connections may drain after SIGTERM.
    pub fn drain_time(&self) -> Duration {
        let unsaid = if self.source.handoff.is_some() { NODE_DRAIN } else { Duration::ZERO };
        self.drain_time_s.unwrap_or(unsaid)
    }

    /// What errors call the configuration.
    pub fn config_name(&self) -> &Path {
        self.source.config_path.as_deref().unwrap_or(Path::new(""))
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a whole number of milliseconds, at least 1".into()),
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
        assert_eq!(options.log_level, LogLevel::Warning);
        assert_eq!(options.file_flush_interval_msec, Duration::from_millis(50));
        assert_eq!(options.drain_time(), Duration::ZERO);
        assert_eq!(parse(&["--handoff", "/run/weir/handoff.sock"]).unwrap().drain_time(), NODE_DRAIN);
        assert_eq!(parse(&["-c", "a", "-l", "warn"]).unwrap().log_level, LogLevel::Warning);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let error = parse(&[]).unwrap_err();
        assert!(error.contains("--config-path <FILE>|--config-yaml <TEXT>|--handoff <PATH>"), "{error}");
        let error = parse(&["-c", "a", "--concurrency", "0"]).unwrap_err();
        assert!(error.contains("invalid value '0' for '--concurrency <N>'"), "{error}");
        let error = parse(&["-c", "a", "--file-flush-interval-msec", "1s"]).unwrap_err();
        assert!(error.contains("expected a whole number of milliseconds, at least 1"), "{error}");
        let error = parse(&["-c", "a", "--user", "0"]).unwrap_err();
        assert!(error.contains("0 is not in 1..=4294967295"), "{error}");
    }
}
