//! The Kubernetes adapter: `MySQLCluster` resources and the Secrets that they name, statuses and Events, Services and
//! `EndpointSlices`, labels of pods, and the bootstrap marker of the group.
//!
//! Failovers do not need the API server. When it cannot be reached, refuses, or does not know the resource, the last known state
//! stays in effect, nothing is withdrawn, and the health of the process does not change. The failure is logged, and statuses
//! become outdated.

mod bootstrap_marker;
mod cluster_source;
mod definition;
mod endpoint_slices;
mod events;
mod list_watch;
mod pods;
mod role_manifest;
mod services;
mod statefulset_replicas;
mod status;
mod watch_cache;

#[cfg(test)]
mod tests;

use std::time::Duration;

pub use bootstrap_marker::ConfigMapMarker;
pub use cluster_source::{KubeSource, Scope};
pub use kube::Client;
pub use pods::PodWatches;
pub use statefulset_replicas::wanted_replicas;

/// Deadline for a connection attempt to the API server.
const CONNECT_DEADLINE: Duration = Duration::from_secs(3);
/// Deadline for one request other than a watch.
const REQUEST_DEADLINE: Duration = Duration::from_secs(4);

/// No client for an API server can be created, because of a wrong configuration. An unreachable API server is no such error.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Neither `KUBECONFIG` (or `~/.kube/config`) nor the service account of a pod can be used.
    #[error("Kubernetes: no usable configuration: set KUBECONFIG, or run in a pod with a service account")]
    Configuration(#[source] Box<kube::config::InferConfigError>),
    /// The configuration cannot be turned into a client.
    #[error("Kubernetes: the configuration cannot be used")]
    Client(#[source] Box<kube::Error>),
}

/// Creates a client from `KUBECONFIG`, `~/.kube/config`, or the service account of this pod. Sends no request.
///
/// # Errors
/// When there is no configuration, or an unusable one.
pub async fn connect() -> Result<Client, ConnectError> {
    let config = kube::Config::infer()
        .await
        .map_err(|why| ConnectError::Configuration(Box::new(why)))?;
    client(config)
}

/// Creates a client from a configuration, with the deadlines of this adapter.
///
/// # Errors
/// When the configuration is unusable.
pub fn client(mut config: kube::Config) -> Result<Client, ConnectError> {
    config.connect_timeout = Some(CONNECT_DEADLINE);
    Client::try_from(config).map_err(|why| ConnectError::Client(Box::new(why)))
}

/// The namespace of this pod, or of the configuration.
pub fn own_namespace(client: &Client) -> &str {
    client.default_namespace()
}

/// The failure of a request to the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
struct RequestError {
    /// The reason, in one line.
    why: String,
    /// The HTTP status code; `None` when no readable answer came.
    code: Option<u16>,
}

impl RequestError {
    /// A failure without a readable answer.
    fn without_answer(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            code: None,
        }
    }

    /// Whether RBAC refused the request.
    fn is_forbidden(&self) -> bool {
        self.code == Some(403)
    }
}

impl From<&kube::Error> for RequestError {
    fn from(error: &kube::Error) -> Self {
        if let kube::Error::Api(status) = error {
            Self::from(status.as_ref())
        } else {
            Self::without_answer(with_causes(error))
        }
    }
}

impl From<&kube::core::Status> for RequestError {
    fn from(status: &kube::core::Status) -> Self {
        let why = if status.message.is_empty() {
            &status.reason
        } else {
            &status.message
        };
        Self {
            why: format!("{why} ({})", status.code),
            code: Some(status.code),
        }
    }
}

/// An error with its causes in one line. Causes that repeat the text are left out.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let next_text = next.to_string();
        if !text.contains(&next_text) {
            text = format!("{text}: {next_text}");
        }
        cause = next.source();
    }
    text
}
