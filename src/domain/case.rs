//! A saved topology with everything that a decision about it depends on: `ham4db simulate` reads it, and an API route
//! writes it.

use serde::{Deserialize, Serialize};

use super::finding::Finding;
use super::policy::Policy;
use super::state::Quarantine;
use super::time::WallTime;
use super::topology::Topology;

/// One cluster at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Case {
    /// What it shows, as text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub about: String,
    /// The cluster.
    pub topology: Topology,
    /// What may be done to it.
    #[serde(default)]
    pub policy: Policy,
    /// Its quarantined servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quarantines: Vec<Quarantine>,
    /// When the decision is made, usually when the topology was taken.
    pub now: WallTime,
    /// A finding that was acted on. Without one the findings are computed and the first actionable one is planned for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finding: Option<Finding>,
}

impl Case {
    /// Reads a case from JSON.
    ///
    /// # Errors
    /// With line, column and what was expected there.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// Writes it as indented JSON with a newline at its end.
    #[expect(clippy::missing_panics_doc, reason = "it cannot: every key of a case is a string")]
    pub fn to_json(&self) -> String {
        let mut text =
            serde_json::to_string_pretty(self).expect("all keys of a case are strings, so it can be written as JSON");
        text.push('\n');
        text
    }
}
