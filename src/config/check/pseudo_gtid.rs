//! The keys of Pseudo-GTID.

use crate::config::file::File;
use crate::config::settings::PseudoGtidSettings;
use crate::domain::recovery::pseudo_gtid::PseudoGtidPatterns;

use super::Check;

impl Check<'_> {
    /// `AutoPseudoGTID` overrides the keys for entries that another program writes, as in orchestrator.
    pub(super) fn pseudo_gtid(&mut self, file: &File) -> PseudoGtidSettings {
        let keys = &file.pseudo_gtid;
        let chunk = self.positive("BinlogEventsChunkSize", keys.BinlogEventsChunkSize);
        let chunk = usize::try_from(chunk).unwrap_or(usize::MAX);
        let marks = if keys.AutoPseudoGTID {
            Some(PseudoGtidPatterns::automatic())
        } else if keys.PseudoGTIDPattern.is_empty() {
            None
        } else {
            let read = PseudoGtidPatterns::matching(
                &keys.PseudoGTIDPattern,
                keys.PseudoGTIDPatternIsFixedSubstring,
                &keys.PseudoGTIDMonotonicHint,
            );
            if let Err(error) = &read {
                self.wrong("PseudoGTIDPattern", error);
            }
            read.ok()
        };
        PseudoGtidSettings {
            injects: keys.AutoPseudoGTID,
            marks: marks.map(|marks| marks.reading(chunk, &keys.SkipBinlogEventsContaining)),
            query: Some(keys.DetectPseudoGTIDQuery.clone()).filter(|query| !query.is_empty() && !keys.AutoPseudoGTID),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::check::settle;
    use crate::config::file::File;
    use crate::config::settings::{Environment, PseudoGtidSettings};

    fn read(keys: &str) -> Result<PseudoGtidSettings, String> {
        let text = format!(r#"{{"SQLite3DataFile": ":memory:", "APIOpen": true, {keys}}}"#);
        let mut file = File::default();
        file.merge(Path::new("test"), &text)
            .map_err(|error| error.to_string())?;
        settle(&file, &Environment::default())
            .map(|settings| settings.pseudo_gtid)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_is_written_or_looked_for_unless_asked_for() {
        let usual = read(r#""Debug": false"#).unwrap();
        assert!(!usual.injects && usual.marks.is_none() && usual.query.is_none());
    }

    #[test]
    fn automatic_entries_override_what_describes_others() {
        let both =
            read(r#""AutoPseudoGTID": true, "PseudoGTIDPattern": "(", "DetectPseudoGTIDQuery": "select 2""#).unwrap();
        assert!(both.injects && both.marks.is_some() && both.query.is_none());
    }

    #[test]
    fn a_pattern_is_an_expression_unless_it_is_called_a_text() {
        assert!(
            read(r#""PseudoGTIDPattern": "(""#)
                .unwrap_err()
                .contains("PseudoGTIDPattern")
        );
        let text =
            read(r#""PseudoGTIDPattern": "(", "PseudoGTIDPatternIsFixedSubstring": true, "BinlogEventsChunkSize": 50"#);
        assert_eq!(text.unwrap().marks.unwrap().chunk, 50);
        assert!(
            read(r#""BinlogEventsChunkSize": 0"#)
                .unwrap_err()
                .contains("BinlogEventsChunkSize")
        );
    }
}
