//! NVMe reads driven in process, and fio with io_uring on the same file beside them.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{Bound, Options, Row, inside};
use crate::{debian, run, tree};

const FILE_BYTES: usize = 64 << 20;

/// Measures the null and the file backend; the latter against fio, where that can be had.
pub(super) fn measure(options: &Options) -> Result<Vec<Row>, String> {
    let directory = tree::target().join("bench");
    fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let file = directory.join("nvme.img");
    // Written, not sparse, so that both sides read real pages.
    fs::write(&file, vec![0x5a; FILE_BYTES])
        .map_err(|error| format!("{}: {error}", file.display()))?;
    let mut rows = inside::measure("nvme", options.rounds(), &[file.as_os_str()])?;
    let beside = fio(&file)?;
    if let Some(row) = rows.iter_mut().find(|row| row.figure.contains("file")) {
        row.theirs = Some(beside / 1e3);
        row.bound = Bound::AtLeast(0.8);
    }
    fs::remove_file(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(rows)
}

/// Reads a second that fio does on the part of the file that our load reads, at the same depth.
fn fio(file: &Path) -> Result<f64, String> {
    let mut command = Command::new(debian::provide("fio", "fio")?);
    command
        .args([
            "--name=read",
            "--rw=read",
            "--bs=4k",
            "--iodepth=64",
            "--ioengine=io_uring",
        ])
        .args([
            "--size=4m",
            "--time_based",
            "--runtime=3",
            "--output-format=json",
        ])
        .arg(format!("--filename={}", file.display()));
    let text = run::quiet(&mut command)?;
    // Notes may stand before the object.
    let start = text.find('{').unwrap_or(0);
    let value: serde_json::Value =
        serde_json::from_str(&text[start..]).map_err(|error| format!("fio: {error}"))?;
    value["jobs"][0]["read"]["iops"]
        .as_f64()
        .ok_or_else(|| "fio reports no reads".to_owned())
}
