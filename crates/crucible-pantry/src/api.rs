//! The JSON of requests and answers, by the names that clients of the reference use (spec: volume layer 7).

use crucible_upstairs::core::ReplaceResult;
use crucible_upstairs::options::VolumeConstructionRequest;
use serde::{Deserialize, Serialize};

/// Bytes of data in one bulk read or write, at most.
pub const BULK_MAX: usize = 1 << 20;
/// A longer name of a volume, job or snapshot is refused.
pub const NAME_MAX: usize = 128;

/// `GET`: of the pantry.
#[derive(Debug, Serialize, Deserialize)]
pub struct PantryStatus {
    /// Names of the volumes.
    pub volumes: Vec<String>,
    /// Jobs that were not asked for their result yet.
    pub num_job_handles: usize,
}

/// `GET volume/{id}`.
#[derive(Debug, Serialize, Deserialize)]
pub struct VolumeStatus {
    /// It can be read now, and written if it is not read-only.
    pub active: bool,
    /// It could be at some time.
    pub seen_active: bool,
    /// Jobs of this volume that were not asked for their result yet.
    pub num_job_handles: usize,
}

/// `POST volume/{id}` and `POST volume/{id}/replace`.
#[derive(Debug, Serialize, Deserialize)]
pub struct AttachRequest {
    /// What the volume is made of.
    pub volume_construction_request: VolumeConstructionRequest,
}

/// `POST volume/{id}/background`.
#[derive(Debug, Serialize, Deserialize)]
pub struct AttachBackgroundRequest {
    /// What the volume is made of.
    pub volume_construction_request: VolumeConstructionRequest,
    /// Under which the activation is asked for later.
    pub job_id: String,
}

/// The answer of `POST volume/{id}`.
#[derive(Debug, Serialize, Deserialize)]
pub struct AttachResult {
    /// As asked.
    pub id: String,
}

/// A digest of data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExpectedDigest {
    /// SHA-256, in hexadecimal digits.
    Sha256(String),
}

/// `POST volume/{id}/import-from-url`.
#[derive(Debug, Serialize, Deserialize)]
pub struct ImportFromUrlRequest {
    /// Of the image.
    pub url: String,
    /// What the image must have.
    #[serde(default)]
    pub expected_digest: Option<ExpectedDigest>,
}

/// `POST volume/{id}/snapshot`.
#[derive(Debug, Serialize, Deserialize)]
pub struct SnapshotRequest {
    /// Its name.
    pub snapshot_id: String,
}

/// `POST volume/{id}/bulk-write`.
#[derive(Debug, Serialize, Deserialize)]
pub struct BulkWriteRequest {
    /// In bytes; a multiple of the block size.
    pub offset: u64,
    /// Whole blocks.
    pub base64_encoded_data: String,
}

/// `POST volume/{id}/bulk-read`.
#[derive(Debug, Serialize, Deserialize)]
pub struct BulkReadRequest {
    /// In bytes; a multiple of the block size.
    pub offset: u64,
    /// In bytes; a multiple of the block size.
    pub size: usize,
}

/// The answer of `POST volume/{id}/bulk-read`.
#[derive(Debug, Serialize, Deserialize)]
pub struct BulkReadResponse {
    /// As asked.
    pub base64_encoded_data: String,
}

/// `POST volume/{id}/validate`.
#[derive(Debug, Serialize, Deserialize)]
pub struct ValidateRequest {
    /// What the volume's bytes must have.
    pub expected_digest: ExpectedDigest,
    /// So many bytes from the beginning; without it all.
    #[serde(default)]
    pub size_to_validate: Option<u64>,
}

/// The answer of whatever begins a job.
#[derive(Debug, Serialize, Deserialize)]
pub struct JobStarted {
    /// Under which it is asked for later.
    pub job_id: String,
}

/// The answer of `GET job/{id}/is-finished`.
#[derive(Debug, Serialize, Deserialize)]
pub struct JobPoll {
    /// Whether it has ended, well or not.
    pub job_is_finished: bool,
}

/// The answer of `GET job/{id}/ok`, which waits for the job's end and forgets the job.
#[derive(Debug, Serialize, Deserialize)]
pub struct JobResult {
    /// Whether it has ended well.
    pub job_result_ok: bool,
}

/// The answer of `POST volume/{id}/replace`.
pub const fn name_of(result: ReplaceResult) -> &'static str {
    match result {
        ReplaceResult::Started => "started",
        ReplaceResult::StartedAlready => "started_already",
        ReplaceResult::CompletedAlready => "completed_already",
        ReplaceResult::Missing => "missing",
        ReplaceResult::VcrMatches => "vcr_matches",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_tagged_by_their_name() {
        let json = r#"{"expected_digest":{"sha256":"00ff"}}"#;
        let request: ValidateRequest = serde_json::from_str(json).unwrap();
        assert_eq!(
            request.expected_digest,
            ExpectedDigest::Sha256("00ff".into())
        );
        assert_eq!(request.size_to_validate, None);
        let request: ImportFromUrlRequest =
            serde_json::from_str(r#"{"url":"http://a/b"}"#).unwrap();
        assert_eq!(request.expected_digest, None);
    }
}
