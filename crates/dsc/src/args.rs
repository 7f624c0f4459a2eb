//! What can be typed: commands, flags and defaults (spec: section 8.1).

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Where the control server of `dsc start` listens, and where `dsc cmd` looks for it.
pub const CONTROL: &str = "127.0.0.1:9998";

const EXAMPLE: &str = "\
Example: three regions of 1 GiB, served on 127.0.0.1:8810, :8820 and :8830 until Ctrl-C or `dsc cmd shutdown`

    dsc create --block-size 4096 --extent-size 16384 --extent-count 16 --encrypted
    dsc start &
    dsc cmd state --cid 0
    dsc cmd stop --cid 0
    dsc cmd shutdown";

/// Makes, starts and controls the region servers of a Crucible volume on this machine.
#[derive(Debug, Parser)]
#[command(name = "dsc", version, disable_help_subcommand = true, after_help = EXAMPLE)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make the regions
    Create(CreateArgs),
    /// Start region servers on regions that exist (or with --create on new ones), and keep an eye on them
    Start(StartArgs),
    /// Measure how long regions of many shapes take to make
    RegionPerf(PerfArgs),
    /// Send a command to a running `dsc start`
    Cmd(CmdArgs),
}

/// Where regions, logs and the program are.
#[derive(Clone, Debug, Args)]
pub struct PlaceArgs {
    /// The region server's program; without it the one beside dsc, or else target/release/crucible-downstairs
    #[arg(long, value_name = "FILE")]
    pub ds_bin: Option<PathBuf>,
    /// Directory for what the region servers print
    #[arg(long, value_name = "DIR", default_value = "/tmp/dsc")]
    pub output_dir: PathBuf,
    /// Directory for regions, once for all or once for each
    #[arg(long, value_name = "DIR", default_value = "/var/tmp/dsc/region")]
    pub region_dir: Vec<PathBuf>,
}

/// The flags of `create`.
#[derive(Clone, Debug, Args)]
pub struct CreateArgs {
    /// Where things are.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Size of a block in bytes, a power of two from 512 to 32768
    #[arg(long, value_name = "BYTES", default_value_t = 4096)]
    pub block_size: u64,
    /// Remove earlier regions and logs of dsc first
    #[arg(long)]
    pub cleanup: bool,
    /// The regions hold encrypted blocks
    #[arg(long)]
    pub encrypted: bool,
    /// Blocks of one extent
    #[arg(long, value_name = "BLOCKS", default_value_t = 100)]
    pub extent_size: u64,
    /// Extents of one region
    #[arg(long, value_name = "COUNT", default_value_t = 15)]
    pub extent_count: u32,
    /// Port of the first region server; each further one listens 10 above
    #[arg(long, value_name = "PORT", default_value_t = 8810)]
    pub port_base: u16,
    /// How many regions
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    pub region_count: u32,
}

/// The flags of `start`.
#[derive(Clone, Debug, Args)]
pub struct StartArgs {
    /// Those of `create`.
    #[command(flatten)]
    pub create_args: CreateArgs,
    /// Remove the regions, if there are any, and make new ones first
    #[arg(long)]
    pub create: bool,
    /// Serve the regions for reading only
    #[arg(long)]
    pub read_only: bool,
    /// Address of the control server
    #[arg(long, value_name = "IP:PORT", default_value = CONTROL)]
    pub control: std::net::SocketAddr,
    /// Address that the region servers listen on; 0.0.0.0 for all
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub bind: IpAddr,
}

/// The flags of `region-perf`.
#[derive(Clone, Debug, Args)]
pub struct PerfArgs {
    /// Where things are.
    #[command(flatten)]
    pub place: PlaceArgs,
    /// Write the figures to this file too, as comma-separated values
    #[arg(long, value_name = "FILE")]
    pub csv_out: Option<PathBuf>,
    /// Larger regions too; takes long
    #[arg(long)]
    pub long: bool,
}

/// The flags of `cmd`.
#[derive(Clone, Debug, Args)]
pub struct CmdArgs {
    /// Where the control server is; an address without http:// will do
    #[arg(
        long,
        global = true,
        value_name = "URL",
        default_value = "http://127.0.0.1:9998"
    )]
    pub server: String,
    /// Print answers as JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// Which command.
    #[command(subcommand)]
    pub command: ControlCommand,
}

/// One child.
#[derive(Clone, Copy, Debug, Args)]
pub struct Cid {
    /// Which region server, from 0
    #[arg(short, long)]
    pub cid: u32,
}

/// What a running `dsc start` can be asked.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum ControlCommand {
    /// Whether all region servers run
    AllRunning,
    /// Whether all region servers have ended
    AllStopped,
    /// No more stops at random
    DisableRandomStop,
    /// One is not started again when it ends
    DisableRestart(Cid),
    /// None is started again when it ends
    DisableRestartAll,
    /// One is started again when it ends by a signal or a stop
    EnableRestart(Cid),
    /// Stop one at random, again and again
    EnableRandomStop,
    /// The shortest pause between stops at random
    EnableRandomMin {
        /// In seconds
        #[arg(short, long)]
        min: u64,
    },
    /// The longest pause between stops at random
    EnableRandomMax {
        /// In seconds
        #[arg(short, long)]
        max: u64,
    },
    /// Each is started again when it ends by a signal or a stop
    EnableRestartAll,
    /// The process of one
    Pid(Cid),
    /// The port of one
    Port(Cid),
    /// Whether regions are served for reading only
    ReadOnly,
    /// How many regions there are
    RegionCount,
    /// Block size, blocks of an extent, extents
    RegionInfo,
    /// Stop all, and end dsc
    Shutdown,
    /// Start one
    Start(Cid),
    /// Start all
    StartAll,
    /// What one is in: stopped, stopping, starting, running, exit, error or failed
    State(Cid),
    /// Stop one
    Stop(Cid),
    /// Stop all
    StopAll,
    /// Stop one of those that run, whichever
    StopRand,
    /// The uuid of the region of one
    Uuid(Cid),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        let words = std::iter::once("dsc").chain(line.split_whitespace());
        Arguments::try_parse_from(words).map(|arguments| arguments.command)
    }

    #[test]
    fn the_grammar_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn defaults_are_those_that_users_know() {
        let Command::Start(start) = parse("start").unwrap() else {
            panic!("not start");
        };
        let create = &start.create_args;
        assert_eq!(create.block_size, 4096);
        assert_eq!(create.extent_size, 100);
        assert_eq!(create.extent_count, 15);
        assert_eq!(create.port_base, 8810);
        assert_eq!(create.region_count, 3);
        assert_eq!(create.place.output_dir, PathBuf::from("/tmp/dsc"));
        assert_eq!(
            create.place.region_dir,
            [PathBuf::from("/var/tmp/dsc/region")]
        );
        assert_eq!(create.place.ds_bin, None);
        assert!(!create.encrypted && !create.cleanup && !start.create && !start.read_only);
        assert_eq!(start.control.to_string(), "127.0.0.1:9998");
        assert_eq!(start.bind.to_string(), "127.0.0.1");
    }

    #[test]
    fn every_command_of_the_control_server_is_there() {
        for line in [
            "all-running",
            "all-stopped",
            "disable-random-stop",
            "disable-restart -c 1",
            "disable-restart-all",
            "enable-restart --cid 2",
            "enable-random-stop",
            "enable-random-min -m 3",
            "enable-random-max -m 5",
            "enable-restart-all",
            "pid -c 0",
            "port -c 0",
            "read-only",
            "region-count",
            "region-info",
            "shutdown",
            "start -c 0",
            "start-all",
            "state -c 0",
            "stop -c 0",
            "stop-all",
            "stop-rand",
            "uuid -c 0 --server http://127.0.0.1:7777",
        ] {
            parse(&format!("cmd {line}")).unwrap();
        }
        assert!(parse("cmd state").is_err(), "which one?");
    }

    #[test]
    fn the_server_may_stand_before_or_after_the_command() {
        for line in [
            "cmd --server http://[::1]:1 shutdown",
            "cmd shutdown --server http://[::1]:1",
        ] {
            let Command::Cmd(args) = parse(line).unwrap() else {
                panic!("not cmd");
            };
            assert_eq!(args.server, "http://[::1]:1");
        }
    }

    #[test]
    fn a_region_directory_may_be_given_for_each() {
        let Command::Create(create) = parse("create --region-dir /a --region-dir /b").unwrap()
        else {
            panic!("not create");
        };
        assert_eq!(create.place.region_dir.len(), 2);
    }
}
