//! `check`: whether the agent would start here.

use std::path::Path;

use super::{logging, node};
use crate::{
    config::{Config, Source},
    document,
    redirect::node::{self as redirect_node, PodsCgroup},
    sources,
};

/// Validates the configuration and the pods file and prints what the machine has.
pub fn check(path: &Path) -> anyhow::Result<()> {
    let config = Config::read(path)?;
    logging::filter("log", &config.log)?;
    let features = node::probe(&config)?;
    let node_netns = redirect_node::netns_cookie(&config.node_processes.netns)?;
    let place = config.node_processes.pods_cgroup.as_ref();
    let pods_cgroup = place.map(|place| PodsCgroup::find(place, &features.root())).transpose()?;
    println!("configuration: {}", path.display());
    println!("instance: {}, pins in {}", config.instance, config.pins().display());
    println!("kernel: {}, with everything that weir needs", features.kernel);
    println!("cgroup2: {}", features.cgroup2.display());
    println!("node's network namespace: {}, cookie {node_netns}", config.node_processes.netns.display());
    match pods_cgroup {
        Some((path, found)) => println!("pods' cgroup: {}, id {}, level {}", path.display(), found.id, found.level),
        None => println!("pods' cgroup: none, so that no process counts as the node's own"),
    }
    if let Source::File(file) = &config.source {
        let pods = sources::file::read_once(&file.path).map_err(|error| match error {
            // What is wrong in the file says where.
            sources::file::Error::Document(document::Error::Unreadable { .. }) => {
                anyhow::anyhow!("source.file.path: {error}")
            }
            error => error.into(),
        })?;
        println!("pods: {}, {} of them", file.path.display(), pods.len());
    }
    Ok(())
}
