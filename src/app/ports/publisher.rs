//! Where the primary of a cluster is published outside of ham4db: Services and the labels of pods.

use async_trait::async_trait;

use crate::domain::declared::{LabelError, Observer, PodLabel, Publication, PublishError, PublishedAddresses};
use crate::domain::intent::Origin;

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
