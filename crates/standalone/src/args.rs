//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::schema_text;
use crate::ctl;

/// What `standalone` was asked to do.
#[derive(Debug, Parser)]
#[command(
    name = "standalone",
    version,
    about = "Runs one virtual machine from one TOML file",
    long_about = LONG_ABOUT,
    after_long_help = after_long_help(),
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
pub struct Arguments {
    /// Something else than running a machine.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Running a machine.
    #[command(flatten)]
    pub run: RunArguments,
}

/// What can be done beside running a machine.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Connect this terminal to a machine's serial console (leave with Ctrl-] q)
    Console {
        /// The socket: the machine's [main] "serial", ./ttya unless it says otherwise
        path: PathBuf,
    },

    /// Ask and order a running machine by its control socket: status, pause, stop, disks, replace, ...
    Ctl(ctl::arguments::Arguments),
}

/// How to run a machine.
#[derive(Debug, Args)]
pub struct RunArguments {
    /// The machine's configuration file
    #[arg(value_name = "CONFIG", required = true)]
    pub config: Option<PathBuf>,

    /// Only check the configuration and the files that it names
    #[arg(long)]
    pub check: bool,

    /// Show the configuration as it was understood, with all defaults, and end
    #[arg(long)]
    pub print_config: bool,

    /// Show it as JSON
    #[arg(long, requires = "print_config")]
    pub json: bool,

    /// Start at once instead of waiting for the first client on the serial console
    #[arg(long)]
    pub no_wait: bool,

    /// What to log: critical, error, warning, info, debug, trace; or directives such as info,devices=debug
    /// [default: $TRIVET_LOG, $PROPOLIS_LOG, or info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,

    /// Write a snapshot on Ctrl-C (not in this build yet)
    #[arg(short, long)]
    pub snapshot: bool,

    /// CONFIG is a snapshot to go on from (not in this build yet)
    #[arg(short, long)]
    pub restore: bool,
}

const LONG_ABOUT: &str = "\
Runs one virtual machine from one TOML file: its CPUs, memory and disks, and what it starts. The machine's
serial console is a unix socket; the machine starts when the first client connects.

    standalone vm.toml &            run it
    standalone console ttya         its console, in this terminal
    standalone ctl ./ctl status     how it is; `standalone ctl --help` shows the rest
    kill -INT %1                    press its power button; a second time: stop at once";

fn after_long_help() -> String {
    format!(
        "\
A first vm.toml, for a kernel and initial ramdisk of your own and one NVMe disk:

    [main]
    name = \"first\"
    cpus = 2
    memory = 512
    kernel = \"vmlinuz\"
    initrd = \"initrd.img\"
    cmdline = \"console=ttyS0\"

    [block_dev.root]
    type = \"file\"
    path = \"disk.img\"

    [dev.disk0]
    driver = \"pci-nvme\"
    block_dev = \"root\"
    pci-path = \"0.4.0\"

Exit codes: [main] \"exit_on_halt\" (0) when the guest powers off, \"exit_on_reboot\" when it reboots and the
key is given (else it reboots), (N << 1) | 1 when it writes N to its isa-debug-exit port, 1 on errors and when
disks could not be let go in good order.

Every table and key:

{}",
        schema_text()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_file_a_console_and_nothing() {
        let parse = |words: &[&str]| Arguments::try_parse_from(words);
        let run = parse(&["standalone", "--check", "vm.toml"]).unwrap();
        assert!(run.run.check && run.command.is_none());
        let console = parse(&["standalone", "console", "ttya"]).unwrap();
        assert!(matches!(console.command, Some(Command::Console { .. })));
        let ctl = ["standalone", "ctl", "ctl", "stop", "--json", "--wait"];
        let Some(Command::Ctl(ctl)) = parse(&ctl).unwrap().command else {
            unreachable!("another command");
        };
        assert!(ctl.json);
        for wrong in [
            &["standalone", "ctl", "ctl"][..],
            &["standalone", "ctl", "ctl", "stop", "--deadline", "100000"],
            &["standalone", "ctl", "ctl", "replace", "root", "a", "b"],
            &["standalone", "ctl", "ctl", "watch", "--interval", "0"],
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
        assert!(parse(&["standalone"]).is_err());
        assert!(parse(&["standalone", "--json", "vm.toml"]).is_err());
    }

    #[test]
    fn the_long_help_teaches_every_key() {
        let help = Arguments::command().render_long_help().to_string();
        for word in [
            "[block_dev.NAME]",
            "pci-path",
            "isa-debug-exit",
            "Exit codes",
        ] {
            assert!(help.contains(word), "{word}");
        }
    }
}
