use std::sync::Mutex;

use async_trait::async_trait;

use super::*;
use crate::domain::declared::PodRole;
use crate::testkit::Rig;

/// Records what was written, and fails as configured.
#[derive(Default)]
struct Pods {
    written: Mutex<Vec<String>>,
    answers: Mutex<BTreeMap<String, LabelError>>,
}

#[async_trait]
impl Publisher for Pods {
    async fn label(&self, _: &Origin, label: &PodLabel) -> Result<(), LabelError> {
        if let Some(why) = self.answers.lock().unwrap().get(&label.pod) {
            return Err(why.clone());
        }
        let role = label.role.map_or("none", PodRole::as_str);
        self.written.lock().unwrap().push(format!("{} {role}", label.pod));
        Ok(())
    }
}

fn label(pod: &str, role: PodRole, ends_primary: bool) -> PodLabel {
    PodLabel {
        pod: pod.to_owned(),
        uid: format!("uid-{pod}"),
        role: Some(role),
        ends_primary,
    }
}

/// The old primary, a replica, the new primary.
fn change() -> Vec<PodLabel> {
    vec![
        label("old", PodRole::Unknown, true),
        label("other", PodRole::Replica, false),
        label("new", PodRole::Primary, false),
    ]
}

fn origin() -> Origin {
    Origin::Document {
        namespace: "db".to_owned(),
        name: "orders".to_owned(),
    }
}

async fn written(answers: &[(&str, LabelError)]) -> (Vec<String>, Result<(), LabelError>) {
    let source = Arc::new(Pods::default());
    for (pod, why) in answers {
        source.answers.lock().unwrap().insert((*pod).to_owned(), why.clone());
    }
    let rig = Rig::new(1, 1);
    let labeller = PodLabeller {
        consensus: rig.group.member(1),
        publisher: source.clone(),
    };
    let outcome = labeller.label_all(&origin(), &change()).await;
    let written = source.written.lock().unwrap().clone();
    (written, outcome)
}

#[tokio::test(start_paused = true)]
async fn no_pod_is_labelled_primary_while_the_old_one_still_is() {
    assert_eq!(written(&[]).await.0, ["old unknown", "other replica", "new primary"]);
    let failed = LabelError::Failed("no answer".to_owned());
    let (done, outcome) = written(&[("old", failed.clone())]).await;
    assert_eq!((done, outcome), (Vec::new(), Err(failed.clone())));
    // A pod that is gone has no label.
    let (done, outcome) = written(&[("old", LabelError::Gone)]).await;
    assert_eq!(
        (done, outcome),
        (vec!["other replica".to_owned(), "new primary".to_owned()], Ok(()))
    );
    // A failed label of a replica delays no other label.
    let (done, outcome) = written(&[("other", failed.clone())]).await;
    assert_eq!(
        (done, outcome),
        (vec!["old unknown".to_owned(), "new primary".to_owned()], Err(failed))
    );
}

#[tokio::test(start_paused = true)]
async fn what_failed_is_written_again_until_it_is_not_wanted_any_more() {
    let source = Arc::new(Pods::default());
    let failed = LabelError::Failed("no answer".to_owned());
    source.answers.lock().unwrap().insert("old".to_owned(), failed);
    let rig = Rig::started(1, 1).await;
    let labeller = PodLabeller {
        consensus: rig.group.member(1),
        publisher: source.clone(),
    };
    let wanted = Wanted(Arc::new(BTreeMap::from([(origin(), change())])));
    let (sender, receiver) = watch::channel(wanted);
    let stop = CancellationToken::new();
    let running = {
        let stop = stop.clone();
        tokio::spawn(async move { labeller.run(receiver, &stop).await })
    };
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(source.written.lock().unwrap().len(), 0);
    source.answers.lock().unwrap().clear();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let present = || source.written.lock().unwrap().clone();
    assert_eq!(present()[..3], ["old unknown", "other replica", "new primary"]);
    // The watch shows it right.
    sender.send_replace(Wanted(Arc::new(BTreeMap::from([(origin(), Vec::new())]))));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let many = present().len();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(present().len(), many);
    stop.cancel();
    running.await.unwrap();
}
