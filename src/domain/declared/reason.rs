//! The reasons of conditions, for programs. Their meanings are in docs/kubernetes.md.

macro_rules! reasons {
    ($($name:ident,)*) => {
        /// Why a condition has its status.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[expect(missing_docs, reason = "docs/kubernetes.md explains each, and a test compares")]
        pub enum Reason {
            $($name,)*
        }

        impl Reason {
            /// All reasons.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The reason as it is written.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }
    };
}

reasons! {
    Unreadable,
    OwnedByAnotherDocument,
    NotSeenYet,
    SeedBelongsToAnother,
    SeveralTopologies,
    SeedNotFound,
    Discovered,
    NoPrimaryKnown,
    Writable,
    ReadOnly,
    PrimaryUnreachable,
    NoReplicas,
    AllReplicate,
    ReplicaUnhealthy,
    ReplicaUnreachable,
    Opened,
    Claimed,
    NoRecovery,
    HeldBack,
    NothingHeldBack,
    ErrantTransactions,
    NoErrantTransactions,
    NotCompared,
    NoDowntime,
    InDowntime,
    Paused,
    Auto,
    DetectOnly,
    Off,
    NotReadYet,
    CredentialsRead,
    LastKnownCredentials,
    CredentialsMissing,
    CredentialsForbidden,
    Quorum,
    SingleMember,
    MemberSilent,
    ClockSkew,
    NotFollowed,
    AllFollowed,
    NotAskedFor,
    NotPublishedYet,
    Published,
    Withdrawn,
    NameTaken,
    ServicesForbidden,
    AddressNotUsable,
    NotWritten,
    NoServicesHere,
    Current,
    OlderThanThisVersion,
    NewerThanThisVersion,
    FieldsLost,
    DefinitionUnreadable,
    TakingOver,
    Recovering,
    Discovering,
    Settled,
    NotStalled,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::domain::declared::{ConditionKind, EventReason};

    const DOCUMENTATION: &str = include_str!("../../../docs/kubernetes.md");

    /// The words in backquotes of one column of the tables of a section.
    fn words(section: &str, column: usize) -> BTreeSet<String> {
        let begin = DOCUMENTATION.find(&format!("## {section}\n")).expect(section);
        let rest = &DOCUMENTATION[begin + 3..];
        let end = rest.find("\n## ").unwrap_or(rest.len());
        rest[..end]
            .lines()
            .filter(|line| line.starts_with('|'))
            .filter_map(|line| line.split('|').nth(column))
            .flat_map(|cell| {
                cell.split('`')
                    .skip(1)
                    .step_by(2)
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    fn named<'a>(all: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
        all.map(str::to_owned).collect()
    }

    #[test]
    fn every_condition_and_every_reason_is_documented_and_no_other() {
        let conditions = named(ConditionKind::ALL.iter().map(|kind| kind.as_str()));
        assert_eq!(words("Conditions and reasons", 1), conditions);
        let reasons = named(Reason::ALL.iter().map(|reason| reason.as_str()));
        assert_eq!(words("Conditions and reasons", 3), reasons);
    }

    #[test]
    fn every_event_is_documented_and_no_other() {
        let reasons = named(EventReason::ALL.iter().map(|reason| reason.as_str()));
        assert_eq!(words("Events", 1), reasons);
    }
}
