//! What an operator or a document asked for, with its origin.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::key::InstanceKey;
use super::time::WallTime;

/// The origin of an intent or request. Several origins may ask for the same thing; each ends only its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Origin {
    /// The HTTP API, the command line, or the configuration file.
    Api,
    /// A `MySQLCluster` document, by namespace and name.
    Document {
        /// Namespace; `default` for documents of a folder that name none.
        namespace: String,
        /// Name.
        name: String,
    },
    /// A recovery, for the downtime of replicas that it lost.
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

/// A text that is not an origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an origin; write api, recovery or cr:NAMESPACE/NAME")]
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

/// How preferred an instance is for promotion; declared best first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PromotionRule {
    /// Before all others.
    Must,
    /// Before neutral instances.
    Prefer,
    /// No preference.
    #[default]
    Neutral,
    /// Only when no better instance is eligible.
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

    /// Parses orchestrator's spelling.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Must, Self::Prefer, Self::Neutral, Self::PreferNot, Self::MustNot]
            .into_iter()
            .find(|rule| rule.as_str() == text)
    }
}

/// What an intent asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum IntentDetails {
    /// Excludes the instance from recoveries until then.
    #[serde(rename_all = "camelCase")]
    Downtime {
        /// Owner of the downtime.
        owner: String,
        /// Reason of the downtime.
        reason: String,
        /// When it began.
        since: WallTime,
        /// When it ends; `None` when it lasts until it is ended.
        until: Option<WallTime>,
    },
    /// Sets the promotion rule of the instance.
    #[serde(rename_all = "camelCase")]
    Candidate {
        /// The rule.
        rule: PromotionRule,
        /// When the rule expires; `None` is never.
        until: Option<WallTime>,
    },
}

impl IntentDetails {
    /// The kind of these details.
    pub fn kind(&self) -> IntentKind {
        match self {
            Self::Downtime { .. } => IntentKind::Downtime,
            Self::Candidate { .. } => IntentKind::Candidate,
        }
    }

    /// Whether the intent is in effect at `now`.
    pub fn is_active(&self, now: WallTime) -> bool {
        match self {
            Self::Downtime { until, .. } | Self::Candidate { until, .. } => until.is_none_or(|until| now < until),
        }
    }
}

/// The kinds of [`IntentDetails`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IntentKind {
    /// [`IntentDetails::Downtime`].
    Downtime,
    /// [`IntentDetails::Candidate`].
    Candidate,
}

impl IntentKind {
    /// The name in the table `ham4db_intent`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Downtime => "downtime",
            Self::Candidate => "candidate",
        }
    }
}

/// The identity of an intent: one for each kind, instance and origin.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IntentId {
    /// Kind of the intent.
    pub kind: IntentKind,
    /// The instance that it is about.
    pub instance: InstanceKey,
    /// Origin of the intent.
    pub origin: Origin,
}

/// What one origin asks for one instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Intent {
    /// The instance that it is about.
    pub instance: InstanceKey,
    /// Origin of the intent.
    pub origin: Origin,
    /// What is asked for.
    #[serde(rename = "wish")]
    pub details: IntentDetails,
}

impl Intent {
    /// The identity of this intent.
    pub fn id(&self) -> IntentId {
        IntentId {
            kind: self.details.kind(),
            instance: self.instance.clone(),
            origin: self.origin.clone(),
        }
    }
}
