//! The part of the configuration that decides what may be done to a cluster.

use std::time::Duration;

use crate::domain::hooks::HookList;
use crate::domain::policy::TakeoverTerms;
use crate::domain::state::PolicySettings;

use super::Settings;

impl Settings {
    /// The settings from which the policy of each cluster is made.
    ///
    /// # Errors
    /// Names a key with a duration that is too long to be counted in milliseconds.
    pub fn policy(&self) -> Result<PolicySettings, String> {
        let recovery = &self.recovery;
        let promotion = &recovery.promotion;
        Ok(PolicySettings {
            recover_primary_filters: recovery.primaries.filters().to_vec(),
            recover_locked_semi_sync: recovery.recover_locked_semi_sync,
            recover_intermediate_filters: recovery.intermediates.filters().to_vec(),
            promotion_ignore: promotion.ignore.patterns().to_vec(),
            block_millis: millis("RecoveryPeriodBlockSeconds", recovery.block)?,
            recover_non_writable_primary: recovery.recover_non_writable_primary,
            must_promote_other_co_primary: recovery.must_promote_other_co_primary,
            enforce_exact_semi_sync: recovery.enforce_exact_semi_sync,
            locked_semi_sync_millis: recovery.locked_semi_sync.as_secs() * 1000,
            stalled: recovery.stalled,
            stalled_timeout_millis: millis("StalledPrimarySeconds", recovery.stalled_timeout)?,
            reasonable_lag_seconds: self.discovery.reasonable_lag.as_secs(),
            boot_read_only: recovery.boot_read_only,
            durability: recovery.durability,
            loss: promotion.loss,
            loss_timeout_millis: millis("LossTimeoutSeconds", promotion.loss_timeout)?,
            max_promotion_lag_seconds: promotion.max_lag.as_secs(),
            unapplied: promotion.unapplied,
            prevent_cross_data_center: promotion.prevent_cross_data_center,
            prevent_cross_region: promotion.prevent_cross_region,
            pseudo_gtid: self.pseudo_gtid.marks.is_some(),
            takeover: TakeoverTerms {
                lag_seconds: self.discovery.maintenance_lag.as_secs(),
                transaction_wait_millis: millis("TakeoverTransactionWaitSeconds", recovery.transaction_wait)?,
                ends_transactions: recovery.ends_transactions,
                lock_wait_seconds: recovery.lock_wait.as_secs(),
            },
            events: recovery.events,
            fences_outside: self.hooks.run.lists.contains_key(&HookList::Fencing),
            ..PolicySettings::default()
        })
    }
}

fn millis(key: &str, duration: Duration) -> Result<u64, String> {
    u64::try_from(duration.as_millis()).map_err(|_| format!("{key} is too long"))
}
