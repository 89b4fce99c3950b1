//! Where `MySQLCluster` documents come from and where their status goes: the ports of the declarative half.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use secrecy::SecretString;
use tokio::sync::watch;

pub use crate::domain::declared::{
    ClusterEvent, ClusterView, DeclaredCluster, LabelError, LeadsTo, Observer, PodLabel, Publication, PublishError,
    Reading, Seen, StatusModel,
};

use crate::app::ports::{Account, Credentials, CredentialsByOrigin, TlsMode};
use crate::domain::declared::Tls;
use crate::domain::intent::Origin;

/// What a source saw last. Replaced as a whole.
pub type DocumentSet = Arc<Seen>;

/// The clusters as this member sees them now; the view of the topology feeds it.
pub type ClusterViews = Arc<Vec<ClusterView>>;

/// A source of documents: an API server, or a directory. It never fails: what cannot be read is part of what it says.
#[async_trait]
pub trait ClusterSource: Send + Sync {
    /// What the source holds, on every member.
    fn documents(&self) -> watch::Receiver<DocumentSet>;

    /// The accounts of the documents, on every member; a document without one is absent.
    fn credentials(&self) -> watch::Receiver<CredentialsByOrigin>;

    /// Writes the status of one document, within a deadline of its own.
    ///
    /// # Errors
    /// When it was not written, or may not have been.
    async fn write_status(&self, origin: &Origin, status: &StatusModel, observer: &Observer)
    -> Result<(), StatusError>;

    /// Tells of something that happened to the cluster of a document, within a deadline of its own. Of the same uid, reason and key it is
    /// told once, however often and by whomever this is called.
    ///
    /// # Errors
    /// When it was not told.
    async fn tell(&self, origin: &Origin, notice: &ClusterEvent) -> Result<(), StatusError>;

    /// Makes the Services of a document what they must be, and removes those that are its own and are not asked for. Answers where the
    /// one for the primary leads then.
    ///
    /// # Errors
    /// When they are not as they must be. A source without Services always fails where one is asked for.
    async fn publish(
        &self,
        _origin: &Origin,
        publication: &Publication,
        _observer: &Observer,
    ) -> Result<LeadsTo, PublishError> {
        if publication.services.is_empty() {
            Ok(None)
        } else {
            Err(PublishError::Unsupported)
        }
    }

    /// Writes the labels of a pod of a document's namespace, unless another pod has its name by now. A source without pods, or one that
    /// is not to label them, always fails.
    ///
    /// # Errors
    /// When they are not as they must be.
    async fn label(&self, _origin: &Origin, _label: &PodLabel) -> Result<(), LabelError> {
        Err(LabelError::Unsupported)
    }
}

/// Why a status was not written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StatusError {
    /// The document is not there.
    #[error("status of {0}: the document is gone")]
    Gone(Origin),
    /// Another group, or a later leader of this one, writes it.
    #[error("status of {origin}: written by {by}, left alone")]
    Superseded {
        /// Of which document.
        origin: Origin,
        /// By whom.
        by: String,
    },
    /// It failed and is worth another attempt.
    #[error("{origin}: {why}")]
    Failed {
        /// Of which document.
        origin: Origin,
        /// Why.
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
    /// Names the key that is missing, empty or no text; never what is in it.
    pub fn from_secret(data: &BTreeMap<String, Vec<u8>>, tls: Tls) -> Result<Self, String> {
        let text = |key: &str| -> Result<Option<String>, String> {
            data.get(key)
                .map(|bytes| String::from_utf8(bytes.clone()).map_err(|_| format!("key {key} is no UTF-8 text")))
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
            (Some(_), None) => return Err("key replicationUser is there without replicationPassword".to_owned()),
            (None, Some(_)) => return Err("key replicationPassword is there without replicationUser".to_owned()),
        };
        let ca_pem = text("ca.crt")?;
        if tls == Tls::Verify && ca_pem.is_none() {
            return Err("key ca.crt is missing, and tls.mode is Verify".to_owned());
        }
        Ok(Self {
            topology,
            replication,
            tls: tls.into(),
            ca_pem,
        })
    }

    /// Whether both open the same servers with the same accounts.
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
    /// Whether user and password are the same.
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
                "key replicationUser is there without replicationPassword",
            ),
            (
                vec![("user", "u"), ("password", "geheim")],
                Tls::Verify,
                "key ca.crt is missing, and tls.mode is Verify",
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
