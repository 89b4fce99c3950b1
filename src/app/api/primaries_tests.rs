use std::collections::BTreeMap;

use super::*;
use crate::app::recovery::publication_gate::{PublicationFailure, PublicationStatus};
use crate::testkit::state_of;

fn publications(failure: Option<PublicationFailure>) -> PrimaryPublications {
    let gate = PublicationGate::of(vec!["a".to_owned()]);
    gate.update(|statuses| {
        let status = PublicationStatus {
            name: "shop".to_owned(),
            leads_to: None,
            withdraws: false,
            failure,
            round: 1,
        };
        *statuses = BTreeMap::from([(("a".to_owned(), ClusterId("c1".to_owned())), status)]);
    });
    PrimaryPublications {
        gate,
        prefix: KeyPrefix::default(),
    }
}

#[tokio::test(start_paused = true)]
async fn the_pairs_are_returned_once_all_publishers_tried() {
    let pairs = publications(None).submit(&state_of(2), None).await.unwrap();
    assert!(pairs.contains(&KeyValue {
        key: "mysql/master/shop".to_owned(),
        value: "db1:3306".to_owned()
    }));
    assert!(pairs.len() >= 3, "{pairs:?}");
    let cluster = ClusterId("c1".to_owned());
    assert_eq!(
        publications(None).submit(&state_of(2), Some(&cluster)).await.unwrap(),
        pairs
    );
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_the_answer() {
    let failure = PublicationFailure {
        why: "no permission".to_owned(),
        is_unanswered: false,
    };
    let error = publications(Some(failure))
        .submit(&state_of(2), None)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("shop at a: no permission"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_publisher_that_never_answers_ends_the_wait() {
    let silent = PrimaryPublications {
        gate: PublicationGate::of(vec!["b".to_owned()]),
        prefix: KeyPrefix::default(),
    };
    let error = silent.submit(&state_of(2), None).await.unwrap_err();
    assert!(matches!(error, ApiError::Unavailable(_)), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_cluster_without_a_primary_is_refused_by_name() {
    let mut state = state_of(2);
    for cluster in state.clusters.values_mut() {
        cluster.primary = None;
    }
    let cluster = ClusterId("c1".to_owned());
    let error = publications(None).submit(&state, Some(&cluster)).await.unwrap_err();
    assert!(matches!(error, ApiError::Conflict(_)), "{error:?}");
    assert!(publications(None).submit(&state, None).await.unwrap().is_empty());
}
