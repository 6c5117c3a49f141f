//! The proxy's own log, as Envoy's: component loggers whose levels change at run time, and spdlog's line patterns.
//!
//! Code logs through `tracing`. The component of an event is its target if that is a component's name
//! (`target: "http"`), else what its module belongs to. Fields named `connection` and `stream` become the prefixes
//! `[C1]` and `[S<x-request-id>]` that `%CONNECTION_ID%` and `%STREAM_ID%` repeat in access logs. An event whose level is
//! off costs one load of an atomic: changing a level has `tracing` ask again which events are wanted.

mod components;
mod level;
mod levels;
mod pattern;
mod subscriber;

pub use self::{
    components::COMPONENTS,
    level::Level,
    levels::{LevelError, debugging, levels, pairs, set, set_all},
    pattern::{Pattern, PatternError},
    subscriber::{Output, Shape, start},
};

/// Envoy's line.
pub const DEFAULT_PATTERN: &str = "[%Y-%m-%d %T.%e][%t][%l][%n] [%g:%#] %v";
