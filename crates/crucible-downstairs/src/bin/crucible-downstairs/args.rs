//! The command line.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use uuid::Uuid;

/// One region server of a replicated block store: keeps a region on disk and serves it to an upstairs.
///
/// A volume has three of these, each with a region of its own:
///
///   crucible-downstairs create -d /var/lib/vol/0 -u $(uuidgen) --block-size 4096 --extent-size 16384 --extent-count 64
///   crucible-downstairs run -d /var/lib/vol/0 -a 127.0.0.1 -p 8810
#[derive(Debug, Parser)]
#[command(
    name = "crucible-downstairs",
    verbatim_doc_comment,
    arg_required_else_help = true
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a region: an empty one, one filled from a file, or a copy of another region server's.
    Create(CreateArguments),
    /// Serve a region until SIGTERM or SIGINT.
    Run(RunArguments),
    /// Fill an existing region with what a read-only region server has.
    Clone(CloneArguments),
    /// Show the extents of one region, or compare up to three.
    Dump(DumpArguments),
    /// Write the blocks of a region, as they are stored, to a file.
    Export(ExportArguments),
    /// Check every block of a region against its context.
    ///
    /// Ends with 1 when one does not fit.
    Verify(VerifyArguments),
    /// Show where things lie in the files of a region.
    ExtentInfo(ExtentInfoArguments),
    /// Start region servers when asked over HTTP: POST /regions/UUID/downstairs.
    Serve(ServeArguments),
    /// Measure how fast a new region takes writes.
    Dynamometer(DynamometerArguments),
    /// Measure how fast another region server hands out its extents.
    RepairDynamometer(RepairDynamometerArguments),
    /// Show versions.
    Version,
}

#[derive(Debug, Args)]
pub(crate) struct GeometryArguments {
    /// Bytes of a block: a power of two from 512 to 32768.
    #[arg(long, default_value_t = 512, value_name = "BYTES")]
    pub(crate) block_size: u64,
    /// Blocks of an extent.
    #[arg(long, default_value_t = 100, value_name = "BLOCKS")]
    pub(crate) extent_size: u64,
    /// Extents of the region.
    #[arg(long, default_value_t = 15, value_name = "COUNT")]
    pub(crate) extent_count: u32,
    /// The blocks will come sealed.
    #[arg(long)]
    pub(crate) encrypted: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CreateArguments {
    /// Directory of the region; made if it is not there.
    #[arg(short, long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    #[command(flatten)]
    pub(crate) geometry: GeometryArguments,
    /// Name of the region; no two of a volume may have the same.
    #[arg(short, long)]
    pub(crate) uuid: Uuid,
    /// Fill the region with this file; extents are added if it is longer.
    #[arg(short, long, value_name = "FILE", conflicts_with = "clone_source")]
    pub(crate) import_path: Option<PathBuf>,
    /// Fill the region from this region server (its repair address); it must be read-only, and its geometry is taken.
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) clone_source: Option<SocketAddr>,
}

/// How a region is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ModeArgument {
    /// Reads only, to any number of upstairs.
    Ro,
    /// Reads and writes, to one.
    Rw,
}

#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// Address to listen on. Other machines can repair from this one only if it is a real address.
    #[arg(short, long, default_value = "0.0.0.0")]
    pub(crate) address: IpAddr,
    /// Directory of the region.
    #[arg(short, long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Port to listen on; repairs are served 4000 above it. 0: any two.
    #[arg(short, long, default_value_t = 9000)]
    pub(crate) port: u16,
    /// Whether the region may be written to.
    #[arg(long, value_enum, default_value_t = ModeArgument::Rw)]
    pub(crate) mode: ModeArgument,
    /// Make trouble: delay one job in four, and do one in four out of turn.
    #[arg(long)]
    pub(crate) lossy: bool,
    /// Make trouble: let one read in four fail.
    #[arg(long)]
    pub(crate) read_errors: bool,
    /// Make trouble: let one write in four fail.
    #[arg(long)]
    pub(crate) write_errors: bool,
    /// Make trouble: let one flush in four fail.
    #[arg(long)]
    pub(crate) flush_errors: bool,
    /// Accepted for compatibility; nothing is sent there.
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) oximeter: Option<SocketAddr>,
    /// Accepted for compatibility; nothing is sent there.
    #[arg(short, long, value_name = "ENDPOINT")]
    pub(crate) trace_endpoint: Option<String>,
    #[command(flatten)]
    pub(crate) tls: TlsArguments,
}

#[derive(Debug, Args)]
pub(crate) struct TlsArguments {
    /// Our certificates, in PEM; with this, only peers with a certificate are let in.
    #[arg(long, value_name = "FILE", requires_all = ["key_pem", "root_cert_pem"])]
    pub(crate) cert_pem: Option<PathBuf>,
    /// Our key, in PEM.
    #[arg(long, value_name = "FILE", requires_all = ["cert_pem", "root_cert_pem"])]
    pub(crate) key_pem: Option<PathBuf>,
    /// The root that signs the certificates of the peers, in PEM.
    #[arg(long, value_name = "FILE", requires_all = ["cert_pem", "key_pem"])]
    pub(crate) root_cert_pem: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct CloneArguments {
    /// Directory of the region that is to be filled.
    #[arg(short, long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Repair address of the region server to copy; it must be read-only.
    #[arg(short, long, value_name = "IP:PORT")]
    pub(crate) source: SocketAddr,
    /// Accepted for compatibility; nothing is sent there.
    #[arg(short, long, value_name = "ENDPOINT")]
    pub(crate) trace_endpoint: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DumpArguments {
    /// Directory of a region; up to three times.
    #[arg(short, long, value_name = "DIR", required = true, num_args = 1)]
    pub(crate) data: Vec<PathBuf>,
    /// Show this extent block by block.
    #[arg(short, long)]
    pub(crate) extent: Option<u32>,
    /// Show this block of the region; with --extent, it has to lie there.
    #[arg(short, long)]
    pub(crate) block: Option<u64>,
    /// Leave out what is the same everywhere.
    #[arg(short, long)]
    pub(crate) only_show_differences: bool,
    /// Mark differences with letters only.
    #[arg(long)]
    pub(crate) no_color: bool,
    /// Answer in JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArguments {
    /// Directory of the region.
    #[arg(short, long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// File to write.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) export_path: PathBuf,
    /// Begin with this block.
    #[arg(short, long, default_value_t = 0, value_name = "BLOCKS")]
    pub(crate) skip: u64,
    /// Write so many blocks; 0: all that follow.
    #[arg(long, default_value_t = 0, value_name = "BLOCKS")]
    pub(crate) count: u64,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArguments {
    /// Directory of the region.
    #[arg(short, long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Threads; one for each processor if not given.
    #[arg(short, long, value_name = "COUNT")]
    pub(crate) threads: Option<usize>,
    /// Answer in JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ExtentInfoArguments {
    /// Directory of the region.
    #[arg(short, long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Blocks of an extent, N or N-M, counted within it.
    #[arg(short, long, value_name = "N[-M]")]
    pub(crate) block: Option<String>,
    /// Answer in JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArguments {
    /// Accepted for compatibility; nothing is sent there.
    #[arg(short, long, value_name = "ENDPOINT")]
    pub(crate) trace_endpoint: Option<String>,
    /// Address to listen on for requests. Whoever reaches it can start servers: keep it on loopback.
    #[arg(long, default_value = "127.0.0.1:4567")]
    pub(crate) bind_addr: SocketAddr,
}

#[derive(Debug, Args)]
pub(crate) struct DynamometerArguments {
    #[command(flatten)]
    pub(crate) geometry: GeometryArguments,
    /// Directory for the region; it must be empty or missing, and is left behind.
    #[arg(short, long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Blocks of each write.
    #[arg(short, long, default_value_t = 1, value_name = "BLOCKS")]
    pub(crate) num_writes: u32,
    /// Seconds to measure; one line each.
    #[arg(short, long, default_value_t = 10, value_name = "SECONDS")]
    pub(crate) samples: u32,
    /// Flush after so many writes.
    #[arg(long, value_name = "COUNT", group = "flush")]
    pub(crate) flush_per_iops: Option<u64>,
    /// Flush after so many blocks.
    #[arg(long, value_name = "COUNT", group = "flush")]
    pub(crate) flush_per_blocks: Option<u64>,
    /// Flush after so many milliseconds.
    #[arg(long, value_name = "MS", group = "flush")]
    pub(crate) flush_per_ms: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct RepairDynamometerArguments {
    /// Repair address of the region server to measure; it must be read-only.
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) clone_source: SocketAddr,
}
