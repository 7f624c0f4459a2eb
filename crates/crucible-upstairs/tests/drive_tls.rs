//! Volumes over TLS: both forms of keys, and what is refused.

#![cfg(feature = "tls")]
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests; a failure is the finding"
)]

mod drive_peer;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use crucible_protocol::{BlockIndex, Geometry};
use crucible_upstairs::drive::Setup;
use crucible_upstairs::options::CrucibleOpts;
use crucible_upstairs::volume::{Volume, block_on};
use drive_peer::{Peer, Wrap};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use uuid::Uuid;

fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "data", "tls", name]
        .iter()
        .collect()
}

/// What a region server with this certificate does with a connection.
fn server(name: &str) -> Wrap {
    let chain = CertificateDer::pem_file_iter(path(&format!("{name}.pem"))).unwrap();
    let chain = chain.map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(path(&format!("{name}.key"))).unwrap();
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_file(path("root.pem")).unwrap();
    roots.add(root).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(chain, key)
        .unwrap();
    let config = Arc::new(config);
    Arc::new(move |stream| {
        let connection = ServerConnection::new(config.clone()).map_err(std::io::Error::other)?;
        Ok(Box::new(StreamOwned::new(connection, stream)))
    })
}

fn peers(certificate: &str) -> [Peer; 3] {
    let geometry = Geometry::new(4096, 64, 4).unwrap();
    [(); 3].map(|()| Peer::with(geometry, true, Some(server(certificate))))
}

fn opts(peers: &[Peer; 3], client: &str, root: &str) -> CrucibleOpts {
    let mut opts = CrucibleOpts::new(Uuid::from_u128(7), peers.each_ref().map(|p| p.address));
    opts.key = Some(
        "tCw7zw0hAsPuxMOTWwnPEFYjBK9qJRtYyGdEXKEnrg0="
            .to_owned()
            .into(),
    );
    let text = |name: String| Some(path(&name).display().to_string());
    opts.cert_pem = text(format!("{client}.pem"));
    opts.key_pem = text(format!("{client}.key"));
    opts.root_cert_pem = text(format!("{root}.pem"));
    opts
}

#[test]
fn a_volume_works_over_tls_with_either_form_of_key() {
    for client in ["client-pkcs1", "client-pkcs8"] {
        let peers = peers("server");
        let setup = Setup::new(&opts(&peers, client, "root"), None, 1).unwrap();
        let volume = Volume::region(setup).unwrap();
        volume.activate_blocking(None).unwrap();
        let data: BytesMut = (0..200 * 4096).map(|at| (at / 3 % 251) as u8).collect();
        volume.write_blocking(BlockIndex(7), data.clone()).unwrap();
        volume.flush_blocking(None).unwrap();
        let plain = volume.read_blocking(BlockIndex(7), 200).unwrap();
        assert!(plain.data == data);
        volume.deactivate_blocking().unwrap();
    }
}

/// What the upstairs says about its first region server, once it says something.
fn loss(volume: &Volume) -> String {
    loop {
        let insight = block_on(volume.insights()).pop().unwrap();
        if let Some(loss) = &insight.status.replicas[0].last_loss {
            return loss.clone();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_region_server_of_another_name_or_root_is_not_believed() {
    for (certificate, root, expected) in [
        ("stranger", "root", "not valid for name"),
        ("server", "other-root", "UnknownIssuer"),
    ] {
        let peers = peers(certificate);
        let setup = Setup::new(&opts(&peers, "client-pkcs8", root), None, 1).unwrap();
        let volume = Volume::region(setup).unwrap();
        let activating = std::thread::spawn({
            let volume = volume.clone();
            move || volume.activate_blocking(None)
        });
        let loss = loss(&volume);
        assert!(loss.contains(expected), "{loss}");
        block_on(volume.shut_down()).unwrap();
        assert!(activating.join().unwrap().is_err());
    }
}

#[test]
fn an_upstairs_without_tls_is_turned_away() {
    let peers = peers("server");
    let mut opts = opts(&peers, "client-pkcs8", "root");
    (opts.cert_pem, opts.key_pem, opts.root_cert_pem) = (None, None, None);
    let volume = Volume::region(Setup::new(&opts, None, 1).unwrap()).unwrap();
    let activating = std::thread::spawn({
        let volume = volume.clone();
        move || volume.activate_blocking(None)
    });
    assert!(!loss(&volume).is_empty());
    block_on(volume.shut_down()).unwrap();
    assert!(activating.join().unwrap().is_err());
}

#[test]
fn files_that_are_not_what_they_should_be_are_named() {
    let geometry = Geometry::new(4096, 64, 4).unwrap();
    let peers = Peer::three(geometry, true);
    let mut wrong = opts(&peers, "client-pkcs8", "root");
    wrong.key_pem = Some(path("root.pem").display().to_string());
    let error = Setup::new(&wrong, None, 1).unwrap_err().to_string();
    assert!(error.contains("root.pem"), "{error}");
    let mut missing = opts(&peers, "client-pkcs8", "root");
    missing.cert_pem = Some(path("none.pem").display().to_string());
    let error = Setup::new(&missing, None, 1).unwrap_err().to_string();
    assert!(error.contains("none.pem"), "{error}");
    let mut mixed = opts(&peers, "client-pkcs8", "root");
    mixed.key_pem = Some(path("client-pkcs1.key").display().to_string());
    assert!(Setup::new(&mixed, None, 1).is_err());
}
