//! Who may be promoted, and who is.
//!
//! In order: who is eligible; what each of these would hold, as it is or fed first (`catch_up_from`); of these ways the ones that
//! lead to a maximal position ([`super::position`]); of these, which ranks first (`rank`).
//! Everybody else is refused with a reason. What the chosen one is known to lack then falls under the loss policy.
//!
//! Two reasons give way when there is nobody better: a delayed replica is taken when it alone holds something (§4.4 of the design),
//! and one with errant transactions when no other one can be promoted at all: an outage until a person comes is worse than a stray
//! transaction that all others then receive too.

use std::collections::{BTreeMap, BTreeSet};

use crate::domain::analysis::identity::twin_of;
use crate::domain::gtid::GtidSet;
use crate::domain::instance::{Instance, InstanceFacts};
use crate::domain::key::InstanceKey;
use crate::domain::policy::Policy;
use crate::domain::time::WallTime;
use crate::domain::topology::Topology;

use super::catch_up::{CatchUpSource, catch_up_source_for, catch_up_sources};
use super::eligibility::{judge, why_unreachable};
use super::loss;
use super::plan::{PlanReport, Refusal, RefusalReason};
use super::position::ReceivedTransactions;
use super::rank::{Candidate, PromotionOption, Ranking};

/// Longest GTID set printed in a reason, characters: a set may be megabytes long, a reason is read by people.
const EXCERPT: usize = 200;

/// What a choice takes into account beyond view and policy.
#[derive(Clone, Debug, Default)]
pub struct ChoiceInputs {
    /// Servers that are no candidates for a reason of the moment (not frozen, could not apply); what they hold still counts as known.
    pub excluded: BTreeMap<InstanceKey, RefusalReason>,
    /// Pairs of a successor and a feeder with which feeding failed.
    pub not_caught_up: BTreeSet<(InstanceKey, InstanceKey)>,
    /// Replicas that this recovery has pointed at another one; they need a new source as the old primary's own do.
    pub moved: BTreeSet<InstanceKey>,
    /// Replicas that delayed on purpose when this recovery was planned, by so many seconds: it may have lifted their delay since.
    pub delays: BTreeMap<InstanceKey, u64>,
    /// What the members remember of the old primary's transactions.
    pub remembered: Option<GtidSet>,
    /// Who comes before all others that would hold as much, fed first where that is needed.
    pub wanted: Option<Wanted>,
    /// Now.
    pub now: WallTime,
}

/// Somebody who is promoted before all others that would hold as much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Who.
    pub instance: InstanceKey,
    /// Why that one.
    pub why: WantedAs,
}

/// Why somebody comes before all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WantedAs {
    /// A person named it.
    Named,
    /// The failed primary and it replicate from each other.
    CoPrimary,
}

impl std::fmt::Display for WantedAs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Named => "was asked for",
            Self::CoPrimary => "is the other co-primary",
        })
    }
}

impl ChoiceInputs {
    /// Nothing but the time.
    pub fn at(now: WallTime) -> Self {
        Self { now, ..Self::default() }
    }

    /// Whether this one comes before all others.
    pub(super) fn wants(&self, key: &InstanceKey) -> bool {
        self.wanted.as_ref().is_some_and(|wanted| wanted.instance == *key)
    }
}

/// Who is promoted and what follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Who.
    pub successor: InstanceKey,
    /// From whom it must be fed first.
    pub catch_up_source: Option<InstanceKey>,
    /// What it has received or will be fed, without errant transactions.
    pub position: GtidSet,
    /// Direct replicas of the old primary that will follow it.
    pub followers: BTreeSet<InstanceKey>,
    /// Direct replicas of the old primary that will not.
    pub lost_replicas: Vec<Refusal>,
    /// What the old primary is known to have had and the successor lacks.
    pub lost: Option<GtidSet>,
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
    if let Some(lost) = &lost
        && let Err(why) = loss::accept(topology, old_primary, policy, lost, inputs.now, &mut report)
    {
        report.no_plan = Some(why);
        return (None, report);
    }
    let successor = best.candidate.instance.key.clone();
    let catch_up_source = best
        .catch_up_source
        .map(|catch_up_source| catch_up_source.instance.key.clone());
    if let Some(catch_up_source) = &catch_up_source {
        report.remarks.push(format!(
            "{successor} is fed first from {catch_up_source}, which received more"
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
    };
    (Some(choice), report)
}

/// Those among whom is chosen; the others are refused.
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
            None => judge(topology, old_primary, instance, policy),
        };
        let (facts, holding) = match (judged, received_transactions.get(&instance.key)) {
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

/// Adds those that are taken when there is nobody better; the others of these lists are refused.
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
}

/// What each candidate can hold when it is promoted: what it has, when nobody who could feed it has more; otherwise what it is fed.
fn options<'c, 'a>(
    pool: &'c [Candidate<'a>],
    catch_up_sources: &'c [CatchUpSource<'a>],
    topology: &Topology,
    old_primary: &InstanceKey,
    inputs: &ChoiceInputs,
) -> Vec<PromotionOption<'c, 'a>> {
    // Feeding from one that is itself behind gains nothing, and equal ones count once.
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
        // What the wanted one holds beyond the others, as a co-primary may, is no reason to lose what they hold.
        let is_wanted = inputs.wants(&candidate.instance.key);
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

/// Maximal by position, then first by rank. Where several maximal positions are incomparable, the largest one: the loss policy
/// decides afterwards whether it may be taken.
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

/// A candidate with several bids is refused once, for the best of them.
fn refuse_the_others<'a>(
    options: &[PromotionOption<'_, 'a>],
    best: &PromotionOption<'_, 'a>,
    received_transactions: &ReceivedTransactions,
    ranking: &Ranking<'a>,
    report: &mut PlanReport,
) {
    let mut told = BTreeSet::from([&best.candidate.instance.key]);
    for option in options {
        let candidate = option.candidate;
        if !told.insert(&candidate.instance.key) {
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
        report.refused.push(refusal(candidate.instance, reason));
    }
}

/// The direct replicas of the old primary, and those that were moved, parted into those that will follow the successor and those that
/// cannot.
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
            Some(reason) => lost.push(refusal(replica, reason)),
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
