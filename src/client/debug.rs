//! The lines of `--debug`: which endpoints were asked, and which member answered.

use std::io::Write;
use std::sync::{Mutex, PoisonError};

/// Writes lines when `--debug` is given, and nothing otherwise.
pub struct DebugLog<'a>(Option<Mutex<&'a mut dyn Write>>);

impl<'a> DebugLog<'a> {
    /// Lines go to `to`.
    pub fn new(is_wanted: bool, to: &'a mut dyn Write) -> Self {
        Self(is_wanted.then(|| Mutex::new(to)))
    }

    /// Writes a line.
    pub fn line(&self, text: impl FnOnce() -> String) {
        if let Some(to) = &self.0 {
            let mut to = to.lock().unwrap_or_else(PoisonError::into_inner);
            // As with other messages, output that cannot be written leaves nothing to report.
            drop(writeln!(to, "ham4db-client[{}]: debug: {}", std::process::id(), text()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_written_on_demand_only() {
        let mut written = Vec::new();
        DebugLog::new(false, &mut written).line(|| unreachable!("nobody reads it"));
        assert!(written.is_empty());
        DebugLog::new(true, &mut written).line(|| "asked h1".to_owned());
        let text = String::from_utf8(written).unwrap();
        assert!(
            text.starts_with("ham4db-client[") && text.ends_with("]: debug: asked h1\n"),
            "{text}"
        );
    }
}
