//! `MySQLCluster` documents: from documents to commands, and from the replicated state back to statuses, Services, pod
//! labels and Events. Every member reads; only the leader proposes and writes.

mod event_throttle;
mod pod_labels;
pub mod reconciler;
mod service_publisher;
mod status_throttle;
