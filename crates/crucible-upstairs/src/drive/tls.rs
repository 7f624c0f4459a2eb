//! TLS to region servers: both sides show certificates of the same root, and a region server is known by the name
//! `downstairs0`, `downstairs1` or `downstairs2`, not by a host name (spec: crucible 1.1).

#[cfg(feature = "tls")]
pub use with_tls::TlsClient;
#[cfg(not(feature = "tls"))]
pub use without_tls::TlsClient;

use std::path::PathBuf;

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that cannot be read or is not what it should be.
    #[error("{}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        error: String,
    },
    /// The files do not fit together.
    #[error("these files do not make a TLS client: {0}")]
    Setup(String),
    /// Built without the feature `tls`.
    #[error("this program was built without TLS")]
    NotBuilt,
}

#[cfg(feature = "tls")]
mod with_tls {
    use std::fmt;
    use std::io;
    use std::sync::Arc;

    use crucible_protocol::ClientId;
    use rustls::{ClientConfig, RootCertStore};
    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    use tokio::net::TcpStream;
    use tokio_rustls::TlsConnector;

    use super::TlsError;
    use crate::drive::link::Stream;
    use crate::options::TlsPaths;

    /// Makes TLS connections.
    #[derive(Clone)]
    pub struct TlsClient(TlsConnector);

    impl TlsClient {
        /// Reads the three files. Keys may be PKCS#8, PKCS#1 or SEC1.
        pub fn load(paths: &TlsPaths) -> Result<Self, TlsError> {
            let file = |path: &std::path::Path, error: &dyn fmt::Display| TlsError::File {
                path: path.to_owned(),
                error: error.to_string(),
            };
            let certificates = |path: &std::path::Path| {
                let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)
                    .and_then(Iterator::collect)
                    .map_err(|error| file(path, &error));
                match all {
                    Ok(all) if all.is_empty() => Err(file(path, &"there is no certificate in it")),
                    all => all,
                }
            };
            let chain = certificates(&paths.certificates)?;
            let key = PrivateKeyDer::from_pem_file(&paths.key)
                .map_err(|error| file(&paths.key, &error))?;
            let mut roots = RootCertStore::empty();
            for root in certificates(&paths.root)? {
                roots.add(root).map_err(|error| file(&paths.root, &error))?;
            }
            let setup = |error: rustls::Error| TlsError::Setup(error.to_string());
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let config = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .map_err(setup)?
                .with_root_certificates(roots)
                .with_client_auth_cert(chain, key)
                .map_err(setup)?;
            Ok(Self(Arc::new(config).into()))
        }

        pub(in crate::drive) async fn connect(
            &self,
            client: ClientId,
            stream: TcpStream,
        ) -> io::Result<Box<dyn Stream>> {
            let name = format!("downstairs{client}");
            let name = ServerName::try_from(name).map_err(io::Error::other)?;
            Ok(Box::new(self.0.connect(name, stream).await?))
        }
    }

    impl fmt::Debug for TlsClient {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("TlsClient(..)")
        }
    }
}

#[cfg(not(feature = "tls"))]
mod without_tls {
    use std::io;

    use crucible_protocol::ClientId;
    use tokio::net::TcpStream;

    use super::TlsError;
    use crate::drive::link::Stream;
    use crate::options::TlsPaths;

    /// There is no TLS in this build, and nothing of this type.
    #[derive(Clone, Debug)]
    pub enum TlsClient {}

    impl TlsClient {
        /// Says so.
        pub fn load(_paths: &TlsPaths) -> Result<Self, TlsError> {
            Err(TlsError::NotBuilt)
        }

        pub(in crate::drive) async fn connect(
            &self,
            _client: ClientId,
            _stream: TcpStream,
        ) -> io::Result<Box<dyn Stream>> {
            match *self {}
        }
    }
}
