//! The release as `deploy/install.yaml` installs it: its account and what that may do.

use std::path::PathBuf;
use std::sync::Arc;

use super::server::Server;
use ham4db::adapter::kube::Client;

/// The namespace of the release.
pub(crate) const NAMESPACE: &str = "ham4db";
/// The Secret that it may read, and the name of its StatefulSet.
pub(crate) const SECRET: &str = "mysql-topology";
pub(crate) const STATEFULSET: &str = "ham4db";

const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/install.yaml");
/// What of it counts here: no pod runs.
const KINDS: [&str; 5] = ["Namespace", "ServiceAccount", "Role", "RoleBinding", "StatefulSet"];

/// It, on a server of its own.
pub(crate) struct Release {
    pub(crate) server: Arc<Server>,
    /// The administrator.
    pub(crate) client: Client,
    /// The release's service account.
    pub(crate) own: Client,
    /// A file with which one is that account.
    pub(crate) kubeconfig: PathBuf,
}

impl Release {
    /// Applies the manifest, and has a token made for its account.
    pub(crate) async fn on(server: Arc<Server>) -> Self {
        let text = std::fs::read_to_string(MANIFEST).unwrap();
        let is_wanted = |object: &&str| KINDS.iter().any(|kind| object.contains(&format!("\nkind: {kind}\n")));
        let objects: Vec<&str> = text.split("\n---\n").filter(is_wanted).collect();
        server.apply_text(&objects.join("\n---\n"));
        let said = server.kubectl(&["create", "token", "ham4db", "-n", NAMESPACE], None);
        assert!(said.ok, "{}", said.text);
        let token = said.text.trim();
        Self {
            client: server.client().await,
            own: server.client_of(token).await,
            kubeconfig: server.kubeconfig_of(token),
            server,
        }
    }
}
