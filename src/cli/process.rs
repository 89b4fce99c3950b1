//! What every step of the start of `ham4db server` needs.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::adapter::connections::ListenerLimits;
use crate::adapter::mysql::ProbeSettings;
use crate::app::group_clock::GroupClock;
use crate::app::ports::Clock;
use crate::app::supervision;
use crate::config::Settings;

pub(super) struct Process {
    pub(super) settings: Settings,
    /// For all that connects to managed servers: clones share the admin endpoints that were found.
    pub(super) probe_settings: ProbeSettings,
    /// The bounds of the listeners.
    pub(super) listener_limits: ListenerLimits,
    /// The time of the group: the clock of this machine, corrected by those of the other members.
    pub(super) clock: Arc<dyn Clock>,
    /// The same clock, for the comparison with other members.
    pub(super) group_clock: Arc<GroupClock>,
    /// Cancelled when the loops are to stop.
    pub(super) stop: CancellationToken,
    /// The loops.
    pub(super) tasks: TaskTracker,
}

impl Process {
    /// Starts a loop, and starts it again when it panics.
    pub(super) fn keep_running<F>(
        &self,
        what: &'static str,
        mut start: impl FnMut(CancellationToken) -> F + Send + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = self.stop.child_token();
        self.tasks.spawn(async move {
            supervision::keep_running(what, &stop, || start(stop.child_token())).await;
        });
    }
}
