//! Log lines on standard error.

use std::{env, io, io::IsTerminal};

use anyhow::bail;
use tracing_subscriber::EnvFilter;

use crate::redirect;

/// Overrides `log` of the configuration.
const LOG_VARIABLE: &str = "WEIR_LOG";

/// Starts logging. Whether the eBPF programs' records are wanted.
pub(super) fn start(configured: &str) -> anyhow::Result<bool> {
    let (source, text) = match env::var(LOG_VARIABLE) {
        Ok(text) if !text.is_empty() => (LOG_VARIABLE, text),
        _ => ("log", configured.to_owned()),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter(source, &text)?)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .try_init()
        .map_err(|error| anyhow::anyhow!("logging cannot be started: {error}"))?;
    Ok(redirect::logs_wanted())
}

/// The filter that a key or variable says.
pub(super) fn filter(source: &str, text: &str) -> anyhow::Result<EnvFilter> {
    let Ok(filter) = EnvFilter::try_new(text) else {
        bail!("{source}: invalid filter {text:?}, expected one such as \"info\" or \"info,weir_agent=debug\"");
    };
    Ok(filter)
}
