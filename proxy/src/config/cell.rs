//! Cells: parts of a configuration that it only names, and that come by themselves, later and again and again: route
//! configurations, secrets, configurations of filters.
//!
//! A part of the configuration holds the cell, and a worker loads what is in it. Who feeds it (from a file, from a
//! management server) learns of it from the [`Registry`], for as long as somebody holds it, and offers it resources as
//! they come. What is offered and is no good is refused, and the old value stays.

mod asks;
mod chosen;
mod clusters;
mod feed;
mod notes;
mod one;
mod registry;
mod reloads;
mod slot;
mod subject;
#[cfg(test)]
mod tests;

pub use self::{
    asks::Asked,
    clusters::AskedCluster,
    feed::{Feed, Follower, settled},
    notes::Note,
    one::{Cell, Making, Read, nothing_further},
    registry::{Registry, Sources},
    reloads::Reloads,
    slot::Slot,
    subject::{Accepted, Feeder, INITIAL_FETCH_TIMEOUT, Kind, Refused, Source, State, Subject, Told},
};
