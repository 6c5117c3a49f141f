//! From the command line to serving: the configuration is read, files are opened and ports bound while there may be
//! privileges for it; then everything is given up, and only then do threads start and connections come in.

mod admin_socket;
pub mod config;
mod error;
pub mod privileges;
mod serve;
mod server_stats;
mod signals;
mod views;

use std::{fs::OpenOptions, time::Instant};

pub use self::error::Error;
use crate::{
    memory,
    options::{Mode, Options},
    telemetry::log::{self, Output, Pattern, Shape},
};

/// Does what the options say; returns when there is nothing left to do.
pub fn run(options: &Options) -> Result<(), Error> {
    let started = Instant::now();
    if options.hot_restart_version {
        println!("disabled");
        return Ok(());
    }
    memory::take_small_pages();
    start_log(options)?;
    let loaded = config::load(options)?;
    // Serving does without; what reloads files or shows the configuration unpacks them for itself.
    weir_proto::forget();
    memory::give_back();
    if options.allow_unknown_static_fields {
        tracing::warn!("--allow-unknown-static-fields has no effect in this version: unknown fields are refused");
    }
    for flag in options.ineffective.asked() {
        tracing::warn!("{flag} has no effect in this version");
    }
    for view in loaded.views() {
        for path in &view.ignored {
            tracing::warn!(view = view.name.as_deref(), %path, "field has no effect in this version");
        }
    }
    match options.mode {
        Mode::Validate => {
            println!("configuration '{}' OK", options.config_name().display());
            for view in &options.views {
                println!("configuration '{}' of the view {} OK", view.path.display(), view.name);
            }
            Ok(())
        }
        Mode::Serve => serve::serve(options, loaded, started),
    }
}

fn start_log(options: &Options) -> Result<(), Error> {
    let output = match &options.log_path {
        None => Output::StandardError,
        Some(path) => {
            let file = OpenOptions::new().append(true).create(true).open(path);
            Output::File(file.map_err(|source| Error::LogPath { path: path.clone(), source })?)
        }
    };
    let pattern = match options.log_format.as_deref() {
        Some("json") => None,
        None | Some("text") => Some(log::DEFAULT_PATTERN),
        Some(pattern) => Some(pattern),
    };
    let shape = match pattern {
        None => Shape::Json,
        Some(pattern) => Shape::Pattern(Pattern::parse(pattern, options.log_format_escaped)?),
    };
    log::set_all(options.log_level);
    // The command line has been checked.
    let _ = log::set(&log::pairs(options.component_log_level.as_deref().unwrap_or_default()));
    log::start(output, shape);
    Ok(())
}
