//! The keys for the detection of stalled commits.

use std::time::Duration;

use crate::app::leader::commit_stalls::CommitSettings;
use crate::config::file::File;
use crate::domain::commit_stall::CanaryTable;

use super::Check;

impl Check<'_> {
    pub(super) fn commits(&mut self, file: &File) -> CommitSettings {
        let keys = &file.recovery;
        let canary = Some(keys.StallCanary.trim())
            .filter(|text| !text.is_empty())
            .and_then(|text| {
                CanaryTable::parse(text)
                    .map_err(|why| self.wrong("StallCanary", why))
                    .ok()
            });
        CommitSettings {
            max_commit_wait: Duration::from_secs(self.positive("StalledCommitSeconds", keys.StalledCommitSeconds)),
            canary,
        }
    }
}
