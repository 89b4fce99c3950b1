//! The manifest of a Role that an account lacks, for messages.

/// A Role with its `RoleBinding`, which grants `rules` in a namespace to the account that was refused. `rules` are YAML, one rule
/// each. `refused` is the message of the API server, which names the account.
pub(super) fn role_manifest(namespace: &str, name: &str, rules: &[String], refused: &str) -> String {
    let rules: Vec<String> = rules.iter().map(|rule| format!("  - {rule}\n")).collect();
    let rules = rules.concat();
    let subject = subject(refused);
    // Names are quoted, because YAML would parse some of them as numbers.
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

/// The subject for the account that the API server refused, from its message:
/// `User "system:serviceaccount:NAMESPACE:NAME" cannot ...`.
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
    fn it_names_the_account_that_was_refused() {
        let rule = "{apiGroups: [\"\"], resources: [secrets], resourceNames: [\"0123\"], verbs: [get, list, watch]}"
            .to_owned();
        let refused = "secrets \"0123\" is forbidden: User \"system:serviceaccount:ops:watcher\" cannot list resource \"secrets\" (403)";
        let [role, binding] = read(&role_manifest("db", "ham4db-0123", &[rule], refused))
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
