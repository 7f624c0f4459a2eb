//! Fetching extents from another region server and putting them into the place of ours (spec: repair 6.2).
//!
//! Nothing that the other side says is believed before it is checked: the list of files must be the one that there
//! can be, a file must have the length that the geometry gives it, and the store looks at layout and metadata before
//! the old extent goes.

use std::io::Read;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crucible_protocol::layout::names::EntryKind;
use crucible_protocol::layout::{ExtentLayout, REGION_FILE_LEN_MAX, decode_region};
use crucible_protocol::{CrucibleError, ExtentId, RegionDefinition};
use ureq::Agent;
use ureq::http::Response;

use crate::store::{ExtentFile, Region, Replacement};

/// To reach the other side.
const CONNECT: Duration = Duration::from_secs(10);
/// For the next bytes to arrive; there is no limit on a whole file but its length.
const NEXT_BYTES: Duration = Duration::from_secs(15);
/// Bytes of one piece.
const CHUNK: usize = 256 << 10;
/// A list of files, a flag, an error message: nobody needs more.
const TEXT_MAX: u64 = 64 << 10;
/// The contexts of an extent of the old format take at most so much for each block.
const DATABASE_BYTES_PER_BLOCK: u64 = 1 << 10;

/// Another region server, seen from its repair address.
#[derive(Debug)]
pub struct Source {
    address: SocketAddr,
    agent: Agent,
}

/// Why an extent was not copied.
#[derive(Debug, thiserror::Error)]
pub enum CloneError {
    /// The other side cannot be reached, or broke off.
    #[error("{url}: {reason}")]
    Http {
        /// What was asked.
        url: String,
        /// What came of it.
        reason: String,
    },
    /// The other side said something that cannot be.
    #[error("{url}: {reason}")]
    Answer {
        /// What was asked.
        url: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// It was told to stop.
    #[error("the copy was called off")]
    Cancelled,
    /// Our side failed.
    #[error(transparent)]
    Store(#[from] CrucibleError),
}

impl From<CloneError> for CrucibleError {
    fn from(error: CloneError) -> Self {
        match error {
            CloneError::Http { .. } => Self::RepairRequestError(error.to_string()),
            CloneError::Answer { .. } => Self::RepairFilesInvalid(error.to_string()),
            CloneError::Cancelled => Self::RepairStreamError(error.to_string()),
            CloneError::Store(error) => error,
        }
    }
}

impl Source {
    /// Nothing is connected yet.
    pub fn new(address: SocketAddr) -> Self {
        let config = Agent::config_builder()
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(NEXT_BYTES))
            .timeout_per_read(Some(NEXT_BYTES))
            .timeout_per_write(Some(NEXT_BYTES))
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .build();
        Self {
            address,
            agent: config.into(),
        }
    }

    /// What region is served there.
    pub fn region_info(&self) -> Result<RegionDefinition, CloneError> {
        let path = "/region-info";
        let text = self.text(path, REGION_FILE_LEN_MAX as u64)?;
        decode_region(&text).map_err(|error| self.wrong(path, error.to_string()))
    }

    /// Whether it is served read-only.
    pub fn is_read_only(&self) -> Result<bool, CloneError> {
        self.flag("/region-mode")
    }

    /// Fetches an extent and throws it away; answers its length. For measuring.
    pub fn download(
        &self,
        definition: &RegionDefinition,
        extent: ExtentId,
    ) -> Result<u64, CloneError> {
        let geometry = definition
            .geometry()
            .map_err(|error| self.wrong("/region-info", error.to_string()))?;
        let layout = ExtentLayout::new(&geometry);
        let expected = Expected::Either(layout.data_len(), layout.file_len());
        let never = AtomicBool::new(false);
        self.fetch(extent, ExtentFile::Data, expected, &never, &mut |_| Ok(()))
    }

    fn is_repair_ready(&self, extent: ExtentId) -> Result<bool, CloneError> {
        self.flag(&format!("/extent/{extent}/repair-ready"))
    }

    fn files(&self, extent: ExtentId) -> Result<Vec<String>, CloneError> {
        let path = format!("/extent/{extent}/files");
        let text = self.text(&path, TEXT_MAX)?;
        serde_json::from_slice(&text).map_err(|error| self.wrong(&path, error.to_string()))
    }

    fn flag(&self, path: &str) -> Result<bool, CloneError> {
        let text = self.text(path, TEXT_MAX)?;
        serde_json::from_slice(&text).map_err(|error| self.wrong(path, error.to_string()))
    }

    fn text(&self, path: &str, limit: u64) -> Result<Vec<u8>, CloneError> {
        let mut response = self.get(path)?;
        let body = response.body_mut().with_config().limit(limit).read_to_vec();
        body.map_err(|error| self.broken(path, error.to_string()))
    }

    fn get(&self, path: &str) -> Result<Response<ureq::Body>, CloneError> {
        let url = self.url(path);
        let mut response = self
            .agent
            .get(&url)
            .call()
            .map_err(|error| self.broken(path, error.to_string()))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = response.body_mut().with_config().limit(TEXT_MAX);
        let text = body.read_to_string().unwrap_or_default();
        let message = serde_json::from_str::<serde_json::Value>(&text)
            .ok()
            .and_then(|json| json.get("message")?.as_str().map(str::to_owned))
            .unwrap_or(text);
        Err(self.wrong(path, format!("{status}: {message}")))
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn broken(&self, path: &str, reason: String) -> CloneError {
        let url = self.url(path);
        CloneError::Http { url, reason }
    }

    fn wrong(&self, path: &str, reason: String) -> CloneError {
        let url = self.url(path);
        CloneError::Answer { url, reason }
    }

    /// Fetches one file; `take` gets its pieces. Answers its length.
    fn fetch(
        &self,
        extent: ExtentId,
        file: ExtentFile,
        length: Expected,
        stop: &AtomicBool,
        take: &mut dyn FnMut(&[u8]) -> Result<(), CrucibleError>,
    ) -> Result<u64, CloneError> {
        let kind = match file {
            ExtentFile::Data => "data",
            ExtentFile::Db => "db",
            ExtentFile::DbShm => "db_shm",
            ExtentFile::DbWal => "db_wal",
        };
        let path = format!("/newextent/{extent}/{kind}");
        let mut response = self.get(&path)?;
        if let Some(announced) = response.body().content_length() {
            length.check(announced).map_err(|e| self.wrong(&path, e))?;
        }
        let mut body = response.body_mut().as_reader();
        let mut chunk = vec![0; CHUNK];
        let mut total = 0;
        take(&[])?;
        loop {
            if stop.load(Ordering::Relaxed) {
                return Err(CloneError::Cancelled);
            }
            let count = body
                .read(&mut chunk)
                .map_err(|error| self.broken(&path, error.to_string()))?;
            if count == 0 {
                break;
            }
            total += count as u64;
            length
                .check_so_far(total)
                .map_err(|e| self.wrong(&path, e))?;
            take(chunk.get(..count).unwrap_or_default())?;
        }
        length.check(total).map_err(|e| self.wrong(&path, e))?;
        Ok(total)
    }
}

/// How long a file may be.
#[derive(Clone, Copy, Debug)]
enum Expected {
    Exactly(u64),
    /// One of two: an extent of the old format is its data alone.
    Either(u64, u64),
    AtMost(u64),
}

impl Expected {
    fn check(self, length: u64) -> Result<(), String> {
        match self {
            Self::Exactly(expected) if length != expected => {
                Err(format!("expected {expected} bytes, found {length}"))
            }
            Self::Either(one, other) if length != one && length != other => {
                Err(format!("expected {one} or {other} bytes, found {length}"))
            }
            _ => self.check_so_far(length),
        }
    }

    fn check_so_far(self, length: u64) -> Result<(), String> {
        let (Self::Exactly(most) | Self::AtMost(most)) = self else {
            let Self::Either(one, other) = self else {
                return Ok(());
            };
            return Self::AtMost(one.max(other)).check_so_far(length);
        };
        if length > most {
            return Err(format!(
                "expected at most {most} bytes, found {length} or more"
            ));
        }
        Ok(())
    }
}

/// Repairs an extent that is closed: fetches it from `source` and puts it in place. Answers the bytes copied.
///
/// Takes as long as the copy takes; `stop` ends it early, between two pieces. On an error the extent is as it was.
pub fn copy_extent(
    region: &Arc<Region>,
    extent: ExtentId,
    source: SocketAddr,
    stop: &AtomicBool,
) -> Result<u64, CrucibleError> {
    let source = Source::new(source);
    Ok(copy(region, extent, &source, Purpose::Repair, stop)?)
}

/// The same for a clone, whose source is read-only and may be of the old format.
pub fn clone_extent(
    region: &Arc<Region>,
    extent: ExtentId,
    source: &Source,
    stop: &AtomicBool,
) -> Result<u64, CloneError> {
    copy(region, extent, source, Purpose::Clone, stop)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Repair,
    Clone,
}

fn copy(
    region: &Arc<Region>,
    extent: ExtentId,
    source: &Source,
    purpose: Purpose,
    stop: &AtomicBool,
) -> Result<u64, CloneError> {
    let replacement = region.begin_replacement(extent)?;
    match fetch_and_finish(region, replacement, extent, source, purpose, stop) {
        // Its server was started anew meanwhile, say: that is no fault of the files.
        Err(error @ CloneError::Answer { .. }) => match source.is_repair_ready(extent) {
            Ok(false) => {
                let path = format!("/extent/{extent}/repair-ready");
                Err(source.broken(&path, format!("the extent is open there: {error}")))
            }
            _ => Err(error),
        },
        result => result,
    }
}

fn fetch_and_finish(
    region: &Arc<Region>,
    mut replacement: Replacement,
    extent: ExtentId,
    source: &Source,
    purpose: Purpose,
    stop: &AtomicBool,
) -> Result<u64, CloneError> {
    let wanted = file_set(source, extent, purpose)?;
    let layout = ExtentLayout::new(&region.geometry());
    let mut total = 0;
    for file in &wanted {
        let expected = match file {
            ExtentFile::Data if wanted.len() > 1 => {
                Expected::Either(layout.data_len(), layout.file_len())
            }
            ExtentFile::Data => Expected::Exactly(layout.file_len()),
            _ => {
                Expected::AtMost(u64::from(layout.blocks()) * DATABASE_BYTES_PER_BLOCK + (64 << 20))
            }
        };
        total += source.fetch(extent, *file, expected, stop, &mut |chunk| {
            replacement.write(*file, chunk)
        })?;
    }
    if !source.is_repair_ready(extent)? {
        let path = format!("/extent/{extent}/repair-ready");
        let reason = "the extent was opened while it was copied".into();
        return Err(source.wrong(&path, reason));
    }
    replacement.finish()?;
    Ok(total)
}

/// The files that there are, if they are a set that there can be.
fn file_set(
    source: &Source,
    extent: ExtentId,
    purpose: Purpose,
) -> Result<Vec<ExtentFile>, CloneError> {
    let mut names = source.files(extent)?;
    names.sort();
    let sets: [&[(ExtentFile, EntryKind)]; 3] = [
        &[(ExtentFile::Data, EntryKind::Data)],
        &[
            (ExtentFile::Data, EntryKind::Data),
            (ExtentFile::Db, EntryKind::Database),
        ],
        &[
            (ExtentFile::Data, EntryKind::Data),
            (ExtentFile::Db, EntryKind::Database),
            (ExtentFile::DbShm, EntryKind::DatabaseShared),
            (ExtentFile::DbWal, EntryKind::DatabaseLog),
        ],
    ];
    let allowed = if purpose == Purpose::Repair { 1 } else { 3 };
    for set in sets.iter().take(allowed) {
        if names.iter().eq(set
            .iter()
            .map(|(_, kind)| kind.name(extent))
            .collect::<Vec<_>>()
            .iter())
        {
            return Ok(set.iter().map(|(file, _)| *file).collect());
        }
    }
    let path = format!("/extent/{extent}/files");
    let expected = EntryKind::Data.name(extent);
    Err(source.wrong(&path, format!("expected [{expected:?}], found {names:?}")))
}
