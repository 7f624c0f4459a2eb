//! Volumes made of parts: sub-volumes, read-only parents, scrub, files and images behind HTTP; each against what
//! the blocks should be, by hand.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests; a failure is the finding"
)]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use crucible_protocol::BlockIndex;
use crucible_upstairs::core::{VolumeError, Written};
use crucible_upstairs::options::VolumeConstructionRequest;
use crucible_upstairs::store::Store;
use crucible_upstairs::volume::{Composite, Direct, MemoryLeaf, ScrubOptions, Volume};
use uuid::Uuid;

const BLOCK: usize = 512;

fn memory(blocks: u64) -> Arc<dyn Store> {
    Arc::new(Direct(MemoryLeaf::new(512, blocks).unwrap()))
}

fn blocks(bytes: &[u8]) -> BytesMut {
    bytes.iter().flat_map(|byte| [*byte; BLOCK]).collect()
}

/// The first byte of each block.
fn firsts(data: &[u8]) -> Vec<u8> {
    assert!(
        data.chunks(BLOCK)
            .all(|block| block.iter().all(|byte| *byte == block[0]))
    );
    data.chunks(BLOCK).map(|block| block[0]).collect()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

async fn read(volume: &Volume, start: u64, count: u64) -> Vec<u8> {
    let plain = volume.read(BlockIndex(start), count).await.unwrap();
    firsts(&plain.data)
}

async fn write(volume: &Volume, start: u64, bytes: &[u8]) {
    volume
        .write(BlockIndex(start), blocks(bytes))
        .await
        .unwrap();
}

/// A parent of six blocks, the last one never written, under a volume of four and four.
async fn layered() -> Volume {
    let parent = Volume::over(memory(6), Vec::new());
    write(&parent, 0, &[101, 102, 103, 104, 105]).await;
    let parent: Arc<dyn Store> = Arc::new(Composite::new(512, vec![], Some(root(parent))));
    Volume::composed(
        Composite::new(512, vec![memory(4), memory(4)], Some(parent)),
        Vec::new(),
    )
}

/// A volume as a part of another.
fn root(volume: Volume) -> Arc<dyn Store> {
    #[derive(Debug)]
    struct Part(Volume);
    impl Store for Part {
        fn submit(&self, batch: &mut Vec<crucible_upstairs::store::Submission>) {
            self.0.submit(batch);
        }
        fn shape(&self) -> Option<crucible_upstairs::store::Shape> {
            self.0.shape()
        }
    }
    Arc::new(Part(volume))
}

#[test]
fn sub_volumes_follow_each_other() {
    runtime().block_on(async {
        let parts = vec![memory(3), memory(1), memory(4)];
        let volume = Volume::composed(Composite::new(512, parts, None), Vec::new());
        let shape = volume.activate(None).await.unwrap();
        assert_eq!((shape.blocks, shape.read_only), (8, false));
        write(&volume, 1, &[1, 2, 3, 4, 5]).await;
        assert_eq!(read(&volume, 0, 8).await, [0, 1, 2, 3, 4, 5, 0, 0]);
        assert_eq!(read(&volume, 3, 1).await, [3]);
        let marks = volume.read(BlockIndex(0), 8).await.unwrap().written;
        let marks: Vec<bool> = (0..8).map(|at| marks.has(at)).collect();
        assert_eq!(marks, [false, true, true, true, true, true, false, false]);
        // Up to the border of a middle part, and one block beyond it.
        assert_eq!(read(&volume, 2, 2).await, [2, 3]);
        assert_eq!(read(&volume, 2, 3).await, [2, 3, 4]);
        let unwritten = blocks(&[9, 9, 9]);
        volume
            .write_unwritten(BlockIndex(5), unwritten)
            .await
            .unwrap();
        assert_eq!(read(&volume, 4, 4).await, [4, 5, 9, 9]);
        volume.flush(None).await.unwrap();
        volume.deactivate().await.unwrap();
    });
}

#[test]
fn what_reaches_past_the_end_is_refused_whole() {
    runtime().block_on(async {
        let parts = vec![memory(3), memory(3)];
        let volume = Volume::composed(Composite::new(512, parts, None), Vec::new());
        for (start, count) in [(6, 1), (5, 2), (0, 7), (u64::MAX, 2)] {
            let read = volume.read(BlockIndex(start), count).await;
            assert!(
                matches!(read, Err(VolumeError::OutOfRange { .. })),
                "{start} {count}"
            );
        }
        let late = volume.write(BlockIndex(4), blocks(&[1, 1, 1])).await;
        assert!(matches!(late, Err(VolumeError::OutOfRange { .. })));
        assert_eq!(read(&volume, 0, 6).await, [0; 6]);
        let odd = volume.write(BlockIndex(0), BytesMut::zeroed(700)).await;
        assert!(matches!(odd, Err(VolumeError::NotWholeBlocks { .. })));
    });
}

#[test]
fn the_parent_shows_through_where_nothing_was_written() {
    runtime().block_on(async {
        let volume = layered().await;
        assert_eq!(
            read(&volume, 0, 8).await,
            [101, 102, 103, 104, 105, 0, 0, 0]
        );
        write(&volume, 3, &[1, 0, 2]).await;
        assert_eq!(read(&volume, 0, 8).await, [101, 102, 103, 1, 0, 2, 0, 0]);
        let written = volume.read(BlockIndex(0), 8).await.unwrap().written;
        assert!(matches!(written, Written::Some(_)));
        assert!(written.has(4) && !written.has(6));
    });
}

#[test]
fn a_volume_of_a_parent_alone_is_read_only() {
    runtime().block_on(async {
        let parent = Volume::over(memory(2), Vec::new());
        write(&parent, 0, &[7]).await;
        let volume = Volume::composed(Composite::new(512, vec![], Some(root(parent))), Vec::new());
        assert_eq!(read(&volume, 0, 2).await, [7, 0]);
        let refused = volume.write(BlockIndex(0), blocks(&[1])).await;
        assert_eq!(refused, Err(VolumeError::ReadOnly));
        assert!(volume.shape().unwrap().read_only);
    });
}

#[test]
fn a_scrub_copies_the_parent_and_lets_it_go() {
    runtime().block_on(async {
        let volume = layered().await;
        write(&volume, 1, &[1]).await;
        let mut last = None;
        let options = ScrubOptions::default();
        volume
            .scrub(options, |progress| last = Some(progress))
            .await
            .unwrap();
        let last = last.unwrap();
        assert_eq!((last.done, last.total), (6, 6));
        assert_eq!(read(&volume, 0, 8).await, [101, 1, 103, 104, 105, 0, 0, 0]);
        let written = volume.read(BlockIndex(0), 8).await.unwrap().written;
        assert!(
            written.has(4) && !written.has(5),
            "unwritten blocks stay unwritten"
        );
        // Nothing is left to do the second time.
        volume.scrub(options, |_| panic!("again")).await.unwrap();
    });
}

#[test]
fn many_requests_at_once_are_held_back_and_all_answered() {
    runtime().block_on(async {
        let volume = Volume::in_memory(MemoryLeaf::new(4096, 4096).unwrap());
        let tasks: Vec<_> = (0..64_u64)
            .map(|number| {
                let volume = volume.clone();
                tokio::spawn(async move {
                    let data = BytesMut::zeroed(1 << 20);
                    let start = BlockIndex(number % 16 * 256);
                    volume.write(start, data).await.unwrap();
                    volume.read(start, 256).await.unwrap().data.len()
                })
            })
            .collect();
        for task in tasks {
            assert_eq!(task.await.unwrap(), 1 << 20);
        }
        // All room has come back.
        assert!(volume.try_permit(64 << 20).is_some());
    });
}

struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("volumes-{}", Uuid::new_v4()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

#[test]
fn a_file_is_read_written_and_longer_than_its_last_block() {
    let scratch = Scratch::new();
    let path = scratch.0.join("image");
    std::fs::write(&path, [&blocks(&[1, 2, 3])[..], b"rest"].concat()).unwrap();
    let request = VolumeConstructionRequest::File {
        id: Uuid::nil(),
        block_size: 512,
        path: path.display().to_string(),
    };
    let volume = Volume::build(&request).unwrap();
    let shape = volume.activate_blocking(None).unwrap();
    assert_eq!(shape.blocks, 3);
    volume.write_blocking(BlockIndex(1), blocks(&[9])).unwrap();
    volume
        .write_unwritten_blocking(BlockIndex(2), blocks(&[8]))
        .unwrap();
    volume.flush_blocking(None).unwrap();
    let plain = volume.read_blocking(BlockIndex(0), 3).unwrap();
    assert_eq!(
        (firsts(&plain.data), plain.written),
        (vec![1, 9, 3], Written::All)
    );
    assert_eq!(std::fs::read(&path).unwrap().len(), 3 * BLOCK + 4);
    let missing = VolumeConstructionRequest::File {
        id: Uuid::nil(),
        block_size: 512,
        path: scratch.0.join("none").display().to_string(),
    };
    let error = Volume::build(&missing).unwrap_err().to_string();
    assert!(error.contains("none: "), "{error}");
}

/// An HTTP server of one image that knows HEAD and ranges; returns its address.
fn image_server(image: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(mut stream), image) = (stream, image.clone()) else {
                return;
            };
            std::thread::spawn(move || {
                let (mut text, mut piece) = (String::new(), [0; 1024]);
                while let Ok(count @ 1..) = stream.read(&mut piece) {
                    text.push_str(&String::from_utf8_lossy(&piece[..count]));
                    while let Some(end) = text.find("\r\n\r\n") {
                        let head = text[..end].to_lowercase();
                        text.drain(..end + 4);
                        let answer = respond(&head, &image);
                        if stream.write_all(&answer).is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    format!("http://{address}/image")
}

fn respond(head: &str, image: &[u8]) -> Vec<u8> {
    if head.starts_with("head") {
        let length = image.len();
        return format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").into_bytes();
    }
    let range = head.split("range: bytes=").nth(1).unwrap();
    let (first, last) = range.split('\r').next().unwrap().split_once('-').unwrap();
    let range: (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
    let body = &image[range.0..=range.1];
    let length = body.len();
    // With a name of its own, an image whose server sends what nobody asked for.
    let first = range.0 + usize::from(head.contains("/another-range"));
    let last = range.1;
    let head = format!(
        "HTTP/1.1 206 Partial Content\r\nContent-Length: {length}\r\n\
         Content-Range: bytes {first}-{last}/{}\r\n\r\n",
        image.len()
    );
    [head.as_bytes(), body].concat()
}

#[test]
fn an_image_whose_server_sends_another_range_is_not_believed() {
    let url = VolumeConstructionRequest::Url {
        id: Uuid::nil(),
        block_size: 512,
        url: image_server(vec![7; 20 * BLOCK]).replace("/image", "/another-range"),
    };
    let volume = Volume::build(&url).unwrap();
    volume.activate_blocking(None).unwrap();
    let error = volume.read_blocking(BlockIndex(3), 1).unwrap_err();
    assert!(error.to_string().contains("another range"), "{error}");
}

#[test]
fn an_image_behind_http_serves_as_a_parent() {
    let image: Vec<u8> = (0..20_u8).flat_map(|byte| [byte; BLOCK]).collect();
    let url = VolumeConstructionRequest::Url {
        id: Uuid::nil(),
        block_size: 512,
        url: image_server(image),
    };
    let volume = Volume::build(&url).unwrap();
    volume.activate_blocking(None).unwrap();
    let plain = volume.read_blocking(BlockIndex(3), 12).unwrap();
    assert_eq!(firsts(&plain.data), (3..15).collect::<Vec<u8>>());
    let refused = volume.write_blocking(BlockIndex(0), blocks(&[1]));
    assert_eq!(refused, Err(VolumeError::ReadOnly));

    let layered = Composite::new(512, vec![memory(30)], Some(root(volume)));
    let layered = Volume::composed(layered, Vec::new());
    runtime().block_on(async {
        write(&layered, 2, &[99]).await;
        assert_eq!(read(&layered, 1, 3).await, [1, 99, 3]);
        let options = ScrubOptions {
            delay: Duration::ZERO,
            pause: Duration::from_millis(1),
        };
        layered.scrub(options, |_| {}).await.unwrap();
        assert_eq!(read(&layered, 0, 21).await[15..], [15, 16, 17, 18, 19, 0]);
    });
}
