//! How a replica continues below another server without losing its position.

use crate::domain::instance::{Instance, InstanceFacts, ThreadState};
use crate::domain::key::InstanceKey;
use crate::domain::policy::Policy;
use crate::domain::recovery::binlog_readers::follows_by_gtid;
use crate::domain::recovery::eligibility::why_unreachable;
use crate::domain::recovery::position::purged;
use crate::domain::recovery::refusal::{RefusalReason, excerpt};

/// The method by which a replica continues below another server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PositioningMethod {
    /// It replicates by GTID, and continues to do so.
    Gtid,
    /// It replicates by position, and both servers have GTIDs: once it has applied everything that it received, it
    /// continues by GTID.
    GtidFromNowOn,
    /// There are no GTIDs: its position is found by Pseudo-GTID, once it has applied everything that it received.
    PseudoGtid,
}

/// The method by which a replica can continue below a source, or why it cannot.
///
/// Unlike orchestrator, which compares positions when it moves a replica, this uses only what both servers reported
/// before. A replica that holds what the source lacks is refused, whichever server wrote it: MariaDB would stop with
/// error 1236, and so would MySQL for transactions that the source wrote itself. With Pseudo-GTID only the comparison
/// of the logs shows it.
pub(super) fn positioning(
    replica: &Instance,
    source: &Instance,
    policy: &Policy,
) -> Result<PositioningMethod, RefusalReason> {
    let Some(facts) = replica.valid_facts() else {
        return Err(RefusalReason::Unreachable(why_unreachable(replica)));
    };
    let Some(above) = source.valid_facts() else {
        return Err(RefusalReason::Unknown(format!(
            "{} does not answer: {}",
            source.key,
            why_unreachable(source)
        )));
    };
    if above.is_binlog_server() {
        return Err(RefusalReason::BinlogServer);
    }
    if facts.identity == above.identity {
        return Err(RefusalReason::Unknown(format!("{} has the same identity", source.key)));
    }
    let is_mariadb = facts.version.flavour.is_mariadb();
    let has_gtid = |facts: &InstanceFacts| is_mariadb || matches!(facts.gtid_mode.as_str(), "ON" | "ON_PERMISSIVE");
    let uses_gtid = replica.channel().is_some_and(|channel| channel.positioning.is_gtid());
    let positioning = if uses_gtid && has_gtid(facts) && has_gtid(above) {
        PositioningMethod::Gtid
    } else if uses_gtid {
        return Err(RefusalReason::NoGtid);
    } else if follows_by_gtid(facts, above) {
        PositioningMethod::GtidFromNowOn
    } else if policy.pseudo_gtid {
        PositioningMethod::PseudoGtid
    } else {
        return Err(RefusalReason::NoGtid);
    };
    let is_older = (facts.version.major, facts.version.minor) < (above.version.major, above.version.minor);
    if is_mariadb != above.version.flavour.is_mariadb() || is_older {
        return Err(RefusalReason::Version(format!(
            "{}, and {} runs {}",
            facts.version, source.key, above.version
        )));
    }
    if facts.log_bin && facts.log_replica_updates && format_rank(facts) < format_rank(above) {
        return Err(RefusalReason::Version(format!(
            "binlog_format {}, and {} has {}",
            facts.binlog_format, source.key, above.binlog_format
        )));
    }
    if positioning == PositioningMethod::PseudoGtid {
        return check_match(&replica.key, facts, &source.key, above)
            .map(|()| positioning)
            .map_err(RefusalReason::Unknown);
    }
    let received = facts.received();
    if !above.executed.covers(&received) {
        let own = received.missing_from(&above.executed);
        return Err(RefusalReason::Errant(format!(
            "{} (which {} lacks)",
            excerpt(&own),
            source.key
        )));
    }
    match purged(above, facts) {
        Some(set) => Err(RefusalReason::Purged(excerpt(&set))),
        None => Ok(positioning),
    }
}

/// STATEMENT, MIXED, ROW: events of a higher one cannot be logged by a server with a lower one. Unknown formats are
/// not judged.
fn format_rank(facts: &InstanceFacts) -> u8 {
    match facts.binlog_format.as_str() {
        "STATEMENT" => 1,
        "MIXED" => 2,
        _ => 3,
    }
}

/// Whether Pseudo-GTID could find the position of a replica in a server's log, whatever the logs hold.
pub(super) fn check_match(
    replica: &InstanceKey,
    own: &InstanceFacts,
    target: &InstanceKey,
    source: &InstanceFacts,
) -> Result<(), String> {
    check_replica(replica, own)?;
    check_target(replica, own, target, source)
}

fn check_replica(replica: &InstanceKey, own: &InstanceFacts) -> Result<(), String> {
    let channel = own
        .managed_channel()
        .ok_or_else(|| format!("{replica} has no replication channel, or several"))?;
    if own.is_binlog_server() {
        return Err(format!(
            "{replica} is a binlog server: its log is its source's, there is nothing to match"
        ));
    }
    if own.is_group_member() {
        return Err(format!("{replica} is a member of a replication group"));
    }
    if channel.positioning.is_gtid() {
        return Err(format!(
            "{replica} replicates by GTID and would no longer do so: relocate it by GTID"
        ));
    }
    if channel.delay_seconds > 0 {
        return Err(format!(
            "{replica} is delayed on purpose by {} s: end the delay first",
            channel.delay_seconds
        ));
    }
    if channel.sql == ThreadState::Stopped && channel.sql_error.number != 0 {
        return Err(format!(
            "the applier thread of {replica} stopped with error {}: {}",
            channel.sql_error.number, channel.sql_error.message
        ));
    }
    Ok(())
}

fn check_target(
    replica: &InstanceKey,
    own: &InstanceFacts,
    target: &InstanceKey,
    source: &InstanceFacts,
) -> Result<(), String> {
    if source.is_binlog_server() {
        return Err(format!(
            "{target} is a binlog server: its positions are its source's, so {replica} needs no match"
        ));
    }
    if !source.log_bin {
        return Err(format!("{target} has no binary log (log_bin)"));
    }
    if source.managed_channel().is_some() && !source.log_replica_updates {
        return Err(format!(
            "{target} does not log what it replicates (log_replica_updates)"
        ));
    }
    if own.server_id == source.server_id || own.identity == source.identity {
        return Err(format!("{replica} and {target} have the same server_id or server_uuid"));
    }
    let is_filtered = |facts: &InstanceFacts| facts.managed_channel().is_some_and(|channel| channel.filtered);
    if is_filtered(source) && !is_filtered(own) {
        return Err(format!("{target} filters what it replicates, and {replica} does not"));
    }
    let (have, wanted) = (&own.version, &source.version);
    let is_older = (have.major, have.minor) < (wanted.major, wanted.minor);
    if have.flavour.is_mariadb() != wanted.flavour.is_mariadb() || is_older {
        return Err(format!("{replica} runs {have}, and {target} {wanted}"));
    }
    Ok(())
}
