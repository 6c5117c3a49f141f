//! From the command line to serving: the configuration is read, files are opened and ports bound while there may be
//! privileges for it; then everything is given up, and only then do threads start and connections come in.

pub mod config;
pub mod options;
pub mod privileges;
mod serve;

use std::io;

use crate::{
    bootstrap::{
        config::Loaded,
        options::{LogFormat, LogLevel, Mode, Options},
    },
    cluster::discovery,
    intake::bound,
    telemetry::writer,
};

/// Why the proxy does not serve; one line each.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bootstrap is refused.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// A listener is not to be had.
    #[error(transparent)]
    Bind(#[from] bound::BindError),
    /// An access log is not to be had.
    #[error(transparent)]
    AccessLog(#[from] writer::OpenError),
    /// Something could not be given up.
    #[error(transparent)]
    Privileges(#[from] privileges::Error),
    /// Names cannot be resolved.
    #[error(transparent)]
    Discovery(#[from] discovery::SetupError),
    /// A thread, a runtime or a signal handler is not to be had.
    #[error("cannot start: {0}")]
    Start(#[from] io::Error),
}

/// Does what the options say; returns when there is nothing left to do.
pub fn run(options: &Options) -> Result<(), Error> {
    start_log(options);
    let Loaded { snapshot, ignored, stats } = config::load(&options.source, options.workers())?;
    for path in ignored {
        tracing::warn!(%path, "field has no effect in this version");
    }
    match options.mode {
        Mode::Validate => {
            println!("configuration '{}' OK", options.config_name().display());
            Ok(())
        }
        Mode::Serve => serve::serve(options, snapshot, stats),
    }
}

fn start_log(options: &Options) {
    use tracing_subscriber::filter::LevelFilter;
    let level = match options.log_level {
        LogLevel::Trace => LevelFilter::TRACE,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warning => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Off => LevelFilter::OFF,
    };
    let subscriber = tracing_subscriber::fmt().with_max_level(level).with_writer(io::stderr).with_ansi(false);
    // A second start in one process (tests) keeps the first.
    let _ = match options.log_format {
        LogFormat::Text => subscriber.try_init(),
        LogFormat::Json => subscriber.json().try_init(),
    };
}
