//! Network partitions: packets of a primary are dropped, no connection is refused or closed, and replicas report `Yes`
//! for their receiver thread until their `replica_net_timeout` (60 s by default).
//!
//! When replicas of a failing primary report `Yes`, the primary is either unreachable for the members alone, or for all
//! servers. The probes cannot distinguish the two; the replicas have to reconnect ([`Step::ReconnectTest`]). Two facts
//! make that test unnecessary: a replica received something after the failure began, or the failure proves more than
//! silence.
//!
//! [`Step::ReconnectTest`]: crate::domain::recovery::step::Step::ReconnectTest

use crate::domain::finding::{Code, Finding};
use crate::domain::instance::{Channel, ProbeFailure, ThreadState};

/// Whether a failure is mere silence: no answer to a connection attempt, or an unreachable network.
pub fn is_silent_failure(failure: &ProbeFailure) -> bool {
    match failure {
        ProbeFailure::NoAnswer | ProbeFailure::Unreachable(_) => true,
        ProbeFailure::Refused
        | ProbeFailure::Lost(_)
        | ProbeFailure::Name(_)
        | ProbeFailure::Stalled
        | ProbeFailure::Saturated
        | ProbeFailure::Denied(_)
        | ProbeFailure::NoCredentials(_)
        | ProbeFailure::Server { .. }
        | ProbeFailure::Unreadable(_) => false,
    }
}

/// Whether a finding is about a primary that may be partitioned from all servers: it is silent for this member, and
/// only the reports of its replicas indicate that it is alive. The members decide whether that is enough for a test.
pub fn may_be_partitioned(finding: &Finding) -> bool {
    let evidence = &finding.evidence;
    is_unreachable_primary(finding.code)
        && !evidence.last_check_partial
        && evidence.receiving_replicas > 0
        && evidence.failure.as_ref().is_some_and(is_silent_failure)
}

/// Whether only silence speaks for the failure of an instance: it gives no answer, and no replica reports that it lost it.
/// When a data center falls silent, all its instances are of that kind.
pub fn is_mere_silence(finding: &Finding) -> bool {
    let evidence = &finding.evidence;
    evidence.failure.as_ref().is_some_and(is_silent_failure)
        && (evidence.receiving_replicas > 0 || evidence.valid_replicas == 0)
}

/// Whether a code stands for a primary that does not answer while replicas report that they receive from it.
fn is_unreachable_primary(code: Code) -> bool {
    match code {
        Code::UnreachableMaster | Code::UnreachableMasterWithLaggingReplicas => true,
        Code::DeadMasterWithoutReplicas
        | Code::DeadMaster
        | Code::DeadMasterAndReplicas
        | Code::DeadMasterAndSomeReplicas
        | Code::SuccessorLost
        | Code::StalledPrimary
        | Code::SaturatedPrimary
        | Code::SplitPrimary
        | Code::AnotherController
        | Code::DuplicateIdentity
        | Code::LockedSemiSyncMaster
        | Code::LockedSemiSyncMasterHypothesis
        | Code::MasterWithTooManySemiSyncReplicas
        | Code::NoWriteableMasterStructureWarning
        | Code::MasterSingleReplicaNotReplicating
        | Code::MasterSingleReplicaDead
        | Code::AllMasterReplicasNotReplicating
        | Code::AllMasterReplicasNotReplicatingOrDead
        | Code::DeadCoMaster
        | Code::DeadCoMasterAndSomeReplicas
        | Code::UnreachableCoMaster
        | Code::AllCoMasterReplicasNotReplicating
        | Code::DeadIntermediateMasterWithSingleReplicaFailingToConnect
        | Code::DeadIntermediateMasterWithSingleReplica
        | Code::DeadIntermediateMaster
        | Code::DeadIntermediateMasterAndSomeReplicas
        | Code::DeadIntermediateMasterAndReplicas
        | Code::UnreachableIntermediateMasterWithLaggingReplicas
        | Code::UnreachableIntermediateMaster
        | Code::AllIntermediateMasterReplicasFailingToConnectOrDead
        | Code::AllIntermediateMasterReplicasNotReplicating
        | Code::DeadReplicationGroupMemberWithReplicas
        | Code::BinlogServerFailingToConnectToMaster
        | Code::FirstTierReplicaFailingToConnectToMaster
        | Code::QuarantinedPrimaryReturned
        | Code::LostReplicaReturned
        | Code::ErrantTransactions
        | Code::MissingReplicationCredentials
        | Code::MissingPrivileges
        | Code::FenceIneffective
        | Code::BootsWritable
        | Code::UnsafeSettings
        | Code::DurabilityNotKept
        | Code::QuorumInOneDataCenter
        | Code::UndiscoveredServers
        | Code::UnverifiedServers
        | Code::GroupPrimaryChanged
        | Code::NoProblem => false,
    }
}

/// Whether a replica received something between two probes of its channel. A thread that was restarted in between may
/// report less than before, which is no evidence.
pub fn has_received_since(before: &Channel, now: &Channel) -> bool {
    if before.source != now.source {
        return false;
    }
    let is_further = !before.read.file.is_empty() && now.read > before.read;
    let has_more = match (&before.retrieved, &now.retrieved) {
        (Some(before), Some(now)) => !before.contains(now),
        (None, _) | (_, None) => false,
    };
    let has_heartbeat = match (before.heartbeats, now.heartbeats) {
        (Some(before), Some(now)) => now > before,
        (None, _) | (_, None) => false,
    };
    is_further || has_more || has_heartbeat
}

/// Whether a receiver thread that was just restarted has reached its source: it runs, or it has an error that only a
/// source returns. Client errors (2000 to 2999) are those of a failed connection.
pub fn has_reached_source(channel: &Channel) -> bool {
    let error = channel.io_error.number;
    channel.io == ThreadState::Running || (error != 0 && !(2000..3000).contains(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::fixture::{mysql_set, replica};
    use crate::domain::instance::{BinlogCoordinates, ThreadError};
    use crate::domain::key::InstanceKey;

    fn channel(change: impl FnOnce(&mut Channel)) -> Channel {
        let mut channel = replica(2, 1, "1:1-100").facts.unwrap().channels.remove(0);
        channel.read = at("bin.000002", 500);
        channel.retrieved = Some(mysql_set("1:50-100"));
        change(&mut channel);
        channel
    }

    fn at(file: &str, position: u64) -> BinlogCoordinates {
        BinlogCoordinates {
            file: file.to_owned(),
            position,
        }
    }

    #[test]
    fn a_replica_that_lost_its_source_says_more_than_silence() {
        use crate::domain::finding::Evidence;
        use crate::domain::fixture::key;
        use crate::domain::topology::ClusterId;
        let finding = |failure: ProbeFailure, valid_replicas, receiving_replicas| Finding {
            code: Code::UnreachableMaster,
            instance: key(1),
            cluster: ClusterId("c1".to_owned()),
            structure: Vec::new(),
            downtimed: false,
            replicas_downtimed: false,
            evidence: Evidence {
                failure: Some(failure),
                valid_replicas,
                receiving_replicas,
                ..Evidence::default()
            },
            description: String::new(),
        };
        assert!(is_mere_silence(&finding(ProbeFailure::NoAnswer, 0, 0)));
        assert!(is_mere_silence(&finding(ProbeFailure::NoAnswer, 2, 1)));
        assert!(!is_mere_silence(&finding(ProbeFailure::NoAnswer, 2, 0)));
        assert!(!is_mere_silence(&finding(ProbeFailure::Refused, 0, 0)));
    }

    #[test]
    fn only_what_is_new_has_arrived() {
        let before = channel(|_| ());
        let arrived = |change: &dyn Fn(&mut Channel)| has_received_since(&before, &channel(|channel| change(channel)));
        assert!(!arrived(&|_| ()));
        assert!(arrived(&|channel| channel.read = at("bin.000002", 501)));
        assert!(arrived(&|channel| channel.read = at("bin.000003", 4)));
        assert!(arrived(&|channel| channel.retrieved = Some(mysql_set("1:50-101"))));
        // Restarted threads forget.
        assert!(!arrived(&|channel| channel.retrieved = Some(mysql_set(""))));
        assert!(!arrived(&|channel| channel.read = at("", 4)));
        // And start anew at another source.
        assert!(!arrived(&|channel| {
            channel.source = InstanceKey::new("db9", 3306);
            channel.read = at("bin.000009", 4);
        }));
        let beating = |count| channel(|channel| channel.heartbeats = count);
        assert!(has_received_since(&beating(Some(3)), &beating(Some(4))));
        assert!(!has_received_since(&beating(Some(3)), &beating(Some(3))));
        assert!(!has_received_since(&beating(None), &beating(Some(4))));
    }

    #[test]
    fn a_source_that_refuses_was_reached() {
        let with = |io, number| {
            channel(|channel| {
                channel.io = io;
                channel.io_error = ThreadError {
                    number,
                    message: String::new(),
                };
            })
        };
        assert!(has_reached_source(&with(ThreadState::Running, 0)));
        for reached in [1236, 1045, 1040, 13114] {
            assert!(has_reached_source(&with(ThreadState::Stopped, reached)), "{reached}");
            assert!(has_reached_source(&with(ThreadState::Connecting, reached)), "{reached}");
        }
        for number in [0, 2003, 2005, 2013] {
            assert!(!has_reached_source(&with(ThreadState::Connecting, number)), "{number}");
            assert!(!has_reached_source(&with(ThreadState::Stopped, number)), "{number}");
        }
    }
}
