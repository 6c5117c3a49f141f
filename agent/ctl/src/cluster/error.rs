//! What goes wrong with a cluster, as a user can act on it.

use std::time::Duration;

use kube::client::AuthError;

/// Why there is no answer from a cluster.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing says which cluster.
    #[error(
        "no kubeconfig: no --kubeconfig, no $KUBECONFIG, no ~/.kube/config, and this is no pod with a service account"
    )]
    NoKubeconfig,
    /// What says which cluster cannot be used.
    #[error("kubeconfig{}: {why}", of.as_ref().map_or_else(String::new, |of| format!(" {of}")))]
    Kubeconfig {
        /// The file, if one was named.
        of: Option<String>,
        /// Why.
        why: String,
    },
    /// The API server cannot be reached.
    #[error("cannot reach the API server at {url}: {why}")]
    Unreachable {
        /// Where it should be.
        url: String,
        /// Why.
        why: String,
    },
    /// The API server does not know the user.
    #[error("the API server at {url} does not accept the credentials of the kubeconfig (401 Unauthorized)")]
    Unauthorized {
        /// Where it is.
        url: String,
    },
    /// The API server does not let the user.
    #[error("not allowed: {0}")]
    Forbidden(String),
    /// The API server says why not.
    #[error("the API server says: {0}")]
    Api(String),
    /// Something else between here and the answer.
    #[error("{0}")]
    Other(String),
    /// It is not installed.
    #[error(
        "weir is not installed: no pods with the label app.kubernetes.io/name=weir in namespace {0} \
         (another one: --weir-namespace); if it was deleted without being uninstalled, nodes may still redirect: install \
         it again and `kubectl weir uninstall`, or see docs/operate.md, \"By hand\""
    )]
    NotInstalled(String),
    /// The pod that was asked about, and why nobody can be asked about it.
    #[error("{0}")]
    Pod(String),
    /// The answer could not be written.
    #[error("standard output: {0}")]
    Output(#[from] std::io::Error),
}

impl Error {
    /// What the client says went wrong with a request to the API server at `url`.
    pub fn of(url: &str, error: kube::Error) -> Self {
        let url = url.to_owned();
        match error {
            kube::Error::Api(status) => match status.code {
                401 => Self::Unauthorized { url },
                403 => Self::Forbidden(status.message.clone()),
                _ => Self::Api(said(&status)),
            },
            kube::Error::HyperError(error) => Self::Unreachable { url, why: root(&error) },
            kube::Error::Service(error) => match error.downcast_ref::<AuthError>() {
                Some(error) => Self::Kubeconfig { of: None, why: credentials(error) },
                None => Self::Unreachable { url, why: root(&*error) },
            },
            kube::Error::Auth(error) => Self::Kubeconfig { of: None, why: credentials(&error) },
            error => Self::Other(root(&error)),
        }
    }

    /// The API server did not answer in time.
    pub fn silent(url: &str, timeout: Duration) -> Self {
        let why = format!("no answer within {}", humantime::format_duration(timeout));
        Self::Unreachable { url: url.to_owned(), why }
    }
}

/// Why there are no credentials.
fn credentials(error: &AuthError) -> String {
    match error {
        AuthError::AuthExecStart(error) => format!("its credential plugin cannot be run: {error}"),
        AuthError::AuthExecRun { out, .. } => {
            let said = String::from_utf8_lossy(&out.stderr);
            let said = said.trim().lines().last().map_or_else(String::new, |line| format!(": {line}"));
            format!("its credential plugin failed ({}){said}", out.status)
        }
        error => error.to_string(),
    }
}

/// The API server's message, or at least its code.
pub fn said(status: &kube::core::Status) -> String {
    if status.message.is_empty() { format!("{} {}", status.code, status.reason) } else { status.message.clone() }
}

/// The innermost error, which says what happened; those around it only say where.
fn root(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;

    fn of(error: kube::Error) -> String {
        Error::of("https://10.0.0.1:6443/", error).to_string()
    }

    #[test]
    fn refusals_say_what_to_do() {
        let api = |code, message: &str| {
            kube::Error::Api(Box::new(Status { code, message: message.to_owned(), ..Default::default() }))
        };
        assert_eq!(
            of(api(401, "Unauthorized")),
            "the API server at https://10.0.0.1:6443/ does not accept the credentials of the kubeconfig (401 Unauthorized)"
        );
        let message = r#"pods is forbidden: User "u" cannot list resource "pods" in API group "" in the namespace "w""#;
        assert_eq!(of(api(403, message)), format!("not allowed: {message}"));
        assert_eq!(of(api(500, "etcdserver: leader changed")), "the API server says: etcdserver: leader changed");
        let refused = std::io::Error::from_raw_os_error(111);
        assert_eq!(
            of(kube::Error::Service(Box::new(refused))),
            "cannot reach the API server at https://10.0.0.1:6443/: Connection refused (os error 111)"
        );
    }
}
