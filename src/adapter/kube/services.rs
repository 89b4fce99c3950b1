//! The Services of a document and where they lead.
//!
//! A Service here has no selector; its `EndpointSlice`s ([`super::slices`]) are written by us alone. Both belong to the document by an
//! owner reference and are found by a label. What has the name and not the owner is somebody else's, and is never touched.
//!
//! Changes are merge patches with the resourceVersion that was looked at, creations are plain: a server-side apply would take an object
//! over that somebody made a moment ago, and would leave the old port of a Service beside the new one.

use std::collections::BTreeMap;
use std::fmt::Debug;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::app::ports::cluster_source::{LeadsTo, Observer, Publication, PublishError};
use crate::domain::declared::{Role, WantedService};
use crate::domain::intent::Origin;
use crate::resource;

use super::{Refusal, grant, slices};

/// The document that an object is of, by name.
const CLUSTER_LABEL: &str = "ham4db.io/cluster";
/// What the servers behind it are: `primary` or `replicas`.
const ROLE_LABEL: &str = "ham4db.io/role";
/// Attempts when somebody else wrote between reading and writing.
const ATTEMPTS: usize = 3;
/// The name of the port; slices and Service have to agree.
pub(super) const PORT_NAME: &str = "mysql";

/// Makes Services and slices what they must be, and removes what is ours and not wanted. Answers where the Service for the primary leads.
pub(super) async fn publish(
    client: &Client,
    origin: &Origin,
    publication: &Publication,
    observer: &Observer,
) -> Result<LeadsTo, PublishError> {
    let Origin::Document { namespace, name } = origin else {
        return Err(PublishError::Unsupported);
    };
    let service_client = ServiceClient {
        namespace,
        document: name,
        uid: &publication.uid,
        services: Api::namespaced(client.clone(), namespace),
        slices: Api::namespaced(client.clone(), namespace),
    };
    let mut outcome = Ok(None);
    for _ in 0..ATTEMPTS {
        outcome = service_client.publish(publication, observer).await;
        if !matches!(outcome, Err(Failed::Conflict(_))) {
            break;
        }
    }
    outcome.map_err(|failed| match failed {
        Failed::Conflict(why) => PublishError::Unanswered(why),
        Failed::For(error) => error,
    })
}

/// Why an attempt did not succeed.
pub(super) enum Failed {
    /// Somebody else wrote meanwhile: worth another look at once.
    Conflict(String),
    /// Anything else.
    For(PublishError),
}

/// The objects of one document.
pub(super) struct ServiceClient<'a> {
    namespace: &'a str,
    document: &'a str,
    uid: &'a str,
    services: Api<Service>,
    pub(super) slices: Api<EndpointSlice>,
}

impl ServiceClient<'_> {
    async fn publish(&self, publication: &Publication, observer: &Observer) -> Result<LeadsTo, Failed> {
        let (services, slices) = tokio::try_join!(self.ours(&self.services), self.ours(&self.slices))?;
        let (mut leads_to, mut worst) = (None, None);
        for wanted in &publication.services {
            let present: Vec<&EndpointSlice> = slices
                .values()
                .filter(|slice| slices::service_of(slice) == Some(wanted.name.as_str()))
                .collect();
            let made = async {
                self.keep_service(wanted, services.get(&wanted.name)).await?;
                slices::lead(self, wanted, &present, publication, observer).await
            };
            match made.await {
                Ok(led) if wanted.role == Role::Primary => leads_to = led,
                Ok(_) => {}
                // The other one can be had all the same.
                Err(failed) => worst = worst.or(Some(failed)),
            }
        }
        let is_wanted = |name: &str| publication.services.iter().any(|wanted| wanted.name == name);
        for slice in slices.values() {
            if !slices::service_of(slice).is_some_and(is_wanted) {
                self.remove(&self.slices, slice).await?;
            }
        }
        for service in services.values().filter(|service| !is_wanted(&service.name_any())) {
            self.remove(&self.services, service).await?;
        }
        worst.map_or(Ok(leads_to), Err)
    }

    /// The objects of a kind that are this document's, by name.
    async fn ours<K>(&self, api: &Api<K>) -> Result<BTreeMap<String, K>, Failed>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let labels = format!("{CLUSTER_LABEL}={},{MANAGER_LABEL}={MANAGER}", self.document);
        let listed = api.list(&ListParams::default().labels(&labels)).await;
        let listed = listed.map_err(|error| self.failed::<K>("list", &error))?;
        Ok(listed
            .into_iter()
            .filter(|object| self.is_ours(object))
            .map(|object| (object.name_any(), object))
            .collect())
    }

    fn is_ours<K: Resource>(&self, object: &K) -> bool {
        object.owner_references().iter().any(|owner| owner.uid == self.uid)
    }

    async fn keep_service(&self, wanted: &WantedService, present: Option<&Service>) -> Result<(), Failed> {
        let port = json!({"name": PORT_NAME, "port": wanted.port, "protocol": "TCP"});
        if let Some(spec) = present.and_then(|present| present.spec.as_ref()) {
            let ports = spec.ports.as_deref().unwrap_or_default();
            let has_port = matches!(ports, [only] if only.port == i32::from(wanted.port)
                && only.name.as_deref() == Some(PORT_NAME) && only.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"));
            // With one, Kubernetes would lead it to pods of its own choice as well.
            let has_selector = spec.selector.as_ref().is_some_and(|selector| !selector.is_empty());
            if has_port && !has_selector {
                return Ok(());
            }
        }
        let body = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": self.metadata(&wanted.name, wanted.role, &json!({}), &json!({})),
            "spec": {"ports": [port], "selector": null, "ipFamilyPolicy": "PreferDualStack"},
        });
        self.put(&self.services, &wanted.name, body, present).await
    }

    /// What every object of this document carries.
    pub(super) fn metadata(&self, name: &str, role: Role, labels: &Value, annotations: &Value) -> Value {
        let mut all = json!({
            MANAGER_LABEL: MANAGER,
            CLUSTER_LABEL: self.document,
            ROLE_LABEL: if role == Role::Primary { "primary" } else { "replicas" },
        });
        if let (Some(all), Some(more)) = (all.as_object_mut(), labels.as_object()) {
            all.extend(more.clone());
        }
        json!({
            "name": name,
            "labels": all,
            "annotations": annotations,
            // Without blockOwnerDeletion, which would need a right to update the document's finalizers.
            "ownerReferences": [{
                "apiVersion": resource::API_VERSION, "kind": resource::KIND, "name": self.document, "uid": self.uid, "controller": true,
            }],
        })
    }

    /// Creates an object, or changes the one that was looked at.
    pub(super) async fn put<K>(
        &self,
        api: &Api<K>,
        name: &str,
        mut body: Value,
        present: Option<&K>,
    ) -> Result<(), Failed>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + Debug,
    {
        if let Some(present) = present {
            return self.change(api, name, &mut body, present).await;
        }
        let parsed: K = serde_json::from_value(body.clone())
            .map_err(|why| Failed::For(PublishError::Refused(format!("{} {name}: {why}", K::kind(&())))))?;
        let parameters = PostParams {
            field_manager: Some(resource::FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        let Err(error) = api.create(&parameters, &parsed).await else {
            return Ok(());
        };
        if Refusal::from(&error).code != Some(409) {
            return Err(self.failed::<K>("create", &error));
        }
        let there = api.get(name).await.map_err(|error| self.failed::<K>("get", &error))?;
        if self.is_ours(&there) {
            // Somebody took the label away by which ours are found.
            return self.change(api, name, &mut body, &there).await;
        }
        Err(Failed::For(PublishError::NameTaken(format!(
            "{} {name} of namespace {} is not this resource's, and is left alone: delete it, or set another name in spec.primaryService",
            K::kind(&()),
            self.namespace
        ))))
    }

    async fn change<K>(&self, api: &Api<K>, name: &str, body: &mut Value, present: &K) -> Result<(), Failed>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        if let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("resourceVersion".to_owned(), json!(present.resource_version()));
        }
        let parameters = PatchParams {
            field_manager: Some(resource::FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let patched = api.patch(name, &parameters, &Patch::Merge(&*body)).await;
        patched.map(drop).map_err(|error| self.failed::<K>("patch", &error))
    }

    /// Deletes the object that was looked at.
    pub(super) async fn remove<K>(&self, api: &Api<K>, object: &K) -> Result<(), Failed>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let parameters = DeleteParams {
            preconditions: Some(Preconditions {
                uid: object.uid(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match api.delete(&object.name_any(), &parameters).await {
            Ok(_) => Ok(()),
            Err(error) if Refusal::from(&error).code == Some(404) => Ok(()),
            Err(error) => Err(self.failed::<K>("delete", &error)),
        }
    }

    fn failed<K: Resource<DynamicType = ()>>(&self, verb: &str, error: &kube::Error) -> Failed {
        let refusal = Refusal::from(error);
        let plural = K::plural(&());
        let why = format!("{verb} {plural}: {}", refusal.why);
        Failed::For(match refusal.code {
            Some(404 | 409) => return Failed::Conflict(why),
            Some(403) => PublishError::Forbidden(forbidden(self.namespace, plural.as_ref(), &refusal.why)),
            Some(400..=428) => PublishError::Refused(why),
            // Too many requests, a fault of its own, or no answer at all.
            Some(_) | None => PublishError::Unanswered(why),
        })
    }
}

/// What to do, and below it the Role to apply.
fn forbidden(namespace: &str, plural: &str, refused: &str) -> String {
    let verbs = "verbs: [get, list, create, patch, delete]";
    let rules = [
        format!("{{apiGroups: [\"\"], resources: [services], {verbs}}}"),
        format!("{{apiGroups: [discovery.k8s.io], resources: [endpointslices], {verbs}}}"),
    ];
    format!(
        "{plural} may not be written: set the chart's primaryService.enabled, or apply the Role below ({refused})\n{}",
        grant::manifest(namespace, "ham4db-services", &rules, refused)
    )
}

/// Who manages an object, by the label that Kubernetes recommends.
const MANAGER_LABEL: &str = "app.kubernetes.io/managed-by";
/// Us.
const MANAGER: &str = "ham4db";
