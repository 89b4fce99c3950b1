//! Where the primary of a cluster is published outside of ham4db: Services and the labels of pods, key-value stores, proxies.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;

use crate::domain::declared::{LabelError, Observer, PodLabel, Publication, PublishError, PublishedAddresses};
use crate::domain::intent::Origin;
use crate::domain::key::InstanceKey;
use crate::domain::published_primary::{HostAddresses, PublishedPrimaries};
use crate::domain::state::Epoch;
use crate::domain::topology::ClusterId;

/// Publishes for the clients of a cluster which instance is the primary and which are replicas. The clusters of the declarative part
/// are published: `origin` names the document. The leader calls it and repeats what failed.
///
/// Each method has a default that supports nothing: a publisher implements what its outside system has.
#[async_trait]
pub trait Publisher: Send + Sync {
    /// Makes the Services of a document as `publication` describes them, and removes those Services of the document that it does not
    /// describe. Returns the address to which the Service of the primary leads afterwards. Finishes within a deadline of its own.
    ///
    /// # Errors
    /// When the Services are not as described. [`PublishError::Unsupported`] where Services are described and the outside system has none.
    async fn publish(
        &self,
        _origin: &Origin,
        publication: &Publication,
        _observer: &Observer,
    ) -> Result<PublishedAddresses, PublishError> {
        if publication.services.is_empty() {
            Ok(None)
        } else {
            Err(PublishError::Unsupported)
        }
    }

    /// Writes the role of one pod in the namespace of a document into its labels, unless another pod has its name by now.
    ///
    /// # Errors
    /// When the label was not written. [`LabelError::Unsupported`] where pods do not exist or are not to be labelled.
    async fn label(&self, _origin: &Origin, _label: &PodLabel) -> Result<(), LabelError> {
        Err(LabelError::Unsupported)
    }
}

/// What a [`PrimaryPublisher`] is given about one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrimaryPublication {
    /// Uuid of the group of members.
    pub group: String,
    /// The cluster.
    pub cluster: ClusterId,
    /// The name under which the cluster is published.
    pub name: String,
    /// The epoch of the cluster. What was published for the same cluster with a higher epoch is never replaced.
    pub epoch: Epoch,
    /// The primary; of a withdrawal the one that is being replaced.
    pub primary: InstanceKey,
    /// The addresses of its host; `None` while they are unknown.
    pub addresses: Option<HostAddresses>,
    /// All instances of the cluster.
    pub instances: BTreeSet<InstanceKey>,
}

/// Whether a publisher had to change something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublicationChange {
    /// It was as wanted.
    None,
    /// It was written.
    Written,
}

/// A system outside of ham4db that is told which server is the primary of each cluster: a key-value store, a proxy. The leader calls it,
/// at once when a primary changes and every minute, and repeats what failed.
///
/// An implementation reads back what the system has, and writes only what differs. It keeps the epoch beside it where the system can, and
/// then writes on the condition that the epoch is still the one that it read.
#[async_trait]
pub trait PrimaryPublisher: Send + Sync {
    /// The system, as logs and the API name it.
    fn name(&self) -> String;

    /// The longest that one call may take.
    fn deadline(&self) -> Duration {
        Duration::from_secs(5)
    }

    /// Whether [`PrimaryPublisher::withdraw`] does something. A takeover waits for it, 2 s at most.
    fn withdraws(&self) -> bool;

    /// Makes the system lead the clients of the cluster to its primary.
    ///
    /// # Errors
    /// When it may not lead there.
    async fn publish(&self, publication: &PrimaryPublication) -> Result<PublicationChange, PublishError>;

    /// Makes the system lead no clients to the primary, which is being replaced.
    ///
    /// # Errors
    /// When it may still lead there.
    async fn withdraw(&self, publication: &PrimaryPublication) -> Result<PublicationChange, PublishError>;

    /// Removes what this group published for clusters that have another name now, or are gone. Returns their names.
    ///
    /// # Errors
    /// When something may be left.
    async fn remove_leftovers(&self, _group: &str, _all: &PublishedPrimaries) -> Result<Vec<String>, PublishError> {
        Ok(Vec::new())
    }
}
