//! Whether what would be lost may be lost, and whether it is known how much that is.
//!
//! Unless the policy is set ([`LossPolicy::Auto`] otherwise), the promise of the primary decides. When its
//! semi-synchronous replication confirms no commit that only the primary has, a promotion that loses one means that
//! the replica that has it is away; the recovery waits for that replica. An asynchronous primary promises nothing,
//! and an outage is worse than a loss.
//!
//! A loss is judged by proof. That no replica is seen to have more proves nothing: the one that has it may be away.
//! Only two things prove what is lost: enough of the replicas that acknowledge are compared (`acknowledgers`),
//! or the old primary was read after it confirmed that it is read-only. Without proof the loss is unknown. Where no
//! loss is allowed, an unknown one is refused like a known one.

use crate::domain::gtid::GtidSet;
use crate::domain::instance::Instance;
use crate::domain::key::InstanceKey;
use crate::domain::policy::{LossPolicy, Policy};
use crate::domain::recovery::acknowledgers::{Promise, Quorum, promise, quorum};
use crate::domain::recovery::choice_inputs::ChoiceInputs;
use crate::domain::recovery::loss_evidence::{LossAcceptance, LossEvidence};
use crate::domain::recovery::plan::PlanReport;
use crate::domain::recovery::refusal::excerpt;
use crate::domain::time::WallTime;
use crate::domain::topology::Topology;

/// The policy about loss that counts for a primary: the given one, or what its last facts call for.
///
/// `MariaDB` counts as asynchronous here: its `gtid_binlog_state` names transactions before they are acknowledged, so
/// what is remembered of it is no proof that a commit was confirmed to a client. A primary with unknown settings counts
/// as one that promised when its replicas acknowledge.
pub fn effective(topology: &Topology, old_primary: &InstanceKey, policy: &Policy) -> LossPolicy {
    if policy.loss != LossPolicy::Auto {
        return policy.loss;
    }
    let is_mariadb = topology
        .get(old_primary)
        .into_iter()
        .chain(topology.replicas_of(old_primary))
        .find_map(|instance| instance.facts.as_ref())
        .is_some_and(|facts| facts.version.flavour.is_mariadb());
    match promise(topology, old_primary) {
        Promise::Given { .. } | Promise::NotSeen if !is_mariadb => LossPolicy::Refuse,
        Promise::Given { .. } | Promise::NotSeen | Promise::None => LossPolicy::Allow,
    }
}

/// What is known about a loss before a rule accepts it.
struct Judgement {
    /// The proof, or why there is none.
    proof: Result<LossEvidence, String>,
    /// Why an opening needs a rule that accepts an unknown loss.
    doubt: Option<String>,
}

/// Whether what is lost with `old_primary` may be lost; `lost` is what is known of it. What is accepted is remarked
/// upon in the report.
///
/// # Errors
/// Why not.
pub(super) fn accept(
    topology: &Topology,
    old_primary: &InstanceKey,
    policy: &Policy,
    lost: Option<&GtidSet>,
    inputs: &ChoiceInputs,
    report: &mut PlanReport,
) -> Result<LossEvidence, String> {
    let judgement = judge(topology, old_primary, policy, lost.is_some(), inputs);
    let known = lost.map(excerpt);
    accept_as(
        topology,
        old_primary,
        policy,
        known.as_deref(),
        judgement,
        inputs.now,
        report,
    )
}

/// [`accept`] where a loss is known and cannot be named as a set: `known` describes it.
pub(super) fn accept_unnamed(
    topology: &Topology,
    old_primary: &InstanceKey,
    policy: &Policy,
    known: Option<&str>,
    inputs: &ChoiceInputs,
    report: &mut PlanReport,
) -> Result<LossEvidence, String> {
    let mut judgement = judge(topology, old_primary, policy, known.is_some(), inputs);
    if let Some(known) = known {
        judgement.proof = Err(known.to_owned());
    }
    accept_as(topology, old_primary, policy, known, judgement, inputs.now, report)
}

/// Why the loss of a primary that fails now would be unknown and refused, whichever server is promoted and whatever it
/// receives until then; `None` when nothing refuses it.
pub fn refused_as_unknown(
    topology: &Topology,
    primary: &InstanceKey,
    policy: &Policy,
    now: WallTime,
) -> Option<String> {
    let judgement = judge(topology, primary, policy, false, &ChoiceInputs::at(now));
    let why = judgement.doubt?;
    if effective(topology, primary, policy) == LossPolicy::Refuse {
        Some(refusal(topology, primary, policy, None, &why))
    } else {
        None
    }
}

/// What proves that nothing is lost if a primary fails now and its replicas receive what is on its way to them.
///
/// # Errors
/// Why nothing proves it.
pub fn outlook(
    topology: &Topology,
    primary: &InstanceKey,
    policy: &Policy,
    now: WallTime,
) -> Result<LossEvidence, String> {
    judge(topology, primary, policy, false, &ChoiceInputs::at(now)).proof
}

fn judge(
    topology: &Topology,
    old_primary: &InstanceKey,
    policy: &Policy,
    is_loss_known: bool,
    inputs: &ChoiceInputs,
) -> Judgement {
    let proved = |evidence: LossEvidence| Judgement {
        proof: Ok(evidence),
        doubt: None,
    };
    let doubted = |why: String| Judgement {
        doubt: Some(why.clone()),
        proof: Err(why),
    };
    if inputs.is_old_primary_read {
        return proved(LossEvidence::OldPrimaryRead);
    }
    if inputs.succeeds_lost_successor {
        // It never was seen open, and its replicas are what the recovery that lost it compared.
        return Judgement {
            proof: Err(format!("{old_primary} may have taken writes after it was chosen")),
            doubt: None,
        };
    }
    let Some(reached) = quorum(topology, old_primary, policy, inputs) else {
        return doubted(format!(
            "{old_primary} was last seen without semi-sync that waits however many replicas are connected (AFTER_SYNC, wait_no_replica): it may have confirmed what no replica received"
        ));
    };
    if !reached.is_reached() {
        return doubted(reached.why_not(old_primary));
    }
    if reached.needed == 0 {
        // Then unknown ones acknowledged what was confirmed.
        return doubted(format!(
            "fewer replicas of {old_primary} are known to acknowledge than its commits wait for"
        ));
    }
    let why = if is_loss_known {
        Some(format!("{old_primary} had what none of its acknowledging replicas has"))
    } else {
        unproved_promise(topology, old_primary, policy, inputs.now)
    };
    let Quorum {
        compared, of, needed, ..
    } = reached;
    match why {
        None => proved(LossEvidence::Acknowledged { compared, of, needed }),
        Some(why) => Judgement {
            proof: Err(why),
            doubt: None,
        },
    }
}

/// Why the promise of a primary may have ended since it was last seen.
fn unproved_promise(topology: &Topology, old_primary: &InstanceKey, policy: &Policy, now: WallTime) -> Option<String> {
    let instance = topology.get(old_primary);
    let last = instance.and_then(|instance| Some((instance.facts.as_ref()?, instance.last_seen?)));
    let Some((facts, seen)) = last.filter(|_| promise(topology, old_primary) != Promise::NotSeen) else {
        return Some(format!("the semi-sync settings of {old_primary} were never seen"));
    };
    if policy.acks_changed_at.is_some_and(|changed| seen <= changed) {
        return Some(format!(
            "{old_primary} was not seen since the acknowledgements that its commits wait for changed"
        ));
    }
    let timeout = facts.semi_sync.timeout_millis;
    (now >= seen.plus_millis(i64::try_from(timeout).unwrap_or(i64::MAX))).then(|| {
        format!("{old_primary} stops waiting for acknowledgements after {timeout} ms, which have passed since it was last seen")
    })
}

/// The text of a refusal: what would be lost, and which rule forbids it.
fn refusal(topology: &Topology, old_primary: &InstanceKey, policy: &Policy, known: Option<&str>, why: &str) -> String {
    let what = match known {
        Some(_) => "transactions would be lost",
        None => "what would be lost is unknown",
    };
    let text = known.unwrap_or(why);
    if policy.loss != LossPolicy::Auto {
        return format!("{what}, and lossPolicy is Refuse: {text}");
    }
    if promise(topology, old_primary) == Promise::NotSeen {
        return format!(
            "{what}, and semi-sync of {old_primary} may have promised that nothing can be (lossPolicy is not set): {text}"
        );
    }
    format!("{what}, and semi-sync of {old_primary} promised that none can be (lossPolicy is not set): {text}")
}

fn accept_as(
    topology: &Topology,
    old_primary: &InstanceKey,
    policy: &Policy,
    known: Option<&str>,
    judgement: Judgement,
    now: WallTime,
    report: &mut PlanReport,
) -> Result<LossEvidence, String> {
    let Judgement { proof, doubt } = judgement;
    let unknown = |accepted: LossAcceptance| match &proof {
        Ok(evidence) => evidence.clone(),
        Err(why) => LossEvidence::Unknown {
            why: why.clone(),
            accepted,
        },
    };
    let doubt = if policy.accepts_unknown_loss { None } else { doubt };
    if known.is_none() && doubt.is_none() {
        return Ok(unknown(if policy.accepts_unknown_loss {
            LossAcceptance::Request
        } else {
            LossAcceptance::Compared
        }));
    }
    let counted = effective(topology, old_primary, policy);
    let told = match (known, &doubt) {
        (Some(known), _) => format!("at least these transactions are lost: {known}"),
        (None, Some(why)) => format!("what is lost is unknown: {why}"),
        (None, None) => String::new(),
    };
    match counted {
        LossPolicy::Refuse => Err(refusal(
            topology,
            old_primary,
            policy,
            known,
            doubt.as_deref().unwrap_or_default(),
        )),
        LossPolicy::Allow | LossPolicy::Auto => {
            let promised = promise(topology, old_primary) != Promise::None;
            if known.is_some() || promised {
                report.remarks.push(format!("lossPolicy Allow: {told}"));
            }
            Ok(unknown(match (policy.loss, promised) {
                _ if policy.accepts_unknown_loss => LossAcceptance::Request,
                (LossPolicy::Auto, false) => LossAcceptance::NoPromise,
                (LossPolicy::Auto | LossPolicy::Allow | LossPolicy::Refuse | LossPolicy::AllowAfterTimeout, _) => {
                    LossAcceptance::Policy
                }
            }))
        }
        LossPolicy::AllowAfterTimeout => {
            // A primary that was never seen has been away for longer than this member lives.
            let away = topology
                .get(old_primary)
                .and_then(|instance: &Instance| instance.last_seen)
                .map(|seen| now.millis_since(seen));
            if away.is_some_and(|away| away < policy.loss_timeout_millis) {
                let seconds = policy.loss_timeout_millis / 1000;
                let what = match known {
                    Some(_) => "transactions would be lost",
                    None => "what would be lost is unknown",
                };
                let text = known.map_or_else(|| doubt.clone().unwrap_or_default(), ToOwned::to_owned);
                return Err(format!(
                    "{what}, and the old primary has {seconds} s to return (lossTimeout): {text}"
                ));
            }
            report.remarks.push(format!(
                "lossPolicy AllowAfterTimeout, and lossTimeout has passed: {told}"
            ));
            Ok(unknown(LossAcceptance::Timeout))
        }
    }
}
