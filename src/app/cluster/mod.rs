//! The clusters as this member observes them: consistent views made from the instance cache and the replicated state, and
//! how the analysis of each instance changed over time.

pub mod analysis_history;
pub mod groups;
pub mod instance_recorder;
pub mod view;
