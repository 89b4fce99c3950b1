//! Writes the status of a document, by server-side apply.

use kube::api::{Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};

use crate::app::ports::cluster_source::StatusError;
use crate::domain::declared::{Observer, StatusModel};
use crate::domain::intent::Origin;
use crate::resource::{self, MySQLCluster, MySQLClusterStatus};

use super::{REQUEST_DEADLINE, RequestError};

/// Attempts when another client wrote between read and write.
const ATTEMPTS: usize = 3;

/// The failure of an attempt.
enum AttemptError {
    /// Another client wrote meanwhile: retry at once.
    Conflict,
    /// Any other failure.
    Other(StatusError),
}

/// Reads the present status and writes the new one with its resourceVersion, so that a status which another client wrote
/// meanwhile is not overwritten. With `schema`, the schema of the served definition, only fields that it contains are written.
///
/// # Errors
/// When the document is gone, a later leader wrote the status, or a request fails.
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
                Err(AttemptError::Conflict) => {}
                Err(AttemptError::Other(error)) => return Err(error),
            }
        }
        Err(failed(&format!(
            "other clients changed the document during all {ATTEMPTS} attempts"
        )))
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
) -> Result<(), AttemptError> {
    let classify = |error: &kube::Error| {
        let request_error = RequestError::from(error);
        match request_error.code {
            Some(404) => AttemptError::Other(StatusError::Gone(origin.clone())),
            Some(409) => AttemptError::Conflict,
            Some(_) | None => AttemptError::Other(StatusError::Failed {
                origin: origin.clone(),
                why: request_error.why,
            }),
        }
    };
    let object = api.get(name).await.map_err(|error| classify(&error))?;
    let previous = object
        .data
        .get("status")
        .and_then(|status| serde_json::from_value::<MySQLClusterStatus>(status.clone()).ok());
    if let Some(by) = resource::superseded_by(previous.as_ref(), observer) {
        return Err(AttemptError::Other(StatusError::Superseded {
            origin: origin.clone(),
            by,
        }));
    }
    let mut written = serde_json::to_value(resource::status(status, observer, previous.as_ref())).map_err(|why| {
        AttemptError::Other(StatusError::Failed {
            origin: origin.clone(),
            why: why.to_string(),
        })
    })?;
    if let Some(schema) = schema {
        resource::definition::fit_status(&mut written, schema);
    }
    let patch = json!({
        "apiVersion": resource::API_VERSION,
        "kind": resource::KIND,
        "metadata": {"name": name, "resourceVersion": object.resource_version()},
        "status": written,
    });
    let parameters = PatchParams::apply(resource::FIELD_MANAGER).force();
    let Err(refused) = api.patch_status(name, &parameters, &Patch::Apply(&patch)).await else {
        return Ok(());
    };
    let is_unreadable = status.observed_generation.is_none();
    if let (true, AttemptError::Other(StatusError::Failed { .. })) = (is_unreadable, classify(&refused)) {
        // An apply validates the whole object, and the spec of this one is invalid. A merge patch changes the status only.
        let parameters = PatchParams {
            field_manager: Some(resource::FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        return match api.patch_status(name, &parameters, &Patch::Merge(&patch)).await {
            Ok(_) => Ok(()),
            Err(error) => Err(classify(&error)),
        };
    }
    Err(classify(&refused))
}
