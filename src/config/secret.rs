//! A secret text of the configuration: it must not appear in an error about its type or in `Debug`.

use secrecy::{ExposeSecret, SecretString};
use serde::de::{Deserialize, Deserializer, Error};

/// A password or token of a configuration file. `Debug` hides it.
#[derive(Clone, Debug, Default)]
pub struct Secret(SecretString);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(SecretString::from(text.into()))
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.0.expose_secret().is_empty()
    }

    /// Exposes the text.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// The text as a protected value.
    pub fn into_inner(self) -> SecretString {
        self.0
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The standard error for a wrong type quotes the value: a password written as a number would end up in the log.
        let value = serde_json::Value::deserialize(deserializer)?;
        let text = value.as_str();
        text.map(Self::new)
            .ok_or_else(|| D::Error::custom("invalid type, expected a string (the value is a secret and not shown)"))
    }
}
