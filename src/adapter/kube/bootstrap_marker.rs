//! The port [`BootstrapMarker`]: a `ConfigMap` that can be created once.

use std::collections::BTreeMap;

use async_trait::async_trait;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client, ResourceExt as _};

use crate::app::ports::BootstrapMarker;

use super::{REQUEST_DEADLINE, RequestError};

/// The key of the content in the `ConfigMap`.
const KEY: &str = "bootstrap.json";

/// The `ConfigMap` named `STATEFULSET-bootstrap`. The StatefulSet owns it: after the StatefulSet is deleted, a new group may be
/// founded.
pub struct ConfigMapMarker {
    client: Client,
    namespace: String,
    statefulset: String,
}

impl ConfigMapMarker {
    /// Creates the marker of the group that runs as this StatefulSet.
    pub fn new(client: Client, namespace: impl Into<String>, statefulset: impl Into<String>) -> Self {
        Self {
            client,
            namespace: namespace.into(),
            statefulset: statefulset.into(),
        }
    }

    fn name(&self) -> String {
        format!("{}-bootstrap", self.statefulset)
    }

    async fn attempt(&self, content: String) -> Result<String, String> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let name = self.name();
        let explain = |what: &str, error: &kube::Error| {
            format!(
                "failed to {what} ConfigMap {}/{name}: {}",
                self.namespace,
                RequestError::from(error).why
            )
        };
        match maps.get_opt(&name).await.map_err(|error| explain("read", &error))? {
            Some(map) => self.content(&map),
            None => match maps
                .create(&PostParams::default(), &self.marker(content.clone()).await?)
                .await
            {
                Ok(_) => Ok(content),
                Err(error) if RequestError::from(&error).code == Some(409) => {
                    self.content(&maps.get(&name).await.map_err(|error| explain("read", &error))?)
                }
                Err(error) => Err(explain("create", &error)),
            },
        }
    }

    async fn marker(&self, content: String) -> Result<ConfigMap, String> {
        let sets: Api<StatefulSet> = Api::namespaced(self.client.clone(), &self.namespace);
        let set = sets.get(&self.statefulset).await.map_err(|error| {
            format!(
                "failed to read StatefulSet {}/{}: {}",
                self.namespace,
                self.statefulset,
                RequestError::from(&error).why
            )
        })?;
        let owner = OwnerReference {
            api_version: "apps/v1".to_owned(),
            kind: "StatefulSet".to_owned(),
            name: self.statefulset.clone(),
            uid: set.uid().unwrap_or_default(),
            controller: None,
            block_owner_deletion: None,
        };
        Ok(ConfigMap {
            metadata: ObjectMeta {
                name: Some(self.name()),
                namespace: Some(self.namespace.clone()),
                owner_references: Some(vec![owner]),
                labels: Some(BTreeMap::from([(
                    "app.kubernetes.io/managed-by".to_owned(),
                    "ham4db".to_owned(),
                )])),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::from([(KEY.to_owned(), content)])),
            immutable: Some(true),
            ..ConfigMap::default()
        })
    }

    fn content(&self, map: &ConfigMap) -> Result<String, String> {
        map.data
            .as_ref()
            .and_then(|data| data.get(KEY))
            .cloned()
            .ok_or_else(|| {
                format!(
                    "ConfigMap {}/{} has no key {KEY}: ham4db did not create it",
                    self.namespace,
                    self.name()
                )
            })
    }
}

#[async_trait]
impl BootstrapMarker for ConfigMapMarker {
    async fn create_or_read(&self, content: &str) -> std::io::Result<String> {
        let attempt = tokio::time::timeout(REQUEST_DEADLINE, self.attempt(content.to_owned())).await;
        attempt
            .unwrap_or_else(|_| {
                Err(format!(
                    "ConfigMap {}/{}: the API server did not answer within {} s",
                    self.namespace,
                    self.name(),
                    REQUEST_DEADLINE.as_secs()
                ))
            })
            .map_err(std::io::Error::other)
    }
}
