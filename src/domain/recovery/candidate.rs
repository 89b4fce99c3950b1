//! Who may be promoted, and who is.
//!
//! In order: who is eligible; of these, who holds a maximal position ([`super::position`]); of these, who ranks first (`Rank`).
//! Everybody else is refused with a reason. What the chosen one is known to lack falls under the loss policy.
//!
//! Two reasons give way when there is nobody better: a delayed replica is taken when it alone holds something (§4.4 of the design),
//! and one with errant transactions when no other one can be promoted at all: an outage until a person comes is worse than a stray
//! transaction that all others then receive too.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::gtid::GtidSet;
use crate::domain::instance::{Instance, InstanceFacts, ThreadState};
use crate::domain::intent::PromotionRule;
use crate::domain::key::InstanceKey;
use crate::domain::policy::{LossPolicy, Policy};
use crate::domain::time::Wall;
use crate::domain::topology::Topology;

use super::eligibility::{judge, why_unreachable};
use super::plan::{PlanReport, Refusal, RefusalReason};
use super::position::Holdings;

/// Longest GTID set printed in a reason, characters: a set may be megabytes long, a reason is read by people.
const EXCERPT: usize = 200;

/// Order among those that hold a maximal position: lower is better, the order of the fields is the policy.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank<'a> {
    /// Not in the failed primary's data centre.
    elsewhere: bool,
    /// As asked for.
    rule: PromotionRule,
    /// Lower first: a newer server can replicate from an older one, not the other way round.
    version: (u16, u16, u16),
    /// STATEMENT, MIXED, ROW: a replica that logs rows cannot follow one that logs statements only in the other order.
    format: FormatRank,
    /// Its applying thread must be started first.
    applier_stopped: bool,
    /// Not a direct replica of the primary: more has to be moved.
    indirect: bool,
    /// So that ties are broken alike everywhere.
    key: &'a InstanceKey,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum FormatRank {
    Statement,
    Mixed,
    Row,
    Unknown,
}

/// Who is promoted and what follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Who.
    pub successor: InstanceKey,
    /// What it has received, without errant transactions.
    pub position: GtidSet,
    /// Direct replicas of the victim that will follow it.
    pub followers: BTreeSet<InstanceKey>,
    /// Direct replicas of the victim that will not.
    pub lost_replicas: Vec<Refusal>,
    /// What the victim is known to have had and the successor lacks.
    pub lost: Option<GtidSet>,
}

/// A replica that may be promoted.
struct Candidate<'a> {
    instance: &'a Instance,
    facts: &'a InstanceFacts,
    position: &'a GtidSet,
}

/// Chooses the successor of `victim` among all its descendants, with the reason against every other one.
///
/// `excluded` are servers that are no candidates for a reason of the moment (not frozen, could not apply); what they hold still counts
/// as known. The choice is a pure function: the same arguments give the same answer on every member.
pub fn choose(
    topology: &Topology,
    victim: &InstanceKey,
    policy: &Policy,
    excluded: &BTreeMap<InstanceKey, RefusalReason>,
    now: Wall,
) -> (Option<Choice>, PlanReport) {
    let victim = topology.resolve(victim);
    let holdings = Holdings::below(topology, victim);
    let descendants = topology.descendants_of(victim);
    let mut report = PlanReport::default();
    if descendants.is_empty() {
        report.no_plan = Some(format!("{victim} has no replicas"));
        return (None, report);
    }
    let mut sound = Vec::new();
    let mut delayed = Vec::new();
    let mut errant = Vec::new();
    for instance in descendants {
        let judged = match excluded.get(&instance.key) {
            Some(reason) => Err(reason.clone()),
            None => judge(topology, victim, instance, policy),
        };
        let (facts, holding) = match (judged, holdings.get(&instance.key)) {
            (Ok(facts), Some(holding)) => (facts, holding),
            (Ok(_), None) => {
                report
                    .refused
                    .push(refusal(instance, RefusalReason::Unknown("never seen".to_owned())));
                continue;
            }
            (Err(reason), _) => {
                report.refused.push(refusal(instance, reason));
                continue;
            }
        };
        let candidate = Candidate {
            instance,
            facts,
            position: &holding.position,
        };
        let delay = facts.managed_channel().map_or(0, |channel| channel.delay_seconds);
        match &holding.errant {
            Some(set) => errant.push((candidate, RefusalReason::Errant(excerpt(set)))),
            None if delay > 0 => delayed.push((candidate, RefusalReason::Delayed(delay))),
            None => sound.push(candidate),
        }
    }
    let pool = pool(sound, delayed, errant, &mut report);
    let Some(best) = best(&pool, topology, victim, policy) else {
        report.no_plan = Some("no replica can be promoted".to_owned());
        return (None, report);
    };
    refuse_the_others(&pool, best, &holdings, topology, victim, policy, &mut report);
    report.refused.sort_by(|left, right| left.instance.cmp(&right.instance));
    let lost = holdings.lacking(best.position);
    if let Some(lost) = &lost
        && let Err(why) = accept_loss(topology, victim, policy, lost, now, &mut report)
    {
        report.no_plan = Some(why);
        return (None, report);
    }
    let (followers, lost_replicas) = followers(topology, victim, best, &holdings);
    let successor = best.instance.key.clone();
    report.successor = Some(successor.clone());
    (
        Some(Choice {
            successor,
            position: best.position.clone(),
            followers,
            lost_replicas,
            lost,
        }),
        report,
    )
}

/// Those among whom is chosen; the others of these lists are refused.
fn pool<'a>(
    sound: Vec<Candidate<'a>>,
    delayed: Vec<(Candidate<'a>, RefusalReason)>,
    errant: Vec<(Candidate<'a>, RefusalReason)>,
    report: &mut PlanReport,
) -> Vec<Candidate<'a>> {
    let mut pool = sound;
    let known: Vec<&GtidSet> = pool.iter().map(|candidate| candidate.position).collect();
    let mut taken = Vec::new();
    for (candidate, reason) in delayed {
        if known.iter().any(|position| position.covers(candidate.position)) {
            report.refused.push(refusal(candidate.instance, reason));
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
                "{} has {reason}, and no other one can be promoted",
                candidate.instance.key
            ));
            pool.push(candidate);
        } else {
            report.refused.push(refusal(candidate.instance, reason));
        }
    }
    pool
}

/// Maximal by position, then first by rank. Where several maximal positions are incomparable, the largest one: the loss policy
/// decides afterwards whether it may be taken.
fn best<'a, 'b>(
    pool: &'b [Candidate<'a>],
    topology: &Topology,
    victim: &InstanceKey,
    policy: &Policy,
) -> Option<&'b Candidate<'a>> {
    let maximal: Vec<&Candidate<'a>> = pool
        .iter()
        .filter(|candidate| !pool.iter().any(|other| is_ahead(other, candidate)))
        .collect();
    let by_rank = |candidate: &&&Candidate<'a>| rank(candidate, topology, victim, policy);
    let are_equal = |left: &Candidate<'a>, right: &Candidate<'a>| {
        left.position.covers(right.position) && right.position.covers(left.position)
    };
    let largest = maximal
        .iter()
        .map(|candidate| candidate.position.transaction_count())
        .max()?;
    let first = maximal
        .iter()
        .filter(|candidate| candidate.position.transaction_count() == largest)
        .min_by_key(by_rank)?;
    maximal
        .iter()
        .filter(|candidate| are_equal(candidate, first))
        .min_by_key(by_rank)
        .copied()
}

/// Whether one has all that the other has and more.
fn is_ahead(one: &Candidate<'_>, other: &Candidate<'_>) -> bool {
    one.position.covers(other.position) && !other.position.covers(one.position)
}

fn rank<'a>(candidate: &Candidate<'a>, topology: &Topology, victim: &InstanceKey, policy: &Policy) -> Rank<'a> {
    let facts = candidate.facts;
    let home = topology
        .get(victim)
        .and_then(|instance| instance.facts.as_ref())
        .map_or("", |facts| facts.data_center.as_str());
    Rank {
        elsewhere: !home.is_empty() && facts.data_center != home,
        rule: policy
            .promotion_rules
            .get(&candidate.instance.key)
            .copied()
            .unwrap_or_default(),
        version: (facts.version.major, facts.version.minor, facts.version.patch),
        format: match facts.binlog_format.as_str() {
            "STATEMENT" => FormatRank::Statement,
            "MIXED" => FormatRank::Mixed,
            "ROW" => FormatRank::Row,
            _ => FormatRank::Unknown,
        },
        applier_stopped: facts
            .managed_channel()
            .is_some_and(|channel| channel.sql == ThreadState::Stopped),
        indirect: topology.source_of(candidate.instance) != Some(victim),
        key: &candidate.instance.key,
    }
}

/// The first field in which a rank is worse.
fn why_lower(lower: &Rank<'_>, best: &Rank<'_>) -> String {
    let best_key = best.key;
    if lower.elsewhere != best.elsewhere {
        format!("{best_key} is in the failed primary's data centre")
    } else if lower.rule != best.rule {
        format!(
            "promotion rule {}, {best_key} has {}",
            lower.rule.as_str(),
            best.rule.as_str()
        )
    } else if lower.version != best.version {
        format!("{best_key} runs an older version, which all others can replicate from")
    } else if lower.format != best.format {
        format!("{best_key} has the smaller binlog_format")
    } else if lower.applier_stopped != best.applier_stopped {
        format!("its applying thread is stopped, {best_key}'s is not")
    } else if lower.indirect != best.indirect {
        format!("{best_key} is a direct replica of the failed primary")
    } else {
        format!("{best_key} comes first by address")
    }
}

fn refuse_the_others(
    pool: &[Candidate<'_>],
    best: &Candidate<'_>,
    holdings: &Holdings,
    topology: &Topology,
    victim: &InstanceKey,
    policy: &Policy,
    report: &mut PlanReport,
) {
    let best_rank = rank(best, topology, victim, policy);
    for candidate in pool
        .iter()
        .filter(|candidate| candidate.instance.key != best.instance.key)
    {
        let lacks = holdings.missing(best.position, candidate.position);
        let has_more = holdings.missing(candidate.position, best.position).is_some();
        let reason = match lacks {
            Some(lacks) if has_more => RefusalReason::Incomparable(excerpt(&lacks)),
            Some(lacks) => RefusalReason::Behind(excerpt(&lacks)),
            None => RefusalReason::RankedLower(why_lower(&rank(candidate, topology, victim, policy), &best_rank)),
        };
        report.refused.push(refusal(candidate.instance, reason));
    }
}

/// Whether what would be lost may be lost.
fn accept_loss(
    topology: &Topology,
    victim: &InstanceKey,
    policy: &Policy,
    lost: &GtidSet,
    now: Wall,
    report: &mut PlanReport,
) -> Result<(), String> {
    let told = excerpt(lost);
    match policy.loss {
        LossPolicy::Refuse => Err(format!("transactions would be lost, and lossPolicy is Refuse: {told}")),
        LossPolicy::Allow => {
            report
                .remarks
                .push(format!("lossPolicy Allow: lost are at least {told}"));
            Ok(())
        }
        LossPolicy::AllowAfterTimeout => {
            // A primary that was never seen has been away for longer than this member lives.
            let away = topology
                .get(victim)
                .and_then(|instance| instance.last_seen)
                .map(|seen| now.millis_since(seen));
            if away.is_some_and(|away| away < policy.loss_timeout_millis) {
                let seconds = policy.loss_timeout_millis / 1000;
                return Err(format!(
                    "transactions would be lost, and the old primary has {seconds} s to come back (lossTimeout): {told}"
                ));
            }
            report.remarks.push(format!(
                "lossPolicy AllowAfterTimeout, and the time is over: lost are at least {told}"
            ));
            Ok(())
        }
    }
}

/// The direct replicas of the victim, parted into those that will follow the successor and those that cannot.
fn followers(
    topology: &Topology,
    victim: &InstanceKey,
    best: &Candidate<'_>,
    holdings: &Holdings,
) -> (BTreeSet<InstanceKey>, Vec<Refusal>) {
    let mut followers = BTreeSet::new();
    let mut lost = Vec::new();
    for replica in topology
        .replicas_of(victim)
        .filter(|replica| replica.key != best.instance.key)
    {
        match obstacle(replica, best, holdings) {
            None => {
                followers.insert(replica.key.clone());
            }
            Some(reason) => lost.push(refusal(replica, reason)),
        }
    }
    (followers, lost)
}

/// Why a replica cannot follow the successor.
fn obstacle(replica: &Instance, best: &Candidate<'_>, holdings: &Holdings) -> Option<RefusalReason> {
    let Some(facts) = replica.valid_facts() else {
        return Some(RefusalReason::Unreachable(why_unreachable(replica)));
    };
    let source = best.facts;
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
    if let Some(ahead) = holdings
        .get(&replica.key)
        .and_then(|holding| holdings.missing(&holding.position, best.position))
    {
        return Some(RefusalReason::Errant(format!(
            "{} (received from the old primary, and the successor lacks them)",
            excerpt(&ahead)
        )));
    }
    purged(source, facts).map(|set| RefusalReason::Purged(excerpt(&set)))
}

/// What the source has purged and the replica has not executed. Received is not enough: pointing a replica at another source drops
/// its relay log.
pub(super) fn purged(source: &InstanceFacts, replica: &InstanceFacts) -> Option<GtidSet> {
    let needed = source.purged.subtract(&replica.executed);
    (!needed.is_empty()).then_some(needed)
}

fn refusal(instance: &Instance, reason: RefusalReason) -> Refusal {
    Refusal {
        instance: instance.key.clone(),
        reason,
    }
}

/// A GTID set cut to what a person reads.
pub(crate) fn excerpt(set: &GtidSet) -> String {
    let text = set.to_string();
    if text.chars().count() <= EXCERPT {
        return text;
    }
    let cut: String = text.chars().take(EXCERPT).collect();
    format!("{cut}…")
}
