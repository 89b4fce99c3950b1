//! The source of `MySQLCluster` documents, which also takes their status and Events.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use secrecy::SecretString;
use tokio::sync::watch;

use super::mysql::{Account, Credentials, CredentialsByOrigin, TlsMode};
use crate::domain::declared::{ClusterEvent, Observer, SourceContents, StatusModel, Tls};
use crate::domain::intent::Origin;

/// What a source last read. It is replaced as a whole.
pub type DocumentSet = Arc<SourceContents>;

/// A source of documents: an API server, or a directory. Reading never fails: what cannot be read is part of the document set.
#[async_trait]
pub trait ClusterSource: Send + Sync {
    /// The documents of the source. Available on every member.
    fn documents(&self) -> watch::Receiver<DocumentSet>;

    /// The accounts of the documents. Available on every member; a document without an account is absent.
    fn credentials(&self) -> watch::Receiver<CredentialsByOrigin>;

    /// Writes the status of one document, within a deadline of its own.
    ///
    /// # Errors
    /// When the status was not written, or may not have been written.
    async fn write_status(&self, origin: &Origin, status: &StatusModel, observer: &Observer)
    -> Result<(), StatusError>;

    /// Records an event of the cluster of a document, within a deadline of its own. An event with the same uid, reason and key is
    /// recorded once, however often it is passed and by which member.
    ///
    /// # Errors
    /// When the event was not recorded.
    async fn record_event(&self, origin: &Origin, event: &ClusterEvent) -> Result<(), StatusError>;
}

/// Why a status was not written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StatusError {
    /// The document does not exist.
    #[error("status of {0}: the document is gone")]
    Gone(Origin),
    /// Another group, or a later leader of this group, writes the status.
    #[error("status of {origin}: written by {by}, left alone")]
    Superseded {
        /// The document.
        origin: Origin,
        /// The observer that wrote the status.
        by: String,
    },
    /// The write failed and is worth another attempt.
    #[error("{origin}: {why}")]
    Failed {
        /// The document.
        origin: Origin,
        /// The reason.
        why: String,
    },
}

impl From<Tls> for TlsMode {
    fn from(tls: Tls) -> Self {
        match tls {
            Tls::Off => Self::Off,
            Tls::Preferred => Self::Preferred,
            Tls::Required => Self::Required,
            Tls::Verify => Self::Verify,
        }
    }
}

impl Credentials {
    /// The accounts in the decoded data of a Secret.
    ///
    /// # Errors
    /// Names the key that is missing, empty or not UTF-8; never quotes its value.
    pub fn from_secret(data: &BTreeMap<String, Vec<u8>>, tls: Tls) -> Result<Self, String> {
        let text = |key: &str| -> Result<Option<String>, String> {
            data.get(key)
                .map(|bytes| String::from_utf8(bytes.clone()).map_err(|_| format!("key {key} is not UTF-8")))
                .transpose()
                .map(|text| text.filter(|text| !text.is_empty()))
        };
        let needed = |key: &str| text(key)?.ok_or_else(|| format!("key {key} is missing or empty"));
        let topology = Account {
            user: needed("user")?,
            password: SecretString::from(needed("password")?),
        };
        let replication = match (text("replicationUser")?, text("replicationPassword")?) {
            (Some(user), Some(password)) => Some(Account {
                user,
                password: SecretString::from(password),
            }),
            (None, None) => None,
            (Some(_), None) => return Err("key replicationUser is set and replicationPassword is not".to_owned()),
            (None, Some(_)) => return Err("key replicationPassword is set and replicationUser is not".to_owned()),
        };
        let ca_pem = text("ca.crt")?;
        if tls == Tls::Verify && ca_pem.is_none() {
            return Err("key ca.crt is missing; tls.mode Verify requires it".to_owned());
        }
        Ok(Self {
            topology,
            replication,
            tls: tls.into(),
            ca_pem,
        })
    }

    /// Whether both have the same accounts and the same TLS settings.
    pub fn is_same(&self, other: &Self) -> bool {
        self.topology.is_same(&other.topology)
            && match (&self.replication, &other.replication) {
                (Some(ours), Some(theirs)) => ours.is_same(theirs),
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            }
            && self.tls == other.tls
            && self.ca_pem == other.ca_pem
    }
}

impl Account {
    /// Whether user and password are equal.
    pub fn is_same(&self, other: &Self) -> bool {
        use secrecy::ExposeSecret as _;
        self.user == other.user && self.password.expose_secret() == other.password.expose_secret()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(keys: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
        keys.iter()
            .map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec()))
            .collect()
    }

    #[test]
    fn a_secret_with_user_and_password_is_enough() {
        let credentials = Credentials::from_secret(&secret(&[("user", "u"), ("password", "p")]), Tls::Off).unwrap();
        assert_eq!(credentials.topology.user, "u");
        assert!(credentials.replication.is_none());
        assert_eq!(credentials.tls, TlsMode::Off);
    }

    #[test]
    fn what_a_secret_lacks_is_named_and_what_it_holds_is_not() {
        for (keys, tls, expected) in [
            (vec![("user", "u")], Tls::Off, "key password is missing or empty"),
            (vec![("password", "geheim")], Tls::Off, "key user is missing or empty"),
            (
                vec![("user", ""), ("password", "geheim")],
                Tls::Off,
                "key user is missing or empty",
            ),
            (
                vec![("user", "u"), ("password", "geheim"), ("replicationUser", "r")],
                Tls::Off,
                "key replicationUser is set and replicationPassword is not",
            ),
            (
                vec![("user", "u"), ("password", "geheim")],
                Tls::Verify,
                "key ca.crt is missing; tls.mode Verify requires it",
            ),
        ] {
            let why = Credentials::from_secret(&secret(&keys), tls).unwrap_err();
            assert_eq!(why, expected);
            assert!(!why.contains("geheim"));
        }
    }

    #[test]
    fn credentials_show_no_password() {
        let credentials =
            Credentials::from_secret(&secret(&[("user", "u"), ("password", "geheim")]), Tls::Off).unwrap();
        assert!(!format!("{credentials:?}").contains("geheim"));
    }

    #[test]
    fn a_changed_password_is_another_account() {
        let of =
            |password| Credentials::from_secret(&secret(&[("user", "u"), ("password", password)]), Tls::Off).unwrap();
        assert!(of("a").is_same(&of("a")));
        assert!(!of("a").is_same(&of("b")));
    }
}
