//! What a pod's first process saw, and what it is expected to have seen.

use std::time::Duration;

use crate::cluster::{Cluster, kubectl::eventually};

/// What the first process of a container wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct First {
    /// `redirected`, `passed` or `refused`.
    pub connection: String,
    /// The status of the page that it asked for next.
    pub page: String,
}

impl First {
    fn parse(log: &str) -> Result<Self, String> {
        let field = |name: &str| log.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        match (field("first="), field("page=")) {
            (Some(connection), Some(page)) => Ok(Self { connection, page }),
            _ => Err(format!("its log says {:?}", log.trim())),
        }
    }

    /// Waits for what the first process of a pod's container wrote.
    pub fn of(cluster: &Cluster, pod: &str, within: Duration) -> Result<Self, String> {
        let (namespace, name) = pod.split_once('/').ok_or("expected NAMESPACE/POD")?;
        eventually(&format!("first connection of {pod}"), within, || {
            Self::parse(&cluster.kubectl.run(&["-n", namespace, "logs", name])?)
        })
    }

    /// That its first connection was redirected and carried.
    pub fn was_redirected(&self) -> Result<String, String> {
        match (self.connection.as_str(), self.page.as_str()) {
            ("redirected", "200") => Ok("first connection redirected, page 200".to_owned()),
            _ => Err(format!("first connection {}, page {}", self.connection, self.page)),
        }
    }

    /// That its first connection was left alone.
    pub fn was_left_alone(&self) -> Result<String, String> {
        match (self.connection.as_str(), self.page.as_str()) {
            ("passed", "200") => Ok("first connection not redirected, page 200".to_owned()),
            _ => Err(format!("first connection {}, page {}", self.connection, self.page)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_process_tells_how_it_fared() {
        let first = First::parse("first=redirected\npage=200\n").unwrap();
        assert!(first.was_redirected().is_ok());
        assert_eq!(first.was_left_alone().unwrap_err(), "first connection redirected, page 200");
        assert_eq!(First::parse("first=refused\n").unwrap_err(), "its log says \"first=refused\"");
    }
}
