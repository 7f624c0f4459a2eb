//! What comes to a volume from strangers: the frames of a peer and the files of a region.

use bytes::{BufMut, BytesMut};
use crucible_protocol::layout::{
    ActiveSlots, ExtentLayout, ExtentMetadata, METADATA_LEN, SLOT_LEN, Slot, StoredContext,
    active_after_crash, decode_region, encode_region,
};
use crucible_protocol::{Decoder, Geometry, Message, WireError, context};
use crucible_upstairs::options::VolumeConstructionRequest;

/// A connection or a file as the reference leaves it.
macro_rules! recorded {
    ($path:literal) => {
        include_bytes!(concat!("../../crates/crucible-protocol/tests/data/", $path))
    };
}

pub(crate) const FRAME_SEEDS: &[&[u8]] = &[
    recorded!("plain-one/conn02-ds18830.up"),
    recorded!("plain-one/conn02-ds18830.down"),
    recorded!("enc-one/conn02-ds18830.up"),
    recorded!("enc-one/conn02-ds18830.down"),
    recorded!("reconcile/conn04-ds18820.up"),
    recorded!("live-repair/conn05-ds18840.up"),
    recorded!("live-repair/conn05-ds18840.down"),
];

pub(crate) const MESSAGE_SEEDS: &[&[u8]] = &[
    // Ends of requests and of answers: keys, counts, marks of optional values, addresses.
    b"\x16\x10\0\0\0\0\0\0\0uuid-uuid-uuid-u\x10\0\0\0\0\0\0\0uuid-uuid-uuid-u",
    b"\x1c\x01\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0",
    b"\x01\x0d\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x82\x1e",
    b"\x10\0\0\0\0\0\0\0\0\0\0\0\0\x29\0\0\0\x02\0\0\0\x01\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0",
];

pub(crate) const REGION_SEEDS: &[&[u8]] = &[
    recorded!("plain-one/regions/18810/region.json"),
    recorded!("enc-one/regions/18810/region.json"),
    b"{\"block_size\":4096,\"extent_size\":{\"value\":64,\"shift\":12},\"later\":[1e9,null]}",
];

pub(crate) const REQUEST_SEEDS: &[&[u8]] = &[
    br#"{"type":"region","block_size":512,"blocks_per_extent":8,"extent_count":4,"gen":1,"opts":{"id":"11111111-2222-3333-4444-555555555555","target":["127.0.0.1:1","127.0.0.1:2","[::1]:3"],"lossy":false,"read_only":false,"flush_timeout":0.5,"key":"tCw7zw0hAsPuxMOTWwnPEFYjBK9qJRtYyGdEXKEnrg0=","cert_pem":"a","key_pem":"b","root_cert_pem":"c","control":"127.0.0.1:4"}}"#,
    br#"{"type":"volume","id":"11111111-2222-3333-4444-555555555555","block_size":512,"sub_volumes":[{"type":"file","id":"11111111-2222-3333-4444-555555555555","block_size":512,"path":"/a"}],"read_only_parent":{"type":"url","id":"11111111-2222-3333-4444-555555555555","block_size":512,"url":"http://a/b"}}"#,
    br#"{"type":"volume","id":"11111111-2222-3333-4444-555555555555","block_size":4096,"sub_volumes":[],"read_only_parent":null}"#,
];

pub(crate) const EXTENT_SEEDS: &[&[u8]] = &[
    // Two slots with contexts, a bitmap and metadata, of one block.
    b"\x01\x7c\xb8\xc3\xe8\x68\x7f\xbf\x8b\0\x7c\xb8\xc3\xe8\x68\x7f\xbf\x8b\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    b"\x01\x7c\xb8\xc3\xe8\x68\x7f\xbf\x8b\x01nonce-nonce-tag-tag-tag-tag-\x7c\xb8\xc3\xe8\x68\x7f\xbf\x8b\x07\0",
    b"\x01\x01\x05\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    &[0; 256],
];

/// A connection: the bytes come in pieces whose length the first byte tells, and in one; that makes no difference.
pub(crate) fn frames(bytes: &[u8]) {
    let piece = 1 + bytes.first().map_or(0, |byte| usize::from(*byte));
    let whole = read(bytes, bytes.len().max(1));
    assert_eq!(whole, read(bytes, piece), "in pieces of {piece} bytes");
    whole.0.iter().for_each(sound);
    if let Some(error) = whole.1 {
        assert!(!error.to_string().is_empty());
    }
}

fn read(bytes: &[u8], piece: usize) -> (Vec<Message>, Option<WireError>) {
    let (decoder, mut buffer, mut messages) = (Decoder::default(), BytesMut::new(), Vec::new());
    for piece in bytes.chunks(piece) {
        buffer.put_slice(piece);
        loop {
            let missing = decoder.missing(&buffer);
            match decoder.decode(&mut buffer) {
                Ok(Some(message)) => {
                    assert_eq!(missing, Ok(0), "missing from a message that is there");
                    messages.push(message);
                }
                Ok(None) => {
                    assert!(missing.is_ok_and(|missing| missing > 0), "nothing missing");
                    break;
                }
                Err(error) => return (messages, Some(error)),
            }
        }
    }
    (messages, None)
}

/// One message: its number, then its body. Its frame has the right length, so that what is wrong is in the fields.
pub(crate) fn message(bytes: &[u8]) {
    let Some((number, body)) = bytes.split_first() else {
        return;
    };
    let mut frame = BytesMut::new();
    frame.put_u32_le(8 + body.len() as u32);
    frame.put_u32_le(u32::from(*number));
    frame.put_slice(body);
    match Decoder::default().decode(&mut frame) {
        Ok(Some(message)) => sound(&message),
        Ok(None) => assert!(frame.is_empty(), "a whole frame and no message"),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// What was decoded can be encoded, in each way, and is decoded to the same.
fn sound(message: &Message) {
    let mut whole = BytesMut::new();
    message.encode_into(&mut whole);
    assert_eq!(whole.len(), message.encoded_len(), "{}", message.name());
    let mut parts = BytesMut::new();
    let data = message.encode_head(&mut parts);
    parts.put_slice(&data);
    assert_eq!(parts, whole, "{}", message.name());
    let again = Decoder::default().decode(&mut whole);
    assert_eq!(again, Ok(Some(message.clone())));
}

/// The text of region.json.
pub(crate) fn region(bytes: &[u8]) {
    match decode_region(bytes) {
        Ok(region) => {
            assert!(region.geometry().is_ok(), "{region:?}");
            let again = decode_region(encode_region(&region).as_bytes());
            assert_eq!(again.ok(), Some(region));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// A construction request, and whether it may follow itself. Nothing is dialled or opened.
pub(crate) fn request(bytes: &[u8]) {
    let Ok(request) = serde_json::from_slice::<VolumeConstructionRequest>(bytes) else {
        return;
    };
    if let Err(error) = request.validate() {
        assert!(!error.to_string().is_empty());
        return;
    }
    assert!(request.block_size() >= 512);
    for (opts, _) in request.regions() {
        assert!(opts.validate().is_ok() && opts.targets().is_ok() && opts.key().is_ok());
    }
    let text = serde_json::to_vec(&request);
    let again = text.map(|text| serde_json::from_slice(&text).ok());
    assert_eq!(again.ok().flatten().as_ref(), Some(&request));
    assert!(
        request.replaced_target(&request).is_err(),
        "no target differs"
    );
    if let Err(error) = request.may_migrate_to(&request) {
        assert!(!error.to_string().is_empty());
    }
}

/// What stands after the data of an extent file of a few blocks, all of which are zero.
pub(crate) fn extent(bytes: &[u8]) {
    let blocks = (bytes.len() / (2 * SLOT_LEN)).clamp(1, 40);
    let Ok(geometry) = Geometry::new(512, blocks as u64, 1) else {
        return;
    };
    let layout = ExtentLayout::new(&geometry);
    let mut file = vec![0; layout.data_len() as usize];
    file.extend_from_slice(bytes);
    file.resize(layout.file_len() as usize, 0);
    // The last bytes of the input are the metadata, whatever is missing before.
    let tail = bytes.len().min(METADATA_LEN);
    let at = file.len() - METADATA_LEN;
    file[at..at + tail].copy_from_slice(&bytes[bytes.len() - tail..]);

    let part = |range: std::ops::Range<u64>| &file[range.start as usize..range.end as usize];
    let Some(metadata) = part(layout.metadata()).first_chunk() else {
        return;
    };
    if let Ok(found) = ExtentMetadata::decode(metadata) {
        assert_eq!(ExtentMetadata::decode(&found.encode()), Ok(found));
    }
    let active = ActiveSlots::from_bytes(part(layout.bitmap()), layout.blocks());
    for block in 0..layout.blocks() {
        assert!(
            active
                .as_ref()
                .is_some_and(|active| active.get(block).is_some())
        );
        let slot = |slot| {
            let bytes = part(layout.slots(slot, block, 1)?).first_chunk()?;
            let found = StoredContext::decode(bytes).ok()??;
            let again = StoredContext::decode(&StoredContext::encode(Some(&found)));
            assert_eq!(again, Ok(Some(found)));
            Some(found)
        };
        let (a, b) = (slot(Slot::A), slot(Slot::B));
        let hash = || {
            layout
                .data(block, 1)
                .map_or(0, |data| context::hash(part(data)))
        };
        match active_after_crash(a.as_ref(), b.as_ref(), hash) {
            Some(Slot::A) => assert!(a.is_none_or(|a| a.on_disk_hash == hash())),
            Some(Slot::B) => assert!(b.is_none_or(|b| b.on_disk_hash == hash())),
            None => assert!(a.is_some() && b.is_some(), "an empty slot would do"),
        }
    }
}
