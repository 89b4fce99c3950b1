//! Which of several servers that would hold the same after a promotion is promoted: a struct that derives its order.

use crate::domain::instance::{Instance, InstanceFacts, ThreadState};
use crate::domain::intent::PromotionRule;
use crate::domain::key::InstanceKey;
use crate::domain::policy::{Leaving, Policy};
use crate::domain::topology::Topology;

use super::candidate::ChoiceInputs;
use super::catch_up::CatchUpSource;

/// A replica that may be promoted.
pub(super) struct Candidate<'a> {
    pub(super) instance: &'a Instance,
    pub(super) facts: &'a InstanceFacts,
    pub(super) position: &'a crate::domain::gtid::GtidSet,
    /// Only when there is nobody better: delayed, or with errant transactions.
    pub(super) is_last_resort: bool,
}

/// A way to a primary: a candidate as it is, or fed first.
pub(super) struct PromotionOption<'c, 'a> {
    pub(super) candidate: &'c Candidate<'a>,
    pub(super) catch_up_source: Option<&'c CatchUpSource<'a>>,
    /// What it would hold.
    pub(super) position: crate::domain::gtid::GtidSet,
}

/// Order among those that would hold a maximal position: lower is better, the order of the fields is the policy. What stands before
/// `caught_up` is worth the time that it takes to feed a server.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(clippy::struct_excessive_bools, reason = "each is one field of the order")]
pub(super) struct Rank<'a> {
    /// Another one has to be promoted if that one can hold as much.
    not_wanted: bool,
    /// Delayed, or with errant transactions.
    last_resort: bool,
    /// Its pod, or its node, is about to go, and the cluster would need another primary soon.
    leaving: Option<Leaving>,
    /// A feeding failed already, and this one needs one.
    caught_up_again: bool,
    /// More than half of the replicas could not replicate from it, by version or binlog format.
    strands_most: bool,
    /// Not in the failed primary's data centre.
    elsewhere: bool,
    /// Not in its region.
    other_region: bool,
    /// Not in its environment.
    other_environment: bool,
    /// As asked for.
    rule: PromotionRule,
    /// It must be fed first.
    caught_up: bool,
    /// Lower first: a newer server can replicate from an older one, not the other way round.
    version: (u16, u16, u16),
    /// STATEMENT, MIXED, ROW: a replica that logs rows cannot follow one that logs statements only in the other order.
    format: FormatRank,
    /// Its applying thread must be started first.
    applier_stopped: bool,
    /// How much of what it received it still has to apply before it opens, as a power of ten: see [`backlog`].
    backlog: u32,
    /// Not a direct replica of the primary: more has to be moved.
    indirect: bool,
    /// So that ties are broken alike everywhere.
    key: &'a InstanceKey,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum FormatRank {
    Statement,
    Mixed,
    Row,
    Unknown,
}

impl FormatRank {
    pub(super) fn of(facts: &InstanceFacts) -> Self {
        match facts.binlog_format.as_str() {
            "STATEMENT" => Self::Statement,
            "MIXED" => Self::Mixed,
            "ROW" => Self::Row,
            _ => Self::Unknown,
        }
    }

    /// Whether a server that logs in this format can replicate from one that logs in the other: statements can be logged as rows,
    /// rows not as statements. An unknown format is no obstacle: it is what they replicate with already.
    pub(super) fn can_follow(self, source: Self) -> bool {
        self == Self::Unknown || source == Self::Unknown || self >= source
    }
}

/// What ranks need beyond the bid.
pub(super) struct Ranking<'a> {
    topology: &'a Topology,
    old_primary: &'a InstanceKey,
    home: Option<&'a InstanceFacts>,
    policy: &'a Policy,
    inputs: &'a ChoiceInputs,
}

impl<'a> Ranking<'a> {
    pub(super) fn new(
        topology: &'a Topology,
        old_primary: &'a InstanceKey,
        policy: &'a Policy,
        inputs: &'a ChoiceInputs,
    ) -> Self {
        let home = topology.get(old_primary).and_then(|instance| instance.facts.as_ref());
        Self {
            topology,
            old_primary,
            home,
            policy,
            inputs,
        }
    }

    pub(super) fn rank(&self, option: &PromotionOption<'_, 'a>) -> Rank<'a> {
        let (candidate, caught_up) = (option.candidate, option.catch_up_source.is_some());
        let facts = candidate.facts;
        let is_away = |place: fn(&InstanceFacts) -> &str| {
            let home = self.home.map_or("", place);
            !home.is_empty() && place(facts) != home
        };
        Rank {
            not_wanted: self.inputs.wanted.is_some() && !self.inputs.wants(&candidate.instance.key),
            last_resort: candidate.is_last_resort,
            leaving: self.policy.leaving.get(&candidate.instance.key).copied(),
            caught_up_again: caught_up && !self.inputs.not_caught_up.is_empty(),
            strands_most: self.strands_most(candidate),
            elsewhere: is_away(|facts| &facts.data_center),
            other_region: is_away(|facts| &facts.region),
            other_environment: is_away(|facts| &facts.environment),
            rule: self
                .policy
                .promotion_rules
                .get(&candidate.instance.key)
                .copied()
                .unwrap_or_default(),
            caught_up,
            version: (facts.version.major, facts.version.minor, facts.version.patch),
            format: FormatRank::of(facts),
            applier_stopped: facts
                .managed_channel()
                .is_some_and(|channel| channel.sql == ThreadState::Stopped),
            backlog: backlog(candidate),
            indirect: self.topology.source_of(candidate.instance) != Some(self.old_primary),
            key: &candidate.instance.key,
        }
    }

    /// Why a bid that would hold as much as the best one comes after it, in words.
    pub(super) fn why_lower(&self, option: &PromotionOption<'_, 'a>, best: &PromotionOption<'_, 'a>) -> String {
        let (rank, best) = (self.rank(option), self.rank(best));
        match &self.inputs.wanted {
            Some(wanted) if rank.not_wanted != best.not_wanted => format!("{} {}", best.key, wanted.why),
            Some(_) | None => rank.why_lower(&best),
        }
    }

    /// Whether more than half of the failed primary's replicas could not replicate from this one.
    fn strands_most(&self, candidate: &Candidate<'_>) -> bool {
        let others: Vec<&InstanceFacts> = self
            .topology
            .replicas_of(self.old_primary)
            .filter(|replica| replica.key != candidate.instance.key)
            .filter_map(Instance::valid_facts)
            .collect();
        let stranded = others
            .iter()
            .filter(|other| !can_follow(other, candidate.facts))
            .count();
        stranded * 2 > others.len() + 1
    }
}

/// The outage lasts until what was received is applied. Fewer than a hundred transactions are no difference: who is chosen should not
/// change with each that is applied while the choice is made. Then 1 for hundreds, 2 for thousands, and so on.
fn backlog(candidate: &Candidate<'_>) -> u32 {
    let waiting = candidate.position.missing_from(&candidate.facts.executed);
    (waiting.transaction_count() / 100)
        .checked_ilog10()
        .map_or(0, |digits| digits + 1)
}

/// Whether a server understands what another one writes into its binary log.
pub(super) fn can_follow(replica: &InstanceFacts, source: &InstanceFacts) -> bool {
    let release = |facts: &InstanceFacts| (facts.version.major, facts.version.minor);
    replica.version.flavour.is_mariadb() == source.version.flavour.is_mariadb()
        && release(replica) >= release(source)
        && FormatRank::of(replica).can_follow(FormatRank::of(source))
}

impl Rank<'_> {
    /// The first field of the servers themselves in which this rank is worse, in words.
    fn why_lower(&self, best: &Rank<'_>) -> String {
        let best_key = best.key;
        if self.last_resort != best.last_resort {
            format!("{best_key} is neither delayed nor has it errant transactions")
        } else if self.leaving != best.leaving {
            format!("its pod or node is about to go, sooner than that of {best_key}")
        } else if self.caught_up_again != best.caught_up_again {
            "it would have to be fed first, and that failed before".to_owned()
        } else if self.strands_most != best.strands_most {
            "most of the others could not replicate from it (version or binlog_format)".to_owned()
        } else if self.elsewhere != best.elsewhere {
            format!("{best_key} is in the failed primary's data centre")
        } else if self.other_region != best.other_region {
            format!("{best_key} is in the failed primary's region")
        } else if self.other_environment != best.other_environment {
            format!("{best_key} is in the failed primary's environment")
        } else if self.rule != best.rule {
            format!(
                "promotion rule {}, {best_key} has {}",
                self.rule.as_str(),
                best.rule.as_str()
            )
        } else if self.caught_up != best.caught_up {
            format!("{best_key} need not be fed first")
        } else if self.version != best.version {
            format!("{best_key} runs an older version, which all others can replicate from")
        } else if self.format != best.format {
            format!("{best_key} has the smaller binlog_format")
        } else if self.applier_stopped != best.applier_stopped {
            format!("its applying thread is stopped, {best_key}'s is not")
        } else if self.backlog != best.backlog {
            format!("{best_key} has less left to apply of what it received")
        } else if self.indirect != best.indirect {
            format!("{best_key} is a direct replica of the failed primary")
        } else {
            format!("{best_key} comes first by address")
        }
    }
}
