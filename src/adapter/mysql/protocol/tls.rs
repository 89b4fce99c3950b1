//! TLS sessions by rustls and ring.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use super::error::ProtocolError;
use super::packet_stream::Socket;

/// The age at which the certificates of the system are read again.
const REREAD_AFTER: Duration = Duration::from_mins(10);

/// Limit for the configurations that are kept, one for each certificate authority of the documents.
const MAX_KEPT: usize = 256;

/// Establishes a TLS session on a socket.
///
/// # Errors
/// When the server's messages are unreadable, its certificate is not accepted, or the connection fails.
pub(super) async fn establish(
    socket: Box<dyn Socket>,
    config: Arc<ClientConfig>,
    server_name: &str,
) -> Result<Box<dyn Socket>, ProtocolError> {
    let name = ServerName::try_from(server_name.to_owned())
        .map_err(|error| ProtocolError::Tls(format!("`{server_name}` is no name for a certificate: {error}")))?;
    match TlsConnector::from(config).connect(name, socket).await {
        Ok(stream) => Ok(Box::new(stream)),
        // rustls reports everything that the server did wrong so.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(ProtocolError::Tls(error.to_string())),
        Err(error) => Err(ProtocolError::Io(error)),
    }
}

/// Sessions in which the certificate is not verified: they protect from listeners only.
pub(super) fn unverified() -> Arc<ClientConfig> {
    static CONFIG: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
        let provider = Arc::new(ring::default_provider());
        let verifier = Arc::new(AnyCertificate(Arc::clone(&provider)));
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("because ring has the cipher suites of both versions")
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Arc::new(config)
    });
    Arc::clone(&CONFIG)
}

/// Sessions in which the certificate is verified, against the authorities of the system and against `ca_pem`.
///
/// # Errors
/// When `ca_pem` contains no readable certificate.
pub(super) fn verified(ca_pem: Option<&str>) -> Result<Arc<ClientConfig>, ProtocolError> {
    type Kept = BTreeMap<Option<String>, (Instant, Arc<ClientConfig>)>;
    static KEPT: LazyLock<Mutex<Kept>> = LazyLock::new(Mutex::default);
    let key = ca_pem.map(str::to_owned);
    let kept = |kept: &Kept| {
        kept.get(&key)
            .filter(|(read, _)| read.elapsed() < REREAD_AFTER)
            .map(|(_, config)| Arc::clone(config))
    };
    if let Some(config) = kept(&KEPT.lock().unwrap_or_else(PoisonError::into_inner)) {
        return Ok(config);
    }
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for error in system.errors {
        tracing::debug!("failed to read a certificate of the system: {error}");
    }
    roots.add_parsable_certificates(system.certs);
    if let Some(pem) = ca_pem {
        let invalid = |error: &dyn std::fmt::Display| {
            ProtocolError::Tls(format!("the certificate authority is invalid: {error}"))
        };
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate = certificate.map_err(|error| invalid(&error))?;
            roots.add(certificate).map_err(|error| invalid(&error))?;
        }
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| ProtocolError::Tls(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    // Each connection verifies the certificate anew.
    config.resumption = Resumption::disabled();
    let config = Arc::new(config);
    let mut all = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if all.len() >= MAX_KEPT {
        all.clear();
    }
    all.insert(key, (Instant::now(), Arc::clone(&config)));
    Ok(config)
}

/// Accepts every certificate, when its key signed the handshake.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
