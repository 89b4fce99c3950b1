//! The `MySQLCluster` resource: its types, its schema, and the conversion between documents and the domain.
//!
//! Imported by adapters and `cli` only. It imports `domain` only: every source of documents shares this conversion.

pub mod definition;
pub mod read;
pub mod spec;
pub mod status;
pub mod write;

#[cfg(test)]
mod tests;

use kube::CustomResourceExt as _;

pub use read::{DocumentFault, ReadDocument, document};
pub use spec::{MySQLCluster, MySQLClusterSpec};
pub use status::MySQLClusterStatus;
pub use write::{status, superseded_by};

/// The `apiVersion` of documents.
pub const API_VERSION: &str = "ham4db.io/v1alpha1";
/// Their `kind`.
pub const KIND: &str = "MySQLCluster";
/// The field manager of what ham4db applies; fixed, since the API server keeps one set of owned fields per name.
pub const FIELD_MANAGER: &str = "ham4db-controller";

/// The `CustomResourceDefinition`, as `make crds` writes it.
///
/// # Errors
/// When the definition cannot be written as YAML, which would be a mistake in the types.
pub fn crd_yaml() -> Result<String, serde_yaml::Error> {
    let mut definition = serde_yaml::to_value(MySQLCluster::crd())?;
    shorten(&mut definition, false);
    describe_once(&mut definition);
    for version in list_of(&mut definition, &["spec", "versions"]) {
        if let Some(status) = field_of(version, &["schema", "openAPIV3Schema", "properties", "status"]) {
            without_null(status);
        }
        without_addresses(version);
    }
    Ok(quoted(&serde_yaml::to_string(&definition)?))
}

/// YAML 1.1, which kubectl and Helm read, takes a bare `Off` for a boolean, and no document could have that value.
fn quoted(yaml: &str) -> String {
    let mut text = String::new();
    for line in yaml.lines() {
        match line.strip_suffix("- Off") {
            Some(indent) => text.extend([indent, "- 'Off'"]),
            None => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

fn field_of<'a>(value: &'a mut serde_yaml::Value, path: &[&str]) -> Option<&'a mut serde_yaml::Value> {
    path.iter().try_fold(value, |value, name| value.get_mut(name))
}

fn list_of<'a>(
    value: &'a mut serde_yaml::Value,
    path: &[&str],
) -> impl Iterator<Item = &'a mut serde_yaml::Value> + use<'a> {
    let list = field_of(value, path).and_then(serde_yaml::Value::as_sequence_mut);
    list.into_iter().flatten()
}

/// Removes `nullable` from the status: only ham4db writes a status, and it omits what is unknown. The API server drops a null where
/// none is allowed.
fn without_null(schema: &mut serde_yaml::Value) {
    for item in schema.as_sequence_mut().into_iter().flatten() {
        without_null(item);
    }
    if let Some(fields) = schema.as_mapping_mut() {
        fields.remove("nullable");
        fields.values_mut().for_each(without_null);
    }
}

/// Removes the descriptions of host and port except for seeds.
fn without_addresses(schema: &mut serde_yaml::Value) {
    for item in schema.as_sequence_mut().into_iter().flatten() {
        without_addresses(item);
    }
    for (name, field) in schema.as_mapping_mut().into_iter().flatten() {
        if name.as_str() == Some("seeds") {
            continue;
        }
        let is_address = |said: &serde_yaml::Value| said == "Host name or IP address." || said == "TCP port.";
        if field.get("description").is_some_and(is_address)
            && let Some(field) = field.as_mapping_mut()
        {
            field.shift_remove("description");
        }
        without_addresses(field);
    }
}

/// Removes the description of the entries of a list that has one itself.
fn describe_once(schema: &mut serde_yaml::Value) {
    for item in schema.as_sequence_mut().into_iter().flatten() {
        describe_once(item);
    }
    let Some(fields) = schema.as_mapping_mut() else { return };
    let is_list = fields.get("type").and_then(|kind| kind.as_str()) == Some("array");
    if is_list
        && fields.contains_key("description")
        && let Some(items) = fields.get_mut("items").and_then(serde_yaml::Value::as_mapping_mut)
    {
        items.remove("description");
    }
    for field in fields.values_mut() {
        describe_once(field);
    }
}

/// Removes Kubernetes' descriptions of its own condition type: they are the same in every resource, and a third of the size.
fn shorten(schema: &mut serde_yaml::Value, is_condition: bool) {
    let Some(fields) = schema.as_mapping_mut() else {
        for item in schema.as_sequence_mut().into_iter().flatten() {
            shorten(item, is_condition);
        }
        return;
    };
    if is_condition {
        fields.remove("description");
    }
    for (name, field) in fields.iter_mut() {
        let begins = name.as_str() == Some("conditions");
        if begins {
            if let Some(items) = field.get_mut("items") {
                shorten(items, true);
            }
        } else {
            shorten(field, is_condition);
        }
    }
}
