//! Every endpoint of the pantry, over real region servers.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests; a failure is the finding"
)]

mod fleet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::fleet::{BYTES, Pantry, Server, attach, image, region};

fn sha256(data: &[u8]) -> Value {
    let digest: [u8; 32] = Sha256::digest(data).into();
    json!({ "sha256": digest.map(|byte| format!("{byte:02x}")).concat() })
}

/// Bytes that differ from block to block.
fn content(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at / 512 + at % 7 + 1) as u8).collect()
}

fn bulk_read(pantry: &Pantry, volume: &str, offset: usize, size: usize) -> Vec<u8> {
    let body = json!({ "offset": offset, "size": size });
    let (status, answer) = pantry.post(&format!("/volume/{volume}/bulk-read"), &body);
    assert_eq!(status, 200, "{answer}");
    let text = answer["base64_encoded_data"].as_str().unwrap();
    STANDARD.decode(text).unwrap()
}

fn bulk_write(offset: usize, data: &[u8]) -> Value {
    json!({ "offset": offset, "base64_encoded_data": STANDARD.encode(data) })
}

#[test]
fn a_volume_is_attached_written_read_and_let_go() {
    let servers = Server::three();
    let request = region(servers.each_ref(), 1);
    let pantry = Pantry::new();
    assert_eq!(
        pantry.get(""),
        (200, json!({ "volumes": [], "num_job_handles": 0 }))
    );
    assert_eq!(
        pantry.post("/volume/a", &attach(&request)),
        (200, json!({ "id": "a" }))
    );
    // Once more is no error; something else under the same name is.
    assert_eq!(pantry.post("/volume/a", &attach(&request)).0, 200);
    let other = region(servers.each_ref(), 2);
    let (status, error) = pantry.post("/volume/a", &attach(&other));
    assert_eq!(status, 409, "{error}");
    assert!(error["request_id"].is_string() && error["message"].is_string());
    assert_eq!(pantry.get("/status").1["volumes"], json!(["a"]));
    assert_eq!(
        pantry.get("/volume/a"),
        (
            200,
            json!({ "active": true, "seen_active": true, "num_job_handles": 0 })
        )
    );

    let data = content(8192);
    assert_eq!(
        pantry.post("/volume/a/bulk-write", &bulk_write(1024, &data)),
        (204, Value::Null)
    );
    assert_eq!(bulk_read(&pantry, "a", 1024, 8192), data);
    assert_eq!(bulk_read(&pantry, "a", 0, 1024), [0; 1024]);
    for wrong in [
        bulk_write(1, &data),
        bulk_write(0, &data[..100]),
        bulk_write(BYTES, &data),
        json!({ "offset": 0, "base64_encoded_data": "?" }),
        json!({ "offset": 0 }),
        bulk_write(0, &vec![0; (1 << 20) + 512]),
    ] {
        let (status, error) = pantry.post("/volume/a/bulk-write", &wrong);
        assert_eq!(status, 400, "{error}");
    }
    // Of what is much too long, no more is read than is allowed: the answer may be lost with the rest.
    let huge = bulk_write(0, &vec![0; 4 << 20]);
    let refused = pantry.try_post("/volume/a/bulk-write", &huge);
    assert!(
        refused.as_ref().is_none_or(|(status, _)| *status == 400),
        "{refused:?}"
    );
    assert_eq!(pantry.get("/volume/a").0, 200);
    let (status, error) = pantry.post(
        "/volume/a/bulk-read",
        &json!({ "offset": 0, "size": 1_u64 << 40 }),
    );
    assert_eq!(status, 400, "{error}");

    let snapshot = json!({ "snapshot_id": "first" });
    assert_eq!(pantry.post("/volume/a/snapshot", &snapshot).0, 204);
    assert!(servers.iter().all(|server| server.has_snapshot("first")));
    let (status, error) = pantry.post("/volume/a/snapshot", &json!({ "snapshot_id": "../up" }));
    assert_eq!(status, 503, "{error}");

    assert_eq!(pantry.delete("/volume/a"), (204, Value::Null));
    assert_eq!(pantry.delete("/volume/a"), (204, Value::Null));
    assert_eq!(pantry.get("/volume/a").0, 404);
    assert_eq!(pantry.post("/volume/a/scrub", &Value::Null).0, 404);
    // What was written is there for the next one.
    let next = region(servers.each_ref(), 2);
    assert_eq!(pantry.post("/volume/b", &attach(&next)).0, 200);
    assert_eq!(bulk_read(&pantry, "b", 1024, 8192), data);
    assert!(pantry.stop(), "it lets its volumes go and ends well");
}

#[test]
fn images_are_imported_and_digests_compared() {
    let servers = Server::three();
    let pantry = Pantry::new();
    let request = region(servers.each_ref(), 1);
    assert_eq!(pantry.post("/volume/a", &attach(&request)).0, 200);
    let import = |url: &str, digest: Option<Value>| {
        let body = json!({ "url": url, "expected_digest": digest });
        pantry.job("/volume/a/import-from-url", &body)
    };
    // Not whole blocks; what is missing is zero.
    let data = content(70_000);
    let padded = {
        let mut padded = data.clone();
        padded.resize(BYTES, 0);
        padded
    };
    assert!(import(&image(Some(data.clone())), Some(sha256(&data))));
    assert_eq!(bulk_read(&pantry, "a", 0, BYTES), padded);
    let validate = |digest: Value, size: Option<usize>| {
        let body = json!({ "expected_digest": digest, "size_to_validate": size });
        pantry.job("/volume/a/validate", &body)
    };
    assert!(validate(sha256(&padded), None));
    assert!(validate(sha256(&data), Some(data.len())));
    assert!(!validate(sha256(&data), None));
    assert!(!validate(sha256(&data), Some(BYTES + 1)));

    assert!(!import(&image(Some(data)), Some(sha256(b"else"))));
    assert!(!import(&image(Some(content(BYTES + 1))), None), "too long");
    let nobody = "http://127.0.0.1:1/disk.img";
    assert!(!import(nobody, None));
    let body = json!({ "url": nobody, "expected_digest": { "sha256": "12" } });
    let (status, error) = pantry.post("/volume/a/import-from-url", &body);
    assert_eq!(status, 400, "{error}");

    // Jobs end with their volume.
    let silent = json!({ "url": image(None) });
    let (_, started) = pantry.post("/volume/a/import-from-url", &silent);
    let job = started["job_id"].as_str().unwrap();
    let finished = pantry.get(&format!("/job/{job}/is-finished"));
    assert_eq!(finished, (200, json!({ "job_is_finished": false })));
    assert_eq!(pantry.get("/volume/a").1["num_job_handles"], 1);
    assert_eq!(pantry.delete("/volume/a").0, 204);
    assert!(!pantry.result(job));
}

#[test]
fn a_volume_is_attached_in_the_background_scrubbed_and_moved() {
    let servers = Server::three();
    let spare = Server::new();
    let pantry = Pantry::new();
    let folder = std::env::temp_dir().join(format!("pantry-parent-{}", std::process::id()));
    let parent = content(BYTES / 2);
    std::fs::write(&folder, &parent).unwrap();
    let id = "11111111-2222-3333-4444-555555555555";
    let volume = |part: Value| {
        json!({
            "type": "volume", "id": id, "block_size": 512, "sub_volumes": [part],
            "read_only_parent": { "type": "file", "id": id, "block_size": 512, "path": folder },
        })
    };
    let request = volume(region(servers.each_ref(), 1));
    let mut body = attach(&request);
    body["job_id"] = json!("job-1");
    assert_eq!(
        pantry.post("/volume/a/background", &body),
        (204, Value::Null)
    );
    assert!(pantry.result("job-1"));
    assert_eq!(pantry.get("/volume/a").1["active"], true);

    // What was written stays; what was not comes from the parent, and then is the volume's own.
    let data = vec![0xaa; 1024];
    assert_eq!(
        pantry
            .post("/volume/a/bulk-write", &bulk_write(512, &data))
            .0,
        204
    );
    assert!(pantry.job("/volume/a/scrub", &Value::Null));
    std::fs::remove_file(&folder).unwrap();
    let mut expected = parent.clone();
    expected[512..1536].copy_from_slice(&data);
    assert_eq!(bulk_read(&pantry, "a", 0, parent.len()), expected);

    // Another region server in the place of the first.
    let moved = volume(region([&spare, &servers[1], &servers[2]], 1));
    assert_eq!(
        pantry.post("/volume/a/replace", &attach(&request)),
        (200, json!("vcr_matches"))
    );
    assert_eq!(
        pantry.post("/volume/a/replace", &attach(&moved)),
        (200, json!("started"))
    );
    let mut two = volume(region(servers.each_ref(), 9));
    two["sub_volumes"][0]["opts"]["target"] = json!(["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]);
    let (status, error) = pantry.post("/volume/a/replace", &attach(&two));
    assert_eq!(status, 400, "{error}");
    assert_eq!(bulk_read(&pantry, "a", 0, parent.len()), expected);
    assert_eq!(pantry.delete("/volume/a").0, 204);
}

#[test]
fn what_makes_no_sense_is_refused_with_a_reason() {
    let servers = Server::three();
    let pantry = Pantry::new();
    let good = region(servers.each_ref(), 1);
    let mut plain = good.clone();
    plain["opts"]["key"] = Value::Null;
    let mut two = good.clone();
    two["opts"]["target"] = json!(["127.0.0.1:1", "127.0.0.1:2"]);
    for (request, reason) in [(plain, "encryption"), (two, "three region servers")] {
        let (status, error) = pantry.post("/volume/a", &attach(&request));
        assert_eq!(status, 400, "{error}");
        assert!(
            error["message"].as_str().unwrap().contains(reason),
            "{error}"
        );
        assert_eq!(pantry.get("/volume/a").0, 404, "it is not there");
    }
    let mut body = attach(&json!({ "type": "else" }));
    assert_eq!(pantry.post("/volume/a", &body).0, 400);
    body = attach(&good);
    assert_eq!(
        pantry.post("/volume/a/background", &body).0,
        400,
        "no job_id"
    );
    let long = "x".repeat(200);
    assert_eq!(pantry.post(&format!("/volume/{long}"), &body).0, 400);
    assert_eq!(pantry.get("/job/none/ok").0, 404);
    assert_eq!(pantry.get("/nothing").0, 404);
    // A generation that was used already.
    assert_eq!(pantry.post("/volume/a", &attach(&good)).0, 200);
    assert_eq!(
        pantry
            .post("/volume/a/bulk-write", &bulk_write(0, &[1; 512]))
            .0,
        204
    );
    assert_eq!(pantry.delete("/volume/a").0, 204);
    let (status, error) = pantry.post("/volume/a", &attach(&good));
    assert_eq!(status, 400, "{error}");
    assert!(
        error["message"].as_str().unwrap().contains("too low"),
        "{error}"
    );
}
