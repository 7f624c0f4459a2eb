//! `[block_dev.NAME]` with `type = "crucible"` or `"crucible-mem"`: from a checked table to what a volume is opened
//! with. Nothing here dials.

use std::net::SocketAddr;
use std::time::Duration;

use crucible_protocol::{Geometry, GeometryError};
use crucible_upstairs::drive::tls::{TlsClient, TlsError};
use crucible_upstairs::options::{CrucibleOpts, OptionsError};
use uuid::Uuid;

use super::error::Problem;
use super::files;
use super::read::{Findings, Table};

/// How long a request waits for region servers behind a front end whose driver tries again.
///
/// Linux aborts an NVMe command after 30 s and resets the controller after 60 s. A status that says "try again" comes
/// before that, so the guest never gets there: it tries five times more, which makes two and a half minutes.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(25);

/// The same behind virtio, which has no such status: what fails there fails in the guest's file system.
pub const REQUEST_TIMEOUT_VIRTIO: Duration = Duration::from_secs(150);

/// Longest time that a request may be made to wait.
const REQUEST_TIMEOUT_MAX: f64 = 86_400.0;

/// What a volume is opened with.
#[derive(Clone, Debug, PartialEq)]
pub enum VolumeConfig {
    /// Three region servers.
    Crucible(Box<CrucibleConfig>),
    /// Host memory behind the layers of a volume; lost at exit.
    Memory {
        /// In bytes.
        block_size: u32,
        /// In blocks.
        blocks: u64,
    },
}

/// A volume on three region servers.
#[derive(Clone, Debug, PartialEq)]
pub struct CrucibleConfig {
    /// Where, and how.
    pub opts: CrucibleOpts,
    /// What was said of its geometry.
    pub shape: GivenShape,
    /// The generation, if it is the user's to choose.
    pub generation: Option<u64>,
    /// How long a request waits while too few region servers are there.
    pub request_timeout: Duration,
}

/// What a configuration says of a geometry; the rest is learned from the regions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GivenShape {
    /// In bytes.
    pub block_size: Option<u64>,
    /// In blocks.
    pub blocks_per_extent: Option<u64>,
    /// Number of extents.
    pub extent_count: Option<u64>,
}

impl GivenShape {
    /// The first key of which the regions say something else: its name, what was given, what they have.
    pub fn differs_from(&self, regions: &Geometry) -> Option<(&'static str, u64, u64)> {
        let has = [
            (
                "block_size",
                self.block_size,
                u64::from(regions.block_size()),
            ),
            (
                "blocks_per_extent",
                self.blocks_per_extent,
                u64::from(regions.blocks_per_extent()),
            ),
            (
                "extent_count",
                self.extent_count,
                u64::from(regions.extent_count()),
            ),
        ];
        has.into_iter()
            .find_map(|(key, given, found)| Some((key, given.filter(|it| *it != found)?, found)))
    }

    /// The geometry, where all of it was given and can be.
    pub fn whole(&self) -> Option<Geometry> {
        let count = u32::try_from(self.extent_count?).ok()?;
        Geometry::new(self.block_size?, self.blocks_per_extent?, count).ok()
    }
}

/// Reads a table of type `crucible`. `None`: something is missing, and has been noted.
pub(super) fn crucible(table: &Table, findings: &mut Findings) -> Option<CrucibleConfig> {
    let targets = table.list("targets")?;
    let targets: Vec<SocketAddr> = targets.iter().filter_map(|it| it.parse().ok()).collect();
    let targets: [SocketAddr; 3] = targets.try_into().ok()?;
    let mut opts = CrucibleOpts::new(Uuid::new_v4(), targets);
    if let Some(text) = table.text("upstairs_id") {
        match text.parse() {
            Ok(id) => opts.id = id,
            Err(_) => {
                let problem = Problem::WrongType {
                    expected: "a uuid such as \"0b5e0e3c-8f0e-4a6e-9c4e-3f6f5a1d2b7c\"".to_owned(),
                    found: format!("{text:?}"),
                };
                findings.at(table, "upstairs_id", problem);
            }
        }
    }
    if let Some(text) = table.text("control_addr") {
        match text.parse() {
            Ok(address) => opts.control = Some(address),
            Err(_) => {
                let problem = Problem::WrongType {
                    expected: "an \"ip:port\" string".to_owned(),
                    found: format!("{text:?}"),
                };
                findings.at(table, "control_addr", problem);
            }
        }
    }
    opts.lossy = table.flag("lossy").unwrap_or(false);
    opts.read_only = table.flag("read_only").unwrap_or(false);
    opts.degraded_activation = table.flag("degraded_activation").unwrap_or(false);
    opts.flush_timeout = table.seconds("flush_timeout").map(|it| it as f32);
    opts.key = table.secret("encryption_key").cloned();
    let file = |key: &str| table.text(key).map(str::to_owned);
    opts.cert_pem = file("cert_pem");
    opts.key_pem = file("key_pem");
    opts.root_cert_pem = file("root_cert_pem");
    options(table, &opts, findings);
    let request_timeout = table.seconds("request_timeout");
    let request_timeout = request_timeout.and_then(|seconds| {
        if seconds > 0.0 && seconds <= REQUEST_TIMEOUT_MAX {
            return Duration::try_from_secs_f64(seconds).ok();
        }
        let problem = Problem::Invalid(format!(
            "expected more than 0 and at most {REQUEST_TIMEOUT_MAX} seconds, found {seconds}"
        ));
        findings.at(table, "request_timeout", problem);
        None
    });
    let generation = table.integer("generation");
    if generation == Some(0) && !opts.read_only {
        let problem = Problem::Invalid(
            "generations begin at 1; use one more at each start, or leave the key out".to_owned(),
        );
        findings.at(table, "generation", problem);
    }
    Some(CrucibleConfig {
        opts,
        shape: shape(table, findings),
        generation,
        request_timeout: request_timeout.unwrap_or(REQUEST_TIMEOUT),
    })
}

/// What the options say against themselves, each at its key.
fn options(table: &Table, opts: &CrucibleOpts, findings: &mut Findings) {
    match opts.validate() {
        Ok(()) => {}
        Err(OptionsError::TargetTwice { target, .. }) => {
            let problem = Problem::Invalid(format!(
                "{target} is named twice; three copies on one downstairs are one copy"
            ));
            findings.at(table, "targets", problem);
        }
        Err(OptionsError::FlushTimeout { found, .. }) => {
            let problem = Problem::Invalid(format!(
                "expected more than 0 and at most 3600 seconds, found {found}"
            ));
            findings.at(table, "flush_timeout", problem);
        }
        Err(OptionsError::Key { error, .. }) => {
            findings.at(table, "encryption_key", Problem::Invalid(error.to_string()));
        }
        Err(OptionsError::Tls { missing, .. }) => {
            let doc = "cert_pem, key_pem and root_cert_pem belong together".to_owned();
            findings.in_key(
                table.line,
                &table.name,
                missing,
                Problem::MissingKey { doc },
            );
        }
        Err(other) => {
            findings.in_table(table.line, &table.name, Problem::Invalid(other.to_string()))
        }
    }
    let mut readable = true;
    for key in ["cert_pem", "key_pem", "root_cert_pem"] {
        if let Some(path) = table.text(key)
            && let Err(problem) = files::check_readable(path)
        {
            readable = false;
            findings.at(table, key, problem);
        }
    }
    let Some(paths) = opts.tls().filter(|_| readable) else {
        return;
    };
    match TlsClient::load(&paths) {
        Ok(_) => {}
        Err(TlsError::File { path, error }) => {
            let key = if path == paths.key {
                "key_pem"
            } else if path == paths.root {
                "root_cert_pem"
            } else {
                "cert_pem"
            };
            let problem = Problem::Content {
                path: path.display().to_string(),
                what: "PEM file for this key",
                reason: error,
            };
            findings.at(table, key, problem);
        }
        Err(error) => findings.at(table, "cert_pem", Problem::Invalid(error.to_string())),
    }
}

/// Those keys of the geometry that are given; what cannot be is noted. A block size that is no power of two has been.
fn shape(table: &Table, findings: &mut Findings) -> GivenShape {
    let shape = GivenShape {
        block_size: table.integer("block_size"),
        blocks_per_extent: table.integer("blocks_per_extent"),
        extent_count: table.integer("extent_count"),
    };
    if shape.extent_count == Some(0) {
        let problem = Problem::Invalid("a volume has at least one extent".to_owned());
        findings.at(table, "extent_count", problem);
    }
    // What is too long with the smallest blocks, of 512, is too long with all.
    let block_size = shape.block_size.unwrap_or(512);
    if let Some(blocks) = shape.blocks_per_extent
        && let Err(error @ GeometryError::ExtentSize { .. }) = Geometry::new(block_size, blocks, 1)
    {
        findings.at(
            table,
            "blocks_per_extent",
            Problem::Invalid(error.to_string()),
        );
    }
    shape
}
