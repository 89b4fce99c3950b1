//! `MySQLCluster` documents: from documents to commands, and from the replicated state to statuses, Services, pod
//! labels and Events. Every member reads the documents. Only the leader proposes and writes.

mod changed;
mod event_throttle;
mod pod_labels;
pub mod reconciler;
mod service_publisher;
mod status_throttle;
