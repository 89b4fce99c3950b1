//! The ways in which a replica could become the primary.

use crate::domain::gtid::GtidSet;
use crate::domain::instance::{Instance, InstanceFacts};

/// A replica from which others could catch up.
pub(super) struct CatchUpSource<'a> {
    pub(super) instance: &'a Instance,
    pub(super) facts: &'a InstanceFacts,
    pub(super) position: &'a GtidSet,
}

/// A replica that may be promoted.
pub(super) struct Candidate<'a> {
    pub(super) instance: &'a Instance,
    pub(super) facts: &'a InstanceFacts,
    pub(super) position: &'a GtidSet,
    /// Delayed, or with errant transactions: promoted only when there is no better one.
    pub(super) is_last_resort: bool,
}

/// A way to promote a candidate: as it is, or after it caught up.
pub(super) struct PromotionOption<'c, 'a> {
    pub(super) candidate: &'c Candidate<'a>,
    pub(super) catch_up_source: Option<&'c CatchUpSource<'a>>,
    /// What it would hold when it is promoted.
    pub(super) position: GtidSet,
}
