use async_trait::async_trait;

use super::*;
use crate::app::ports::StoreError;
use crate::domain::fixture::{NOW, key};
use crate::domain::state::sample;

fn found(code: Code) -> Vec<Finding> {
    vec![Finding {
        code,
        ..sample::finding(1, 1)
    }]
}

fn codes(log: &AnalysisHistory, n: u32) -> Vec<Code> {
    let all = log.all();
    let list = all.iter().find(|(instance, _)| *instance == key(n));
    list.map(|(_, list)| list.iter().map(|change| change.code).collect())
        .unwrap_or_default()
}

#[test]
fn only_what_differs_from_the_last_entry_is_written() {
    let log = AnalysisHistory::default();
    let instances = [key(1), key(2)];
    log.record(&instances, &[], NOW);
    log.record(&instances, &found(Code::DeadMaster), NOW.plus_millis(1));
    log.record(&instances, &found(Code::DeadMaster), NOW.plus_millis(2));
    let both = [found(Code::UnreachableMaster), found(Code::UnsafeSettings)].concat();
    log.record(&instances, &both, NOW.plus_millis(3));
    log.record(&instances, &[], NOW.plus_millis(4));
    assert_eq!(
        codes(&log, 1),
        [
            Code::NoProblem,
            Code::DeadMaster,
            Code::UnreachableMaster,
            Code::NoProblem
        ]
    );
    assert_eq!(codes(&log, 2), [Code::NoProblem]);
    assert_eq!(log.all()[0].1[1].at, NOW.plus_millis(1));
}

#[test]
fn the_oldest_changes_of_an_instance_make_room() {
    let log = AnalysisHistory::default();
    for turn in 0..i64::try_from(MAX_CHANGES).unwrap() {
        log.record(&[key(1)], &found(Code::DeadMaster), NOW.plus_millis(2 * turn));
        log.record(&[key(1)], &[], NOW.plus_millis(2 * turn + 1));
    }
    let all = log.all();
    assert_eq!(all[0].1.len(), MAX_CHANGES);
    assert_eq!(all[0].1[0].at, NOW.plus_millis(i64::try_from(MAX_CHANGES).unwrap()));
}

#[derive(Default)]
struct Disk {
    kept: Mutex<Vec<(InstanceKey, AnalysisChange)>>,
    failures: Mutex<u32>,
    purged: Mutex<Vec<WallTime>>,
}

#[async_trait]
impl ChangeStore for Disk {
    async fn load_changes(&self) -> Result<Vec<(InstanceKey, AnalysisChange)>, StoreError> {
        Ok(self.kept.lock().unwrap().clone())
    }

    async fn add_changes(&self, changes: &[(InstanceKey, AnalysisChange)]) -> Result<(), StoreError> {
        let mut failures = self.failures.lock().unwrap();
        if *failures > 0 {
            *failures -= 1;
            return Err(StoreError {
                backend: "disk".to_owned(),
                what: "add".to_owned(),
                why: "full".to_owned(),
            });
        }
        self.kept.lock().unwrap().extend_from_slice(changes);
        Ok(())
    }

    async fn purge_changes(&self, before: WallTime) -> Result<(), StoreError> {
        self.purged.lock().unwrap().push(before);
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn changes_are_written_in_order_and_go_on_after_a_restart() {
    let disk = Arc::new(Disk::default());
    *disk.failures.lock().unwrap() = 2;
    let log = Arc::new(AnalysisHistory::default());
    let clock = Arc::new(crate::testkit::PausedClock::new());
    let now = clock.wall();
    let stop = CancellationToken::new();
    let kept = Duration::from_hours(1);
    let task = tokio::spawn(Arc::clone(&log).run(disk.clone(), clock, kept, stop.clone()));
    log.record(&[key(1)], &[], now);
    tokio::time::sleep(WRITE_EVERY).await;
    log.record(&[key(1)], &found(Code::DeadMaster), now.plus_millis(1));
    tokio::time::sleep(WRITE_EVERY * 3).await;
    assert_eq!(disk.kept.lock().unwrap().len(), 2, "written in the end, once");
    log.record(&[key(1)], &[], now.plus_millis(2));
    stop.cancel();
    task.await.unwrap();
    assert_eq!(*disk.purged.lock().unwrap(), [WallTime(now.0 - 3_600_000)]);

    let again = AnalysisHistory::of(disk.load_changes().await.unwrap());
    let all = [Code::NoProblem, Code::DeadMaster, Code::NoProblem];
    assert_eq!(codes(&again, 1), all, "the last one was written at the end");
    again.record(&[key(1)], &[], now.plus_millis(3));
    assert_eq!(codes(&again, 1), all, "nothing is new");
}

#[test]
fn what_is_old_is_dropped_but_what_still_holds() {
    let log = AnalysisHistory::default();
    log.record(&[key(1), key(2)], &[], NOW);
    log.record(&[key(1)], &found(Code::DeadMaster), NOW.plus_millis(10));
    log.record(&[key(1)], &[], NOW.plus_millis(20));
    log.purge(NOW.plus_millis(15));
    assert_eq!(codes(&log, 1), [Code::NoProblem]);
    assert_eq!(codes(&log, 2), [Code::NoProblem], "so since long ago");
    assert_eq!(log.all()[0].1[0].at, NOW.plus_millis(20));
}
