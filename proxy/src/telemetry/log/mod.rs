//! The proxy's own log, as Envoy's: component loggers whose levels change at run time, and spdlog's line patterns.
//!
//! Code logs through `tracing`. The component of an event is its target if that is a component's name
//! (`target: "http"`), else what its module belongs to. Fields named `connection` and `stream` become the prefixes
//! `[C1]` and `[S<x-request-id>]` that `%CONNECTION_ID%` and `%STREAM_ID%` repeat in access logs. An event whose level is
//! off costs one load of an atomic: changing a level has `tracing` ask again which events are wanted.

mod components;
mod pattern;
mod subscriber;

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

pub use self::{
    components::COMPONENTS,
    pattern::{Pattern, PatternError},
    subscriber::{Output, Shape, start},
};

/// Envoy's line.
pub const DEFAULT_PATTERN: &str = "[%Y-%m-%d %T.%e][%t][%l][%n] [%g:%#] %v";

/// Severities, as Envoy names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Everything.
    Trace,
    /// A line per connection or request.
    Debug,
    /// What happens in a process's life.
    Info,
    /// Something was refused or tried again.
    Warning,
    /// Somebody must act.
    Error,
    /// The process cannot go on.
    Critical,
    /// Nothing.
    Off,
}

impl Level {
    /// From the least to the most severe.
    pub const ALL: [Self; 7] =
        [Self::Trace, Self::Debug, Self::Info, Self::Warning, Self::Error, Self::Critical, Self::Off];

    /// As Envoy writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
            Self::Off => "off",
        }
    }

    /// The level of that name; `warn` is `warning`.
    pub fn parse(name: &str) -> Option<Self> {
        let name = if name == "warn" { "warning" } else { name };
        Self::ALL.into_iter().find(|level| level.name() == name)
    }

    fn of(level: tracing::Level) -> Self {
        match level {
            tracing::Level::TRACE => Self::Trace,
            tracing::Level::DEBUG => Self::Debug,
            tracing::Level::INFO => Self::Info,
            tracing::Level::WARN => Self::Warning,
            tracing::Level::ERROR => Self::Error,
        }
    }
}

impl From<u8> for Level {
    fn from(number: u8) -> Self {
        Self::ALL.get(usize::from(number)).copied().unwrap_or(Self::Off)
    }
}

static LEVELS: [AtomicU8; COMPONENTS.len()] = [const { AtomicU8::new(Level::Info as u8) }; COMPONENTS.len()];
static LOWEST: AtomicU8 = AtomicU8::new(Level::Info as u8);

/// Whether some component logs what happens to single requests.
pub fn debugging() -> bool {
    lowest() <= Level::Debug
}

/// The least severe level that some component logs.
fn lowest() -> Level {
    LOWEST.load(Relaxed).into()
}

/// Has `tracing` ask again which events are wanted.
fn changed() {
    let lowest = LEVELS.iter().map(|level| level.load(Relaxed)).min().unwrap_or(Level::Off as u8);
    LOWEST.store(lowest, Relaxed);
    tracing::callsite::rebuild_interest_cache();
}

fn is_on(component: usize, level: Level) -> bool {
    level as u8 >= LEVELS[component].load(Relaxed)
}

/// What a component's level was asked to be, and cannot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LevelError {
    /// No such component.
    #[error("unknown logger name")]
    Component,
    /// No such level.
    #[error("unknown logger level")]
    Level,
}

/// Every component with its level.
pub fn levels() -> impl Iterator<Item = (&'static str, Level)> {
    COMPONENTS.iter().zip(&LEVELS).map(|(name, level)| (*name, level.load(Relaxed).into()))
}

/// Sets the level of every component.
pub fn set_all(level: Level) {
    for current in &LEVELS {
        current.store(level as u8, Relaxed);
    }
    changed();
}

/// Sets levels by component, all or none.
pub fn set(levels: &[(&str, &str)]) -> Result<(), LevelError> {
    let parsed: Result<Vec<_>, _> = levels
        .iter()
        .map(|(name, level)| {
            let component = COMPONENTS.iter().position(|component| component == name).ok_or(LevelError::Component)?;
            Ok((component, Level::parse(level).ok_or(LevelError::Level)?))
        })
        .collect();
    for (component, level) in parsed? {
        LEVELS[component].store(level as u8, Relaxed);
    }
    changed();
    Ok(())
}

/// The pairs in `name:level,name:level`.
pub fn pairs(text: &str) -> Vec<(&str, &str)> {
    text.split(',').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once(':').unwrap_or((pair, ""))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_set_all_or_none() {
        assert_eq!(set(&pairs("golang:debug,wasm:trace")), Ok(()));
        let of = |name: &str| levels().find(|(other, _)| *other == name).unwrap().1;
        assert_eq!((of("golang"), of("wasm")), (Level::Debug, Level::Trace));
        assert_eq!(set(&pairs("golang:info,nope:info")), Err(LevelError::Component));
        assert_eq!(set(&pairs("golang:info,wasm:loud")), Err(LevelError::Level));
        assert_eq!(set(&pairs("golang")), Err(LevelError::Level));
        assert_eq!(of("golang"), Level::Debug);
        assert_eq!(Level::parse("warn"), Some(Level::Warning));
    }
}
