//! What a user, or a program that started us, is told.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "telling the user is what this module is for"
)]

use crucible_upstairs::store::Shape;
use crucible_upstairs::volume::{Volume, block_on};
use serde_json::{Value, json};

fn say(json: bool, text: &str, value: &Value) {
    if json {
        println!("{value}");
    } else {
        println!("{text}");
    }
}

pub(crate) fn activating(json: bool) {
    say(
        json,
        "waiting for the region servers",
        &json!({"state": "activating"}),
    );
}

/// Which region servers are not ready, and what became of them last.
pub(crate) fn waiting(json: bool, volume: &Volume) {
    for insight in block_on(volume.insights()) {
        for replica in &insight.status.replicas {
            let (state, address) = (replica.state, replica.address);
            let last = replica.last_loss.as_deref().unwrap_or("nothing yet");
            let text = format!("still waiting: {address} is {state:?}, last: {last}");
            let value = json!({
                "state": "waiting",
                "address": address,
                "replica": format!("{state:?}"),
                "last": replica.last_loss,
            });
            say(json, &text, &value);
        }
    }
}

pub(crate) fn serving(json: bool, place: &str, shape: Shape, volume: &Volume) {
    let mode = if shape.read_only {
        "read-only"
    } else {
        "read-write"
    };
    let mebibytes = shape.bytes() >> 20;
    let text = format!(
        "serving {mebibytes} MiB in blocks of {} bytes, {mode}, at {place}",
        shape.block_size
    );
    let control = volume.regions().iter().map(|region| region.control());
    let value = json!({
        "state": "serving",
        "uri": place,
        "bytes": shape.bytes(),
        "block_size": shape.block_size,
        "read_only": shape.read_only,
        "encrypted": shape.encrypted,
        "control": control.collect::<Vec<_>>(),
    });
    say(json, &text, &value);
}

pub(crate) fn ending(json: bool) {
    say(json, "flushing and letting go", &json!({"state": "ending"}));
}

pub(crate) fn done(json: bool) {
    say(json, "done", &json!({"state": "done"}));
}

pub(crate) fn failed(json: bool, failure: &dyn std::error::Error) {
    if json {
        println!(
            "{}",
            json!({"state": "failed", "error": failure.to_string()})
        );
    }
    eprintln!("crucible-nbd-server: {failure}");
}
