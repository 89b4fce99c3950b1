//! Which replicas may be promoted, and which one is.
//!
//! In this order: which replicas are eligible; what each of these would hold, as it is or after it caught up
//! (`catch_up`); which of these options lead to a maximal position ([`super::position`]); which of these ranks first
//! (`rank`). Every other replica is refused with a reason. What the chosen one is known to lack then falls under the
//! loss policy.
//!
//! Two reasons do not count when there is no better replica. A delayed replica is promoted when it alone holds
//! something. A replica with errant transactions is promoted when no other one can be promoted at all: an outage
//! until an operator acts is worse than an errant transaction that all other replicas then receive too.

use std::collections::BTreeSet;

use crate::domain::analysis::identity::twin_of;
use crate::domain::gtid::GtidSet;
use crate::domain::instance::Instance;
use crate::domain::key::InstanceKey;
use crate::domain::policy::Policy;
use crate::domain::recovery::catch_up::{catch_up_source_for, catch_up_sources};
use crate::domain::recovery::choice_inputs::ChoiceInputs;
use crate::domain::recovery::eligibility::{check_promotable, why_unreachable};
use crate::domain::recovery::loss;
use crate::domain::recovery::loss_evidence::LossEvidence;
use crate::domain::recovery::plan::PlanReport;
use crate::domain::recovery::position::{ReceivedTransactions, purged};
use crate::domain::recovery::promotion_option::{Candidate, CatchUpSource, PromotionOption};
use crate::domain::recovery::rank::Ranking;
use crate::domain::recovery::refusal::{Refusal, RefusalReason, excerpt};
use crate::domain::topology::Topology;

/// The replica that is promoted, and what follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The replica that is promoted.
    pub successor: InstanceKey,
    /// The replica from which it catches up first.
    pub catch_up_source: Option<InstanceKey>,
    /// What it has received or will receive by catching up, without errant transactions.
    pub position: GtidSet,
    /// Direct replicas of the old primary that will follow it.
    pub followers: BTreeSet<InstanceKey>,
    /// Direct replicas of the old primary that will not.
    pub lost_replicas: Vec<Refusal>,
    /// What the old primary is known to have had and the successor lacks.
    pub lost: Option<GtidSet>,
    /// What proves that nothing else is lost.
    pub loss_evidence: LossEvidence,
}

/// Chooses the successor of `old_primary` among all its descendants, with the reason against every other one.
///
/// The choice is a pure function: the same arguments give the same answer on every member.
pub fn choose(
    topology: &Topology,
    old_primary: &InstanceKey,
    policy: &Policy,
    inputs: &ChoiceInputs,
) -> (Option<Choice>, PlanReport) {
    let old_primary = topology.resolve(old_primary);
    let received_transactions = ReceivedTransactions::remembering(topology, old_primary, inputs.remembered.as_ref());
    let mut report = PlanReport::default();
    if topology.descendants_of(old_primary).is_empty() {
        report.no_plan = Some(format!("{old_primary} has no replicas"));
        return (None, report);
    }
    let pool = pool(
        topology,
        old_primary,
        policy,
        inputs,
        &received_transactions,
        &mut report,
    );
    let catch_up_sources = catch_up_sources(topology, old_primary, &received_transactions, inputs);
    let options = options(&pool, &catch_up_sources, topology, old_primary, inputs);
    let ranking = Ranking::new(topology, old_primary, policy, inputs);
    let Some(best) = best(&options, &ranking) else {
        report.no_plan = Some("no replica can be promoted".to_owned());
        return (None, report);
    };
    refuse_the_others(&options, best, &received_transactions, &ranking, &mut report);
    report.refused.sort_by(|left, right| left.instance.cmp(&right.instance));
    let lost = received_transactions.lacking(&best.position);
    let loss_evidence = match loss::accept(topology, old_primary, policy, lost.as_ref(), inputs, &mut report) {
        Ok(evidence) => evidence,
        Err(why) => {
            report.no_plan = Some(why);
            return (None, report);
        }
    };
    let successor = best.candidate.instance.key.clone();
    let catch_up_source = best
        .catch_up_source
        .map(|catch_up_source| catch_up_source.instance.key.clone());
    if best.candidate.facts.has_backup_lock() {
        report.remarks.push(backup_remark(&successor));
    }
    if let Some(catch_up_source) = &catch_up_source {
        report.remarks.push(format!(
            "{successor} first catches up from {catch_up_source}, which received more"
        ));
    }
    let (followers, lost_replicas) = followers(topology, old_primary, best, &received_transactions, inputs);
    report.successor = Some(successor.clone());
    let choice = Choice {
        successor,
        catch_up_source,
        position: best.position.clone(),
        followers,
        lost_replicas,
        lost,
        loss_evidence,
    };
    (Some(choice), report)
}

/// A server that is promoted although a backup holds its lock.
pub(super) fn backup_remark(successor: &InstanceKey) -> String {
    format!(
        "a backup holds its lock on {successor}: it is promoted because no other replica can be, and the backup may be ended"
    )
}

/// The candidates; all other replicas are refused.
fn pool<'a>(
    topology: &'a Topology,
    old_primary: &'a InstanceKey,
    policy: &Policy,
    inputs: &ChoiceInputs,
    received_transactions: &'a ReceivedTransactions,
    report: &mut PlanReport,
) -> Vec<Candidate<'a>> {
    let mut pool = Vec::new();
    let mut delayed = Vec::new();
    let mut errant = Vec::new();
    for instance in topology.descendants_of(old_primary) {
        let judged = match inputs.excluded.get(&instance.key) {
            Some(reason) => Err(reason.clone()),
            None => check_promotable(topology, old_primary, instance, policy),
        };
        let (facts, holding) = match (judged, received_transactions.get(&instance.key)) {
            (Ok(facts), Some(holding)) => (facts, holding),
            (Ok(_), None) => {
                report
                    .refused
                    .push(Refusal::of(instance, RefusalReason::Unknown("never seen".to_owned())));
                continue;
            }
            (Err(reason), _) => {
                report.refused.push(Refusal::of(instance, reason));
                continue;
            }
        };
        let candidate = |is_last_resort| Candidate {
            instance,
            facts,
            position: &holding.position,
            is_last_resort,
        };
        let now = facts.managed_channel().map_or(0, |channel| channel.delay_seconds);
        let delay = inputs.delays.get(&instance.key).map_or(now, |before| now.max(*before));
        match &holding.errant {
            Some(set) => errant.push((candidate(true), RefusalReason::Errant(excerpt(set)))),
            None if delay > 0 => delayed.push((candidate(true), RefusalReason::Delayed(delay))),
            None => pool.push(candidate(false)),
        }
    }
    last_resorts(&mut pool, delayed, errant, report);
    pool
}

/// Adds the replicas that are promoted only when there is no better one; the others of these lists are refused.
fn last_resorts<'a>(
    pool: &mut Vec<Candidate<'a>>,
    delayed: Vec<(Candidate<'a>, RefusalReason)>,
    errant: Vec<(Candidate<'a>, RefusalReason)>,
    report: &mut PlanReport,
) {
    let known: Vec<&GtidSet> = pool.iter().map(|candidate| candidate.position).collect();
    let mut taken = Vec::new();
    for (candidate, reason) in delayed {
        if known.iter().any(|position| position.covers(candidate.position)) {
            report.refused.push(Refusal::of(candidate.instance, reason));
        } else {
            report.remarks.push(format!(
                "{} is {reason}, and holds what no other candidate holds",
                candidate.instance.key
            ));
            taken.push(candidate);
        }
    }
    pool.extend(taken);
    let nobody_else = pool.is_empty();
    for (candidate, reason) in errant {
        if nobody_else {
            report.remarks.push(format!(
                "{} has {reason}, and no other replica can be promoted",
                candidate.instance.key
            ));
            pool.push(candidate);
        } else {
            report.refused.push(Refusal::of(candidate.instance, reason));
        }
    }
}

/// What each candidate can hold when it is promoted: what it has, or more where it can catch up from a replica that
/// has more.
fn options<'c, 'a>(
    pool: &'c [Candidate<'a>],
    catch_up_sources: &'c [CatchUpSource<'a>],
    topology: &Topology,
    old_primary: &InstanceKey,
    inputs: &ChoiceInputs,
) -> Vec<PromotionOption<'c, 'a>> {
    // Catching up from a replica that is itself behind gains nothing, and equal ones count once.
    let mut tops: Vec<&GtidSet> = Vec::new();
    for catch_up_source in catch_up_sources {
        if !catch_up_sources
            .iter()
            .any(|other| is_ahead(other.position, catch_up_source.position))
            && !tops.iter().any(|top| top.covers(catch_up_source.position))
        {
            tops.push(catch_up_source.position);
        }
    }
    let mut options = Vec::new();
    for candidate in pool {
        let as_it_is = PromotionOption {
            candidate,
            catch_up_source: None,
            position: candidate.position.clone(),
        };
        // What the preferred one holds beyond the others, as a co-primary may, is no reason to lose what they hold.
        let is_wanted = inputs.prefers(&candidate.instance.key);
        let gains =
            |top: &&&GtidSet| is_ahead(top, candidate.position) || (is_wanted && !candidate.position.covers(top));
        let before = options.len();
        for top in tops.iter().filter(gains) {
            if !candidate.is_last_resort
                && let Some(catch_up_source) =
                    catch_up_source_for(catch_up_sources, candidate, top, topology, old_primary, inputs)
            {
                options.push(PromotionOption {
                    candidate,
                    catch_up_source: Some(catch_up_source),
                    position: candidate.position.union(top),
                });
            }
        }
        if options.len() == before {
            options.push(as_it_is);
        }
    }
    options
}

/// Maximal by position, then first by rank. Where several maximal positions are incomparable, the largest one: the
/// loss policy decides afterwards whether it may be taken.
fn best<'b, 'c, 'a>(
    options: &'b [PromotionOption<'c, 'a>],
    ranking: &Ranking<'a>,
) -> Option<&'b PromotionOption<'c, 'a>> {
    let maximal: Vec<&PromotionOption<'c, 'a>> = options
        .iter()
        .filter(|option| !options.iter().any(|other| is_ahead(&other.position, &option.position)))
        .collect();
    let by_rank = |option: &&&PromotionOption<'c, 'a>| ranking.rank(option);
    let are_equal = |left: &PromotionOption<'_, '_>, right: &PromotionOption<'_, '_>| {
        left.position.covers(&right.position) && right.position.covers(&left.position)
    };
    let largest = maximal.iter().map(|option| option.position.transaction_count()).max()?;
    let first = maximal
        .iter()
        .filter(|option| option.position.transaction_count() == largest)
        .min_by_key(by_rank)?;
    maximal
        .iter()
        .filter(|option| are_equal(option, first))
        .min_by_key(by_rank)
        .copied()
}

/// Whether one has all that the other has and more.
fn is_ahead(one: &GtidSet, other: &GtidSet) -> bool {
    one.covers(other) && !other.covers(one)
}

/// Refuses the candidates that were not chosen, each once, for the best of its options.
fn refuse_the_others<'a>(
    options: &[PromotionOption<'_, 'a>],
    best: &PromotionOption<'_, 'a>,
    received_transactions: &ReceivedTransactions,
    ranking: &Ranking<'a>,
    report: &mut PlanReport,
) {
    let mut seen = BTreeSet::from([&best.candidate.instance.key]);
    for option in options {
        let candidate = option.candidate;
        if !seen.insert(&candidate.instance.key) {
            continue;
        }
        let lacks = received_transactions.missing(&best.position, candidate.position);
        let has_more = received_transactions
            .missing(candidate.position, &best.position)
            .is_some();
        let reason = match lacks {
            Some(lacks) if has_more => RefusalReason::Incomparable(excerpt(&lacks)),
            Some(lacks) => RefusalReason::Behind(excerpt(&lacks)),
            None => RefusalReason::RankedLower(ranking.why_lower(option, best)),
        };
        report.refused.push(Refusal::of(candidate.instance, reason));
    }
}

/// The direct replicas of the old primary, and those that were moved: first those that will follow the successor,
/// then those that cannot.
fn followers(
    topology: &Topology,
    old_primary: &InstanceKey,
    best: &PromotionOption<'_, '_>,
    received_transactions: &ReceivedTransactions,
    inputs: &ChoiceInputs,
) -> (BTreeSet<InstanceKey>, Vec<Refusal>) {
    let mut followers = BTreeSet::new();
    let mut lost = Vec::new();
    for replica in topology
        .instances
        .values()
        .filter(|replica| topology.source_of(replica) == Some(old_primary) || inputs.moved.contains(&replica.key))
        .filter(|replica| replica.key != *old_primary && replica.key != best.candidate.instance.key)
    {
        let twin = twin_of(topology, replica).map(|(twin, why)| {
            RefusalReason::Unknown(format!(
                "{} has the same identity and is another server ({why})",
                twin.key
            ))
        });
        match twin.or_else(|| obstacle(replica, best, received_transactions)) {
            None => {
                followers.insert(replica.key.clone());
            }
            Some(reason) => lost.push(Refusal::of(replica, reason)),
        }
    }
    (followers, lost)
}

/// Why a replica cannot follow the successor.
fn obstacle(
    replica: &Instance,
    best: &PromotionOption<'_, '_>,
    received_transactions: &ReceivedTransactions,
) -> Option<RefusalReason> {
    let Some(facts) = replica.valid_facts() else {
        return Some(RefusalReason::Unreachable(why_unreachable(replica)));
    };
    if facts.is_binlog_server() {
        return Some(RefusalReason::BinlogServer);
    }
    let source = best.candidate.facts;
    let is_mariadb = facts.version.flavour.is_mariadb();
    if !is_mariadb && !matches!(facts.gtid_mode.as_str(), "ON" | "ON_PERMISSIVE") {
        return Some(RefusalReason::NoGtid);
    }
    let is_older = (facts.version.major, facts.version.minor) < (source.version.major, source.version.minor);
    if is_mariadb != source.version.flavour.is_mariadb() || is_older {
        return Some(RefusalReason::Version(format!(
            "{}, and the successor runs {}",
            facts.version, source.version
        )));
    }
    if let Some(ahead) = received_transactions
        .get(&replica.key)
        .and_then(|holding| received_transactions.missing(&holding.position, &best.position))
    {
        return Some(RefusalReason::Errant(format!(
            "{} (received from the old primary, and the successor lacks them)",
            excerpt(&ahead)
        )));
    }
    purged(source, facts).map(|set| RefusalReason::Purged(excerpt(&set)))
}
