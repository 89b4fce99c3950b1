//! How a replica gets below another server without losing its place.

use crate::domain::instance::{Instance, InstanceFacts};
use crate::domain::policy::Policy;

use super::candidate::{excerpt, purged};
use super::eligibility::why_unreachable;
use super::plan::RefusalReason;
use super::planner::by_position::follows_by_gtid;
use super::planner::check_match;

/// By what a replica finds its place below another server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PositioningMethod {
    /// It replicates by GTID, and goes on so.
    Gtid,
    /// It replicates by position, and both servers have GTIDs: once it has applied all that it received, it goes on by these.
    GtidFromNowOn,
    /// There are no GTIDs: its place is found by Pseudo-GTID, once it has applied all that it received.
    PseudoGtid,
}

/// By what a replica can be put below a source, or why it cannot.
///
/// Unlike orchestrator, which compares positions when it moves, everything that is needed is on both servers' word beforehand. A
/// replica that holds what the source lacks is refused whoever wrote it: MariaDB would stop with error 1236, and so would MySQL for
/// transactions of the source's own. Only with Pseudo-GTID nothing but the logs themselves tells it, when they are compared.
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

/// STATEMENT, MIXED, ROW: events of a higher one cannot be logged by a server with a lower one. Unknown formats are not judged.
fn format_rank(facts: &InstanceFacts) -> u8 {
    match facts.binlog_format.as_str() {
        "STATEMENT" => 1,
        "MIXED" => 2,
        _ => 3,
    }
}
