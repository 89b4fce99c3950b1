//! The Role that somebody lacks, in a form that can be applied.

/// Roles and who they are bound to: what lets the account that was refused do something in a namespace. `rules` are in YAML, each a line.
pub(super) fn manifest(namespace: &str, name: &str, rules: &[String], refused: &str) -> String {
    let rules: Vec<String> = rules.iter().map(|rule| format!("  - {rule}\n")).collect();
    let rules = rules.concat();
    let subject = subject(refused);
    // Names are quoted: some would be read as numbers.
    format!(
        "apiVersion: rbac.authorization.k8s.io/v1\n\
         kind: Role\n\
         metadata: {{name: \"{name}\", namespace: \"{namespace}\"}}\n\
         rules:\n{rules}\
         ---\n\
         apiVersion: rbac.authorization.k8s.io/v1\n\
         kind: RoleBinding\n\
         metadata: {{name: \"{name}\", namespace: \"{namespace}\"}}\n\
         roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: \"{name}\"}}\n\
         subjects:\n  - {subject}\n"
    )
}

/// Whom the API server refused, by its own words: `User "system:serviceaccount:NAMESPACE:NAME" cannot ...`.
fn subject(refused: &str) -> String {
    let user = refused.split("User \"").nth(1).and_then(|rest| rest.split('"').next());
    let user = user.unwrap_or("system:serviceaccount:ham4db:ham4db");
    let account = user.strip_prefix("system:serviceaccount:");
    match account.and_then(|account| account.split_once(':')) {
        Some((namespace, name)) => format!("{{kind: ServiceAccount, name: \"{name}\", namespace: \"{namespace}\"}}"),
        None => format!("{{apiGroup: rbac.authorization.k8s.io, kind: User, name: \"{user}\"}}"),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize as _;
    use serde_json::{Value, json};

    use super::*;

    fn read(text: &str) -> Vec<Value> {
        let documents = serde_yaml::Deserializer::from_str(text);
        documents
            .map(|document| Value::deserialize(document).unwrap())
            .collect()
    }

    #[test]
    fn it_is_for_whom_was_refused() {
        let rule = "{apiGroups: [\"\"], resources: [secrets], resourceNames: [\"0123\"], verbs: [get, list, watch]}"
            .to_owned();
        let refused = "secrets \"0123\" is forbidden: User \"system:serviceaccount:ops:watcher\" cannot list resource \"secrets\" (403)";
        let [role, binding] = read(&manifest("db", "ham4db-0123", &[rule], refused))
            .try_into()
            .unwrap();
        assert_eq!(role["metadata"], json!({"name": "ham4db-0123", "namespace": "db"}));
        assert_eq!(role["rules"][0]["resourceNames"], json!(["0123"]));
        assert_eq!(binding["roleRef"]["name"], "ham4db-0123");
        assert_eq!(
            binding["subjects"],
            json!([{"kind": "ServiceAccount", "name": "watcher", "namespace": "ops"}])
        );
    }

    #[test]
    fn a_person_is_a_user_and_an_unknown_one_the_usual_account() {
        assert!(subject("User \"alice\" cannot list").contains("kind: User, name: \"alice\""));
        assert!(subject("no").contains("kind: ServiceAccount, name: \"ham4db\", namespace: \"ham4db\""));
    }
}
