//! Configurations as the pages in `docs/` print them.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value};

/// The first configuration of a page, its keys with their values.
pub(crate) fn configuration(page: &str) -> Result<Map<String, Value>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(page);
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let block = text.split("```json").nth(1).and_then(|rest| rest.split("```").next());
    let block = block.with_context(|| format!("docs/{page} has no configuration"))?;
    serde_json::from_str(block).with_context(|| format!("the configuration in docs/{page}"))
}

/// Replaces the value of a key, which the page has.
///
/// # Errors
/// When it has not.
pub(crate) fn replace(keys: &mut Map<String, Value>, key: &str, value: Value) -> Result<()> {
    *keys
        .get_mut(key)
        .with_context(|| format!("the page does not set {key}"))? = value;
    Ok(())
}
