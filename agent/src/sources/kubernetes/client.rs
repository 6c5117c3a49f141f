//! The connection to the API server: where it is, who the agent is to it, and how a dead connection is noticed.
//!
//! kube reads the service account's token and the cluster's certificates again as they rotate. Nothing is retried here:
//! who asks knows better what to do meanwhile.

use std::{
    env, io,
    path::{Path, PathBuf},
    time::Duration,
};

use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use kube::{
    Client,
    client::{Body, ConfigExt},
    config::{Config, InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use tower::{BoxError, Layer, ServiceExt, util::option_layer};

use crate::causes::on_one_line;

/// A connection is made in this time or not at all.
const CONNECT: Duration = Duration::from_secs(5);
/// A connection without a word for so long is asked whether it still is one, again and again.
const KEEPALIVE: Duration = Duration::from_secs(20);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;
/// What was sent and not acknowledged for so long ends a connection (TCP_USER_TIMEOUT).
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);
/// Idle connections are let go before servers and what is between do.
const IDLE: Duration = Duration::from_secs(30);
/// Set by the kubelet in every container.
const IN_CLUSTER: &str = "KUBERNETES_SERVICE_HOST";

/// Why there is no way to the API server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The named file.
    #[error("{} (source.kubernetes.kubeconfig): {problem}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The service account.
    #[error("no service account to reach the API server with: {problem}; a pod needs automountServiceAccountToken")]
    InCluster {
        /// What is wrong with it.
        problem: String,
    },
    /// Neither.
    #[error(
        "no way to the API server: not in a pod ({IN_CLUSTER} is not set), and {problem}; expected \
         source.kubernetes.kubeconfig"
    )]
    Nowhere {
        /// What is wrong with the default kubeconfig.
        problem: String,
    },
    /// A proxy in between.
    #[error("the kubeconfig's proxy-url is not supported: expected a server that is reached directly")]
    Proxy,
    /// What was read does not make a client.
    #[error("cannot make a client for the API server {server}: {source}")]
    Client {
        /// Its address.
        server: String,
        /// Why not.
        source: Box<kube::Error>,
    },
}

/// Makes a client; connects to nothing yet.
pub async fn client(kubeconfig: Option<&Path>) -> Result<Client, Error> {
    let config = configuration(kubeconfig).await?;
    if config.proxy_url.is_some() {
        return Err(Error::Proxy);
    }
    tracing::debug!(server = %config.cluster_url, "API server");
    build(&config).map_err(|source| Error::Client { server: config.cluster_url.to_string(), source: source.into() })
}

async fn configuration(kubeconfig: Option<&Path>) -> Result<Config, Error> {
    let options = KubeConfigOptions::default();
    if let Some(path) = kubeconfig {
        let failed = |error: KubeconfigError| Error::Kubeconfig { path: path.to_owned(), problem: on_one_line(&error) };
        let read = Kubeconfig::read_from(path).map_err(failed)?;
        return Config::from_custom_kubeconfig(read, &options).await.map_err(failed);
    }
    if env::var_os(IN_CLUSTER).is_some() {
        let failed = |error: InClusterError| Error::InCluster { problem: on_one_line(&error) };
        return Config::incluster_env().map_err(failed);
    }
    Config::from_kubeconfig(&options).await.map_err(|error| Error::Nowhere { problem: on_one_line(&error) })
}

fn build(config: &Config) -> kube::Result<Client> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT));
    connector.set_keepalive(Some(KEEPALIVE));
    connector.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    connector.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    connector.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    let connector = config.rustls_https_connector_with_connector(connector)?;
    let connections: legacy::Client<_, Body> = legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(1)
        .build(connector);
    let service = option_layer(config.auth_layer()?).layer(connections.map_err(BoxError::from));
    let service = config.base_uri_layer().layer(config.extra_headers_layer()?.layer(service));
    Ok(Client::new(service, config.default_namespace.clone()))
}

/// What went wrong with a connection, said briefly: the innermost I/O error where there is one.
pub(super) fn connection_problem(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>()
            && error.get_ref().is_none()
        {
            return error.to_string();
        }
        cause = error.source();
    }
    on_one_line(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn error(kubeconfig: &str) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config");
        std::fs::write(&path, kubeconfig).unwrap();
        let error = client(Some(&path)).await.map(drop).unwrap_err().to_string();
        error.replace(directory.path().to_str().unwrap(), "/d")
    }

    #[tokio::test]
    async fn a_kubeconfig_that_is_of_no_use_is_named() {
        let missing = client(Some(Path::new("/nonexistent/config"))).await.map(drop).unwrap_err().to_string();
        assert!(missing.starts_with("/nonexistent/config (source.kubernetes.kubeconfig): "), "{missing}");
        assert!(missing.contains("No such file"), "{missing}");
        for (text, problem) in [
            ("clusters: [", "failed to parse kubeconfig YAML"),
            ("apiVersion: v1\nkind: Config\n", "failed to determine current context"),
        ] {
            let shown = error(text).await;
            assert!(
                shown.starts_with("/d/config (source.kubernetes.kubeconfig): ") && shown.contains(problem),
                "{shown}"
            );
            assert!(!shown.contains('\n'), "{shown}");
        }
        let proxied = error(
            "current-context: a\ncontexts: [{name: a, context: {cluster: a, user: a}}]\nusers: [{name: a, user: {}}]\n\
             clusters: [{name: a, cluster: {server: 'http://127.0.0.1:1', proxy-url: 'http://127.0.0.1:2'}}]\n",
        )
        .await;
        assert_eq!(proxied, "the kubeconfig's proxy-url is not supported: expected a server that is reached directly");
    }
}
