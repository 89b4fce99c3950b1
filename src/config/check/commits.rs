//! Whether primaries commit anything.

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
            patience: Duration::from_secs(self.positive("StalledCommitSeconds", keys.StalledCommitSeconds)),
            canary,
        }
    }
}
