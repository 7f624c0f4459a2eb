//! The whole upstairs over real sockets, against region servers that live in this process.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests; a failure is the finding"
)]

mod drive_peer;

use std::time::{Duration, Instant};

use bytes::BytesMut;
use crucible_protocol::{BlockIndex, Geometry};
use crucible_upstairs::core::{ReplaceResult, ReplicaState, Request, VolumeError, Written};
use crucible_upstairs::crypt::Key;
use crucible_upstairs::drive::Setup;
use crucible_upstairs::options::CrucibleOpts;
use crucible_upstairs::store::{Ask, Outcome, Sink, Submission};
use crucible_upstairs::volume::{Volume, block_on};
use drive_peer::Peer;
use uuid::Uuid;

/// Of all tests: base64 of 32 bytes.
const KEY: &str = "tCw7zw0hAsPuxMOTWwnPEFYjBK9qJRtYyGdEXKEnrg0=";
const WITHIN: Duration = Duration::from_secs(20);

fn geometry() -> Geometry {
    Geometry::new(4096, 64, 8).unwrap()
}

fn opts(peers: &[Peer; 3], encrypted: bool) -> CrucibleOpts {
    let mut opts = CrucibleOpts::new(Uuid::from_u128(7), peers.each_ref().map(|p| p.address));
    opts.key = encrypted.then(|| KEY.to_owned().into());
    opts
}

fn active(peers: &[Peer; 3], encrypted: bool) -> Volume {
    let setup = Setup::new(&opts(peers, encrypted), None, 1).unwrap();
    let volume = Volume::region(setup).unwrap();
    let shape = volume.activate_blocking(None).unwrap();
    assert_eq!(
        (shape.blocks, shape.block_size, shape.encrypted),
        (512, 4096, encrypted)
    );
    volume
}

fn content(blocks: usize, seed: usize) -> BytesMut {
    (0..blocks * 4096)
        .map(|at| ((at / 3 + seed * 17) % 251) as u8)
        .collect()
}

fn write(volume: &Volume, start: u64, blocks: usize, seed: usize) {
    volume
        .write_blocking(BlockIndex(start), content(blocks, seed))
        .unwrap();
}

fn check(volume: &Volume, start: u64, blocks: usize, seed: usize) {
    let plain = volume
        .read_blocking(BlockIndex(start), blocks as u64)
        .unwrap();
    assert!(
        plain.data == content(blocks, seed),
        "blocks {start}+{blocks}"
    );
    assert_eq!(plain.written, Written::All);
}

/// Waits until all region servers are in use.
fn wait_for_all_active(volume: &Volume) {
    let begin = Instant::now();
    loop {
        let insight = block_on(volume.insights()).pop().unwrap();
        let states = insight
            .status
            .replicas
            .each_ref()
            .map(|replica| replica.state);
        if states == [ReplicaState::Active; 3] {
            return;
        }
        assert!(begin.elapsed() < WITHIN, "{states:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Flushes, and waits until all three have done so: two are enough for the answer.
fn flush_everywhere(volume: &Volume) {
    volume.flush_blocking(None).unwrap();
    let begin = Instant::now();
    while block_on(volume.insights()).pop().unwrap().status.jobs > 0 {
        assert!(begin.elapsed() < WITHIN);
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_is_written_is_read_plain_and_encrypted() {
    for encrypted in [false, true] {
        let peers = Peer::three(geometry(), encrypted);
        let volume = active(&peers, encrypted);
        // One block, several, and so many that they are sealed in parts on several threads.
        for (start, blocks) in [(0, 1), (5, 3), (63, 2), (128, 256)] {
            write(&volume, start, blocks, start as usize);
        }
        volume.flush_blocking(None).unwrap();
        for (start, blocks) in [(0, 1), (5, 3), (63, 2), (128, 256)] {
            check(&volume, start, blocks, start as usize);
        }
        let never = volume.read_blocking(BlockIndex(500), 4).unwrap();
        assert_eq!(never.written, Written::Nothing);
        assert!(never.data.iter().all(|byte| *byte == 0));
        for peer in &peers {
            let region = peer.lock();
            assert!(region.flushes >= 1);
            let same = region.blocks[0].0 == content(1, 0);
            assert_eq!(same, !encrypted, "only a plain volume shows its blocks");
        }
        volume.deactivate_blocking().unwrap();
    }
}

/// Asks for the next block from within the answer to the last one.
struct Chain {
    volume: Volume,
    this: std::sync::Weak<Self>,
    ended: std::sync::mpsc::Sender<u64>,
}

impl Chain {
    fn ask(&self, block: u64) {
        let Some(permit) = self.volume.try_permit(4096) else {
            return;
        };
        let request = Request::Read {
            start: BlockIndex(block),
            count: 1,
        };
        self.volume.submit(&mut vec![Submission {
            ask: Ask::Request(request),
            reply: permit.reply(self.this.upgrade().unwrap(), block),
        }]);
    }
}

impl Sink for Chain {
    fn complete(&self, block: u64, outcome: Outcome) {
        if block < 40 && outcome.is_ok() {
            self.ask(block + 1);
        } else {
            self.ended.send(block).unwrap();
        }
    }
}

#[test]
fn an_answer_may_ask_for_the_next_block_whoever_has_the_turn() {
    let peers = Peer::three(geometry(), true);
    let volume = active(&peers, true);
    write(&volume, 0, 64, 1);
    let (ended, end) = std::sync::mpsc::channel();
    let chains: Vec<_> = (0..4)
        .map(|_| {
            std::sync::Arc::new_cyclic(|this| Chain {
                volume: volume.clone(),
                this: this.clone(),
                ended: ended.clone(),
            })
        })
        .collect();
    std::thread::scope(|scope| {
        for chain in &chains {
            scope.spawn(|| chain.ask(0));
        }
    });
    for _ in &chains {
        assert_eq!(end.recv_timeout(WITHIN).unwrap(), 40);
    }
    volume.deactivate_blocking().unwrap();
}

#[test]
fn a_read_of_more_than_there_can_be_is_refused_before_the_size_is_known() {
    let peers = Peer::three(geometry(), false);
    let volume = Volume::region(Setup::new(&opts(&peers, false), None, 1).unwrap()).unwrap();
    let error = volume.read_blocking(BlockIndex(0), u64::MAX).unwrap_err();
    assert_eq!(error, VolumeError::Inactive);
}

#[test]
fn unwritten_blocks_are_written_once() {
    let peers = Peer::three(geometry(), true);
    let volume = active(&peers, true);
    write(&volume, 1, 1, 1);
    volume
        .write_unwritten_blocking(BlockIndex(0), content(3, 9))
        .unwrap();
    check(&volume, 1, 1, 1);
    let plain = volume.read_blocking(BlockIndex(2), 1).unwrap();
    assert_eq!(plain.data, content(3, 9)[2 * 4096..]);
    volume.deactivate_blocking().unwrap();
}

#[test]
fn requests_before_activation_and_after_the_end_are_refused() {
    let peers = Peer::three(geometry(), false);
    let volume = Volume::region(Setup::new(&opts(&peers, false), None, 1).unwrap()).unwrap();
    let early = volume.read_blocking(BlockIndex(0), 1);
    assert_eq!(early, Err(VolumeError::Inactive));
    volume.activate_blocking(None).unwrap();
    let beyond = volume.read_blocking(BlockIndex(512), 1);
    assert!(matches!(beyond, Err(VolumeError::OutOfRange { .. })));
    let odd = volume.write_blocking(BlockIndex(0), BytesMut::zeroed(100));
    assert!(matches!(odd, Err(VolumeError::NotWholeBlocks { .. })));
    block_on(volume.shut_down()).unwrap();
    let late = volume.read_blocking(BlockIndex(0), 1);
    assert_eq!(late, Err(VolumeError::ShutDown));
}

#[test]
fn a_volume_that_was_let_go_is_taken_up_again() {
    let peers = Peer::three(geometry(), true);
    let volume = active(&peers, true);
    write(&volume, 10, 20, 3);
    volume.deactivate_blocking().unwrap();
    drop(volume);
    let mut opts = opts(&peers, true);
    let volume = Volume::region(Setup::new(&opts, None, 2).unwrap()).unwrap();
    volume.activate_blocking(None).unwrap();
    check(&volume, 10, 20, 3);
    volume.deactivate_blocking().unwrap();
    // With another key nothing is to be believed, and nothing falls over.
    opts.key = None;
    let plain = Volume::region(Setup::new(&opts, None, 3).unwrap()).unwrap();
    let error = plain.activate_blocking(None).unwrap_err();
    assert!(error.to_string().contains("encryption"), "{error}");
    let mut setup = Setup::new(&opts, None, 4).unwrap();
    setup.key = Some(Key::random().unwrap());
    let other = Volume::region(setup).unwrap();
    other.activate_blocking(None).unwrap();
    let error = other.read_blocking(BlockIndex(10), 1).unwrap_err();
    assert!(matches!(error, VolumeError::BadData { .. }), "{error}");
}

#[test]
fn a_region_server_that_comes_back_catches_up() {
    let mut peers = Peer::three(geometry(), true);
    let volume = active(&peers, true);
    write(&volume, 0, 8, 1);
    volume.flush_blocking(None).unwrap();
    peers[1].kill();
    write(&volume, 4, 8, 2);
    check(&volume, 4, 8, 2);
    volume.flush_blocking(None).unwrap();
    peers[1].restart();
    wait_for_all_active(&volume);
    flush_everywhere(&volume);
    let all = peers.each_ref().map(|peer| peer.lock().blocks.clone());
    assert!(all[0] == all[1] && all[1] == all[2]);
    volume.deactivate_blocking().unwrap();
}

#[test]
fn a_spoiled_block_is_read_from_another_region_server() {
    for encrypted in [false, true] {
        let peers = Peer::three(geometry(), encrypted);
        let volume = active(&peers, encrypted);
        write(&volume, 0, 16, 1);
        volume.flush_blocking(None).unwrap();
        for (at, peer) in peers.iter().take(2).enumerate() {
            peer.lock().blocks[3 + at].0[100] ^= 1;
        }
        for _ in 0..6 {
            check(&volume, 0, 16, 1);
        }
    }
}

#[test]
fn a_region_server_is_replaced() {
    let peers = Peer::three(geometry(), true);
    let fresh = Peer::new(geometry(), true);
    let volume = active(&peers, true);
    write(&volume, 0, 100, 1);
    let [a, b, c] = peers;
    let all = [a, b, c, fresh];
    Peer::introduce(&all);
    let (old, new) = (all[1].address, all[3].address);
    let result = volume.replace_blocking(old, new).unwrap();
    assert_eq!(result, ReplaceResult::Started);
    write(&volume, 50, 100, 2);
    wait_for_all_active(&volume);
    flush_everywhere(&volume);
    assert!(all[3].lock().blocks == all[0].lock().blocks);
    check(&volume, 50, 100, 2);
}

#[test]
fn garbage_ends_a_connection_and_nothing_else() {
    use std::io::Write;
    let mut peers = Peer::three(geometry(), false);
    let volume = active(&peers, false);
    write(&volume, 0, 4, 1);
    // Whoever answers at this place now speaks nonsense, for a while.
    peers[0].kill();
    let listener = peers[0].place();
    for garbage in [
        &[3_u8, 0, 0, 0][..],
        &[0xff; 64],
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
    ] {
        let (mut stream, _) = listener.accept().unwrap();
        drop(stream.write_all(garbage));
        check(&volume, 0, 4, 1);
    }
    drop(listener);
    write(&volume, 2, 4, 2);
    peers[0].restart();
    wait_for_all_active(&volume);
    check(&volume, 2, 4, 2);
}

#[test]
fn many_tasks_at_once_see_their_own_blocks() {
    let peers = Peer::three(geometry(), true);
    let volume = active(&peers, true);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    runtime.block_on(async {
        let tasks: Vec<_> = (0..32_u64)
            .map(|number| {
                let volume = volume.clone();
                tokio::spawn(async move {
                    for round in 0..12 {
                        let start = BlockIndex(number * 16 + round % 4);
                        let data = content(8, (number * 100 + round) as usize);
                        volume.write(start, data.clone()).await.unwrap();
                        if round % 5 == 0 {
                            volume.flush(None).await.unwrap();
                        }
                        let plain = volume.read(start, 8).await.unwrap();
                        assert!(plain.data == data, "{number} {round}");
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    });
    volume.deactivate_blocking().unwrap();
    let all = peers.each_ref().map(|peer| peer.lock().blocks.clone());
    assert!(all[0] == all[1] && all[1] == all[2]);
}

#[test]
fn control_answers_in_the_words_of_the_reference() {
    let peers = Peer::three(geometry(), false);
    let mut opts = opts(&peers, false);
    opts.control = Some("127.0.0.1:0".parse().unwrap());
    let volume = Volume::region(Setup::new(&opts, None, 3).unwrap()).unwrap();
    let address = volume.regions()[0].control().unwrap();
    let get = |path: &str| {
        let url = format!("http://{address}{path}");
        ureq::get(url)
            .call()
            .unwrap()
            .into_body()
            .read_to_string()
            .unwrap()
    };
    let info = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let before = info(&get("/info"));
    assert_eq!(before["state"], "initializing");
    let connecting = serde_json::json!({
        "type": "connecting",
        "value": {"state": {"type": "wait_connect"}, "mode": "new"},
    });
    assert_eq!(before["ds_state"][0], connecting);
    volume.activate_blocking(None).unwrap();
    write(&volume, 0, 2, 1);
    volume.flush_blocking(None).unwrap();
    let active = info(&get("/info"));
    let mut names: Vec<_> = active.as_object().unwrap().keys().cloned().collect();
    names.sort();
    let expected = "ds_jobs ds_state extent_limit extents_confirmed extents_repaired \
                    live_repair_aborted live_repair_completed reconcile_done reconcile_needed state up_jobs";
    assert_eq!(names.join(" "), expected);
    assert_eq!(active["state"], "active");
    assert_eq!(active["ds_state"][2], serde_json::json!({"type": "active"}));
    assert_eq!(
        active["extent_limit"],
        serde_json::json!([null, null, null])
    );
    let work = info(&get("/work"));
    assert!(work["jobs"].is_array() && work["completed"].is_array());
    let metrics = get("/metrics");
    assert!(metrics.contains("crucible_upstairs_write_bytes_total{volume=\"00000000-0000-0000-0000-000000000007\"} 8192"), "{metrics}");
    assert!(metrics.contains("client=\"1\""));
}

#[test]
fn requests_without_room_wait_for_their_time_only_and_all_goes_on_afterwards() {
    let mut peers = Peer::three(geometry(), true);
    let mut setup = Setup::new(&opts(&peers, true), None, 1).unwrap();
    setup.config.patience = vm_types::Span::from_millis(300);
    setup.config.limits.jobs = 10;
    let volume = Volume::region(setup).unwrap();
    volume.activate_blocking(None).unwrap();
    for peer in &mut peers {
        peer.kill();
    }
    // Taken, and kept for those that are away, until there is no more room.
    let begin = Instant::now();
    let error = loop {
        let at = BlockIndex(begin.elapsed().as_millis() as u64 % 500);
        if let Err(error) = volume.write_blocking(at, content(1, 5)) {
            break error;
        }
        assert!(begin.elapsed() < WITHIN);
    };
    assert!(matches!(error, VolumeError::Unavailable { .. }), "{error}");
    assert!(error.is_transient());
    for peer in &mut peers {
        peer.restart();
    }
    wait_for_all_active(&volume);
    write(&volume, 3, 1, 3);
    volume.flush_blocking(None).unwrap();
    check(&volume, 3, 1, 3);
    volume.deactivate_blocking().unwrap();
}

#[test]
fn a_volume_tells_what_it_is_made_of_in_the_words_of_the_reference() {
    let peers = Peer::three(geometry(), true);
    let volume = active(&peers, true);
    let info = serde_json::to_value(block_on(volume.info())).unwrap();
    let parts = &info["volume"]["sub_volumes"];
    assert_eq!(info["volume"]["read_only_parent"], serde_json::Value::Null);
    let upstairs = &parts[0]["upstairs"];
    assert_eq!(upstairs["state"], "active");
    assert_eq!(upstairs["block_size"], 4096);
    assert_eq!(upstairs["encrypted"], true);
    assert_eq!(upstairs["generation"], 1);
    assert_eq!(upstairs["live_repair_in_progress"], false);
    for (place, peer) in peers.iter().enumerate() {
        let target = &upstairs["targets"][place];
        assert_eq!(target["target_addr"], peer.address.to_string());
        assert_eq!(target["state"], serde_json::json!({"type": "active"}));
    }
    block_on(volume.shut_down()).unwrap();
    let info = serde_json::to_value(block_on(volume.info())).unwrap();
    assert_eq!(info["volume"]["sub_volumes"][0], "unknown");
}

#[test]
fn a_lossy_volume_is_slow_and_nothing_else() {
    let peers = Peer::three(geometry(), true);
    let mut opts = opts(&peers, true);
    opts.lossy = true;
    let volume = Volume::region(Setup::new(&opts, None, 1).unwrap()).unwrap();
    volume.activate_blocking(None).unwrap();
    let begin = Instant::now();
    for round in 0..12 {
        write(&volume, round * 3, 2, round as usize);
        volume.flush_blocking(None).unwrap();
        check(&volume, round * 3, 2, round as usize);
    }
    // One of four turns waits for a tenth of a second; a flush needs two of three.
    assert!(begin.elapsed() > Duration::from_millis(100));
    wait_for_all_active(&volume);
    volume.deactivate_blocking().unwrap();
}
