//! Snapshots: a complete region directory that can be served read-only (spec: I/O 3.6, disk 5.8).

use std::io::{self, IoSlice};
use std::path::Path;
use std::process::Command;

use crucible_protocol::CrucibleError;
use crucible_protocol::layout::{encode_region, names};

use super::StoreError;
use super::commit::Aim;
use super::create::{kind, make_directory, sync_directory};
use super::extent::{NoMetadata, read_metadata};
use super::inner::{Inner, Log};
use super::region::Progress;
use super::replace::{make_tree, remove_tree};
use crate::disk::{Access, DiskFile, NodeKind};

/// Where snapshots are, in the region directory.
pub const SNAPSHOTS: &str = ".snapshots";
/// Longest name of a snapshot, in bytes: what file systems take, less what is put around it.
const NAME_MAX: usize = 200;
/// Bytes that are copied in one go. Stretches of zeros of this length become holes.
const CHUNK: usize = 64 << 10;

impl Inner {
    pub(super) fn snapshot(&self, name: &str, progress: Progress<'_>) -> Result<(), CrucibleError> {
        self.require_writable()?;
        let failed = |reason: String| CrucibleError::SnapshotFailed(reason);
        check_name(name).map_err(failed)?;
        // With the log and the gate held nothing is written in place, so what is copied is of one moment; what is
        // written meanwhile waits in memory.
        let mut log = self.lock_log();
        let _gate = self.hold_direct();
        let dirty: Vec<u32> = self.lock_dirty().iter().copied().collect();
        self.commit_held(&mut log, &dirty, Aim::Rest)?;
        self.settle_held(&mut log)
            .map_err(|error| failed(error.to_string()))?;
        let dataset = self.disk.host_path();
        let dataset = dataset.filter(|root| root.join(".zfs").is_dir());
        let place = if dataset.is_some() {
            format!(".zfs/snapshot/{name}")
        } else {
            format!("{SNAPSHOTS}/{name}")
        };
        let told = |error: StoreError| failed(error.to_string());
        if kind(&*self.disk, &place).map_err(told)?.is_some() {
            // A flush that was sent again, or whose answer was an error elsewhere.
            return match self.is_of_now(&place).map_err(told)? {
                true => Ok(()),
                false => Err(failed(format!(
                    "there is a snapshot {name} of another moment; choose another name, or remove that one"
                ))),
            };
        }
        match dataset {
            Some(root) => zfs_snapshot(&root, name).map_err(failed),
            None => self.copy(&mut log, name, progress).map_err(told),
        }
    }

    /// Whether a snapshot has what the region has now, as the stamps of all extents tell. What was told of as one moment
    /// on all region servers must not be another one on one of them.
    fn is_of_now(&self, snapshot: &str) -> Result<bool, StoreError> {
        for id in self.ids() {
            let path = names::extent_path(id);
            let stamp = |path: String| match self.disk.open(&path, Access::Read) {
                Ok(file) => match read_metadata(&*file, &self.layout) {
                    Ok(metadata) => Ok(Some(metadata.state)),
                    Err(NoMetadata::Io(error)) => Err(StoreError::io(path)(error)),
                    Err(NoMetadata::Wrong(_)) => Ok(None),
                },
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(StoreError::io(path)(error)),
            };
            let then = stamp(format!("{snapshot}/{path}"))?;
            if then.is_none_or(|state| state.dirty) || then != stamp(path)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn copy(&self, _log: &mut Log, name: &str, progress: Progress<'_>) -> Result<(), StoreError> {
        let disk = &*self.disk;
        let target = format!("{SNAPSHOTS}/{name}");
        let unfinished = format!("{SNAPSHOTS}/.{name}.unfinished");
        make_directory(disk, SNAPSHOTS)?;
        sync_directory(disk, "")?;
        remove_tree(disk, &unfinished)?;
        make_directory(disk, &unfinished)?;
        let made = self.fill(&unfinished, progress);
        if let Err(error) = made {
            // The first error counts; what is left is removed when the snapshot is tried again.
            let _ = remove_tree(disk, &unfinished);
            return Err(error);
        }
        disk.rename(&unfinished, &target)
            .map_err(StoreError::io(target))?;
        sync_directory(disk, SNAPSHOTS)
    }

    fn fill(&self, to: &str, progress: Progress<'_>) -> Result<(), StoreError> {
        let disk = &*self.disk;
        let each = self.layout.file_len();
        let all = each.saturating_mul(u64::from(self.geometry.extent_count()));
        let mut directory = String::new();
        let mut reflinks = true;
        let mut buffer = vec![0; CHUNK];
        for id in self.ids() {
            let here = format!("{to}/{}", names::extent_directory(id));
            if here != directory {
                self.sync_tree(&directory, to)?;
                make_tree(disk, &here)?;
                directory = here;
            }
            let from = names::extent_path(id);
            let path = format!("{to}/{from}");
            if reflinks {
                reflinks = disk
                    .reflink(&from, &path)
                    .map_err(StoreError::io(path.clone()))?;
            }
            let failed = || StoreError::io(path.clone());
            let begun = each.saturating_mul(u64::from(id.0));
            if !reflinks {
                let source = disk.open(&from, Access::Read).map_err(failed())?;
                let target = disk.open(&path, Access::Create).map_err(failed())?;
                copy_file(&*source, &*target, each, &mut buffer, &mut |done| {
                    progress(begun + done, all);
                })
                .map_err(failed())?;
            }
            let target = disk.open(&path, Access::Write).map_err(failed())?;
            target.sync_all().map_err(failed())?;
            progress(begun + each, all);
        }
        self.sync_tree(&directory, to)?;
        let path = format!("{to}/{}", names::REGION_FILE);
        let failed = || StoreError::io(path.clone());
        let file = disk.open(&path, Access::Create).map_err(failed())?;
        let content = encode_region(&self.definition);
        file.write_at(&[IoSlice::new(content.as_bytes())], 0)
            .map_err(failed())?;
        file.sync_all().map_err(failed())?;
        sync_directory(disk, to)
    }

    /// Makes the names in an extent directory and above durable.
    fn sync_tree(&self, directory: &str, until: &str) -> Result<(), StoreError> {
        let mut path = directory;
        while path.len() > until.len() {
            sync_directory(&*self.disk, path)?;
            path = path.rsplit_once('/').map_or("", |(above, _)| above);
        }
        Ok(())
    }
}

/// The names of all snapshots that are complete, in order.
pub fn snapshots(disk: &dyn crate::disk::Disk) -> Result<Vec<String>, StoreError> {
    if kind(disk, SNAPSHOTS)?.is_none() {
        return Ok(Vec::new());
    }
    let mut names: Vec<String> = disk
        .list(SNAPSHOTS)
        .map_err(StoreError::io(SNAPSHOTS))?
        .into_iter()
        .filter(|entry| entry.kind == NodeKind::Directory && check_name(&entry.name).is_ok())
        .map(|entry| entry.name)
        .collect();
    names.sort();
    Ok(names)
}

fn copy_file(
    from: &dyn DiskFile,
    to: &dyn DiskFile,
    length: u64,
    buffer: &mut [u8],
    progress: &mut dyn FnMut(u64),
) -> io::Result<()> {
    to.set_length(length)?;
    let mut at = 0;
    while at < length {
        let count = (length - at).min(buffer.len() as u64);
        let Some(part) = buffer.get_mut(..count as usize) else {
            break;
        };
        from.read_at(part, at)?;
        if !super::recover::is_zero(part) {
            to.write_at(&[IoSlice::new(part)], at)?;
        }
        at += count;
        progress(at);
    }
    Ok(())
}

/// A name becomes a directory and a part of a ZFS name, so it may hold only what is harmless in both.
fn check_name(name: &str) -> Result<(), String> {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':');
    if name.is_empty() || name.len() > NAME_MAX {
        return Err(format!(
            "a snapshot's name has 1 to {NAME_MAX} bytes, this one has {}",
            name.len()
        ));
    }
    if name.starts_with(['.', '-']) || !name.bytes().all(fine) {
        return Err(format!(
            "snapshot name {name:?}: letters, digits, `-`, `_`, `.` and `:` are allowed, `.` and `-` not in front"
        ));
    }
    Ok(())
}

/// Has ZFS make the snapshot (spec: I/O 3.6).
fn zfs_snapshot(root: &Path, name: &str) -> Result<(), String> {
    let dataset = run(Command::new("zfs")
        .args(["list", "-pH", "-o", "name"])
        .arg(root))?;
    let dataset = dataset.trim();
    if dataset.is_empty() {
        return Err(String::from("`zfs list` names no dataset for the region"));
    }
    run(Command::new("zfs")
        .arg("snapshot")
        .arg(format!("{dataset}@{name}")))?;
    Ok(())
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("zfs: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("zfs: {}: {}", output.status, said.trim()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_harmless_names_are_taken() {
        for name in ["s1", "a.b", "2026-11-21T13:00:00", "X_y"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in [
            "", ".", "..", "...", ".hidden", "-r", "a/b", "a@b", "a b", "a\0", "ü",
        ] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        assert!(check_name(&"a".repeat(NAME_MAX + 1)).is_err());
    }
}
