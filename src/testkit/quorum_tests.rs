//! Members in several data centres: which members must agree when a majority alone is not sufficient.

use crate::app::ports::Consensus as _;
use crate::domain::finding::{Code, OpinionVerdict};
use crate::domain::fixture::key;
use crate::domain::policy::{HeldBack, RecoveryQuorum};
use crate::domain::state::record::MemberRecord;
use crate::domain::state::{Command, MemberId};

use super::Rig;

/// Three replicated servers, and members in these data centres, a majority of which must agree.
async fn rig_in(places: &[&str]) -> Rig {
    let mut rig = Rig::new(3, places.len() as u64);
    rig.quorum = RecoveryQuorum::MajorityOfDataCenters;
    for (id, place) in (1..).zip(places) {
        rig.places.insert(id, (*place).to_owned());
    }
    for (id, place) in (1..).zip(places) {
        rig.start(id);
        record(&rig, id, place).await;
    }
    rig.settled().await;
    rig
}

async fn record(rig: &Rig, id: MemberId, place: &str) {
    let member = MemberRecord {
        id,
        name: format!("member{id}"),
        understands: 1,
        data_center: place.to_owned(),
    };
    rig.group
        .member(1)
        .propose(Command::AnnounceMember { member })
        .await
        .unwrap();
}

fn held_back(rig: &Rig) -> Option<HeldBack> {
    rig.first().0.coordinator.held_back(&key(1))
}

#[tokio::test(start_paused = true)]
async fn members_of_one_data_centre_replace_nobody_without_another_one() {
    let rig = rig_in(&["west", "west", "east"]).await;
    let silent = OpinionVerdict::Missing("500 ms".to_owned());
    rig.group.says(3, silent);
    rig.world.kill(1);
    rig.until("it is said why nobody is replaced", |rig| held_back(rig).is_some())
        .await;
    rig.wait(10_000).await;
    assert_eq!(
        held_back(&rig),
        Some(HeldBack::NoAgreement(
            "voters in 1 of 2 data centers see it dead, 2 are needed (member3 did not answer: 500 ms)".to_owned()
        ))
    );
    assert!(rig.recoveries().is_empty());
    rig.group.says(3, OpinionVerdict::Dead);
    // What a member says of itself counts more than the record, and this one now says nothing of where it is.
    rig.wait(5000).await;
    assert!(rig.recoveries().is_empty());
    rig.group.sees_again(3);
    let recoveries = rig.recovered(1).await;
    assert!(recoveries[0].is_successful(), "{recoveries:#?}");
    let told: Vec<&str> = recoveries[0]
        .opinions
        .iter()
        .map(|opinion| opinion.data_center.as_str())
        .collect();
    assert_eq!(told, ["west", "west", "east"]);
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_data_centre_that_is_lost_with_its_member_is_known_from_the_record() {
    let mut rig = rig_in(&["west", "north", "east"]).await;
    rig.stop(3);
    rig.world.kill(1);
    let recoveries = rig.recovered(1).await;
    assert!(recoveries[0].is_successful(), "{recoveries:#?}");
    rig.world.assert_sound();
}

#[tokio::test(start_paused = true)]
async fn a_majority_in_one_of_several_data_centres_is_advice_until_a_member_moves() {
    let rig = rig_in(&["west", "west", "east"]).await;
    let says_so = |rig: &Rig| {
        let findings = rig.first().1.findings;
        findings
            .iter()
            .any(|judged| judged.finding.code == Code::QuorumInOneDataCenter && judged.finding.instance == key(1))
    };
    assert!(says_so(&rig));
    record(&rig, 2, "north").await;
    assert!(!says_so(&rig));
    rig.wait(2000).await;
    assert!(rig.group.state().detections.is_empty(), "advice is no detection");
}
