//! What can be typed.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use crucible_upstairs::crypt::KeyText;
use uuid::Uuid;

use crate::core::Kind;

const EXAMPLE: &str = "\
Example, with the three region servers of `dsc start --create` (each activation needs a higher generation):

    crutest fill     --dsc 127.0.0.1:9998 --gen 1 --verify-out log.json
    crutest generic  --dsc 127.0.0.1:9998 --gen 2 --verify-in log.json --verify-out log.json --count 10000
    crutest verify   --dsc 127.0.0.1:9998 --gen 3 --verify-in log.json
    crutest rand-read -t 127.0.0.1:8810 -t 127.0.0.1:8820 -t 127.0.0.1:8830 --gen 4 --io-depth 32 --time 10

Ends with 0 if everything succeeded and all data was right, with 1 if not, with 2 for a wrong command line.";

/// Exercises, verifies and measures a Crucible volume.
#[derive(Clone, Debug, Parser)]
#[command(name = "crutest", version, disable_help_subcommand = true, after_help = EXAMPLE)]
pub struct Arguments {
    /// What to do with the volume.
    #[command(subcommand)]
    pub workload: Workload,
    /// All that is the same for every workload.
    #[command(flatten)]
    pub options: Options,
}

/// Which volume, and how it is activated.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "The volume")]
pub struct VolumeOptions {
    /// A region server; stands three times. Without it and --vcr, those of --dsc
    #[arg(short, long, global = true, value_name = "IP:PORT")]
    pub target: Vec<SocketAddr>,
    /// The key of an encrypted volume: 32 bytes in base64
    #[arg(short, long, global = true, value_name = "BASE64")]
    pub key: Option<KeyText>,
    /// Generation to activate with: higher than at any time before
    #[arg(
        short = 'g',
        long = "gen",
        global = true,
        value_name = "NUMBER",
        alias = "generation"
    )]
    pub generation: Option<u64>,
    /// A volume construction request (JSON) instead of --target
    #[arg(long, global = true, value_name = "FILE", conflicts_with_all = ["target", "key"])]
    #[arg(alias = "vcr-file")]
    pub vcr: Option<PathBuf>,
    /// The volume's id; without it a new one
    #[arg(long, global = true, value_name = "UUID")]
    pub id: Option<Uuid>,
    /// Activate for reading only
    #[arg(long, global = true)]
    pub read_only: bool,
    /// Activate with two of three region servers if the third does not come
    #[arg(long, global = true)]
    pub degraded_activation: bool,
    /// Try again when activation fails
    #[arg(long, global = true)]
    pub retry_activate: bool,
    /// Flush after so many seconds without a flush
    #[arg(long, global = true, value_name = "SECONDS")]
    pub flush_timeout: Option<f32>,
    /// A test mode: what is sent to region servers is held back for a tenth of a second now and then
    #[arg(long, global = true)]
    pub lossy: bool,
    /// TLS: our certificate chain
    #[arg(long, global = true, value_name = "FILE")]
    pub cert_pem: Option<String>,
    /// TLS: our private key
    #[arg(long, global = true, value_name = "FILE")]
    pub key_pem: Option<String>,
    /// TLS: the certificate that those of the region servers come from
    #[arg(long, global = true, value_name = "FILE")]
    pub root_cert_pem: Option<String>,
    /// Answer GET /info, /work and /metrics here
    #[arg(long, global = true, value_name = "IP:PORT")]
    pub control: Option<SocketAddr>,
}

/// All that is the same for every workload.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Which volume.
    #[command(flatten)]
    pub volume: VolumeOptions,
    /// The control server of `dsc start`, for workloads that stop and start region servers, and in place of --target:
    /// then the volume is made of all its region servers, three after three
    #[arg(
        long,
        global = true,
        value_name = "IP:PORT",
        help_heading = "The volume"
    )]
    pub dsc: Option<String>,

    /// How many operations, rounds or laps
    #[arg(
        short = 'n',
        long,
        global = true,
        visible_short_alias = 'c',
        value_name = "NUMBER"
    )]
    #[arg(help_heading = "The work")]
    pub count: Option<u64>,
    /// Operations under way at once
    #[arg(long, global = true, value_name = "NUMBER", help_heading = "The work")]
    pub io_depth: Option<usize>,
    /// Size of an operation: in blocks, or with a unit (4k, 1m, 512b) in bytes
    #[arg(long, global = true, value_name = "SIZE", help_heading = "The work")]
    #[arg(value_parser = IoSize::parse, alias = "io-size-in-blocks")]
    pub io_size: Option<IoSize>,
    /// Stop after so many seconds; rand-read and rand-write take 10 if there is no --count either
    #[arg(long, global = true, value_name = "SECONDS", help_heading = "The work")]
    pub time: Option<f64>,
    /// Decides all that is random; without it a new one, which is printed
    #[arg(long, global = true, value_name = "NUMBER", help_heading = "The work")]
    pub seed: Option<u64>,
    /// Wait at the end until all region servers have done everything
    #[arg(long, global = true, help_heading = "The work")]
    pub stable: bool,
    /// End when the work is done; this is what happens anyway
    #[arg(short, long, global = true, help_heading = "The work")]
    pub quit: bool,

    /// Read what earlier runs have written where from this file
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        help_heading = "Verification"
    )]
    pub verify_in: Option<PathBuf>,
    /// Write what has been written where to this file at the end
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        help_heading = "Verification"
    )]
    pub verify_out: Option<PathBuf>,
    /// Verify all blocks before the work; needs --verify-in
    #[arg(
        long,
        global = true,
        requires = "verify_in",
        help_heading = "Verification"
    )]
    pub verify_at_start: bool,
    /// Verify all blocks after the work
    #[arg(long, global = true, help_heading = "Verification")]
    pub verify_at_end: bool,

    /// Print the summary as JSON
    #[arg(long, global = true, help_heading = "Output")]
    pub json: bool,
    /// Print the summary only
    #[arg(long, global = true, help_heading = "Output")]
    pub quiet: bool,
}

/// A size as typed: in blocks or in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoSize {
    /// In blocks of the volume.
    Blocks(u64),
    /// In bytes.
    Bytes(u64),
}

impl IoSize {
    /// `8`: blocks. `512b`, `4k`, `1m`: bytes.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?}: expected a number of blocks, or of bytes as in 512b, 4k or 1m");
        let unit = text.chars().last().map(|unit| unit.to_ascii_lowercase());
        let factor = match unit {
            Some('b') => 1,
            Some('k') => 1 << 10,
            Some('m') => 1 << 20,
            _ => 0,
        };
        let digits = text.trim_end_matches(|c: char| factor > 0 && c.is_ascii_alphabetic());
        let number: u64 = digits.parse().map_err(|_| wrong())?;
        let size = match factor {
            0 => Self::Blocks(number),
            factor => Self::Bytes(number.checked_mul(factor).ok_or_else(wrong)?),
        };
        if number == 0 || digits.len() + 1 < text.len() {
            return Err(wrong());
        }
        Ok(size)
    }

    /// In blocks of this size.
    pub fn blocks(self, block_size: u32) -> Result<u64, String> {
        let block_size = u64::from(block_size.max(1));
        match self {
            Self::Blocks(blocks) => Ok(blocks),
            Self::Bytes(bytes) if bytes % block_size == 0 => Ok(bytes / block_size),
            Self::Bytes(bytes) => Err(format!(
                "--io-size {bytes} bytes: the volume has blocks of {block_size} bytes"
            )),
        }
    }
}

/// A region server in the place of another.
#[derive(Clone, Copy, Debug, Args)]
pub struct Replacement {
    /// A region server beside the three; its region may hold anything
    #[arg(long, value_name = "IP:PORT")]
    pub replacement: SocketAddr,
}

/// What comes before a measurement.
#[derive(Clone, Copy, Debug, Args)]
pub struct First {
    /// Write all blocks first
    #[arg(long)]
    pub fill: bool,
}

/// What to do with the volume.
#[derive(Clone, Debug, Subcommand)]
pub enum Workload {
    /// Write, flush and read at the volume's start, from one block up to a whole extent
    Balloon,
    /// A read behind a queue of writes: how long does it take?
    Bufferbloat,
    /// Write and read all blocks, extent by extent
    Big,
    /// The largest operations there can be
    Biggest,
    /// Bursts of operations with pauses between them
    Burst,
    /// Take commands from standard input
    Cli,
    /// Deactivate and activate again, with operations between
    Deactivate,
    /// Some of everything
    Demo,
    /// Operations that overlap, all under way together
    Dep,
    /// Write, and leave without a flush
    Dirty,
    /// Write all blocks
    FastFill,
    /// Write all blocks and read them back
    Fill {
        /// Do not read them back
        #[arg(long)]
        skip_verify: bool,
    },
    /// A random mix of reads, writes and flushes
    Generic,
    /// Random reads
    GenericRead,
    /// One write, one flush, one read
    One,
    /// Random reads of one size, as many as possible
    RandRead(First),
    /// Random writes of one size, as many as possible
    RandWrite(First),
    /// Stop a region server for long, start it, wait for its repair; needs --dsc
    Repair,
    /// Stop a region server for a moment, start it, wait for the replay; needs --dsc
    Replay,
    /// Replace one region server after the other under load
    Replace(Replacement),
    /// Replace a region server that is away before the volume is active; needs --dsc
    ReplaceBeforeActive(Replacement),
    /// Replace a region server during reconciliation; needs --dsc
    ReplaceReconcile(Replacement),
    /// Write and read over every border between extents
    Span,
    /// Read all blocks and compare them with --verify-in
    Verify,
    /// A write, a flush, a read, and again
    Wfr,
    /// Whatever, wherever, of whatever size
    Yolo,
}

impl Workload {
    /// The sequence of operations that it is, if it is no more than that.
    pub const fn kind(&self) -> Option<Kind> {
        Some(match self {
            Self::Balloon => Kind::Balloon,
            Self::Bufferbloat => Kind::Bufferbloat,
            Self::Big => Kind::Big,
            Self::Biggest => Kind::Biggest,
            Self::Burst => Kind::Burst,
            Self::Deactivate => Kind::Deactivate,
            Self::Demo => Kind::Demo,
            Self::Dep => Kind::Dep,
            Self::Dirty => Kind::Dirty,
            Self::FastFill | Self::Fill { skip_verify: true } => Kind::FastFill,
            Self::Fill { skip_verify: false } => Kind::Fill,
            Self::Generic => Kind::Generic,
            Self::GenericRead => Kind::GenericRead,
            Self::One => Kind::One,
            Self::RandRead(_) => Kind::RandRead,
            Self::RandWrite(_) => Kind::RandWrite,
            Self::Span => Kind::Span,
            Self::Verify => Kind::Verify,
            Self::Wfr => Kind::Wfr,
            Self::Yolo => Kind::Yolo,
            Self::Cli
            | Self::Repair
            | Self::Replay
            | Self::Replace(_)
            | Self::ReplaceBeforeActive(_)
            | Self::ReplaceReconcile(_) => return None,
        })
    }

    /// Whether all blocks are to be written before it.
    pub const fn fills_first(&self) -> bool {
        matches!(
            self,
            Self::RandRead(First { fill: true }) | Self::RandWrite(First { fill: true })
        )
    }

    /// As it is typed.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Cli => "cli",
            Self::Repair => "repair",
            Self::Replay => "replay",
            Self::Replace(_) => "replace",
            Self::ReplaceBeforeActive(_) => "replace-before-active",
            Self::ReplaceReconcile(_) => "replace-reconcile",
            Self::Fill { .. } => "fill",
            plain => match plain.kind() {
                Some(kind) => kind.name(),
                None => "",
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(std::iter::once("crutest").chain(line.split_whitespace()))
    }

    #[test]
    fn the_grammar_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_workload_has_the_name_that_users_know() {
        let plain = "balloon bufferbloat big biggest burst cli deactivate demo dep dirty fast-fill fill generic \
             generic-read one rand-read rand-write repair replay span verify wfr yolo";
        for name in plain.split_whitespace() {
            assert_eq!(parse(name).unwrap().workload.name(), name);
        }
        for name in ["replace", "replace-before-active", "replace-reconcile"] {
            let line = format!("{name} --replacement 127.0.0.1:8840");
            assert_eq!(parse(&line).unwrap().workload.name(), name);
            assert!(parse(name).is_err());
        }
    }

    #[test]
    fn flags_stand_before_or_after_the_workload() {
        let three = "-t 127.0.0.1:1 -t 127.0.0.1:2 --target 127.0.0.1:3";
        for line in [
            format!("generic {three} -g 5 -n 100 -q --verify-out x"),
            format!("{three} -g 5 -n 100 -q --verify-out x generic"),
        ] {
            let options = parse(&line).unwrap().options;
            assert_eq!(options.volume.target.len(), 3);
            assert_eq!(options.volume.generation, Some(5));
            assert_eq!(options.count, Some(100));
            assert!(options.quit);
            assert_eq!(options.verify_out, Some("x".into()));
        }
        assert_eq!(
            parse("one --gen 7").unwrap().options.volume.generation,
            Some(7)
        );
        assert_eq!(parse("one -c 7").unwrap().options.count, Some(7));
        assert!(parse("rand-read --fill").unwrap().workload.fills_first());
        assert!(!parse("rand-write").unwrap().workload.fills_first());
    }

    #[test]
    fn sizes_are_in_blocks_or_have_a_unit() {
        assert_eq!(IoSize::parse("8"), Ok(IoSize::Blocks(8)));
        assert_eq!(IoSize::parse("4k"), Ok(IoSize::Bytes(4096)));
        assert_eq!(IoSize::parse("1M"), Ok(IoSize::Bytes(1 << 20)));
        assert_eq!(IoSize::parse("512b"), Ok(IoSize::Bytes(512)));
        for wrong in [
            "",
            "0",
            "0k",
            "k",
            "4kb",
            "-1",
            "4g",
            "99999999999999999999",
            "99999999999999999k",
        ] {
            IoSize::parse(wrong).unwrap_err();
        }
        assert_eq!(IoSize::Bytes(4096).blocks(512), Ok(8));
        assert!(IoSize::Bytes(100).blocks(512).is_err());
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        assert!(parse("verify --verify-at-start").is_err());
        assert!(parse("one --vcr x -t 127.0.0.1:1").is_err());
    }
}
