//! Disks, from configuration to handles.

use std::collections::BTreeMap;
use std::sync::Arc;

use block::{Backend, Disk, FileOptions, NullReads};

use super::config::{DiskConfig, DiskKind};
use super::error::BuildError;

/// Backends that come from outside, by the names of their disks.
pub type Backends = BTreeMap<String, Arc<dyn Backend>>;

/// Opens all disks but those that are given. Files are locked while a handle lives.
pub(super) fn open(
    configs: &BTreeMap<String, DiskConfig>,
    given: &Backends,
) -> Result<BTreeMap<String, Disk>, BuildError> {
    configs
        .iter()
        .map(|(name, config)| {
            let disk = open_one(name, config, given)?;
            let info = disk.info();
            tracing::info!(
                disk = name,
                bytes = info.size_bytes,
                block_size = info.block_size,
                read_only = info.read_only,
                "disk opened"
            );
            Ok((name.clone(), disk))
        })
        .collect()
}

fn open_one(name: &str, config: &DiskConfig, given: &Backends) -> Result<Disk, BuildError> {
    let opened = match &config.kind {
        DiskKind::File { path, workers } => Disk::file(&FileOptions {
            block_size: config.block_size,
            read_only: config.read_only,
            workers: *workers,
            ..FileOptions::new(path)
        }),
        DiskKind::Memory { bytes, .. } => Disk::memory(config.block_size, *bytes),
        DiskKind::Null { bytes } => Disk::null(config.block_size, *bytes, NullReads::default()),
        DiskKind::Image(image) => Disk::image(config.block_size, image),
        DiskKind::Given => {
            let backend = given.get(name).ok_or_else(|| BuildError::NoBackend {
                name: name.to_owned(),
            })?;
            Ok(Disk::new(backend.clone()))
        }
    };
    let mut disk = opened.map_err(|source| BuildError::Disk {
        name: name.to_owned(),
        source,
    })?;
    if config.read_only {
        disk = disk.read_only();
    }
    if config.skip_flush {
        disk = disk.skip_flush();
    }
    Ok(disk)
}
