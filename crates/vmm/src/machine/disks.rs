//! Disks, from configuration to handles.

use std::collections::BTreeMap;

use block::{Disk, FileOptions, NullReads, OpenError};

use super::config::{DiskConfig, DiskKind};
use super::error::BuildError;

/// Opens all disks. Files are locked while a handle lives.
pub(super) fn open(
    configs: &BTreeMap<String, DiskConfig>,
) -> Result<BTreeMap<String, Disk>, BuildError> {
    configs
        .iter()
        .map(|(name, config)| {
            let disk = open_one(config).map_err(|source| BuildError::Disk {
                name: name.clone(),
                source,
            })?;
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

fn open_one(config: &DiskConfig) -> Result<Disk, OpenError> {
    let mut disk = match &config.kind {
        DiskKind::File { path, workers } => Disk::file(&FileOptions {
            block_size: config.block_size,
            read_only: config.read_only,
            workers: *workers,
            ..FileOptions::new(path)
        })?,
        DiskKind::Memory { bytes, .. } => Disk::memory(config.block_size, *bytes)?,
        DiskKind::Null { bytes } => Disk::null(config.block_size, *bytes, NullReads::default())?,
        DiskKind::Image(image) => Disk::image(config.block_size, image)?,
    };
    if config.read_only {
        disk = disk.read_only();
    }
    if config.skip_flush {
        disk = disk.skip_flush();
    }
    Ok(disk)
}
