//! The words of `standalone ctl`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::control::api::STOP_DEADLINE_MAX;

/// Which machine, and what about it.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The socket: the machine's [main] "control", ./ctl unless it says otherwise
    pub path: PathBuf,

    /// Answers as JSON, for scripts: the same as the socket gives, see `openapi`
    #[arg(long, global = true)]
    pub json: bool,

    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What can be asked and ordered.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// What the machine is, and where it stands
    Status,
    /// Hold the guest and bring its devices to rest
    Pause {
        /// Give up after so many seconds [default: 60]
        #[arg(long, value_name = "SECONDS")]
        timeout: Option<u64>,
    },
    /// Let a paused guest run on
    Resume {
        /// Give up after so many seconds [default: 60]
        #[arg(long, value_name = "SECONDS")]
        timeout: Option<u64>,
    },
    /// Start the guest afresh, as by the reset button
    Reset {
        /// Give up after so many seconds [default: 60]
        #[arg(long, value_name = "SECONDS")]
        timeout: Option<u64>,
    },
    /// Press the power button, and no more
    Power,
    /// Stop in good order: power button, deadline, flush
    Stop {
        /// Seconds that the guest has to switch itself off; 0 does not ask it
        /// [default: the machine's [main] "stop_deadline"]
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(..=STOP_DEADLINE_MAX))]
        deadline: Option<u64>,
        /// Come back when the machine has ended
        #[arg(long)]
        wait: bool,
        /// With --wait: give up waiting after so many seconds
        #[arg(long, value_name = "SECONDS", requires = "wait")]
        timeout: Option<u64>,
    },
    /// Disks with queues and latencies, and their replicas
    Disks {
        /// Only this one, in full
        name: Option<String>,
        /// Show repairs until all replicas are in use
        #[arg(long)]
        watch: bool,
        /// With --watch: give up after so many seconds
        #[arg(long, value_name = "SECONDS", requires = "watch")]
        timeout: Option<u64>,
    },
    /// Put a region server in the place of another, while the guest goes on
    Replace {
        /// The disk
        disk: String,
        /// The region server that goes, as ip:port
        old: SocketAddr,
        /// The one that takes its place, with an empty region of the same shape
        new: SocketAddr,
        /// Come back when it has all data and is in use
        #[arg(long)]
        wait: bool,
        /// With --wait: give up waiting after so many seconds
        #[arg(long, value_name = "SECONDS", requires = "wait")]
        timeout: Option<u64>,
    },
    /// Machine and disks, again and again, with rates
    Watch {
        /// Seconds between two looks
        #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
        interval: f64,
        /// End after so many looks; otherwise with the machine, or by Ctrl-C
        #[arg(long)]
        count: Option<u64>,
    },
    /// The numbers as Prometheus reads them
    Metrics,
    /// The OpenAPI document of the socket
    Openapi,
}

fn seconds(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "expected a number".to_owned())?;
    if (0.05..=3600.0).contains(&number) {
        Ok(number)
    } else {
        Err("expected 0.05 to 3600 seconds".to_owned())
    }
}

const EXAMPLES: &str = "\
Example: a region server is lost for good, another one takes its place, and the guest notices nothing:

    standalone ctl ./ctl disks                      which replica is it?
    standalone ctl ./ctl replace root 10.0.0.7:3810 10.0.0.9:3810 --wait
    standalone ctl ./ctl disks --json | jq '.[].volume.replicas[].state'

The same without this program: curl --unix-socket ./ctl http://machine/disks

Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 no machine answers at PATH, 4 waited too long.";
