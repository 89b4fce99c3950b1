//! The documents that `--manifests` reads, and the status that the leader writes below them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::run::hand_over;
use super::sql::{Address, Credentials};

/// The name of the one MySQLCluster of a run.
pub(crate) const CLUSTER: &str = "orders";

/// A MySQLCluster and its Secret.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    pub(crate) seeds: Vec<Address>,
    pub(crate) topology: Credentials,
    pub(crate) replication: Credentials,
    /// `spec.recovery`, like `{"mode": "Auto"}`.
    pub(crate) recovery: Value,
}

impl Document {
    /// Both documents, in one file.
    fn text(&self) -> Result<String> {
        let seeds: Vec<Value> = self
            .seeds
            .iter()
            .map(|seed| json!({"host": seed.host, "port": seed.port}))
            .collect();
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": format!("{CLUSTER}-topology"), "namespace": "default"},
            "stringData": {
                "user": self.topology.user, "password": self.topology.password,
                "replicationUser": self.replication.user, "replicationPassword": self.replication.password,
            },
        });
        // Given among these for short, and a part of its own in the document.
        let mut recovery = self.recovery.clone();
        let durability = recovery.as_object_mut().and_then(|keys| keys.remove("durability"));
        let mut cluster = json!({
            "apiVersion": "ham4db.io/v1alpha1", "kind": "MySQLCluster",
            "metadata": {"name": CLUSTER, "namespace": "default"},
            "spec": {
                "seeds": seeds,
                "credentialsSecretRef": {"name": format!("{CLUSTER}-topology")},
                "recovery": recovery,
            },
        });
        if let (Some(durability), Some(Value::Object(spec))) = (durability, cluster.get_mut("spec")) {
            spec.insert("durability".to_owned(), durability);
        }
        Ok(format!(
            "{}---\n{}",
            serde_yaml::to_string(&secret)?,
            serde_yaml::to_string(&cluster)?
        ))
    }

    /// Writes them into a member's folder, by rename, as a reader may look at any time.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        let (file, draft) = (
            folder.join(format!("{CLUSTER}.yaml")),
            folder.join(format!(".{CLUSTER}.draft")),
        );
        fs::write(&draft, self.text()?).with_context(|| format!("write {}", draft.display()))?;
        hand_over(&draft)?;
        fs::rename(&draft, &file).with_context(|| format!("rename to {}", file.display()))
    }
}

/// Where the leader writes the status of the one document, below the folder of documents.
pub(crate) fn status_file(folder: &Path) -> PathBuf {
    folder.join("status").join(format!("default.{CLUSTER}.yaml"))
}

/// The `status` of the one document, as the leader wrote it below its folder.
pub(crate) fn status(folder: &Path) -> Result<Value> {
    let file = status_file(folder);
    let content = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let document: Value = serde_yaml::from_str(&content).with_context(|| format!("parse {}", file.display()))?;
    document
        .get("status")
        .cloned()
        .with_context(|| format!("{} has no status", file.display()))
}
