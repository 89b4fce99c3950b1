//! Where the Services of documents lead, as far as those who replace a primary have to know it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::domain::declared::{LeadsTo, Publication, PublishError};
use crate::domain::intent::Origin;
use crate::domain::topology::ClusterId;

/// Which clusters have a Service that leads applications to a primary, and which of them lead to nobody. Clones share it. Without anybody
/// who publishes it is empty, and nobody waits.
#[derive(Clone, Debug, Default)]
pub struct ServiceGate(Arc<watch::Sender<BTreeMap<ClusterId, bool>>>);

impl ServiceGate {
    /// Waits until no Service leads to a server of this cluster as its primary any more, and returns at once where none is asked for, or
    /// the Services cannot be written. `false`: not within `deadline`.
    pub async fn to_nobody(&self, cluster: &ClusterId, deadline: Duration) -> bool {
        let mut leads = self.0.subscribe();
        let is_closed = leads.wait_for(|leads| !leads.get(cluster).copied().unwrap_or_default());
        tokio::time::timeout(deadline, is_closed).await.is_ok()
    }

    /// Takes down what became of the last attempts.
    pub(crate) fn note(
        &self,
        publications: &BTreeMap<Origin, Publication>,
        outcomes: &BTreeMap<Origin, Result<LeadsTo, PublishError>>,
    ) {
        let leads = publications.iter().filter_map(|(origin, publication)| {
            let cluster = publication.cluster.clone()?;
            let leads = match outcomes.get(origin) {
                Some(Ok(Some(servers))) => !publication.services.is_empty() && !servers.is_empty(),
                // Nothing is there, or a person has to mend it first.
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
    use crate::domain::declared::{Lead, Role, WantedService};
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
                lead: Lead::AsItIs,
            }],
            unusable: None,
        };
        BTreeMap::from([(origin(), publication)])
    }

    fn to(servers: &[&str]) -> BTreeMap<Origin, Result<LeadsTo, PublishError>> {
        let servers: BTreeSet<_> = servers.iter().map(|at| at.parse().unwrap()).collect();
        BTreeMap::from([(origin(), Ok(Some(servers)))])
    }

    #[tokio::test(start_paused = true)]
    async fn who_leads_nobody_is_not_waited_for() {
        let begun = tokio::time::Instant::now();
        let service_gate = ServiceGate::default();
        assert!(service_gate.to_nobody(&cluster_id(1), SOON).await, "no documents");
        let refused = BTreeMap::from([(origin(), Err(PublishError::Forbidden("no right".to_owned())))]);
        for outcomes in [
            BTreeMap::new(),
            to(&[]),
            refused,
            BTreeMap::from([(origin(), Ok(None))]),
        ] {
            service_gate.note(&asked(), &outcomes);
            assert!(service_gate.to_nobody(&cluster_id(1), SOON).await, "{outcomes:?}");
        }
        service_gate.note(&asked(), &to(&["10.0.0.1:3306"]));
        assert!(service_gate.to_nobody(&cluster_id(2), SOON).await, "another cluster");
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_leads_to_a_server_is_waited_for_until_it_is_empty() {
        let service_gate = ServiceGate::default();
        service_gate.note(&asked(), &to(&["10.0.0.1:3306"]));
        let waiting = tokio::spawn({
            let service_gate = service_gate.clone();
            async move { service_gate.to_nobody(&cluster_id(1), SOON).await }
        });
        tokio::time::sleep(SOON / 2).await;
        assert!(!waiting.is_finished());
        service_gate.note(&asked(), &to(&[]));
        assert!(waiting.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_does_not_answer_costs_the_deadline() {
        let begun = tokio::time::Instant::now();
        let service_gate = ServiceGate::default();
        service_gate.note(&asked(), &to(&["10.0.0.1:3306"]));
        assert!(!service_gate.to_nobody(&cluster_id(1), SOON).await);
        assert_eq!(begun.elapsed(), SOON);
    }
}
