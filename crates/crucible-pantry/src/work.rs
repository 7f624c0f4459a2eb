//! What is done to one volume: bulk reads and writes at once, import and validation as jobs on threads of their own.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use crucible_protocol::BlockIndex;
use crucible_upstairs::store::Shape;
use crucible_upstairs::volume::{ScrubOptions, Volume};
use sha2::{Digest, Sha256};

use crate::api::{BULK_MAX, ExpectedDigest};
use crate::error::PantryError;

/// Bytes that a job moves at a time; a multiple of every block size.
const CHUNK: usize = 4 << 20;
/// Bytes between two flushes of an import, so that region servers need not keep more for a replay.
const FLUSH_EVERY: u64 = 256 << 20;
/// To reach the server of an image.
const CONNECT: Duration = Duration::from_secs(15);
/// For its next bytes.
const NEXT_BYTES: Duration = Duration::from_secs(60);

fn shape_of(volume: &Volume) -> Result<Shape, PantryError> {
    let shape = volume.shape();
    shape.ok_or_else(|| PantryError::NotNow("the volume is not active yet".to_owned()))
}

/// The first block and the number of blocks of a part of a volume.
fn blocks(shape: &Shape, offset: u64, bytes: usize) -> Result<(BlockIndex, u64), PantryError> {
    let size = u64::from(shape.block_size);
    if bytes > BULK_MAX {
        return Err(PantryError::Bad(format!(
            "{bytes} bytes: at most {BULK_MAX} are taken at once"
        )));
    }
    if !offset.is_multiple_of(size) || !(bytes as u64).is_multiple_of(size) {
        return Err(PantryError::Bad(format!(
            "offset {offset}, {bytes} bytes: the volume has blocks of {size} bytes"
        )));
    }
    let (start, count) = (BlockIndex(offset / size), bytes as u64 / size);
    shape.check(start, count)?;
    Ok((start, count))
}

/// Writes what `base64` holds.
pub async fn bulk_write(volume: &Volume, offset: u64, base64: &str) -> Result<(), PantryError> {
    let data = STANDARD
        .decode(base64)
        .map_err(|error| PantryError::Bad(format!("base64_encoded_data: {error}")))?;
    let (start, _) = blocks(&shape_of(volume)?, offset, data.len())?;
    if data.is_empty() {
        return Ok(());
    }
    Ok(volume.write(start, BytesMut::from(&data[..])).await?)
}

/// Reads `size` bytes, as base64.
pub async fn bulk_read(volume: &Volume, offset: u64, size: usize) -> Result<String, PantryError> {
    let (start, count) = blocks(&shape_of(volume)?, offset, size)?;
    if count == 0 {
        return Ok(String::new());
    }
    let plain = volume.read(start, count).await?;
    Ok(STANDARD.encode(&plain.data))
}

/// Copies what shows through from a read-only parent into the volume.
pub async fn scrub(volume: Volume) -> Result<(), String> {
    let scrubbed = volume.scrub(ScrubOptions::default(), |_| ()).await;
    scrubbed.map_err(|error| error.to_string())
}

/// The 32 bytes of an expected digest.
pub fn wanted(expected: &ExpectedDigest) -> Result<[u8; 32], PantryError> {
    let ExpectedDigest::Sha256(text) = expected;
    let wrong = || {
        PantryError::Bad(format!(
            "expected_digest: a SHA-256 has 64 hexadecimal digits, found {text:.100?}"
        ))
    };
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    let mut bytes = [0; 32];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
        *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
    }
    Ok(bytes)
}

fn compare(found: [u8; 32], wanted: [u8; 32]) -> Result<(), String> {
    if found == wanted {
        return Ok(());
    }
    let hex = |bytes: [u8; 32]| bytes.map(|byte| format!("{byte:02x}")).concat();
    Err(format!(
        "expected SHA-256 {}, found {}",
        hex(wanted),
        hex(found)
    ))
}

/// Tells a thread that nobody waits for it any more.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs blocking work on a thread; it is told to stop when this future is dropped.
async fn on_a_thread(
    work: impl FnOnce(&AtomicBool) -> Result<(), String> + Send + 'static,
) -> Result<(), String> {
    let stop = Arc::new(AtomicBool::new(false));
    let guard = StopOnDrop(stop.clone());
    let done = tokio::task::spawn_blocking(move || work(&stop)).await;
    drop(guard);
    done.unwrap_or_else(|error| Err(error.to_string()))
}

/// Compares the digest of the first `size` bytes, or of all, with what is expected.
pub async fn validate(volume: Volume, wanted: [u8; 32], size: Option<u64>) -> Result<(), String> {
    on_a_thread(move |stop| {
        let shape = volume.shape().ok_or("the volume is not active yet")?;
        let bytes = size.unwrap_or_else(|| shape.bytes());
        if bytes > shape.bytes() {
            return Err(format!(
                "size_to_validate {bytes}: the volume has {} bytes",
                shape.bytes()
            ));
        }
        let block = u64::from(shape.block_size);
        let mut digest = Sha256::new();
        let mut done = 0;
        while done < bytes {
            if stop.load(Ordering::Relaxed) {
                return Err("it was broken off".to_owned());
            }
            let part = (bytes - done).min(CHUNK as u64);
            let plain = volume
                .read_blocking(BlockIndex(done / block), part.div_ceil(block))
                .map_err(|error| error.to_string())?;
            let data = plain.data.get(..part as usize);
            digest.update(data.ok_or("a read came back short")?);
            done += part;
        }
        compare(digest.finalize().into(), wanted)
    })
    .await
}

/// Writes the image behind `url` into the volume, from its beginning, and flushes. What is missing to a whole block
/// is zero. The digest is compared at the end: by then the data is there.
pub async fn import(volume: Volume, url: String, wanted: Option<[u8; 32]>) -> Result<(), String> {
    on_a_thread(move |stop| {
        let shape = volume.shape().ok_or("the volume is not active yet")?;
        let about = |error: &dyn std::fmt::Display| format!("{url}: {error}");
        let too_long = |bytes: u64| {
            let size = shape.bytes();
            about(&format!(
                "{bytes} bytes or more do not fit a volume of {size}"
            ))
        };
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(NEXT_BYTES))
            .timeout_per_read(Some(NEXT_BYTES))
            .build()
            .into();
        let answer = agent.get(&url).call().map_err(|error| about(&error))?;
        let body = answer.into_body();
        if let Some(bytes) = body.content_length().filter(|bytes| *bytes > shape.bytes()) {
            return Err(too_long(bytes));
        }
        let mut body = body.into_reader();
        let block = shape.block_size as usize;
        let (mut digest, mut done, mut unflushed) = (Sha256::new(), 0_u64, 0_u64);
        loop {
            if stop.load(Ordering::Relaxed) {
                return Err("it was broken off".to_owned());
            }
            let mut data = BytesMut::zeroed(CHUNK);
            let length = fill(&mut body, &mut data).map_err(|error| about(&error))?;
            if length == 0 {
                break;
            }
            digest.update(data.get(..length).unwrap_or_default());
            data.truncate(length.next_multiple_of(block));
            if done + data.len() as u64 > shape.bytes() {
                return Err(too_long(done + length as u64));
            }
            unflushed += data.len() as u64;
            volume
                .write_blocking(BlockIndex(done / block as u64), data)
                .map_err(|error| error.to_string())?;
            done += length as u64;
            if unflushed >= FLUSH_EVERY {
                unflushed = 0;
                volume
                    .flush_blocking(None)
                    .map_err(|error| error.to_string())?;
            }
            if length < CHUNK {
                break;
            }
        }
        volume
            .flush_blocking(None)
            .map_err(|error| error.to_string())?;
        wanted.map_or(Ok(()), |wanted| compare(digest.finalize().into(), wanted))
    })
    .await
}

/// Reads until `data` is full or nothing more comes; how much came.
fn fill(from: &mut impl Read, data: &mut [u8]) -> std::io::Result<usize> {
    let mut length = 0;
    while let Some(room) = data.get_mut(length..).filter(|room| !room.is_empty()) {
        match from.read(room) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_64_digits() {
        let sha256 = |text: &str| wanted(&ExpectedDigest::Sha256(text.to_owned()));
        let good = sha256(&"0aF0".repeat(16)).unwrap();
        assert_eq!(good[..2], [0x0a, 0xf0]);
        for bad in [
            "",
            "00",
            &"g".repeat(64),
            &"+1".repeat(32),
            &"\u{e9}".repeat(32),
        ] {
            let error = sha256(bad).unwrap_err();
            assert!(
                error.to_string().contains("64 hexadecimal digits"),
                "{error}"
            );
        }
    }

    #[test]
    fn parts_of_a_volume_are_whole_blocks_that_exist() {
        let shape = Shape {
            block_size: 512,
            blocks: 10,
            read_only: false,
            encrypted: false,
        };
        assert_eq!(blocks(&shape, 1024, 512), Ok((BlockIndex(2), 1)));
        assert_eq!(blocks(&shape, 5120, 0), Ok((BlockIndex(10), 0)));
        for (offset, bytes) in [
            (1, 512),
            (0, 100),
            (4608, 1024),
            (u64::MAX - 511, 512),
            (0, BULK_MAX + 512),
        ] {
            let refused = blocks(&shape, offset, bytes);
            assert!(matches!(refused, Err(PantryError::Bad(_))), "{refused:?}");
        }
    }
}
