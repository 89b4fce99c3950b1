//! The status of a document, by server-side apply.

use kube::api::{Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};

use crate::app::ports::cluster_source::{Observer, StatusError, StatusModel};
use crate::domain::intent::Origin;
use crate::resource::{self, MySQLCluster, MySQLClusterStatus};

use super::{REQUEST_DEADLINE, Refusal};

/// Attempts when somebody else wrote between reading and writing.
const ATTEMPTS: usize = 3;

/// Why an attempt did not succeed.
enum Failed {
    /// Somebody else wrote meanwhile: worth another look at once.
    Conflict,
    /// Anything else.
    For(StatusError),
}

/// Writes a status over the one that was just read: with its resourceVersion, so that a status which another writer put there in
/// between is seen and not overwritten. With `schema`, that of the resource as it is served, only what fits into it is written.
pub(super) async fn write(
    client: &Client,
    origin: &Origin,
    status: &StatusModel,
    observer: &Observer,
    schema: Option<&Value>,
) -> Result<(), StatusError> {
    let Origin::Document { namespace, name } = origin else {
        return Err(StatusError::Gone(origin.clone()));
    };
    let failed = |why: &str| StatusError::Failed {
        origin: origin.clone(),
        why: why.to_owned(),
    };
    let api: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), namespace, &ApiResource::erase::<MySQLCluster>(&()));
    let attempts = async {
        for _ in 0..ATTEMPTS {
            match attempt(&api, name, origin, status, observer, schema).await {
                Ok(()) => return Ok(()),
                Err(Failed::Conflict) => {}
                Err(Failed::For(error)) => return Err(error),
            }
        }
        Err(failed("others write it all the time"))
    };
    tokio::time::timeout(REQUEST_DEADLINE, attempts)
        .await
        .unwrap_or_else(|_| {
            Err(failed(&format!(
                "the API server did not answer within {} s",
                REQUEST_DEADLINE.as_secs()
            )))
        })
}

async fn attempt(
    api: &Api<DynamicObject>,
    name: &str,
    origin: &Origin,
    status: &StatusModel,
    observer: &Observer,
    schema: Option<&Value>,
) -> Result<(), Failed> {
    let sorted = |error: &kube::Error| {
        let refusal = Refusal::from(error);
        match refusal.code {
            Some(404) => Failed::For(StatusError::Gone(origin.clone())),
            Some(409) => Failed::Conflict,
            Some(_) | None => Failed::For(StatusError::Failed {
                origin: origin.clone(),
                why: refusal.why,
            }),
        }
    };
    let object = api.get(name).await.map_err(|error| sorted(&error))?;
    let previous = object
        .data
        .get("status")
        .and_then(|status| serde_json::from_value::<MySQLClusterStatus>(status.clone()).ok());
    if let Some(by) = resource::superseded_by(previous.as_ref(), observer) {
        return Err(Failed::For(StatusError::Superseded {
            origin: origin.clone(),
            by,
        }));
    }
    let mut told = serde_json::to_value(resource::status(status, observer, previous.as_ref())).map_err(|why| {
        Failed::For(StatusError::Failed {
            origin: origin.clone(),
            why: why.to_string(),
        })
    })?;
    if let Some(schema) = schema {
        resource::definition::fit_status(&mut told, schema);
    }
    let patch = json!({
        "apiVersion": resource::API_VERSION,
        "kind": resource::KIND,
        "metadata": {"name": name, "resourceVersion": object.resource_version()},
        "status": told,
    });
    let parameters = PatchParams::apply(resource::FIELD_MANAGER).force();
    let Err(refused) = api.patch_status(name, &parameters, &Patch::Apply(&patch)).await else {
        return Ok(());
    };
    let is_unreadable = status.observed_generation.is_none();
    if let (true, Failed::For(StatusError::Failed { .. })) = (is_unreadable, sorted(&refused)) {
        // An apply reads the whole object by its schema, which is what this one does not keep; a merge only touches the status.
        let parameters = PatchParams {
            field_manager: Some(resource::FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        return match api.patch_status(name, &parameters, &Patch::Merge(&patch)).await {
            Ok(_) => Ok(()),
            Err(error) => Err(sorted(&error)),
        };
    }
    Err(sorted(&refused))
}
