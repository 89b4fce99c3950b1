//! Reconciles the Services of a document and their `EndpointSlice`s.
//!
//! These Services have no selector; only ham4db writes their `EndpointSlice`s ([`super::endpoint_slices`]). Both have an owner
//! reference to the document and are found by a label. An object that has the name but not the owner belongs to another client
//! and is never changed.
//!
//! Objects are changed by merge patches with the resourceVersion that was read, and created by plain requests. A server-side
//! apply would take over an object that another client has just created, and would keep the old port of a Service beside the new
//! one.

use std::collections::BTreeMap;
use std::fmt::Debug;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::domain::declared::{Observer, Publication, PublishError, PublishedAddresses, Role, WantedService};
use crate::domain::intent::Origin;
use crate::resource;

use super::{RequestError, endpoint_slices, role_manifest};

/// Label: the name of the document that an object belongs to.
const CLUSTER_LABEL: &str = "ham4db.io/cluster";
/// Label: the role of the servers of a Service, `primary` or `replicas`.
const ROLE_LABEL: &str = "ham4db.io/role";
/// Attempts when another client wrote between read and write.
const ATTEMPTS: usize = 3;
/// The name of the port. It must be the same in the Service and its slices.
pub(super) const PORT_NAME: &str = "mysql";

/// Creates and updates the Services and slices of a document, and deletes those of its objects that are not wanted. Returns the
/// addresses of the Service for the primary.
///
/// # Errors
/// When the API server refuses, does not answer, or a later leader wrote the slices.
pub(super) async fn publish(
    client: &Client,
    origin: &Origin,
    publication: &Publication,
    observer: &Observer,
) -> Result<PublishedAddresses, PublishError> {
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
        if !matches!(outcome, Err(AttemptError::Conflict(_))) {
            break;
        }
    }
    outcome.map_err(|failed| match failed {
        AttemptError::Conflict(why) => PublishError::Unanswered(why),
        AttemptError::Other(error) => error,
    })
}

/// The failure of an attempt.
pub(super) enum AttemptError {
    /// Another client wrote meanwhile: retry at once.
    Conflict(String),
    /// Any other failure.
    Other(PublishError),
}

/// Reads and writes the Services and slices of one document.
pub(super) struct ServiceClient<'a> {
    namespace: &'a str,
    document: &'a str,
    uid: &'a str,
    services: Api<Service>,
    pub(super) slices: Api<EndpointSlice>,
}

impl ServiceClient<'_> {
    async fn publish(
        &self,
        publication: &Publication,
        observer: &Observer,
    ) -> Result<PublishedAddresses, AttemptError> {
        let (services, slices) = tokio::try_join!(self.list_owned(&self.services), self.list_owned(&self.slices))?;
        let (mut published, mut first_error) = (None, None);
        for wanted in &publication.services {
            let present: Vec<&EndpointSlice> = slices
                .values()
                .filter(|slice| endpoint_slices::service_of(slice) == Some(wanted.name.as_str()))
                .collect();
            let reconciled = async {
                self.reconcile_service(wanted, services.get(&wanted.name)).await?;
                endpoint_slices::reconcile(self, wanted, &present, publication, observer).await
            };
            match reconciled.await {
                Ok(addresses) if wanted.role == Role::Primary => published = addresses,
                Ok(_) => {}
                // The other Service is reconciled all the same.
                Err(failed) => first_error = first_error.or(Some(failed)),
            }
        }
        let is_wanted = |name: &str| publication.services.iter().any(|wanted| wanted.name == name);
        for slice in slices.values() {
            if !endpoint_slices::service_of(slice).is_some_and(is_wanted) {
                self.remove(&self.slices, slice).await?;
            }
        }
        for service in services.values().filter(|service| !is_wanted(&service.name_any())) {
            self.remove(&self.services, service).await?;
        }
        first_error.map_or(Ok(published), Err)
    }

    /// The objects of a kind that this document owns, by name.
    async fn list_owned<K>(&self, api: &Api<K>) -> Result<BTreeMap<String, K>, AttemptError>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let labels = format!("{CLUSTER_LABEL}={},{MANAGER_LABEL}={MANAGER}", self.document);
        let listed = api.list(&ListParams::default().labels(&labels)).await;
        let listed = listed.map_err(|error| self.failed::<K>("list", &error))?;
        Ok(listed
            .into_iter()
            .filter(|object| self.is_owned(object))
            .map(|object| (object.name_any(), object))
            .collect())
    }

    fn is_owned<K: Resource>(&self, object: &K) -> bool {
        object.owner_references().iter().any(|owner| owner.uid == self.uid)
    }

    /// Creates or updates one Service.
    async fn reconcile_service(&self, wanted: &WantedService, present: Option<&Service>) -> Result<(), AttemptError> {
        let port = json!({"name": PORT_NAME, "port": wanted.port, "protocol": "TCP"});
        if let Some(spec) = present.and_then(|present| present.spec.as_ref()) {
            let ports = spec.ports.as_deref().unwrap_or_default();
            let has_port = matches!(ports, [only] if only.port == i32::from(wanted.port)
                && only.name.as_deref() == Some(PORT_NAME) && only.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"));
            // With a selector, Kubernetes would add endpoints of its own.
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

    /// The metadata of an object of this document.
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
            // No blockOwnerDeletion: it would need the permission to update the document's finalizers.
            "ownerReferences": [{
                "apiVersion": resource::API_VERSION, "kind": resource::KIND, "name": self.document, "uid": self.uid, "controller": true,
            }],
        })
    }

    /// Creates an object, or patches `present`, the object that was read.
    pub(super) async fn put<K>(
        &self,
        api: &Api<K>,
        name: &str,
        mut body: Value,
        present: Option<&K>,
    ) -> Result<(), AttemptError>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + Debug,
    {
        if let Some(present) = present {
            return self.change(api, name, &mut body, present).await;
        }
        let parsed: K = serde_json::from_value(body.clone())
            .map_err(|why| AttemptError::Other(PublishError::Refused(format!("{} {name}: {why}", K::kind(&())))))?;
        let parameters = PostParams {
            field_manager: Some(resource::FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        let Err(error) = api.create(&parameters, &parsed).await else {
            return Ok(());
        };
        if RequestError::from(&error).code != Some(409) {
            return Err(self.failed::<K>("create", &error));
        }
        let there = api.get(name).await.map_err(|error| self.failed::<K>("get", &error))?;
        if self.is_owned(&there) {
            // The object was not in the list, because another client removed its label.
            return self.change(api, name, &mut body, &there).await;
        }
        Err(AttemptError::Other(PublishError::NameTaken(format!(
            "{} {name} in namespace {} is not owned by this resource: delete it, or set another name in spec.primaryService",
            K::kind(&()),
            self.namespace
        ))))
    }

    async fn change<K>(&self, api: &Api<K>, name: &str, body: &mut Value, present: &K) -> Result<(), AttemptError>
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

    /// Deletes the object that was read, by its uid.
    pub(super) async fn remove<K>(&self, api: &Api<K>, object: &K) -> Result<(), AttemptError>
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
            Err(error) if RequestError::from(&error).code == Some(404) => Ok(()),
            Err(error) => Err(self.failed::<K>("delete", &error)),
        }
    }

    /// Classifies the failure of a request.
    fn failed<K: Resource<DynamicType = ()>>(&self, verb: &str, error: &kube::Error) -> AttemptError {
        let request_error = RequestError::from(error);
        let plural = K::plural(&());
        let why = format!("{verb} {plural}: {}", request_error.why);
        AttemptError::Other(match request_error.code {
            Some(404 | 409) => return AttemptError::Conflict(why),
            Some(403) => PublishError::Forbidden(forbidden(self.namespace, plural.as_ref(), &request_error.why)),
            Some(400..=428) => PublishError::Refused(why),
            // Too many requests, an internal error, or no answer.
            Some(_) | None => PublishError::Unanswered(why),
        })
    }
}

/// The message for missing permissions: the remedy in the first line, and below it the Role to apply.
fn forbidden(namespace: &str, plural: &str, refused: &str) -> String {
    let verbs = "verbs: [get, list, create, patch, delete]";
    let rules = [
        format!("{{apiGroups: [\"\"], resources: [services], {verbs}}}"),
        format!("{{apiGroups: [discovery.k8s.io], resources: [endpointslices], {verbs}}}"),
    ];
    format!(
        "RBAC refuses to write {plural}: set the chart's primaryService.enabled, or apply the Role below ({refused})\n{}",
        role_manifest::role_manifest(namespace, "ham4db-services", &rules, refused)
    )
}

/// The label for the manager of an object that Kubernetes recommends.
const MANAGER_LABEL: &str = "app.kubernetes.io/managed-by";
/// The value of [`MANAGER_LABEL`] for ham4db.
const MANAGER: &str = "ham4db";
