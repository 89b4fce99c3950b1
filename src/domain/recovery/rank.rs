//! Which of several servers that would hold as much is promoted: a struct that derives its order.
//!
//! Selection by GTID and by position use the same order.

use crate::domain::instance::{Instance, InstanceFacts, ThreadState};
use crate::domain::intent::PromotionRule;
use crate::domain::key::InstanceKey;
use crate::domain::policy::{Policy, TerminationStage};
use crate::domain::recovery::choice_inputs::ChoiceInputs;
use crate::domain::recovery::compatibility::{FormatRank, can_follow};
use crate::domain::recovery::promotion_option::{Candidate, PromotionOption};
use crate::domain::topology::Topology;

/// The order among servers that would hold a maximal position: lower is better, and the order of the fields is the
/// policy. The fields before `caught_up` are worth the time that it takes a server to catch up.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(clippy::struct_excessive_bools, reason = "each is one field of the order")]
pub(super) struct Rank<'a> {
    /// Another server is preferred, if that one can hold as much.
    not_preferred: bool,
    /// Delayed, or with errant transactions.
    last_resort: bool,
    /// A backup holds its lock: the applier waits, or the server refuses to stop it until the backup has ended. Unknown
    /// counts as no.
    backup_lock: bool,
    /// Its pod, or its node, is being terminated, and the cluster would need another primary soon.
    leaving: Option<TerminationStage>,
    /// It would have to catch up first, and catching up failed before in this recovery.
    caught_up_again: bool,
    /// More than half of the replicas could not replicate from it, by version or binlog format.
    strands_most: bool,
    /// Not in the failed primary's data centre.
    other_data_center: bool,
    /// Not in its region.
    other_region: bool,
    /// Not in its environment.
    other_environment: bool,
    /// Its promotion rule.
    rule: PromotionRule,
    /// It would have to catch up first.
    caught_up: bool,
    /// Lower first: a newer server can replicate from an older one, not the other way round.
    version: (u16, u16, u16),
    /// STATEMENT, MIXED, ROW: a replica that logs rows cannot follow one that logs statements only in the other order.
    format: FormatRank,
    /// Its applier thread must be started first.
    applier_stopped: bool,
    /// How much of what it received it still has to apply before it opens, as a power of ten: see [`backlog`].
    backlog: u32,
    /// Not a direct replica of the primary: more has to be moved.
    indirect: bool,
    /// Every member breaks ties alike.
    key: &'a InstanceKey,
}

/// What ranks depend on beyond the option.
pub(super) struct Ranking<'a> {
    topology: &'a Topology,
    old_primary: &'a InstanceKey,
    /// The servers that would have to replicate from the one that is promoted.
    replicas: Vec<&'a Instance>,
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
        let replicas = topology.replicas_of(old_primary).collect();
        Self::among(topology, old_primary, replicas, policy, inputs)
    }

    /// The same where other servers than the direct replicas of the old primary have to follow.
    pub(super) fn among(
        topology: &'a Topology,
        old_primary: &'a InstanceKey,
        replicas: Vec<&'a Instance>,
        policy: &'a Policy,
        inputs: &'a ChoiceInputs,
    ) -> Self {
        let home = topology.get(old_primary).and_then(|instance| instance.facts.as_ref());
        Self {
            topology,
            old_primary,
            replicas,
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
            not_preferred: self.inputs.preferred.is_some() && !self.inputs.prefers(&candidate.instance.key),
            last_resort: candidate.is_last_resort,
            backup_lock: facts.has_backup_lock(),
            leaving: self.policy.terminating.get(&candidate.instance.key).copied(),
            caught_up_again: caught_up && !self.inputs.not_caught_up.is_empty(),
            strands_most: self.strands_most(candidate),
            other_data_center: is_away(|facts| &facts.data_center),
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

    /// Why an option that would hold as much as the best one comes after it.
    pub(super) fn why_lower(&self, option: &PromotionOption<'_, 'a>, best: &PromotionOption<'_, 'a>) -> String {
        let (rank, best) = (self.rank(option), self.rank(best));
        match &self.inputs.preferred {
            Some(preferred) if rank.not_preferred != best.not_preferred => format!("{} {}", best.key, preferred.why),
            Some(_) | None => rank.why_lower(&best),
        }
    }

    /// Whether more than half of the failed primary's replicas could not replicate from this one.
    fn strands_most(&self, candidate: &Candidate<'_>) -> bool {
        let others: Vec<&InstanceFacts> = self
            .replicas
            .iter()
            .filter(|replica| replica.key != candidate.instance.key)
            .filter_map(|replica| replica.valid_facts())
            .collect();
        let stranded = others
            .iter()
            .filter(|other| !can_follow(other, candidate.facts))
            .count();
        stranded * 2 > others.len() + 1
    }
}

/// How much is left to apply, as a power of ten: the outage lasts until what was received is applied. 0 is fewer than
/// a hundred transactions, because the choice should not change with each one that is applied meanwhile; 1 is
/// hundreds, 2 thousands, and so on.
fn backlog(candidate: &Candidate<'_>) -> u32 {
    let waiting = candidate.position.missing_from(&candidate.facts.executed);
    (waiting.transaction_count() / 100)
        .checked_ilog10()
        .map_or(0, |digits| digits + 1)
}

impl Rank<'_> {
    /// The first field of the servers themselves in which this rank is worse, as text.
    fn why_lower(&self, best: &Rank<'_>) -> String {
        let best_key = best.key;
        if self.last_resort != best.last_resort {
            format!("{best_key} is not delayed and has no errant transactions")
        } else if self.backup_lock != best.backup_lock {
            format!("a backup holds its lock, none holds that of {best_key}")
        } else if self.leaving != best.leaving {
            format!("its pod or node is terminated sooner than that of {best_key}")
        } else if self.caught_up_again != best.caught_up_again {
            "it would have to catch up first, and that failed before".to_owned()
        } else if self.strands_most != best.strands_most {
            "most other replicas could not replicate from it (version or binlog_format)".to_owned()
        } else if self.other_data_center != best.other_data_center {
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
            format!("{best_key} does not have to catch up first")
        } else if self.version != best.version {
            format!("{best_key} runs an older version, from which all others can replicate")
        } else if self.format != best.format {
            format!("more servers can replicate from the binlog_format of {best_key}")
        } else if self.applier_stopped != best.applier_stopped {
            format!("its applier thread is stopped, that of {best_key} is not")
        } else if self.backlog != best.backlog {
            format!("{best_key} has less left to apply")
        } else if self.indirect != best.indirect {
            format!("{best_key} is a direct replica of the failed primary")
        } else {
            format!("{best_key} comes first by address")
        }
    }
}
