//! Three region servers under `dsc`, in a directory of their own, on ports that were free; gone when dropped.

use std::fs;
use std::io::Read as _;
use std::net::TcpListener;
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::guest::machine::Volume;
use crate::measured::{Cost, ExitCode, Measured};
use crate::{run, tree};

/// Where ports are looked for: below the range that systems give out by themselves.
const PORTS: Range<u16> = 12_000..28_000;
/// A region server's repair port lies this far above its data port.
const REPAIR_OFFSET: u16 = 4000;
/// From one region server to the next.
const PORT_STEP: u16 = 10;
const START_LIMIT: Duration = Duration::from_secs(60);
const COMMAND_LIMIT: Duration = Duration::from_secs(300);

/// A key that anybody may know.
pub(crate) const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// The programs of the volume, built.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    directory: PathBuf,
    /// Show commands and what they say.
    pub(crate) verbose: bool,
}

impl Programs {
    /// Takes those in `built`, or builds them, optimised.
    pub(crate) fn provide(built: Option<&Path>) -> Result<Self, String> {
        if let Some(directory) = built {
            return Ok(Self {
                directory: directory.to_owned(),
                verbose: false,
            });
        }
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.current_dir(tree::root()).args([
            "build",
            "--quiet",
            "--release",
            "--package=crucible-downstairs",
            "--package=crucible-upstairs",
            "--package=dsc",
            "--package=crutest",
        ]);
        run::run(&mut command)?;
        Ok(Self {
            directory: tree::target().join("release"),
            verbose: false,
        })
    }

    /// A command of one of them.
    pub(crate) fn command(&self, program: &str) -> Command {
        Command::new(self.directory.join(program))
    }

    /// Runs a command to its end and returns what it printed.
    ///
    /// Errors: anything but exit code 0, with both outputs.
    pub(crate) fn quiet(&self, command: &mut Command) -> Result<String, String> {
        if self.verbose {
            println!("$ {}", run::spelled(command));
        }
        let text = run::quiet(command)?;
        if self.verbose {
            print!("{text}");
        }
        Ok(text)
    }
}

/// What regions are made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// In bytes.
    pub(crate) block_size: u32,
    /// Blocks of one extent.
    pub(crate) extent_size: u32,
    /// Extents of one region.
    pub(crate) extent_count: u32,
    /// Whether blocks come sealed.
    pub(crate) encrypted: bool,
    /// Region servers: three, and one more for each spare.
    pub(crate) servers: u16,
}

impl Shape {
    /// 64 MiB in 16 extents, encrypted.
    pub(crate) const SMALL: Self = Self {
        block_size: 4096,
        extent_size: 1024,
        extent_count: 16,
        encrypted: true,
        servers: 3,
    };

    /// Bytes of the volume.
    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.block_size) * u64::from(self.extent_size) * u64::from(self.extent_count)
    }
}

/// Region servers that run.
#[derive(Debug)]
pub(crate) struct Fleet<'a> {
    programs: &'a Programs,
    shape: Shape,
    directory: PathBuf,
    port_base: u16,
    control: u16,
    generation: u64,
    /// The servers that have the volume; others are spares, or lost.
    members: [u16; 3],
    dsc: Option<Measured>,
}

impl<'a> Fleet<'a> {
    /// Makes regions in `name`'s directory and starts their servers.
    pub(crate) fn start(programs: &'a Programs, name: &str, shape: Shape) -> Result<Self, String> {
        let directory = tree::target().join("volume").join(name);
        if directory.exists() {
            fs::remove_dir_all(&directory)
                .map_err(|error| format!("{}: {error}", directory.display()))?;
        }
        fs::create_dir_all(&directory)
            .map_err(|error| format!("{}: {error}", directory.display()))?;
        let (port_base, control) = free_ports(shape.servers)?;
        let mut fleet = Self {
            programs,
            shape,
            directory,
            port_base,
            control,
            generation: 0,
            members: [0, 1, 2],
            dsc: None,
        };
        fleet.create()?;
        fleet.serve()?;
        Ok(fleet)
    }

    /// Where regions, logs and whatever a trial makes lie.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The region directory of server `index`.
    pub(crate) fn region(&self, index: u16) -> PathBuf {
        self.directory
            .join("regions")
            .join(self.port(index).to_string())
    }

    fn port(&self, index: u16) -> u16 {
        self.port_base + PORT_STEP * index
    }

    /// The data address of server `index`.
    pub(crate) fn address(&self, index: u16) -> String {
        format!("127.0.0.1:{}", self.port(index))
    }

    /// The servers that have the volume.
    pub(crate) fn members(&self) -> [u16; 3] {
        self.members
    }

    /// Notes that server `new` has the volume in the place of `old`.
    pub(crate) fn replaced(&mut self, old: u16, new: u16) {
        for member in &mut self.members {
            if *member == old {
                *member = new;
            }
        }
    }

    /// The volume, for a machine.
    pub(crate) fn volume(&self) -> Volume {
        Volume {
            block_size: self.shape.block_size,
            targets: self.members.map(|index| self.address(index)),
            key: self.shape.encrypted.then(|| KEY.to_owned()),
            generation: None,
        }
    }

    fn create(&self) -> Result<(), String> {
        self.programs.quiet(&mut self.creation()).map(drop)
    }

    /// The command that makes the regions.
    pub(crate) fn creation(&self) -> Command {
        let mut command = self.programs.command("dsc");
        command.arg("create");
        self.place(&mut command);
        command
            .args(["--block-size", &self.shape.block_size.to_string()])
            .args(["--extent-size", &self.shape.extent_size.to_string()])
            .args(["--extent-count", &self.shape.extent_count.to_string()]);
        if self.shape.encrypted {
            command.arg("--encrypted");
        }
        command
    }

    /// The command that serves them.
    pub(crate) fn starting(&self) -> Command {
        let mut command = self.programs.command("dsc");
        command
            .arg("start")
            .args(["--control", &format!("127.0.0.1:{}", self.control)]);
        self.place(&mut command);
        command
    }

    fn place(&self, command: &mut Command) {
        command
            .arg("--region-dir")
            .arg(self.directory.join("regions"))
            .arg("--output-dir")
            .arg(self.directory.join("logs"))
            .args(["--port-base", &self.port_base.to_string()])
            .args(["--region-count", &self.shape.servers.to_string()]);
    }

    /// Starts `dsc start` and waits until all servers run.
    pub(crate) fn serve(&mut self) -> Result<(), String> {
        let log = self.directory.join("dsc.txt");
        let file = fs::File::create(&log).map_err(|error| format!("{}: {error}", log.display()))?;
        let copy = file.try_clone().map_err(|error| error.to_string())?;
        let mut command = self.starting();
        command.stdin(Stdio::null()).stdout(file).stderr(copy);
        self.dsc = Some(Measured::start(&mut command)?);
        self.wait_until("all servers run", |fleet| {
            fleet
                .dsc(&["all-running"])
                .is_ok_and(|said| said.trim() == "true")
        })
        .map_err(|error| {
            let said = fs::read_to_string(&log).unwrap_or_default();
            format!("{error}; dsc said: {}", said.trim_end())
        })
    }

    /// Asks the running dsc.
    pub(crate) fn dsc(&self, words: &[&str]) -> Result<String, String> {
        self.programs.quiet(&mut self.dsc_command(words))
    }

    /// The command that asks it.
    pub(crate) fn dsc_command(&self, words: &[&str]) -> Command {
        let mut command = self.programs.command("dsc");
        command
            .args(["cmd", "--json"])
            .args(["--server", &format!("http://127.0.0.1:{}", self.control)])
            .args(words);
        command
    }

    /// Waits until `reached`, for as long as a start may take.
    pub(crate) fn wait_until(
        &self,
        what: &str,
        reached: impl Fn(&Self) -> bool,
    ) -> Result<(), String> {
        let deadline = Instant::now() + START_LIMIT;
        while !reached(self) {
            if Instant::now() > deadline {
                return Err(format!("not within {} s: {what}", START_LIMIT.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Whether server `index` is in this state, in dsc's words.
    pub(crate) fn is(&self, index: u16, state: &str) -> bool {
        self.dsc(&["state", "-c", &index.to_string()])
            .is_ok_and(|said| said.contains(state))
    }

    /// Starts server `index` and waits until it serves.
    pub(crate) fn restart(&self, index: u16) -> Result<(), String> {
        self.dsc(&["start", "-c", &index.to_string()])?;
        self.wait_until("a server runs", |fleet| fleet.is(index, "running"))
    }

    /// Stops server `index` in order, and waits for that.
    pub(crate) fn stop(&self, index: u16) -> Result<(), String> {
        self.dsc(&["stop", "-c", &index.to_string()])?;
        self.wait_until("a server stops", |fleet| !fleet.is(index, "running"))
    }

    /// The process of server `index`.
    pub(crate) fn pid(&self, index: u16) -> Result<u32, String> {
        let said = self.dsc(&["pid", "-c", &index.to_string()])?;
        said.trim()
            .parse()
            .map_err(|_| format!("dsc says of the process of server {index}: {}", said.trim()))
    }

    /// Kills server `index` as an accident would.
    pub(crate) fn kill(&self, index: u16) -> Result<(), String> {
        let pid = self.pid(index)?.to_string();
        run::quiet(Command::new("kill").args(["-9", &pid]))?;
        self.wait_until("a killed server is seen to be gone", |fleet| {
            fleet.pid(index).is_err() || !fleet.is(index, "running")
        })
    }

    /// A `crutest` command on this volume, at the next generation. A trial adds the workload's own flags.
    pub(crate) fn crutest(&mut self, workload: &str) -> Command {
        let mut command = self.programs.command("crutest");
        command.arg(workload);
        self.attach(&mut command);
        command.args(["--dsc", &format!("127.0.0.1:{}", self.control)]);
        command
    }

    /// Leaves out generations that a trial has used without asking.
    pub(crate) fn skip_generations(&mut self, count: u64) {
        self.generation += count;
    }

    /// The flags that name the volume.
    pub(crate) fn attach(&mut self, command: &mut Command) {
        self.generation += 1;
        for index in self.members {
            command.args(["-t", &self.address(index)]);
        }
        if self.shape.encrypted {
            command.args(["--key", KEY]);
        }
        command.args(["--gen", &self.generation.to_string()]);
    }

    /// Runs a workload and returns its summary.
    ///
    /// Errors: it failed, or found wrong data.
    pub(crate) fn run(&mut self, workload: &str, more: &[&str]) -> Result<Value, String> {
        Ok(self.run_measured(workload, more)?.0)
    }

    /// As [`Fleet::run`], with what the process cost.
    pub(crate) fn run_measured(
        &mut self,
        workload: &str,
        more: &[&str],
    ) -> Result<(Value, Cost), String> {
        let mut command = self.crutest(workload);
        command.args(["--json", "--quiet"]).args(more);
        let out = self.directory.join("crutest.json");
        let err = self.directory.join("crutest.txt");
        let create = |path: &Path| {
            fs::File::create(path).map_err(|error| format!("{}: {error}", path.display()))
        };
        command.stdout(create(&out)?).stderr(create(&err)?);
        if self.programs.verbose {
            println!("$ {}", run::spelled(&command));
        }
        let (code, cost) = Measured::start(&mut command)?.wait(COMMAND_LIMIT)?;
        let said = fs::read_to_string(&out).unwrap_or_default();
        if code != ExitCode::Code(0) {
            let complaint = fs::read_to_string(&err).unwrap_or_default();
            return Err(format!(
                "`{}`: {code}: {said}{}",
                run::spelled(&command),
                complaint.trim_end()
            ));
        }
        if self.programs.verbose {
            print!("{said}");
        }
        let start = said.find('{').unwrap_or(0);
        let value: Value = serde_json::from_str(&said[start..])
            .map_err(|error| format!("crutest {workload}: {error} in {said}"))?;
        if value["ok"] != true {
            return Err(format!("crutest {workload}: {said}"));
        }
        let run = value["runs"].as_array().and_then(|runs| runs.last());
        let run = run.ok_or_else(|| format!("crutest {workload} tells of no run"))?;
        Ok((run.clone(), cost))
    }

    /// Stops all servers and dsc, and waits for that; regions stay.
    pub(crate) fn end(&mut self) -> Result<(), String> {
        let Some(mut dsc) = self.dsc.take() else {
            return Ok(());
        };
        self.dsc(&["shutdown"])?;
        match dsc.wait(START_LIMIT)? {
            (ExitCode::Code(0), _) => Ok(()),
            (code, _) => Err(format!("dsc: {code}")),
        }
    }

    /// Removes regions, logs and all else, once nothing is served any more.
    pub(crate) fn remove(self) -> Result<(), String> {
        let directory = self.directory.clone();
        drop(self);
        fs::remove_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))
    }

    /// Runs `crucible-downstairs verify` on the volume's regions, which must not be served.
    pub(crate) fn verify_regions(&self) -> Result<(), String> {
        self.members.into_iter().try_for_each(|index| {
            let mut command = self.programs.command("crucible-downstairs");
            command.arg("verify").arg("--data").arg(self.region(index));
            self.programs.quiet(&mut command).map(drop)
        })
    }

    /// Whether the volume's regions, which must not be served, hold the same bytes.
    pub(crate) fn regions_are_equal(&self) -> Result<(), String> {
        self.written()
            .into_iter()
            .try_for_each(|extents| self.extents_are_equal(extents))
    }

    /// The extents that somebody has written to, in few ranges. All others hold nothing but zeroes, everywhere.
    fn written(&self) -> Vec<Range<u32>> {
        /// What an extent takes that was never written: its last page, on the usual file systems.
        const EMPTY_BYTES: u64 = 4096;
        /// So many empty ones are sooner compared than passed over.
        const GAP: u32 = 8;
        let mut ranges: Vec<Range<u32>> = Vec::new();
        for extent in 0..self.shape.extent_count {
            let is_empty = self.members.into_iter().all(|index| {
                fs::metadata(extent_file(&self.region(index), extent))
                    .is_ok_and(|file| file.blocks() * 512 <= EMPTY_BYTES)
            });
            match ranges.last_mut() {
                _ if is_empty => {}
                Some(last) if extent - last.end <= GAP => last.end = extent + 1,
                _ => ranges.push(extent..extent + 1),
            }
        }
        ranges
    }

    fn extents_are_equal(&self, extents: Range<u32>) -> Result<(), String> {
        let extent_size = u64::from(self.shape.extent_size);
        let first = u64::from(extents.start) * extent_size;
        let count = u64::from(extents.end - extents.start) * extent_size;
        let mut exports = self
            .members
            .into_iter()
            .map(|index| Export::start(self.programs, &self.region(index), first, count))
            .collect::<Result<Vec<_>, String>>()?;
        let mut at = first * u64::from(self.shape.block_size);
        loop {
            let pieces = exports
                .iter_mut()
                .map(Export::piece)
                .collect::<Result<Vec<_>, String>>()?;
            for (piece, index) in pieces.iter().zip(self.members).skip(1) {
                if *piece != pieces[0] {
                    let first = self.members[0];
                    return Err(format!(
                        "the regions of servers {first} and {index} differ within 1 MiB from byte {at}"
                    ));
                }
            }
            at += pieces[0].len() as u64;
            if pieces[0].is_empty() {
                break;
            }
        }
        exports.iter_mut().try_for_each(Export::end)
    }
}

/// The file of an extent: the last three of its digits name it, those before them its directories.
pub(crate) fn extent_file(region: &Path, extent: u32) -> PathBuf {
    let (top, middle, low) = (extent >> 24, (extent >> 12) & 0xfff, extent & 0xfff);
    region.join(format!("{top:02X}/{middle:03X}/{low:03X}"))
}

/// A region's blocks, as they come out of `crucible-downstairs export`: no copy of them is made.
struct Export {
    child: Measured,
    blocks: ChildStdout,
}

impl Export {
    fn start(programs: &Programs, region: &Path, first: u64, count: u64) -> Result<Export, String> {
        let mut command = programs.command("crucible-downstairs");
        // What it says at its end follows the blocks, and is the same for all.
        command
            .arg("export")
            .arg("--data")
            .arg(region)
            .args(["--export-path", "/dev/fd/1"])
            .args(["--skip", &first.to_string(), "--count", &count.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut child = Measured::start(&mut command)?;
        let blocks = child.output().ok_or("a child without an output")?;
        Ok(Export { child, blocks })
    }

    /// The next mebibyte, or less at the end.
    fn piece(&mut self) -> Result<Vec<u8>, String> {
        let mut piece = Vec::with_capacity(1 << 20);
        let read = self.blocks.by_ref().take(1 << 20).read_to_end(&mut piece);
        read.map_err(|error| format!("an exported region: {error}"))?;
        Ok(piece)
    }

    fn end(&mut self) -> Result<(), String> {
        match self.child.wait(COMMAND_LIMIT)? {
            (ExitCode::Code(0), _) => Ok(()),
            (code, _) => Err(format!("an export ended with {code}")),
        }
    }
}

impl Drop for Fleet<'_> {
    fn drop(&mut self) {
        // After a failure: dsc's servers go with it. `Measured` kills it if it does not follow.
        if let Some(dsc) = &self.dsc {
            let _asked = run::quiet(Command::new("kill").arg(dsc.id().to_string()));
        }
        if let Some(mut dsc) = self.dsc.take() {
            let _ended = dsc.wait(Duration::from_secs(10));
        }
    }
}

/// A base such that the data and repair ports of all servers are free now, and a port for dsc.
fn free_ports(servers: u16) -> Result<(u16, u16), String> {
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    // Several trees may do this at once: each begins somewhere else.
    let span = PORTS.end - PORTS.start;
    let first = (std::process::id() as u16).wrapping_mul(97) % span;
    (0..span)
        .step_by(usize::from(PORT_STEP * 16))
        .map(|offset| PORTS.start + (first + offset) % span)
        .find(|base| {
            free(base + 5)
                && (0..servers).all(|index| {
                    let port = base + PORT_STEP * index;
                    free(port) && free(port + REPAIR_OFFSET)
                })
        })
        .map(|base| (base, base + 5))
        .ok_or_else(|| "no free ports".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_lie_where_their_numbers_say() {
        let file = extent_file(Path::new("r"), 0x0100_2ABC);
        assert_eq!(file, Path::new("r/01/002/ABC"));
        assert_eq!(extent_file(Path::new("r"), 9), Path::new("r/00/000/009"));
    }

    #[test]
    fn free_ports_leave_room_for_every_server() {
        let (base, control) = free_ports(4).unwrap();
        assert!(PORTS.contains(&base));
        assert!((base..base + PORT_STEP).contains(&control));
    }
}
