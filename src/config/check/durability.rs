//! The keys of the durability policy.

use crate::config::file::File;
use crate::domain::policy::{Durability, DurabilityMode};

use super::Check;

impl Check<'_> {
    pub(super) fn durability(&mut self, file: &File) -> Durability {
        let keys = &file.recovery;
        let mode = match keys.Durability.as_str() {
            "None" => DurabilityMode::None,
            "SemiSync" => DurabilityMode::SemiSync,
            "CrossDataCenter" => DurabilityMode::CrossDataCenter,
            other => {
                self.wrong(
                    "Durability",
                    format!("`{other}` is none of None, SemiSync and CrossDataCenter"),
                );
                DurabilityMode::None
            }
        };
        if !(1..=64).contains(&keys.DurabilityCount) {
            self.wrong("DurabilityCount", "must be from 1 to 64");
        }
        Durability {
            mode,
            count: keys.DurabilityCount,
            strict: keys.DurabilityStrict,
        }
    }
}
