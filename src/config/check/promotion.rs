//! The keys for promotion and loss of transactions.

use std::time::Duration;

use crate::config::file::File;
use crate::config::settings::PromotionSettings;
use crate::domain::policy::{LossPolicy, UnappliedPolicy};

use super::Check;

impl Check<'_> {
    pub(super) fn promotion(&mut self, file: &File) -> PromotionSettings {
        let keys = &file.recovery;
        let unapplied = match (
            keys.FailMasterPromotionIfSQLThreadNotUpToDate,
            keys.DelayMasterPromotionIfSQLThreadNotUpToDate,
        ) {
            (true, true) => {
                self.wrong(
                    "FailMasterPromotionIfSQLThreadNotUpToDate",
                    "contradicts DelayMasterPromotionIfSQLThreadNotUpToDate; set one of them",
                );
                UnappliedPolicy::Refuse
            }
            (true, false) => UnappliedPolicy::Refuse,
            (false, true) => UnappliedPolicy::Wait,
            (false, false) => UnappliedPolicy::CatchUp,
        };
        let has_lag_query = !file.discovery.ReplicationLagQuery.is_empty() || !file.discovery.SlaveLagQuery.is_empty();
        if keys.FailMasterPromotionOnLagMinutes > 0 && !has_lag_query {
            self.wrong("FailMasterPromotionOnLagMinutes", "needs ReplicationLagQuery");
        }
        let loss = match keys.LossPolicy.as_str() {
            "" => LossPolicy::Auto,
            "Refuse" => LossPolicy::Refuse,
            "AllowAfterTimeout" => LossPolicy::AllowAfterTimeout,
            "Allow" => LossPolicy::Allow,
            other => {
                self.wrong(
                    "LossPolicy",
                    format!("`{other}` is neither Refuse, AllowAfterTimeout nor Allow"),
                );
                LossPolicy::Auto
            }
        };
        PromotionSettings {
            ignore: self.hostnames("PromotionIgnoreHostnameFilters", &keys.PromotionIgnoreHostnameFilters),
            prevent_cross_data_center: keys.PreventCrossDataCenterMasterFailover,
            prevent_cross_region: keys.PreventCrossRegionMasterFailover,
            max_lag: Duration::from_secs(u64::from(keys.FailMasterPromotionOnLagMinutes) * 60),
            unapplied,
            loss,
            loss_timeout: Duration::from_secs(u64::from(keys.LossTimeoutSeconds)),
        }
    }

    /// `ReplicationLagQuery`, or its old name.
    pub(super) fn lag_query(&mut self, file: &File) -> Option<String> {
        let keys = &file.discovery;
        let (new, old) = (&keys.ReplicationLagQuery, &keys.SlaveLagQuery);
        if !new.is_empty() && !old.is_empty() && new != old {
            self.wrong(
                "ReplicationLagQuery",
                "differs from SlaveLagQuery, its old name; set one of them",
            );
        }
        [new, old].into_iter().find(|query| !query.is_empty()).cloned()
    }
}
