//! Volumes of a machine on real region servers: how they are opened and refused, and what a guest's NVMe commands see
//! while servers come and go.
#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests stop at the first surprise"
)]

mod regions;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use block::testkit::{Planned, ScriptedSource};
use block::{AttachOptions, Disk, Operation, Outcome, Segment};
use bytes::BytesMut;
use crucible_protocol::BlockIndex;
use crucible_upstairs::options::CrucibleOpts;
use devices::nvme::Status;
use devices::nvme::command::{Command, io};
use devices::testkit::nvme::{NvmeRig, RigOptions};
use standalone::config::volume::{CrucibleConfig, GivenShape, VolumeConfig};
use standalone::volumes::generation::Generations;
use standalone::volumes::{Volumes, VolumesError};
use uuid::Uuid;
use vm_types::{Execution, GuestAddress, GuestMemory};

use regions::{BLOCK, EXTENT, EXTENTS, Server};

/// A block, as memory.
const BYTES: usize = BLOCK as usize;
const KEY: &str = "tCw7zw0hAsPuxMOTWwnPEFYjBK9qJRtYyGdEXKEnrg0=";
const OTHER_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
/// Far more than anything here needs, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Three servers and a place for generations; gone with the value.
struct World {
    servers: [Server; 3],
    directory: PathBuf,
}

impl World {
    fn new(encrypted: bool) -> Option<Self> {
        let servers = Server::three(encrypted)?;
        let directory = std::env::temp_dir().join(format!("trivet-volumes-{}", Uuid::new_v4()));
        std::fs::create_dir_all(&directory).unwrap();
        Some(Self { servers, directory })
    }

    /// That of a configuration of this name.
    fn generations(&self, name: &str) -> Generations {
        Generations::beside(&self.directory.join(name))
    }

    fn config(&self, key: Option<&str>) -> CrucibleConfig {
        let targets = self.servers.each_ref().map(|server| server.address);
        let mut opts = CrucibleOpts::new(Uuid::new_v4(), targets);
        opts.key = key.map(|key| key.to_owned().into());
        CrucibleConfig {
            opts,
            shape: GivenShape::default(),
            generation: None,
            request_timeout: Duration::from_secs(2),
        }
    }

    fn open(&self, name: &str, config: &CrucibleConfig) -> Result<Volumes, VolumesError> {
        let begin = Instant::now();
        let mut too_long = || begin.elapsed() > PATIENCE;
        open(&disks(config), &self.generations(name), &mut too_long)
    }

    fn refusal(&self, config: &CrucibleConfig) -> String {
        self.open("refused.toml", config).unwrap_err().to_string()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.directory));
    }
}

fn open(
    configs: &BTreeMap<String, VolumeConfig>,
    generations: &Generations,
    interrupted: &mut dyn FnMut() -> bool,
) -> Result<Volumes, VolumesError> {
    let volumes = Volumes::new(configs)?;
    volumes.activate(configs, generations, interrupted)?;
    Ok(volumes)
}

fn disks(config: &CrucibleConfig) -> BTreeMap<String, VolumeConfig> {
    let config = VolumeConfig::Crucible(Box::new(config.clone()));
    BTreeMap::from([("root".to_owned(), config)])
}

fn generation(volumes: &Volumes) -> u64 {
    let volume = volumes.get("root").unwrap();
    let insights = crucible_upstairs::volume::block_on(volume.insights());
    insights[0].status.generation
}

fn rig(volumes: &Volumes) -> NvmeRig {
    let backend = volumes.backends().remove("root").unwrap();
    let options = RigOptions {
        disk: Disk::new(backend),
        execution: Execution::Threads,
        ..RigOptions::default()
    };
    NvmeRig::with_options(options)
        .enabled()
        .with_io_queue(1, 64)
}

/// A command on one block, with a buffer of its own that is filled with `byte`.
fn command(rig: &mut NvmeRig, opcode: u8, block: u64, byte: u8) -> (Command, u64) {
    let buffer = rig.pages.take(BLOCK);
    rig.pages.write(buffer, &[byte; BYTES]);
    let command = Command::new(opcode, 1);
    (command.with_prps(buffer, 0).with_blocks(block, 1), buffer)
}

/// Carries a command out again and again while its status says "later".
fn in_the_end(rig: &mut NvmeRig, command: Command) {
    let begin = Instant::now();
    loop {
        let status = rig.io(1, command).status;
        if status.is_success() {
            return;
        }
        assert_eq!(
            status.code(),
            Status::NAMESPACE_NOT_READY.code(),
            "{status:?}"
        );
        assert!(begin.elapsed() < PATIENCE);
    }
}

#[test]
fn generations_rise_by_themselves_and_pass_what_the_regions_know() {
    let Some(mut world) = World::new(false) else {
        return;
    };
    let config = world.config(None);
    for expected in [1, 2, 3] {
        let volumes = world.open("a.toml", &config).unwrap();
        assert_eq!(generation(&volumes), expected);
        let volume = volumes.get("root").unwrap();
        let data = BytesMut::zeroed(BLOCK as usize);
        volume.write_blocking(BlockIndex(expected), data).unwrap();
        assert!(volumes.close());
    }
    // A configuration that has never seen these regions, whose servers have seen nobody either.
    for server in &mut world.servers {
        server.kill();
        server.restart();
    }
    let volumes = world.open("b.toml", &config).unwrap();
    assert_eq!(generation(&volumes), 4);
    assert!(volumes.close());
    let given = CrucibleConfig {
        generation: Some(2),
        ..config
    };
    let error = world.refusal(&given);
    assert!(
        error.starts_with("[block_dev.root] \"generation\": "),
        "{error}"
    );
    assert!(error.contains(" 2"), "{error}");
}

#[test]
fn what_does_not_fit_is_refused_by_the_key_to_change() {
    let Some(world) = World::new(true) else {
        return;
    };
    let config = world.config(Some(KEY));
    let volumes = world.open("a.toml", &config).unwrap();
    let volume = volumes.get("root").unwrap();
    let data = BytesMut::zeroed(BLOCK as usize);
    volume.write_blocking(BlockIndex(0), data).unwrap();
    assert!(volumes.close());

    let error = world.refusal(&world.config(None));
    assert!(
        error.contains("\"encryption_key\"") && error.contains("is encrypted"),
        "{error}"
    );
    let error = world.refusal(&world.config(Some(OTHER_KEY)));
    assert!(
        error.contains("\"encryption_key\"") && error.contains("opens none"),
        "{error}"
    );
    let given = |shape| CrucibleConfig {
        shape,
        ..config.clone()
    };
    let shape = GivenShape {
        extent_count: Some(512),
        ..GivenShape::default()
    };
    let error = world.refusal(&given(shape));
    assert!(
        error.contains("\"extent_count\": 512 is given, the regions have 8"),
        "{error}"
    );
    let shape = GivenShape {
        block_size: Some(BLOCK),
        blocks_per_extent: Some(EXTENT * 2),
        extent_count: Some(EXTENTS),
    };
    let error = world.refusal(&given(shape));
    assert!(
        error.contains("\"blocks_per_extent\": 128 is given"),
        "{error}"
    );
    // And with everything right, it still opens.
    let shape = GivenShape {
        block_size: Some(BLOCK),
        blocks_per_extent: Some(EXTENT),
        extent_count: Some(EXTENTS),
    };
    assert!(world.open("refused.toml", &given(shape)).unwrap().close());
}

#[test]
fn waiting_for_a_server_can_be_ended_and_two_do_where_that_is_allowed() {
    let Some(mut world) = World::new(false) else {
        return;
    };
    world.servers[1].kill();
    let mut config = world.config(None);
    let begin = Instant::now();
    let mut soon = || begin.elapsed() > Duration::from_millis(300);
    let error = open(&disks(&config), &world.generations("a.toml"), &mut soon);
    assert!(
        matches!(error, Err(VolumesError::Interrupted(names)) if names == ["[block_dev.root]"])
    );
    config.opts.degraded_activation = true;
    let volumes = world.open("a.toml", &config).unwrap();
    assert!(volumes.close());
}

#[test]
fn a_guest_sees_nothing_of_one_server_that_dies_and_comes_back() {
    let Some(mut world) = World::new(true) else {
        return;
    };
    let volumes = world.open("a.toml", &world.config(Some(KEY))).unwrap();
    let mut rig = rig(&volumes);
    for round in 0..60 {
        match round {
            20 => world.servers[1].kill(),
            40 => world.servers[1].restart(),
            _ => {}
        }
        let (write, _) = command(&mut rig, io::WRITE, round, round as u8 + 1);
        assert!(rig.io(1, write).status.is_success(), "{round}");
        assert!(
            rig.io(1, Command::new(io::FLUSH, 1)).status.is_success(),
            "{round}"
        );
        let (read, buffer) = command(&mut rig, io::READ, round / 2, 0);
        assert!(rig.io(1, read).status.is_success(), "{round}");
        let expected = [(round / 2) as u8 + 1; BYTES];
        assert_eq!(rig.pages.read(buffer, BYTES), expected);
    }
    drop(rig);
    assert!(volumes.close());
}

#[test]
fn without_any_server_commands_may_be_tried_again_resets_end_and_all_recovers() {
    let Some(mut world) = World::new(true) else {
        return;
    };
    let volumes = world.open("a.toml", &world.config(Some(KEY))).unwrap();
    let mut rig = rig(&volumes);
    let (write, _) = command(&mut rig, io::WRITE, 7, 0x77);
    assert!(rig.io(1, write).status.is_success());
    assert!(rig.io(1, Command::new(io::FLUSH, 1)).status.is_success());
    world.servers.iter_mut().for_each(Server::kill);
    let (read, buffer) = command(&mut rig, io::READ, 7, 0);
    let status = rig.io(1, read).status;
    assert_eq!(
        status.code(),
        Status::NAMESPACE_NOT_READY.code(),
        "{status:?}"
    );
    assert!(!status.is_final());

    // A guest that loses patience first.
    rig.submit(1, read);
    let begin = Instant::now();
    rig.disable();
    assert!(
        begin.elapsed() < Duration::from_secs(2),
        "{:?}",
        begin.elapsed()
    );
    rig.enable();
    rig.create_io_queue(1, 64);

    world.servers.iter_mut().for_each(Server::restart);
    in_the_end(&mut rig, read);
    assert_eq!(rig.pages.read(buffer, BYTES), [0x77; BYTES]);
    let (write, _) = command(&mut rig, io::WRITE, 8, 0x88);
    in_the_end(&mut rig, write);
    in_the_end(&mut rig, Command::new(io::FLUSH, 1));
    drop(rig);
    assert!(volumes.close());
}

#[test]
fn a_second_program_takes_the_volume_over_and_the_first_ends_its_disk() {
    let Some(world) = World::new(true) else {
        return;
    };
    let config = world.config(Some(KEY));
    let first = world.open("a.toml", &config).unwrap();
    let mut first_rig = rig(&first);
    let (write, _) = command(&mut first_rig, io::WRITE, 1, 0x11);
    assert!(first_rig.io(1, write).status.is_success());
    assert!(
        first_rig
            .io(1, Command::new(io::FLUSH, 1))
            .status
            .is_success()
    );

    let second = world.open("b.toml", &world.config(Some(KEY))).unwrap();
    assert!(generation(&second) > generation(&first));
    let mut second_rig = rig(&second);
    let (read, buffer) = command(&mut second_rig, io::READ, 1, 0);
    assert!(second_rig.io(1, read).status.is_success());
    assert_eq!(second_rig.pages.read(buffer, BYTES), [0x11; BYTES]);
    // The first one hears of it, and says no to its guest from then on.
    let begin = Instant::now();
    loop {
        let (write, _) = command(&mut first_rig, io::WRITE, 1, 0x22);
        if !first_rig.io(1, write).status.is_success() {
            break;
        }
        assert!(begin.elapsed() < PATIENCE);
    }
    let (read, buffer) = command(&mut second_rig, io::READ, 1, 0);
    assert!(second_rig.io(1, read).status.is_success());
    assert_eq!(second_rig.pages.read(buffer, BYTES), [0x11; BYTES]);
    drop((first_rig, second_rig));
    assert!(second.close());
    // Nothing of it was left to let go.
    assert!(first.close());
}

#[test]
fn a_volume_in_memory_is_a_disk_like_others() {
    let config = VolumeConfig::Memory {
        block_size: 4096,
        blocks: 512,
    };
    let configs = BTreeMap::from([("root".to_owned(), config)]);
    let nowhere = Generations::beside("/nowhere/vm.toml".as_ref());
    let volumes = open(&configs, &nowhere, &mut || false).unwrap();
    let mut rig = rig(&volumes);
    let (write, _) = command(&mut rig, io::WRITE, 3, 9);
    assert!(rig.io(1, write).status.is_success());
    let (read, buffer) = command(&mut rig, io::READ, 3, 0);
    assert!(rig.io(1, read).status.is_success());
    assert_eq!(rig.pages.read(buffer, BYTES), [9; BYTES]);
    drop(rig);
    assert!(volumes.close());
}

#[test]
fn servers_that_hang_cost_their_time_and_no_more() {
    let Some(world) = World::new(true) else {
        return;
    };
    let config = world.config(Some(KEY));
    let volumes = world.open("a.toml", &config).unwrap();
    let mut rig = rig(&volumes);
    for block in 0..16 {
        let (write, _) = command(&mut rig, io::WRITE, block, block as u8 + 1);
        assert!(rig.io(1, write).status.is_success());
    }
    assert!(rig.io(1, Command::new(io::FLUSH, 1)).status.is_success());
    world.servers[2].freeze();
    for block in 0..16 {
        let (read, buffer) = command(&mut rig, io::READ, block, 0);
        assert!(rig.io(1, read).status.is_success(), "{block}");
        assert_eq!(rig.pages.read(buffer, BYTES), [block as u8 + 1; BYTES]);
    }
    drop(rig);
    world.servers.iter().for_each(Server::freeze);
    // The rig's clock stands still; here time is the host's.
    let read = || {
        let memory = GuestMemory::flat(BLOCK).unwrap();
        let disk = Disk::new(volumes.backends().remove("root").unwrap());
        let script = |n: u64, segments: &mut Vec<Segment>| {
            segments.push(Segment {
                address: GuestAddress(0),
                length: BLOCK as u32,
            });
            (n == 0).then_some(Planned {
                operation: Operation::Read,
                offset: 3 * BLOCK,
                length: BLOCK,
                durable: false,
            })
        };
        let source = ScriptedSource::new(memory.clone(), Box::new(script));
        let options = AttachOptions::new("read", Execution::Threads, 1);
        let queue = disk.attach(source.weak(), options).unwrap();
        queue.kick();
        assert!(source.wait(PATIENCE));
        assert!(queue.detach());
        let mut bytes = [0; BYTES];
        memory.read(GuestAddress(0), &mut bytes).unwrap();
        (source.finished(), bytes)
    };
    let begin = Instant::now();
    assert_eq!(read(), (vec![Outcome::Retry], [0; BYTES]));
    let most = config.request_timeout + Duration::from_secs(10);
    assert!(begin.elapsed() < most, "{:?}", begin.elapsed());
    world.servers.iter().for_each(Server::thaw);
    while read() != (vec![Outcome::Ok], [4; BYTES]) {
        assert!(begin.elapsed() < PATIENCE);
    }
    assert!(volumes.close());
}
