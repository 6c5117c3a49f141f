//! `dynamic_resources` of the bootstrap: what is followed, and where.

use std::{collections::HashMap, time::Duration};

use weir_proto::envoy::config::{
    bootstrap::v3::{Bootstrap, bootstrap::DynamicResources},
    core::v3::{ApiConfigSource, ConfigSource, Node, config_source::ConfigSourceSpecifier},
};

use crate::{
    config::{
        Error,
        cell::{Source, Sources},
        convert::config_source,
    },
    xds::{
        dial::Address,
        source::{self, Server},
    },
};

/// Where everything of a type comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Everything {
    pub(super) source: Source,
    /// How long is waited for the first answer; none: for ever.
    pub(super) timeout: Option<Duration>,
}

/// What is followed besides what the configuration names.
#[derive(Debug, Default)]
pub struct Resources {
    /// What this proxy calls itself.
    pub(super) node: Node,
    /// The aggregated stream.
    pub(super) ads: Option<ApiConfigSource>,
    pub(super) clusters: Option<Everything>,
    pub(super) listeners: Option<Everything>,
    /// Management servers on this machine, by the names of their clusters.
    pub(super) pipes: HashMap<String, Vec<Address>>,
}

/// What weir says of itself to management servers.
pub(crate) const AGENT: &str = "weir";

impl Resources {
    /// Reads them. The static clusters are known to be right.
    pub fn read(bootstrap: &Bootstrap) -> Result<Self, Error> {
        let clusters = bootstrap.static_resources.iter().flat_map(|resources| &resources.clusters);
        let pipes = clusters.filter_map(|cluster| Some((cluster.name.clone(), source::pipes(cluster)?))).collect();
        let mut node = bootstrap.node.clone().unwrap_or_default();
        node.user_agent_name = AGENT.to_owned();
        let mut resources = Self { node, pipes, ..Self::default() };
        let Some(dynamic) = &bootstrap.dynamic_resources else { return Ok(resources) };
        let at = "dynamic_resources";
        refuse_others(dynamic, at)?;
        if let Some(ads) = &dynamic.ads_config {
            resources.server(bootstrap, ads, &format!("{at}.ads_config"))?;
            resources.ads = Some(ads.clone());
        }
        let everything = |config: &Option<ConfigSource>, field: &str| {
            config.as_ref().map(|config| resources.everything(bootstrap, config, &format!("{at}.{field}"))).transpose()
        };
        let clusters = everything(&dynamic.cds_config, "cds_config")?;
        let listeners = everything(&dynamic.lds_config, "lds_config")?;
        Ok(Self { clusters, listeners, ..resources })
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.ads.is_none() && self.clusters.is_none() && self.listeners.is_none()
    }

    /// Whether listeners come from somewhere.
    pub fn follows_listeners(&self) -> bool {
        self.listeners.is_some()
    }

    fn everything(&self, bootstrap: &Bootstrap, config: &ConfigSource, at: &str) -> Result<Everything, Error> {
        if let Some(ConfigSourceSpecifier::ApiConfigSource(server)) = &config.config_source_specifier {
            self.server(bootstrap, server, &format!("{at}.api_config_source"))?;
        }
        let followed = Sources { ads: self.ads.is_some(), ads_sends_deltas: false, servers: true };
        let (source, timeout) = config_source(followed, Some(config), at)?;
        Ok(Everything { source, timeout })
    }

    /// A server must be one that can be followed.
    fn server(&self, bootstrap: &Bootstrap, message: &ApiConfigSource, at: &str) -> Result<(), Error> {
        let Server::Cluster(name) = source::Source::new(message, at)?.server else { return Ok(()) };
        let mut clusters = bootstrap.static_resources.iter().flat_map(|resources| &resources.clusters);
        if clusters.any(|cluster| cluster.name == name) {
            return Ok(());
        }
        let at = format!("{at}.grpc_services[0].envoy_grpc.cluster_name");
        Err(Error::at(at, format!("Unknown gRPC client cluster '{name}'")))
    }
}

/// Resources by their new names (`xdstp://`) are not supported.
fn refuse_others(dynamic: &DynamicResources, at: &str) -> Result<(), Error> {
    for (field, set) in [
        ("lds_resources_locator", !dynamic.lds_resources_locator.is_empty()),
        ("cds_resources_locator", !dynamic.cds_resources_locator.is_empty()),
    ] {
        if set {
            return Err(Error::at(format!("{at}.{field}"), "not supported yet"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: &str =
        "api_type: GRPC, transport_api_version: V3, grpc_services: [ { envoy_grpc: { cluster_name: xds } } ]";
    const CLUSTER: &str = "static_resources: { clusters: [ { name: xds } ] }";

    fn read(dynamic: &str, rest: &str) -> Result<Resources, String> {
        let text = format!("dynamic_resources: {{ {dynamic} }}\n{rest}");
        let bootstrap = weir_proto::from_yaml(&text).unwrap_or_else(|error| panic!("{error}"));
        Resources::read(&bootstrap).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_followed_is_what_the_bootstrap_says() {
        let resources = read(
            &format!(
                "ads_config: {{ {SERVER} }}, cds_config: {{ ads: {{}} }}, lds_config: {{ ads: {{}}, initial_fetch_timeout: 0s }}"
            ),
            CLUSTER,
        );
        let resources = resources.unwrap();
        assert!(resources.ads.is_some() && !resources.is_empty());
        let clusters = Everything { source: Source::Ads, timeout: Some(Duration::from_secs(15)) };
        assert_eq!(resources.clusters, Some(clusters));
        assert_eq!(resources.listeners, Some(Everything { source: Source::Ads, timeout: None }));
        assert!(read("", "").unwrap().is_empty());
    }

    #[test]
    fn servers_on_this_machine_are_known_by_their_clusters() {
        let pipe = "static_resources: { clusters: [ { name: xds, load_assignment: { cluster_name: xds, endpoints: [ { \
            lb_endpoints: [ { endpoint: { address: { pipe: { path: ./XDS } } } } ] } ] } } ] }";
        let resources = read(&format!("ads_config: {{ {SERVER} }}"), pipe).unwrap();
        assert_eq!(resources.pipes["xds"], [Address::Pipe("./XDS".into())]);
    }

    #[test]
    fn what_cannot_be_followed_is_named() {
        let refused = |dynamic: &str, why: &str| {
            assert_eq!(read(dynamic, CLUSTER).map(|_| ()), Err(format!("dynamic_resources.{why}")));
        };
        refused("cds_config: { ads: {} }", "cds_config.ads: ADS must be configured to support an ADS config source");
        refused("lds_config: { self: {} }", "lds_config: expected one of path_config_source, ads, api_config_source");
        refused("lds_resources_locator: 'xdstp://a/b'", "lds_resources_locator: not supported yet");
        refused(
            "cds_config: { path_config_source: { path: /nonexistent } }",
            "cds_config.path_config_source.path: paths must refer to an existing path in the system: '/nonexistent' does not exist",
        );
        refused(
            &format!("ads_config: {{ {} }}", SERVER.replace("cluster_name: xds", "cluster_name: other")),
            "ads_config.grpc_services[0].envoy_grpc.cluster_name: Unknown gRPC client cluster 'other'",
        );
        refused(
            &format!(
                "lds_config: {{ api_config_source: {{ {} }} }}",
                SERVER.replace("api_type: GRPC", "api_type: REST")
            ),
            "lds_config.api_config_source.api_type: expected GRPC or DELTA_GRPC, not REST",
        );
    }
}
