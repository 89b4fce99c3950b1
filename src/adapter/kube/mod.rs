//! `MySQLCluster` resources of a Kubernetes API server, the Secrets that they name, and what the group of members keeps there.
//!
//! The API server is never needed: when it cannot be reached, refuses, or has no such resource, what was read last stays, nothing is
//! withdrawn, and the process is as healthy as before. It is a line in the log and a status that gets old.

mod definition;
mod documents;
mod events;
mod follow;
mod grant;
mod marker;
mod model;
mod pods;
mod replicas;
mod services;
mod slices;
mod status;

#[cfg(test)]
mod tests;

use std::time::Duration;

pub use documents::{KubeSource, Scope};
pub use kube::Client;
pub use marker::ConfigMapMarker;
pub use pods::Follows;
pub use replicas::wanted_replicas;

/// The longest that a connection attempt to the API server may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(3);
/// The longest that one request other than a watch may take.
const REQUEST_DEADLINE: Duration = Duration::from_secs(4);

/// No client for an API server can be made. That is a mistake in the set-up: an API server that is merely away is none.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Neither `KUBECONFIG` (or `~/.kube/config`) nor a service account of a pod can be used.
    #[error("Kubernetes: no usable configuration: set KUBECONFIG, or run in a pod with a service account")]
    Configuration(#[source] Box<kube::config::InferConfigError>),
    /// The configuration cannot be turned into a client.
    #[error("Kubernetes: the configuration cannot be used")]
    Client(#[source] Box<kube::Error>),
}

/// A client by `KUBECONFIG`, `~/.kube/config`, or the service account of this pod. Sends nothing yet.
///
/// # Errors
/// When there is no configuration, or an unusable one.
pub async fn connect() -> Result<Client, ConnectError> {
    let config = kube::Config::infer()
        .await
        .map_err(|why| ConnectError::Configuration(Box::new(why)))?;
    client(config)
}

/// A client by a given configuration, with this adapter's deadlines.
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

/// A request to the API server failed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Refusal {
    /// What it said, in a line.
    why: String,
    /// The HTTP code of its answer; `None` when there was no answer.
    code: Option<u16>,
}

impl Refusal {
    /// No answer came, or none that can be read.
    fn without_answer(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            code: None,
        }
    }

    /// A matter of RBAC.
    fn is_forbidden(&self) -> bool {
        self.code == Some(403)
    }
}

impl From<&kube::Error> for Refusal {
    fn from(error: &kube::Error) -> Self {
        if let kube::Error::Api(status) = error {
            Self::from(status.as_ref())
        } else {
            Self::without_answer(with_causes(error))
        }
    }
}

impl From<&kube::core::Status> for Refusal {
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

/// An error and what caused it, in a line; causes that only repeat are left out.
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
