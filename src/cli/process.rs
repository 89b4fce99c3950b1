//! What every step of the start of `ham4db server` needs.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::adapter::mysql::ProbeSettings;
use crate::app::ports::Clock;
use crate::config::Settings;

pub(super) struct Process {
    pub(super) settings: Settings,
    /// For all that connects to managed servers: clones share the admin endpoints that were found.
    pub(super) probe_settings: ProbeSettings,
    pub(super) clock: Arc<dyn Clock>,
    /// Cancelled when the loops are to stop.
    pub(super) stop: CancellationToken,
    /// The loops.
    pub(super) tasks: TaskTracker,
}
