//! What the members reported of a suspect.

use serde::Serialize;

use crate::domain::finding::{Opinion, OpinionVerdict};

use super::time_text;

/// What one member reported of a suspect.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct OpinionShape {
    member: String,
    data_center: String,
    at: String,
    at_milliseconds: i64,
    milliseconds: u64,
    verdict: &'static str,
    reason: String,
}

impl From<&Opinion> for OpinionShape {
    fn from(opinion: &Opinion) -> Self {
        let (verdict, reason) = match &opinion.verdict {
            OpinionVerdict::Dead => ("dead", String::new()),
            OpinionVerdict::Silent(why) => ("silent", why.clone()),
            OpinionVerdict::Stalled(why) => ("stalled", why.clone()),
            OpinionVerdict::Alive(why) => ("alive", why.clone()),
            OpinionVerdict::Abstains(why) => ("abstains", why.clone()),
            OpinionVerdict::Missing(why) => ("missing", why.clone()),
        };
        Self {
            member: opinion.name.clone(),
            data_center: opinion.data_center.clone(),
            at: time_text(opinion.at),
            at_milliseconds: opinion.at.0,
            milliseconds: opinion.millis,
            verdict,
            reason,
        }
    }
}
