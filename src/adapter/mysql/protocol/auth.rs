//! What a password becomes before it is sent.

use getrandom::SysRng;
use rsa::pkcs8::DecodePublicKey as _;
use rsa::rand_core::UnwrapErr;
use rsa::{Oaep, RsaPublicKey};
use sha1::{Digest as _, Sha1};
use sha2::{Digest as _, Sha256};

use super::error::ProtocolError;

/// The bytes of a challenge.
pub(super) const CHALLENGE: usize = 20;

/// The random bytes by which a server prevents that an answer is used twice.
pub(super) type Challenge = [u8; CHALLENGE];

/// The authentication plugins that ham4db supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plugin {
    NativePassword,
    CachingSha2,
    Sha256,
    ClearPassword,
}

impl Plugin {
    /// The plugin with this name.
    pub(super) fn from_name(name: &[u8]) -> Option<Self> {
        match name {
            b"mysql_native_password" => Some(Self::NativePassword),
            b"caching_sha2_password" => Some(Self::CachingSha2),
            b"sha256_password" => Some(Self::Sha256),
            b"mysql_clear_password" => Some(Self::ClearPassword),
            _ => None,
        }
    }

    /// Its name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::NativePassword => "mysql_native_password",
            Self::CachingSha2 => "caching_sha2_password",
            Self::Sha256 => "sha256_password",
            Self::ClearPassword => "mysql_clear_password",
        }
    }
}

/// `SHA1(password) ^ SHA1(challenge, SHA1(SHA1(password)))`.
pub(super) fn native_password(password: &str, challenge: &Challenge) -> Vec<u8> {
    let once = Sha1::digest(password);
    let twice = Sha1::digest(once);
    let mask = Sha1::new().chain_update(challenge).chain_update(twice).finalize();
    once.iter().zip(mask).map(|(one, other)| one ^ other).collect()
}

/// `SHA256(password) ^ SHA256(SHA256(SHA256(password)), challenge)`.
pub(super) fn caching_sha2(password: &str, challenge: &Challenge) -> Vec<u8> {
    let once = Sha256::digest(password);
    let twice = Sha256::digest(once);
    let mask = Sha256::new().chain_update(twice).chain_update(challenge).finalize();
    once.iter().zip(mask).map(|(one, other)| one ^ other).collect()
}

/// The password with a zero byte at its end.
pub(super) fn clear(password: &str) -> Vec<u8> {
    [password.as_bytes(), b"\0"].concat()
}

/// The password encrypted with the public key that the server sent.
///
/// # Errors
/// When `pem` is not a public key of at most 4096 bits, or the password is too long for it.
pub(super) fn encrypted(password: &str, challenge: &Challenge, pem: &[u8]) -> Result<Vec<u8>, ProtocolError> {
    let unusable = || ProtocolError::unreadable("an unusable public key", pem);
    let text = std::str::from_utf8(pem).map_err(|_| unusable())?;
    let key = RsaPublicKey::from_public_key_pem(text.trim_end_matches('\0')).map_err(|_| unusable())?;
    let masked: Vec<u8> = clear(password)
        .iter()
        .zip(challenge.iter().cycle())
        .map(|(one, other)| one ^ other)
        .collect();
    key.encrypt(&mut UnwrapErr(SysRng), Oaep::<Sha1>::new(), &masked)
        .map_err(|error| ProtocolError::Unreadable(format!("cannot encrypt with the server's public key: {error}")))
}
