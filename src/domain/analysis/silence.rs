//! A primary whose packets vanish: nobody is refused, nobody is told, and replicas go on saying that they receive for as long as their
//! `replica_net_timeout` (60 s by default), because no byte of their open connections says otherwise.
//!
//! So a failing primary whose replicas say `Yes` is either seen badly by the members alone, or gone for everybody. What is seen of it
//! does not tell which; the replicas themselves have to try ([`Step::ReconnectTest`]). Two things keep that from being done without
//! need: something that arrived at a replica after the failure began, and a failure that says more than silence does.
//!
//! [`Step::ReconnectTest`]: crate::domain::recovery::plan::Step::ReconnectTest

use crate::domain::finding::{Code, Finding};
use crate::domain::instance::{Channel, ProbeFailure, ThreadState};

/// Whether a failure is nothing but silence: no answer to a connection attempt, or a network that knows no way.
pub fn is_silence(failure: &ProbeFailure) -> bool {
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

/// Whether a finding is that of a primary that may be cut off from everybody: silent for us, and alive by nothing but the word of
/// replicas. The members decide whether that is enough for a test.
pub fn is_silent(finding: &Finding) -> bool {
    let evidence = &finding.evidence;
    let is_unreachable = matches!(
        finding.code,
        Code::UnreachableMaster | Code::UnreachableMasterWithLaggingReplicas
    );
    is_unreachable
        && !evidence.last_check_partial
        && evidence.receiving_replicas > 0
        && evidence.failure.as_ref().is_some_and(is_silence)
}

/// Whether something has arrived at a replica between two looks at its channel. A thread that was restarted in between may have less
/// than before; that is no arrival.
pub fn has_arrived(before: &Channel, now: &Channel) -> bool {
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

/// Whether a receiving thread that was just restarted has reached its source: it runs, or it was given an error that only a source
/// gives. Client errors (2000 to 2999) are those of a connection that did not come about.
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
    fn only_what_is_new_has_arrived() {
        let before = channel(|_| ());
        let arrived = |change: &dyn Fn(&mut Channel)| has_arrived(&before, &channel(|channel| change(channel)));
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
        assert!(has_arrived(&beating(Some(3)), &beating(Some(4))));
        assert!(!has_arrived(&beating(Some(3)), &beating(Some(3))));
        assert!(!has_arrived(&beating(None), &beating(Some(4))));
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
