//! TLS with certificates on both sides (spec: wire 1.1).

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::TlsSettings;

/// A peer may take so long to show who it is.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What is wrong with the three files.
#[derive(Debug)]
pub enum TlsError {
    /// A file cannot be read or holds nothing of use.
    File {
        /// Which.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The files do not belong together.
    Config(rustls::Error),
    /// Nobody can be let in by this root.
    Root(rustls::server::VerifierBuilderError),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File {
                path,
                expected,
                reason,
            } => write!(f, "{}: expected {expected}: {reason}", path.display()),
            Self::Config(error) => write!(f, "certificate and key: {error}"),
            Self::Root(error) => write!(f, "root certificate: {error}"),
        }
    }
}

impl std::error::Error for TlsError {}

impl TlsSettings {
    /// From three PEM files: our certificates, our key (PKCS#8, PKCS#1 or SEC1), and the root that signs the peers'.
    pub fn from_files(certificates: &Path, key: &Path, root: &Path) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        for certificate in read_certificates(root)? {
            roots.add(certificate).map_err(|error| TlsError::File {
                path: root.into(),
                expected: "root certificates",
                reason: error.to_string(),
            })?;
        }
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .map_err(TlsError::Root)?;
        let key = PrivateKeyDer::from_pem_file(key).map_err(|error| TlsError::File {
            path: key.into(),
            expected: "a private key",
            reason: error.to_string(),
        })?;
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Config)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(read_certificates(certificates)?, key)
            .map_err(TlsError::Config)?;
        Ok(Self {
            config: Arc::new(config),
        })
    }
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |reason: String| TlsError::File {
        path: path.into(),
        expected: "certificates",
        reason,
    };
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| wrong(error.to_string()))?;
    if certificates.is_empty() {
        return Err(wrong("there is none in it".into()));
    }
    Ok(certificates)
}

/// Lets a peer show who it is.
pub(super) async fn shake_hands(
    settings: &TlsSettings,
    stream: TcpStream,
) -> io::Result<TlsStream<TcpStream>> {
    let acceptor = TlsAcceptor::from(Arc::clone(&settings.config));
    tokio::time::timeout(HANDSHAKE, acceptor.accept(stream))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}
