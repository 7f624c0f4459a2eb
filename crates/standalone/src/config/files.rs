//! Looks at the files that a configuration names, before anything starts.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

use vmm::machine::config::{BOOTROM_BYTES_MAX, KernelConfig};
use vmm::machine::{BuildError, check_kernel};

use super::error::Problem;

/// The longest path of a unix socket that every system takes, without the final zero.
const SOCKET_PATH_MAX: usize = 103;

/// What the system said, without its number.
pub(super) fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "no such file".to_owned(),
        ErrorKind::PermissionDenied => "permission denied".to_owned(),
        ErrorKind::IsADirectory => "it is a directory".to_owned(),
        _ => error.to_string(),
    }
}

fn failure(action: &'static str, path: &str, error: &std::io::Error) -> Problem {
    Problem::File {
        action,
        path: path.to_owned(),
        reason: reason(error),
    }
}

/// Opens a regular file or device for reading.
fn open(path: &str) -> Result<File, Problem> {
    let file = File::open(path).map_err(|error| failure("read", path, &error))?;
    let metadata = file
        .metadata()
        .map_err(|error| failure("read", path, &error))?;
    if metadata.is_dir() {
        let error = std::io::Error::from(ErrorKind::IsADirectory);
        return Err(failure("read", path, &error));
    }
    Ok(file)
}

/// The whole content, at most `limit` bytes.
pub(super) fn content(path: &str, limit: u64) -> Result<Vec<u8>, Problem> {
    let file = open(path)?;
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|error| failure("read", path, &error))?;
    if bytes.len() as u64 > limit {
        return Err(Problem::Content {
            path: path.to_owned(),
            what: "file for this key",
            reason: format!("it has more than {limit} bytes"),
        });
    }
    Ok(bytes)
}

/// A file that can be read and is not empty.
pub(super) fn check_readable(path: &str) -> Result<(), Problem> {
    let mut first = [0; 1];
    match open(path)?.read(&mut first) {
        Ok(0) => Err(Problem::Content {
            path: path.to_owned(),
            what: "file for this key",
            reason: "it is empty".to_owned(),
        }),
        Ok(_) => Ok(()),
        Err(error) => Err(failure("read", path, &error)),
    }
}

/// A kernel that can be started in so much memory. Files that cannot be read have been complained about.
pub(super) fn check_bootable(kernel: &KernelConfig, memory_bytes: u64) -> Result<(), Problem> {
    check_kernel(kernel, memory_bytes).map_err(|error| match error {
        // Table and key say already which file it is.
        BuildError::Boot { source, .. } => Problem::Invalid(source.to_string()),
        other => Problem::Invalid(other.to_string()),
    })
}

/// A firmware image of the right size.
pub(super) fn check_bootrom(path: &str) -> Result<(), Problem> {
    let mut file = open(path)?;
    let length = file
        .seek(SeekFrom::End(0))
        .map_err(|error| failure("read", path, &error))?;
    let wrong = |reason: String| {
        Err(Problem::Content {
            path: path.to_owned(),
            what: "bootrom",
            reason,
        })
    };
    if length == 0 {
        wrong("it is empty".to_owned())
    } else if length % 4096 != 0 {
        wrong(format!(
            "its length, {length} bytes, is no multiple of 4 KiB"
        ))
    } else if length > BOOTROM_BYTES_MAX {
        wrong(format!("it has {length} bytes, more than 16 MiB"))
    } else {
        Ok(())
    }
}

/// A disk image that can be opened as it will be used, and its length in bytes.
pub(super) fn check_disk(path: &str, read_only: bool, block_size: u64) -> Result<u64, Problem> {
    open(path)?;
    let opened = OpenOptions::new().read(true).write(!read_only).open(path);
    let mut file = match opened {
        Ok(file) => file,
        Err(error) if !read_only => {
            let reason = format!("{}; with read_only = true it need not be", reason(&error));
            return Err(Problem::File {
                action: "open for writing",
                path: path.to_owned(),
                reason,
            });
        }
        Err(error) => return Err(failure("read", path, &error)),
    };
    let length = file
        .seek(SeekFrom::End(0))
        .map_err(|error| failure("read", path, &error))?;
    if length < block_size {
        return Err(Problem::Content {
            path: path.to_owned(),
            what: "disk",
            reason: format!("it has {length} bytes, less than one block of {block_size}"),
        });
    }
    Ok(length)
}

/// A path where a socket can be made.
pub(super) fn check_socket(path: &str) -> Result<(), Problem> {
    if path.len() > SOCKET_PATH_MAX {
        return Err(Problem::Invalid(format!(
            "a socket's path has at most {SOCKET_PATH_MAX} bytes, this one has {}",
            path.len()
        )));
    }
    let parent = match Path::new(path).parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !parent.is_dir() {
        return Err(Problem::File {
            action: "make a socket at",
            path: path.to_owned(),
            reason: format!("there is no directory {:?}", parent.to_string_lossy()),
        });
    }
    if let Ok(metadata) = std::fs::symlink_metadata(path)
        && !std::os::unix::fs::FileTypeExt::is_socket(&metadata.file_type())
    {
        return Err(Problem::File {
            action: "make a socket at",
            path: path.to_owned(),
            reason: "something that is no socket is there already".to_owned(),
        });
    }
    Ok(())
}
