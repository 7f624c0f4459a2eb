//! The stage: three region servers and a spare, a Debian guest with fio and PostgreSQL on their volume, and what both
//! sides of it say.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::proxy::Proxy;
use super::status::{Ctl, DISK, Status};
use super::watch::Watch;
use crate::guest::console::Show;
use crate::guest::debian::{BOOT_LIMIT, END_LIMIT, Host, Root, System, machine};
use crate::guest::machine::{Disk, Engine, LOG, Machine, Medium};
use crate::guest::session::Session;
use crate::tree;
use crate::volume::fleet::{Fleet, Programs, Shape};

/// 512 MiB, encrypted, and one region to spare.
const SHAPE: Shape = Shape {
    block_size: 4096,
    extent_size: 2048,
    extent_count: 64,
    encrypted: true,
    servers: 4,
};
/// Bytes of an extent.
pub(super) const EXTENT_BYTES: u64 = SHAPE.block_size as u64 * SHAPE.extent_size as u64;
/// A step in the guest, on a machine that has much else to do.
const STEP_LIMIT: Duration = Duration::from_secs(600);
/// For the volume to become whole again, and for the load to go on.
const HEAL_LIMIT: Duration = Duration::from_secs(300);
/// For loads to come to a stop of their own.
const HOLD_LIMIT: Duration = Duration::from_secs(300);
const LOADS: [&str; 3] = ["fio", "pgbench", "ledger"];

/// What is put into the guest's `/root`.
const SCRIPTS: &[(&str, &str)] = &[
    ("common.sh", include_str!("scripts/common.sh")),
    ("fio.sh", include_str!("scripts/fio.sh")),
    ("pgbench.sh", include_str!("scripts/pgbench.sh")),
    ("ledger.sh", include_str!("scripts/ledger.sh")),
    ("prepare.sh", include_str!("scripts/prepare.sh")),
    ("recover.sh", include_str!("scripts/recover.sh")),
];

/// All that a fault can be done to.
#[derive(Debug)]
pub(super) struct Stage<'a> {
    programs: &'a Programs,
    engine: &'a Engine,
    system: System,
    show: Show,
    pub(super) fleet: Fleet<'a>,
    /// Before the first region server.
    pub(super) proxy: Proxy,
    /// The server that the volume does not have.
    spare: u16,
    /// How many directories of machines there have been.
    directories: u32,
    /// How often the volume has been taken.
    generation: u64,
    pub(super) ctl: Ctl,
    pub(super) session: Session,
    pub(super) watch: Watch,
    /// Where the guest's lines have been read to.
    read: usize,
}

impl<'a> Stage<'a> {
    /// Starts everything, and the load.
    pub(super) fn start(
        programs: &'a Programs,
        engine: &'a Engine,
        program: &Path,
        system: System,
        show: Show,
    ) -> Result<Stage<'a>, String> {
        let fleet = Fleet::start(programs, "faults", SHAPE)?;
        let proxy = Proxy::start(&fleet.address(0))?;
        let directory = directory(0);
        let machine = Start {
            directory: &directory,
            fresh: true,
            generation: 1,
        }
        .prepare(programs, &system, &fleet, &proxy)?;
        let session = Session::start(&machine, engine, &directory, show)?;
        let mut stage = Stage {
            programs,
            engine,
            system,
            show,
            fleet,
            proxy,
            spare: 3,
            directories: 1,
            generation: 1,
            ctl: Ctl {
                program: program.to_owned(),
                directory,
            },
            session,
            watch: Watch::default(),
            read: 0,
        };
        stage.note("boots");
        stage.session.log_in(BOOT_LIMIT)?;
        stage.install()?;
        stage.note("makes a file system and a database");
        stage.session.run("sh /root/prepare.sh", STEP_LIMIT)?;
        stage.load()?;
        Ok(stage)
    }

    /// Says what goes on.
    pub(super) fn note(&self, what: &str) {
        println!("faults: {what}");
    }

    /// Puts the scripts into the guest.
    fn install(&mut self) -> Result<(), String> {
        for (name, text) in SCRIPTS {
            let command = format!("cat >/root/{name} <<'END-OF-SCRIPT'\n{text}END-OF-SCRIPT\ntrue");
            self.session.run(&command, STEP_LIMIT)?;
        }
        self.session
            .run("sync; echo 7 >/proc/sys/kernel/printk", STEP_LIMIT)?;
        Ok(())
    }

    /// Starts the loads, from where they were.
    fn load(&mut self) -> Result<(), String> {
        let (fio, ledger) = (
            self.watch.fio.map_or(0, |round| round + 1),
            self.next_number()?,
        );
        let command = format!(
            "rm -f /run/hold; for load in 'fio.sh {fio}' pgbench.sh 'ledger.sh {ledger}'; do \
             setsid sh /root/$load </dev/null >/dev/null 2>&1 & done; true"
        );
        self.session.run(&command, STEP_LIMIT)?;
        self.watch.begin();
        self.watch.restarted();
        self.until("the load runs", HEAL_LIMIT, |stage| {
            Ok(stage.watch.rounds.iter().all(|rounds| *rounds > 0))
        })
    }

    /// The ledger's next free number: commits that were not told of count too.
    fn next_number(&mut self) -> Result<u64, String> {
        let said = self.sql("SELECT coalesce(max(id), 0) + 1 FROM ledger")?;
        said.parse()
            .map_err(|_| format!("the ledger's next number: {said}"))
    }

    fn sql(&mut self, query: &str) -> Result<String, String> {
        let command =
            format!("(cd /tmp && runuser -u postgres -- psql -qAt -c '{query}' bench 2>&1)");
        let said = self.session.run(&command, STEP_LIMIT)?;
        // Lines of the loads and of the kernel may stand between.
        let answer = said
            .lines()
            .map(str::trim)
            .rfind(|line| !line.is_empty() && !line.contains("guest: ") && !line.starts_with('['));
        Ok(answer.unwrap_or_default().to_owned())
    }

    /// Reads what the guest has said.
    pub(super) fn pump(&mut self, wait: Duration) -> Result<(), String> {
        self.session.console.listen(wait);
        let transcript = self.session.console.transcript();
        while let Some(length) = transcript.get(self.read..).and_then(|rest| rest.find('\n')) {
            let end = self.read + length + 1;
            self.watch.line(&transcript[self.read..end]);
            self.read = end;
        }
        match self.session.child.poll()? {
            Some((code, _)) => Err(format!(
                "the machine ended with {code}; see {}",
                self.ctl.directory.join(LOG).display()
            )),
            None => Ok(()),
        }
    }

    /// Lets time go by.
    pub(super) fn wait(&mut self, time: Duration) -> Result<(), String> {
        let deadline = Instant::now() + time;
        while let Some(rest) = deadline.checked_duration_since(Instant::now()) {
            self.pump(rest.min(Duration::from_millis(200)))?;
        }
        Ok(())
    }

    /// Waits until `reached`.
    pub(super) fn until(
        &mut self,
        what: &str,
        limit: Duration,
        mut reached: impl FnMut(&Self) -> Result<bool, String>,
    ) -> Result<(), String> {
        let deadline = Instant::now() + limit;
        loop {
            self.pump(Duration::from_millis(200))?;
            if reached(self)? {
                return Ok(());
            }
            if Instant::now() > deadline {
                let errors = self.watch.errors.first().cloned().unwrap_or_default();
                return Err(format!("not within {} s: {what} {errors}", limit.as_secs()));
            }
        }
    }

    /// Waits until all three region servers are of use again and the load has gone on since.
    pub(super) fn heal(&mut self) -> Result<Status, String> {
        let mut last = Status::default();
        let outcome = self.until("the volume is whole", HEAL_LIMIT, |stage| {
            last = stage.ctl.status()?;
            Ok(last.is_whole())
        });
        outcome.map_err(|error| format!("{error}: {}", last.complaint()))?;
        let before = self.watch.rounds;
        // Two rounds: the first may have begun before.
        self.until("the load goes on", HEAL_LIMIT, |stage| {
            let rounds = stage.watch.rounds;
            Ok(rounds[0] >= before[0] + 2 && rounds[1] > before[1] && rounds[2] > before[2])
        })?;
        self.ctl.status()
    }

    /// Asks the loads to stand still, and waits for that and for what is under way.
    pub(super) fn hold(&mut self) -> Result<(), String> {
        self.watch.held.clear();
        self.session.run("touch /run/hold", STEP_LIMIT)?;
        self.until("the loads stand still", HOLD_LIMIT, |stage| {
            Ok(LOADS
                .iter()
                .all(|load| stage.watch.held.iter().any(|held| held == load)))
        })?;
        self.session.run("sync", STEP_LIMIT)?;
        self.until("nothing is under way", HOLD_LIMIT, |stage| {
            Ok(stage.ctl.status()?.pending == 0)
        })
    }

    /// Lets them go on.
    pub(super) fn release(&mut self) -> Result<(), String> {
        self.watch.restarted();
        self.session.run("rm -f /run/hold", STEP_LIMIT).map(drop)
    }

    /// With the load at rest: stops the region servers, compares their regions, and starts them again.
    pub(super) fn compare(&mut self) -> Result<(), String> {
        self.hold()?;
        self.fleet.end()?;
        let outcome = self
            .fleet
            .verify_regions()
            .and_then(|()| self.fleet.regions_are_equal());
        self.fleet.serve()?;
        self.until("the volume is whole again", HEAL_LIMIT, |stage| {
            Ok(stage.ctl.status()?.is_whole())
        })?;
        self.release()?;
        outcome
    }

    /// Deletes a member's region and puts the spare in its place; where it was, a new spare is made.
    pub(super) fn replace(&mut self, member: usize) -> Result<(), String> {
        let lost = self.fleet.members()[member];
        self.fleet.kill(lost)?;
        let region = self.fleet.region(lost);
        fs::remove_dir_all(&region).map_err(|error| format!("{}: {error}", region.display()))?;
        self.wait(Duration::from_secs(3))?;
        let (old, new) = (self.target(lost), self.fleet.address(self.spare));
        // While another is being repaired, none may go: in a mixed run that is so at first.
        self.until("the replacement is done", HEAL_LIMIT, |stage| {
            match stage.ctl.run(&["replace", DISK, &old, &new, "--wait"]) {
                Ok(_) => Ok(true),
                Err(why) if why.contains("is not whole itself") => Ok(false),
                Err(why) => Err(why),
            }
        })?;
        self.fleet.replaced(lost, self.spare);
        crate::volume::trials::make_again(self.programs, &self.fleet, lost)?;
        self.fleet.restart(lost)?;
        self.spare = lost;
        Ok(())
    }

    /// The address by which the machine knows a server.
    fn target(&self, index: u16) -> String {
        if index == 0 {
            self.proxy.address().to_owned()
        } else {
            self.fleet.address(index)
        }
    }

    /// Waits until no more than one region server is missing.
    pub(super) fn until_two_are_active(&mut self) -> Result<(), String> {
        self.until("two region servers are active", HEAL_LIMIT, |stage| {
            let states = stage.ctl.status()?.states;
            Ok(states.iter().filter(|(_, state)| state == "active").count() >= 2)
        })
    }

    /// Where the blocks of fio's last file lie on the volume, in `filefrag`'s words.
    pub(super) fn fragments(&mut self) -> Result<String, String> {
        let file = self.watch.fio.unwrap_or(0) % 2;
        self.session
            .run(&format!("filefrag -v /data/fio{file}"), STEP_LIMIT)
    }

    /// Has fio verify its last round again.
    pub(super) fn reread(&mut self) -> Result<(), String> {
        let Some(round) = self.watch.fio else {
            return Ok(());
        };
        let command = format!(
            "fio --name=v --filename=/data/fio{} --size=4m --bs=4k --rw=randwrite --ioengine=libaio --direct=1 \
             --iodepth=16 --verify=crc32c --verify_fatal=1 --randseed={round} --verify_only --minimal >/run/fio.out",
            round % 2
        );
        self.session.run(&command, STEP_LIMIT).map(drop)
    }

    /// Kills the machine as a power failure would, starts it again, and looks what is left.
    pub(super) fn lose_power(&mut self) -> Result<(), String> {
        let started = Instant::now();
        self.session.child.kill();
        // What had been said before counts.
        self.read_rest();
        self.note("the machine is started again");
        let directory = self.ctl.directory.clone();
        self.boot(&directory, false)?;
        self.recover(started)
    }

    /// Starts a second machine on the same volume while the first one works on it.
    ///
    /// Returns what the first one said to it.
    pub(super) fn take_over(&mut self) -> Result<String, String> {
        let started = Instant::now();
        let first = self.ctl.clone();
        let directory = directory(self.directories);
        self.directories += 1;
        let machine = self.prepare(&directory, true)?;
        let mut second = Session::start(&machine, self.engine, &directory, self.show)?;
        // The second one has the volume before its guest starts; the first one's guest finds out by itself.
        let deadline = Instant::now() + HEAL_LIMIT;
        let said = loop {
            self.session.console.listen(Duration::from_millis(200));
            let log = first.log(Path::new(LOG));
            if let Some(line) = log.lines().find(|line| line.contains("taken")) {
                break line.to_owned();
            }
            if let Some((code, _)) = second.child.poll()? {
                return Err(format!(
                    "the second machine ended with {code}; see {}",
                    directory.join(LOG).display()
                ));
            }
            if Instant::now() > deadline {
                return Err(
                    "the first machine does not say that its volume was taken over".to_owned(),
                );
            }
        };
        self.session.child.kill();
        self.read_rest();
        // The first one's guest was bound to see errors; whether anything was lost is the question.
        self.watch.begin();
        self.session = second;
        self.read = 0;
        self.ctl.directory = directory;
        self.session.log_in(BOOT_LIMIT)?;
        self.install()?;
        self.recover(started)?;
        Ok(said)
    }

    /// Prepares a machine that takes the volume from whoever had it before.
    fn prepare(&mut self, directory: &Path, fresh: bool) -> Result<Machine, String> {
        self.generation += 1;
        let start = Start {
            directory,
            fresh,
            generation: self.generation,
        };
        start.prepare(self.programs, &self.system, &self.fleet, &self.proxy)
    }

    fn boot(&mut self, directory: &Path, fresh: bool) -> Result<(), String> {
        let machine = self.prepare(directory, fresh)?;
        self.session = Session::start(&machine, self.engine, directory, self.show)?;
        self.read = 0;
        self.session.log_in(BOOT_LIMIT)
    }

    /// Mounts the volume, starts the database, and checks that nothing is lost that was told to be kept.
    fn recover(&mut self, lost: Instant) -> Result<(), String> {
        self.session.run("sh /root/recover.sh", STEP_LIMIT)?;
        let told = self.watch.ledger;
        let kept = self.sql(&format!("SELECT count(*) FROM ledger WHERE id <= {told}"))?;
        if kept != told.to_string() {
            return Err(format!("of {told} committed transactions {kept} are there"));
        }
        self.note(&format!("all {told} committed transactions are there"));
        self.reread()?;
        self.note("fio's last round verifies");
        self.load()?;
        // The load stood still from there to here.
        self.watch.longest = lost.elapsed().as_secs_f64();
        Ok(())
    }

    fn read_rest(&mut self) {
        while self.session.console.listen(Duration::from_millis(50)) {}
        let transcript = self.session.console.transcript();
        for line in transcript.get(self.read..).unwrap_or_default().lines() {
            self.watch.line(line);
        }
        self.read = transcript.len();
    }

    /// Switches everything off in order; the regions must then be equal.
    pub(super) fn end(mut self) -> Result<(), String> {
        let place = self.ctl.directory.join("console.txt");
        let written = fs::write(&place, self.session.console.transcript());
        written.map_err(|error| format!("{}: {error}", place.display()))?;
        self.session.power_off(END_LIMIT)?;
        self.fleet.end()?;
        self.fleet.verify_regions()?;
        self.fleet.regions_are_equal()?;
        self.fleet.remove()
    }
}

fn directory(number: u32) -> PathBuf {
    tree::target().join("guest/faults").join(number.to_string())
}

/// A start of the machine: root on a copy of the image, the volume beside it.
struct Start<'a> {
    directory: &'a Path,
    /// With a new copy.
    fresh: bool,
    generation: u64,
}

impl Start<'_> {
    fn prepare(
        &self,
        programs: &Programs,
        system: &System,
        fleet: &Fleet<'_>,
        proxy: &Proxy,
    ) -> Result<Machine, String> {
        let mut disks = if self.fresh {
            Host::start(programs, system, self.directory, Root::Image)?.disks()
        } else {
            Host::image_disks()
        };
        let mut volume = fleet.volume();
        volume.generation = Some(self.generation);
        let first = fleet.address(0);
        for target in &mut volume.targets {
            if *target == first {
                *target = proxy.address().to_owned();
            }
        }
        disks.push(Disk {
            name: DISK,
            driver: "pci-nvme",
            medium: Medium::Volume(volume),
            slot: 5,
        });
        let machine = machine(system, 2, 1024, disks);
        machine.configure(self.directory)?;
        Ok(machine)
    }
}
