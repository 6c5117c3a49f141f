//! The way to a cluster's API server.

use std::path::Path;

use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{Namespace as NamespaceObject, Node, Pod},
};
use kube::{
    Api, Client, Config,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};

use super::error::Error;
use crate::cli::{Cluster, Namespace};

/// Where a pod finds the API server.
const IN_CLUSTER: &str = "KUBERNETES_SERVICE_HOST";
/// Names the kubeconfig files.
const KUBECONFIG: &str = "KUBECONFIG";
/// The name of weir's DaemonSet.
pub const DAEMON_SET: &str = "weir";
/// What its pods are known by.
pub const WEIR: &str = "app.kubernetes.io/name=weir";

/// A cluster that can be asked.
#[derive(Clone)]
pub struct Connection {
    /// What was asked for.
    pub cluster: Cluster,
    /// Pods of this namespace are meant, and shown; none: of all.
    pub namespace: Option<String>,
    /// The namespace of a pod that is named without one.
    pub current: String,
    /// Whether this is a pod of that cluster, which can reach the others.
    pub in_cluster: bool,
    /// The API server.
    pub client: Client,
    /// Its address.
    url: String,
}

impl Connection {
    /// Finds out where the API server is. Nobody is asked yet.
    pub async fn open(cluster: &Cluster) -> Result<Self, Error> {
        let (mut config, in_cluster) = config(cluster).await?;
        config.connect_timeout = Some(cluster.timeout);
        // Whether to wait and try again is for the user to say.
        config.default_retry = false;
        let url = config.cluster_url.to_string();
        let (namespace, current) = match &cluster.namespace {
            Namespace::Current => (Some(config.default_namespace.clone()), config.default_namespace.clone()),
            Namespace::Named(namespace) => (Some(namespace.clone()), namespace.clone()),
            Namespace::All => (None, config.default_namespace.clone()),
        };
        let client = Client::try_from(config).map_err(|error| Error::of(&url, error))?;
        Ok(Self { cluster: cluster.clone(), namespace, current, in_cluster, client, url })
    }

    /// Asks the API server.
    pub async fn ask<T>(&self, request: impl Future<Output = kube::Result<T>>) -> Result<T, Error> {
        match tokio::time::timeout(self.cluster.timeout, request).await {
            Ok(answer) => answer.map_err(|error| Error::of(&self.url, error)),
            Err(_) => Err(Error::silent(&self.url, self.cluster.timeout)),
        }
    }

    /// Pods of a namespace.
    pub fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// weir's pods, whatever their state.
    pub async fn weir_pods(&self) -> Result<Vec<Pod>, Error> {
        let list = ListParams::default().labels(WEIR);
        Ok(self.ask(self.pods(&self.cluster.weir_namespace).list(&list)).await?.items)
    }

    /// weir's DaemonSet.
    pub async fn weir_daemon_set(&self) -> Result<Option<DaemonSet>, Error> {
        let api: Api<DaemonSet> = Api::namespaced(self.client.clone(), &self.cluster.weir_namespace);
        self.ask(api.get_opt(DAEMON_SET)).await
    }

    /// Whether there is no such namespace; whoever may not look is not told so.
    pub async fn lacks_namespace(&self, name: &str) -> bool {
        let api: Api<NamespaceObject> = Api::all(self.client.clone());
        matches!(self.ask(api.get_metadata_opt(name)).await, Ok(None))
    }

    /// The names of all nodes.
    pub async fn nodes(&self) -> Result<Vec<String>, Error> {
        let api: Api<Node> = Api::all(self.client.clone());
        let nodes = self.ask(api.list_metadata(&ListParams::default())).await?;
        Ok(nodes.items.into_iter().filter_map(|node| node.metadata.name).collect())
    }
}

/// How to reach the cluster, and whether this is a pod of it.
async fn config(cluster: &Cluster) -> Result<(Config, bool), Error> {
    let options = KubeConfigOptions { context: cluster.context.clone(), ..Default::default() };
    let of = |path: &Path| Some(path.display().to_string());
    let set = |variable: &str| std::env::var_os(variable).is_some_and(|value| !value.is_empty());
    let (of, read) = match &cluster.kubeconfig {
        Some(path) => (of(path), Kubeconfig::read_from(path)),
        None => (None, Kubeconfig::read()),
    };
    let named = cluster.kubeconfig.is_some() || cluster.context.is_some() || set(KUBECONFIG);
    let kubeconfig = match read {
        Ok(kubeconfig) => kubeconfig,
        Err(KubeconfigError::ReadConfig(..) | KubeconfigError::FindPath) if !named => {
            if !set(IN_CLUSTER) {
                return Err(Error::NoKubeconfig);
            }
            let config = Config::incluster().map_err(|error| Error::Other(format!("in this pod: {error}")))?;
            return Ok((config, true));
        }
        Err(error) => return Err(Error::Kubeconfig { of, why: why(&error, &[]) }),
    };
    let contexts: Vec<String> = kubeconfig.contexts.iter().map(|context| context.name.clone()).collect();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
    config.map(|config| (config, false)).map_err(|error| Error::Kubeconfig { of, why: why(&error, &contexts) })
}

/// What is wrong with a kubeconfig.
fn why(error: &KubeconfigError, contexts: &[String]) -> String {
    match error {
        KubeconfigError::ReadConfig(source, path) => format!("{}: {source}", path.display()),
        KubeconfigError::LoadContext(name) => format!("no context {name:?}; there is {}", contexts.join(", ")),
        KubeconfigError::CurrentContextNotSet if contexts.is_empty() => "it has no contexts".to_owned(),
        KubeconfigError::CurrentContextNotSet => {
            format!("no current context; expected --context, one of {}", contexts.join(", "))
        }
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, time::Duration};

    const FILE: &str = "\
apiVersion: v1
kind: Config
clusters:
- name: c
  cluster: { server: \"http://127.0.0.1:1\" }
contexts:
- name: a
  context: { cluster: c, namespace: demo }
- name: b
  context: { cluster: c }
";

    async fn open(file: &str, context: Option<&str>, namespace: Namespace) -> Result<Connection, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kubeconfig");
        fs::write(&path, file).unwrap();
        let cluster = Cluster {
            kubeconfig: Some(path.clone()),
            context: context.map(str::to_owned),
            namespace,
            weir_namespace: "weir-system".to_owned(),
            node: None,
            timeout: Duration::from_secs(10),
            socket: None,
        };
        let named = path.display().to_string();
        Connection::open(&cluster).await.map_err(|error| error.to_string().replace(&named, "FILE"))
    }

    #[tokio::test]
    async fn the_context_says_which_namespace_is_meant() {
        let namespace = |connection: Connection| (connection.namespace, connection.current);
        let some = |name: &str| Some(name.to_owned());
        let of = async |context, asked| namespace(open(FILE, Some(context), asked).await.unwrap());
        assert_eq!(of("a", Namespace::Current).await, (some("demo"), "demo".to_owned()));
        assert_eq!(of("b", Namespace::Current).await, (some("default"), "default".to_owned()));
        assert_eq!(of("a", Namespace::Named("prod".to_owned())).await, (some("prod"), "prod".to_owned()));
        assert_eq!(of("a", Namespace::All).await, (None, "demo".to_owned()));
    }

    #[tokio::test]
    async fn a_bad_kubeconfig_is_one_line_that_names_it() {
        let refused = async |file, context| open(file, context, Namespace::Current).await.err().unwrap();
        assert_eq!(refused(FILE, Some("x")).await, "kubeconfig FILE: no context \"x\"; there is a, b");
        assert_eq!(refused(FILE, None).await, "kubeconfig FILE: no current context; expected --context, one of a, b");
        assert!(refused("clusters: 7", None).await.starts_with("kubeconfig FILE: failed to parse kubeconfig YAML: "));
        assert_eq!(refused("apiVersion: v1\nkind: Config\n", None).await, "kubeconfig FILE: it has no contexts");
    }

    #[tokio::test]
    async fn nobody_there_is_said_with_the_address() {
        let connection = open(FILE, Some("a"), Namespace::Current).await.unwrap();
        assert_eq!(
            connection.weir_pods().await.unwrap_err().to_string(),
            "cannot reach the API server at http://127.0.0.1:1/: Connection refused (os error 111)"
        );
    }
}
