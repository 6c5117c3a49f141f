//! Which severities the components log, as it is set while the process runs.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use super::{components::COMPONENTS, level::Level};

static LEVELS: [AtomicU8; COMPONENTS.len()] = [const { AtomicU8::new(Level::Info as u8) }; COMPONENTS.len()];
static LOWEST: AtomicU8 = AtomicU8::new(Level::Info as u8);

/// Whether some component logs what happens to single requests.
pub fn debugging() -> bool {
    lowest() <= Level::Debug
}

/// The least severe level that some component logs.
pub(super) fn lowest() -> Level {
    LOWEST.load(Relaxed).into()
}

/// Has `tracing` ask again which events are wanted.
fn changed() {
    let lowest = LEVELS.iter().map(|level| level.load(Relaxed)).min().unwrap_or(Level::Off as u8);
    LOWEST.store(lowest, Relaxed);
    tracing::callsite::rebuild_interest_cache();
}

/// Whether events of a component and severity are logged.
pub(super) fn is_on(component: usize, level: Level) -> bool {
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
