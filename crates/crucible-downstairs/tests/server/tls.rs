//! TLS with certificates on both sides.

#![cfg(feature = "tls")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::BytesMut;
use crucible_downstairs::drive::{Config, TlsSettings};
use crucible_downstairs::store::Mode;
use crucible_protocol::Message;
use crucible_protocol::wire::Decoder;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use crate::support::{Directory, PATIENCE, Server, create, key, small};

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../crucible-upstairs/tests/data/tls")
        .join(name)
}

/// A server that lets in whom `root` has signed.
fn server(root: &str) -> Server {
    let directory = Arc::new(Directory::new());
    create(&directory.join("region"), &small());
    let mut config = Config::at("127.0.0.1:0".parse().unwrap());
    config.tls = Some(
        TlsSettings::from_files(&path("server.pem"), &path("server.key"), &path(root)).unwrap(),
    );
    Server::with(directory, Mode::ReadWrite, config)
}

/// Says hello as whoever `name` is; the answer, if there is one.
fn hello(server: &Server, name: &str) -> Option<Message> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(path("root.pem")).unwrap())
        .unwrap();
    let chain = CertificateDer::pem_file_iter(path(&format!("{name}.pem")))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let private = PrivateKeyDer::from_pem_file(path(&format!("{name}.key"))).unwrap();
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, private)
        .unwrap();
    let name = ServerName::try_from("downstairs1").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let socket = TcpStream::connect(server.address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut stream = StreamOwned::new(connection, socket);
    let mut frame = BytesMut::new();
    Message::HereIAm {
        version: 13,
        key: key(1, 1),
        generation: 1,
        read_only: false,
        encrypted: false,
        alternate_versions: Vec::new(),
    }
    .encode_into(&mut frame);
    stream.write_all(&frame).ok()?;
    let mut buffer = BytesMut::new();
    let mut chunk = [0; 4096];
    loop {
        if let Some(message) = Decoder::default().decode(&mut buffer).unwrap() {
            return Some(message);
        }
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return None,
            Ok(count) => buffer.extend_from_slice(&chunk[..count]),
        }
    }
}

#[test]
fn those_with_a_certificate_are_let_in_whatever_the_form_of_their_key() {
    let server = server("root.pem");
    for name in ["client-pkcs1", "client-pkcs8"] {
        let answer = hello(&server, name);
        assert!(matches!(answer, Some(Message::YesItsMe { .. })), "{name}");
    }
}

#[test]
fn strangers_and_those_without_tls_are_not() {
    assert_eq!(hello(&server("other-root.pem"), "client-pkcs8"), None);
    let server = server("root.pem");
    let mut plain = server.peer();
    plain.send_bytes(&[0; 64]);
    // What comes is an alert of TLS, not a message of ours; then the end.
    let mut silent = TcpStream::connect(server.address).unwrap();
    let answer = hello(&server, "client-pkcs8");
    assert!(matches!(answer, Some(Message::YesItsMe { .. })));
    silent.write_all(&[22]).unwrap();
}

#[test]
fn files_that_do_not_fit_are_named() {
    let wrong = |certificates: &str, key: &str, root: &str| {
        TlsSettings::from_files(&path(certificates), &path(key), &path(root))
            .unwrap_err()
            .to_string()
    };
    assert!(wrong("missing.pem", "server.key", "root.pem").contains("missing.pem"));
    assert!(wrong("server.pem", "root.pem", "root.pem").contains("expected a private key"));
    assert!(wrong("server.pem", "server.key", "server.key").contains("expected certificates"));
}
