//! The keys of the hooks.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::app::recovery::hooks::HookSettings as HookRunSettings;
use crate::domain::hooks::HookList;

use super::super::file::File;
use super::super::settings::{HookSettings, RecoverySettings};
use super::{Check, variable};

impl Check<'_> {
    pub(super) fn hooks(&mut self, file: &File, recovery: &RecoverySettings) -> HookSettings {
        let keys = &file.hooks;
        let mut lists = BTreeMap::new();
        let mut deadlines = BTreeMap::new();
        for list in HookList::ALL {
            let (commands, seconds) = match list {
                HookList::OnFailureDetection => (
                    &keys.OnFailureDetectionProcesses,
                    keys.OnFailureDetectionProcessesTimeoutSeconds,
                ),
                HookList::PreGracefulTakeover => (
                    &keys.PreGracefulTakeoverProcesses,
                    keys.PreGracefulTakeoverProcessesTimeoutSeconds,
                ),
                HookList::PreFailover => (&keys.PreFailoverProcesses, keys.PreFailoverProcessesTimeoutSeconds),
                HookList::Fencing => (&keys.FencingProcesses, keys.FencingProcessesTimeoutSeconds),
                HookList::PostMasterFailover => (
                    &keys.PostMasterFailoverProcesses,
                    keys.PostMasterFailoverProcessesTimeoutSeconds,
                ),
                HookList::PostIntermediateMasterFailover => (
                    &keys.PostIntermediateMasterFailoverProcesses,
                    keys.PostIntermediateMasterFailoverProcessesTimeoutSeconds,
                ),
                HookList::PostFailover => (&keys.PostFailoverProcesses, keys.PostFailoverProcessesTimeoutSeconds),
                HookList::PostUnsuccessfulFailover => (
                    &keys.PostUnsuccessfulFailoverProcesses,
                    keys.PostUnsuccessfulFailoverProcessesTimeoutSeconds,
                ),
                HookList::PostGracefulTakeover => (
                    &keys.PostGracefulTakeoverProcesses,
                    keys.PostGracefulTakeoverProcessesTimeoutSeconds,
                ),
            };
            let seconds = self.positive(&format!("{}TimeoutSeconds", list.key()), seconds);
            deadlines.insert(list, Duration::from_secs(seconds));
            let commands: Vec<String> = commands
                .iter()
                .filter(|command| !command.trim().is_empty())
                .cloned()
                .collect();
            if commands.iter().any(|command| command.contains('\0')) {
                self.wrong(list.key(), "a command holds a NUL character");
            }
            let is_detached = |command: &String| command.trim_end().ends_with('&');
            if list == HookList::Fencing && commands.iter().any(is_detached) {
                self.wrong(
                    list.key(),
                    "a command that ends in & is not waited for, so it proves nothing",
                );
            }
            if !commands.is_empty() {
                lists.insert(list, commands);
            }
        }
        let detached = self.positive("AsynchronousHookTimeoutSeconds", keys.AsynchronousHookTimeoutSeconds);
        let shell = keys.ProcessesShellCommand.trim();
        HookSettings {
            shell: if shell.is_empty() { "bash" } else { shell }.to_owned(),
            hidden: [
                &file.topology.MySQLTopologyPassword,
                &file.topology.MySQLReplicationPassword,
            ]
            .into_iter()
            .filter_map(|secret| variable(secret.expose()))
            .map(ToOwned::to_owned)
            .collect(),
            run: HookRunSettings {
                lists,
                deadlines,
                detached_deadline: Duration::from_secs(detached),
                detection_block: Duration::from_secs(u64::from(keys.FailureDetectionPeriodBlockMinutes) * 60),
                primaries: recovery.primaries.clone(),
                intermediates: recovery.intermediates.clone(),
            },
        }
    }
}
