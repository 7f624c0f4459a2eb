//! A leaf behind HTTP: an image that a server gives out by ranges. Read-only; all of it counts as written.

use std::io::Read;
use std::time::Duration;

use bytes::BytesMut;
use crucible_protocol::BlockIndex;
use ureq::Agent;
use ureq::http::{Response, StatusCode, header};

use super::leaf::{Leaf, failed};
use crate::core::{Plain, VolumeError, Written};
use crate::store::Shape;

/// No single request may take longer.
const REQUEST_WITHIN: Duration = Duration::from_secs(60);
/// Attempts for one range: a server that restarts is no error of the disk yet.
const ATTEMPTS: u32 = 3;

/// An image behind `http://`.
#[derive(Debug)]
pub struct UrlLeaf {
    agent: Agent,
    url: String,
    shape: Shape,
}

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UrlError {
    /// The request failed.
    #[error("{url}: {error}")]
    Request {
        /// Of the image.
        url: String,
        /// What went wrong.
        error: Box<ureq::Error>,
    },
    /// The answer has no `Content-Length`, and so the image no size.
    #[error("{url}: the server does not tell the length of the image")]
    NoLength {
        /// Of the image.
        url: String,
    },
}

impl UrlLeaf {
    /// Asks for the length of the image (`HEAD`).
    pub fn open(url: &str, block_size: u32) -> Result<Self, UrlError> {
        let agent: Agent = Agent::config_builder()
            .timeout_global(Some(REQUEST_WITHIN))
            .build()
            .into();
        let answer = agent.head(url).call().map_err(|error| UrlError::Request {
            url: url.to_owned(),
            error: Box::new(error),
        })?;
        let length = length(&answer).ok_or_else(|| UrlError::NoLength {
            url: url.to_owned(),
        })?;
        Ok(Self {
            agent,
            url: url.to_owned(),
            shape: Shape {
                block_size,
                blocks: length.checked_div(u64::from(block_size)).unwrap_or(0),
                read_only: true,
                encrypted: false,
            },
        })
    }

    fn fetch(&self, offset: u64, into: &mut [u8]) -> Result<(), String> {
        let Some(last) = offset
            .checked_add(into.len() as u64)
            .and_then(|end| end.checked_sub(1))
        else {
            return Ok(());
        };
        let request = self.agent.get(&self.url);
        let request = request.header(header::RANGE, format!("bytes={offset}-{last}"));
        let answer = request.call().map_err(|error| error.to_string())?;
        // A server that ignores ranges sends the image from its beginning.
        let begins = match answer.status() {
            StatusCode::PARTIAL_CONTENT => begin_of_range(&answer),
            _ => Some(0),
        };
        match begins {
            Some(begins) if begins == offset => {}
            Some(0) => return Err("the server does not know ranges".to_owned()),
            _ => return Err("the server sent another range".to_owned()),
        }
        let mut body = answer.into_body().into_reader();
        body.read_exact(into).map_err(|error| error.to_string())
    }
}

fn length<B>(answer: &Response<B>) -> Option<u64> {
    let length = answer.headers().get(header::CONTENT_LENGTH)?;
    length.to_str().ok()?.trim().parse().ok()
}

/// Where the bytes of a partial answer belong: `bytes 4096-8191/1048576` (RFC 9110, 14.4).
fn begin_of_range<B>(answer: &Response<B>) -> Option<u64> {
    let range = answer.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (begin, _) = range.trim().strip_prefix("bytes ")?.split_once('-')?;
    begin.trim().parse().ok()
}

impl Leaf for UrlLeaf {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn read(&self, start: BlockIndex, count: u64) -> Result<Plain, VolumeError> {
        let size = u64::from(self.shape.block_size);
        let mut data = BytesMut::zeroed((count * size) as usize);
        let mut last = String::new();
        for _ in 0..ATTEMPTS {
            match self.fetch(start.0 * size, &mut data) {
                Ok(()) => {
                    return Ok(Plain {
                        data: data.freeze(),
                        written: Written::All,
                    });
                }
                Err(error) => last = error,
            }
        }
        Err(failed(start, count, &format!("{}: {last}", self.url)))
    }

    fn write(
        &self,
        _start: BlockIndex,
        _data: BytesMut,
        _unwritten: bool,
    ) -> Result<(), VolumeError> {
        Err(VolumeError::ReadOnly)
    }

    fn flush(&self) -> Result<(), VolumeError> {
        Ok(())
    }
}
