//! Whether the Services of a cluster still lead clients to a primary, as far as a replacement of the primary depends
//! on it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::domain::declared::{Publication, PublishError, PublishedAddresses};
use crate::domain::intent::Origin;
use crate::domain::topology::ClusterId;

/// For each cluster whether a Service leads clients to a primary. Clones share the value. When no Services are
/// published it is empty, and no recovery waits.
#[derive(Clone, Debug, Default)]
pub struct ServiceGate(Arc<watch::Sender<BTreeMap<ClusterId, bool>>>);

impl ServiceGate {
    /// Waits until no Service leads to a server of this cluster as its primary. Returns at once when no Service is
    /// wanted or the Services cannot be written. Returns `false` when `deadline` passed.
    pub async fn wait_until_empty(&self, cluster: &ClusterId, deadline: Duration) -> bool {
        let mut leads = self.0.subscribe();
        let is_closed = leads.wait_for(|leads| !leads.get(cluster).copied().unwrap_or_default());
        tokio::time::timeout(deadline, is_closed).await.is_ok()
    }

    /// Records the results of the last attempts to write the Services.
    pub(crate) fn record_outcomes(
        &self,
        publications: &BTreeMap<Origin, Publication>,
        outcomes: &BTreeMap<Origin, Result<PublishedAddresses, PublishError>>,
    ) {
        let leads = publications.iter().filter_map(|(origin, publication)| {
            let cluster = publication.cluster.clone()?;
            let leads = match outcomes.get(origin) {
                Some(Ok(Some(servers))) => !publication.services.is_empty() && !servers.is_empty(),
                // The Service does not exist, or an operator has to correct something first.
                Some(Ok(None) | Err(_)) | None => false,
            };
            Some((cluster, leads))
        });
        let leads: BTreeMap<ClusterId, bool> = leads.collect();
        self.0.send_if_modified(|present| {
            let changed = *present != leads;
            *present = leads;
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::domain::declared::{Role, ServiceTarget, WantedService};
    use crate::domain::state::sample::cluster_id;

    const SOON: Duration = Duration::from_secs(2);

    fn origin() -> Origin {
        Origin::Document {
            namespace: "db".to_owned(),
            name: "orders".to_owned(),
        }
    }

    fn asked() -> BTreeMap<Origin, Publication> {
        let publication = Publication {
            uid: "u".to_owned(),
            cluster: Some(cluster_id(1)),
            epoch: 3,
            services: vec![WantedService {
                name: "orders-primary".to_owned(),
                port: 3306,
                role: Role::Primary,
                target: ServiceTarget::Unchanged,
            }],
            unusable: None,
        };
        BTreeMap::from([(origin(), publication)])
    }

    fn to(servers: &[&str]) -> BTreeMap<Origin, Result<PublishedAddresses, PublishError>> {
        let servers: BTreeSet<_> = servers.iter().map(|at| at.parse().unwrap()).collect();
        BTreeMap::from([(origin(), Ok(Some(servers)))])
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_without_servers_is_not_waited_for() {
        let begun = tokio::time::Instant::now();
        let service_gate = ServiceGate::default();
        assert!(
            service_gate.wait_until_empty(&cluster_id(1), SOON).await,
            "no documents"
        );
        let refused = BTreeMap::from([(origin(), Err(PublishError::Forbidden("no right".to_owned())))]);
        for outcomes in [
            BTreeMap::new(),
            to(&[]),
            refused,
            BTreeMap::from([(origin(), Ok(None))]),
        ] {
            service_gate.record_outcomes(&asked(), &outcomes);
            assert!(
                service_gate.wait_until_empty(&cluster_id(1), SOON).await,
                "{outcomes:?}"
            );
        }
        service_gate.record_outcomes(&asked(), &to(&["10.0.0.1:3306"]));
        assert!(
            service_gate.wait_until_empty(&cluster_id(2), SOON).await,
            "another cluster"
        );
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_with_a_server_is_waited_for_until_it_is_empty() {
        let service_gate = ServiceGate::default();
        service_gate.record_outcomes(&asked(), &to(&["10.0.0.1:3306"]));
        let waiting = tokio::spawn({
            let service_gate = service_gate.clone();
            async move { service_gate.wait_until_empty(&cluster_id(1), SOON).await }
        });
        tokio::time::sleep(SOON / 2).await;
        assert!(!waiting.is_finished());
        service_gate.record_outcomes(&asked(), &to(&[]));
        assert!(waiting.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_does_not_answer_costs_the_deadline() {
        let begun = tokio::time::Instant::now();
        let service_gate = ServiceGate::default();
        service_gate.record_outcomes(&asked(), &to(&["10.0.0.1:3306"]));
        assert!(!service_gate.wait_until_empty(&cluster_id(1), SOON).await);
        assert_eq!(begun.elapsed(), SOON);
    }
}
