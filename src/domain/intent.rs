//! What a human or a document asked for, with who asked.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::key::InstanceKey;
use super::time::WallTime;

/// Who asked for something. Several origins may ask for the same thing side by side; each ends only its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Origin {
    /// The HTTP API, the command line, or the configuration file.
    Api,
    /// A `MySQLCluster` document, by namespace and name.
    Document {
        /// Namespace; `default` for documents of a directory that name none.
        namespace: String,
        /// Name.
        name: String,
    },
    /// A recovery, for what it leaves behind (lost replicas).
    Recovery,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Api => f.write_str("api"),
            Self::Document { namespace, name } => write!(f, "cr:{namespace}/{name}"),
            Self::Recovery => f.write_str("recovery"),
        }
    }
}

/// A text that is no origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no origin; write api, recovery or cr:NAMESPACE/NAME")]
pub struct OriginParseError(String);

impl FromStr for Origin {
    type Err = OriginParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "api" => Ok(Self::Api),
            "recovery" => Ok(Self::Recovery),
            other => other
                .strip_prefix("cr:")
                .and_then(|rest| rest.split_once('/'))
                .map(|(namespace, name)| Self::Document {
                    namespace: namespace.to_owned(),
                    name: name.to_owned(),
                })
                .ok_or_else(|| OriginParseError(other.to_owned())),
        }
    }
}

impl From<Origin> for String {
    fn from(origin: Origin) -> Self {
        origin.to_string()
    }
}

impl TryFrom<String> for Origin {
    type Error = OriginParseError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// How willingly an instance is promoted; declared best first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PromotionRule {
    /// Before all others.
    Must,
    /// Rather than a neutral one.
    Prefer,
    /// No opinion.
    #[default]
    Neutral,
    /// Only when nothing better is there.
    PreferNot,
    /// Never.
    MustNot,
}

impl PromotionRule {
    /// Orchestrator's spelling: `must`, `prefer`, `neutral`, `prefer_not`, `must_not`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Must => "must",
            Self::Prefer => "prefer",
            Self::Neutral => "neutral",
            Self::PreferNot => "prefer_not",
            Self::MustNot => "must_not",
        }
    }

    /// Reads orchestrator's spelling.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Must, Self::Prefer, Self::Neutral, Self::PreferNot, Self::MustNot]
            .into_iter()
            .find(|rule| rule.as_str() == text)
    }
}

/// What is asked for one instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Wish {
    /// Leave it out of recoveries until then.
    #[serde(rename_all = "camelCase")]
    Downtime {
        /// Who.
        owner: String,
        /// Why.
        reason: String,
        /// Since when.
        since: WallTime,
        /// Until when; `None` is until it is ended.
        until: Option<WallTime>,
    },
    /// How willingly to promote it.
    #[serde(rename_all = "camelCase")]
    Candidate {
        /// The rule.
        rule: PromotionRule,
        /// When it stops to count; `None` is never.
        until: Option<WallTime>,
    },
}

impl Wish {
    /// The kind as it stands in `ham4db_intent`.
    pub fn kind(&self) -> IntentKind {
        match self {
            Self::Downtime { .. } => IntentKind::Downtime,
            Self::Candidate { .. } => IntentKind::Candidate,
        }
    }

    /// Whether it counts at `now`.
    pub fn is_active(&self, now: WallTime) -> bool {
        match self {
            Self::Downtime { until, .. } | Self::Candidate { until, .. } => until.is_none_or(|until| now < until),
        }
    }
}

/// The kinds of [`Wish`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IntentKind {
    /// [`Wish::Downtime`].
    Downtime,
    /// [`Wish::Candidate`].
    Candidate,
}

impl IntentKind {
    /// As it stands in `ham4db_intent`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Downtime => "downtime",
            Self::Candidate => "candidate",
        }
    }
}

/// The identity of an intent: one per kind, instance and origin.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IntentId {
    /// What kind.
    pub kind: IntentKind,
    /// For which instance.
    pub instance: InstanceKey,
    /// Asked by whom.
    pub origin: Origin,
}

/// Something asked for one instance by one origin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Intent {
    /// For which instance.
    pub instance: InstanceKey,
    /// Asked by whom.
    pub origin: Origin,
    /// What.
    pub wish: Wish,
}

impl Intent {
    /// Its identity.
    pub fn id(&self) -> IntentId {
        IntentId {
            kind: self.wish.kind(),
            instance: self.instance.clone(),
            origin: self.origin.clone(),
        }
    }
}
