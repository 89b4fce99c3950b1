//! What proves how much a change of the primary loses, as plans and records carry it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::domain::gtid::GtidSet;
use crate::domain::recovery::refusal::excerpt;

/// What proves that a plan names everything that is lost. "Lost" is what the old primary confirmed to a client and the
/// successor lacks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "evidence")]
pub enum LossEvidence {
    /// The old primary confirmed nothing without acknowledgements, and so many acknowledging replicas were compared
    /// that one of them has whatever it confirmed.
    #[serde(rename_all = "camelCase")]
    Acknowledged {
        /// Acknowledging replicas with stopped receivers and compared transactions.
        compared: u32,
        /// Acknowledging replicas that are known.
        of: u32,
        /// How many must be compared at least: N - w + 1.
        needed: u32,
    },
    /// The old primary confirmed that it is read-only, and its own transactions were read after that.
    OldPrimaryRead,
    /// Nothing proves it: what is known to be lost is a lower bound.
    #[serde(rename_all = "camelCase")]
    Unknown {
        /// Why.
        why: String,
        /// What allows the promotion nevertheless.
        accepted: LossAcceptance,
    },
}

/// What allows a promotion of which the loss is not proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LossAcceptance {
    /// The old primary promised nothing that could be broken, and no policy is set.
    NoPromise,
    /// Enough acknowledging replicas were compared. Only the time since the old primary was last seen leaves a doubt.
    Compared,
    /// `lossPolicy` is `Allow`.
    Policy,
    /// `lossPolicy` is `AllowAfterTimeout`, and `lossTimeout` has passed.
    Timeout,
    /// A forced failover.
    Request,
}

impl fmt::Display for LossEvidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Acknowledged { compared, of, needed } => write!(
                f,
                "{compared} of {of} semi-sync replicas are compared, and any {needed} of them have all that was confirmed"
            ),
            Self::OldPrimaryRead => f.write_str("the old primary is read-only, and its transactions are compared"),
            Self::Unknown { why, .. } => f.write_str(why),
        }
    }
}

/// What is lost and what proves it, in one line for records: `none`, a set, or `unknown, at least` so many.
/// `evidence` is `None` in records of versions that did not keep it, and these prove nothing.
pub fn describe_loss(lost: Option<&GtidSet>, evidence: Option<&LossEvidence>) -> String {
    let count = lost.map_or(0, GtidSet::transaction_count);
    let set = lost.map(|set| format!(" ({})", excerpt(set))).unwrap_or_default();
    match (evidence, count) {
        (Some(LossEvidence::Unknown { why, .. }), _) => format!("unknown, at least {count} transactions{set}: {why}"),
        (None, _) => format!("unknown, at least {count} transactions{set}: the record does not tell what proves it"),
        (Some(proof), 0) => format!("none: {proof}"),
        (Some(proof), _) => format!("{count} transactions{set}: {proof}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::fixture::mysql_set;

    #[test]
    fn none_is_only_said_with_a_proof() {
        let proof = LossEvidence::Acknowledged {
            compared: 2,
            of: 2,
            needed: 2,
        };
        let unknown = LossEvidence::Unknown {
            why: "db3 is away".to_owned(),
            accepted: LossAcceptance::Policy,
        };
        let lost = mysql_set("1:7-9");
        assert!(describe_loss(None, Some(&proof)).starts_with("none: 2 of 2"));
        assert!(describe_loss(Some(&lost), Some(&LossEvidence::OldPrimaryRead)).starts_with("3 transactions (0"));
        assert_eq!(
            describe_loss(None, Some(&unknown)),
            "unknown, at least 0 transactions: db3 is away"
        );
        assert!(describe_loss(Some(&lost), Some(&unknown)).starts_with("unknown, at least 3 transactions (0"));
        assert!(describe_loss(None, None).starts_with("unknown, at least 0"));
    }

    #[test]
    fn evidence_reads_back_as_it_was_written() {
        for evidence in [
            LossEvidence::Acknowledged {
                compared: 1,
                of: 2,
                needed: 1,
            },
            LossEvidence::OldPrimaryRead,
            LossEvidence::Unknown {
                why: "w".to_owned(),
                accepted: LossAcceptance::Timeout,
            },
        ] {
            let text = serde_json::to_string(&evidence).expect("it is written");
            assert_eq!(
                serde_json::from_str::<LossEvidence>(&text).expect("it reads back"),
                evidence,
                "{text}"
            );
        }
    }
}
