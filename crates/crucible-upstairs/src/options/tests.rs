//! The JSON of spec: crucible 7, and what is refused.

use super::*;

const REGION: &str = r#"{"type":"region","block_size":512,"blocks_per_extent":100,"extent_count":15,"gen":1,
 "opts":{"id":"11111111-2222-3333-4444-555555555555",
         "target":["127.0.0.1:8810","127.0.0.1:8820","127.0.0.1:8830"],"lossy":false,"flush_timeout":null,
         "key":null,"cert_pem":null,"key_pem":null,"root_cert_pem":null,"control":null,"read_only":false}}"#;

fn parse(text: &str) -> VolumeConstructionRequest {
    serde_json::from_str(text).unwrap()
}

fn region() -> VolumeConstructionRequest {
    parse(REGION)
}

fn volume(parts: Vec<VolumeConstructionRequest>) -> VolumeConstructionRequest {
    VolumeConstructionRequest::Volume {
        id: Uuid::from_u128(7),
        block_size: 512,
        sub_volumes: parts,
        read_only_parent: None,
    }
}

fn with(change: impl FnOnce(&mut CrucibleOpts, &mut u64)) -> VolumeConstructionRequest {
    let mut request = region();
    if let VolumeConstructionRequest::Region {
        opts, generation, ..
    } = &mut request
    {
        change(opts, generation);
    }
    request
}

fn parent(mut request: VolumeConstructionRequest) -> VolumeConstructionRequest {
    if let VolumeConstructionRequest::Volume {
        read_only_parent, ..
    } = &mut request
    {
        *read_only_parent = Some(Box::new(with(|opts, _| opts.read_only = true)));
    }
    request
}

#[test]
fn the_json_of_the_reference_goes_in_and_comes_out() {
    let request = region();
    request.validate().unwrap();
    let value: serde_json::Value = serde_json::from_str(REGION).unwrap();
    assert_eq!(serde_json::to_value(&request).unwrap(), value);
    for text in [
        r#"{"type":"url","id":"11111111-2222-3333-4444-555555555555","block_size":512,"url":"http://h/x"}"#,
        r#"{"type":"file","id":"11111111-2222-3333-4444-555555555555","block_size":512,"path":"/x"}"#,
    ] {
        let value: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_value(parse(text)).unwrap(), value);
    }
}

#[test]
fn optional_fields_may_be_left_out_and_unknown_ones_are_ignored() {
    let opts = r#"{"id":"11111111-2222-3333-4444-555555555555","target":["[::1]:1","[::1]:2","[::1]:3"],
        "lossy":false,"read_only":true,"of_the_future":1}"#;
    let opts: CrucibleOpts = serde_json::from_str(opts).unwrap();
    opts.validate().unwrap();
    assert_eq!(opts.targets().unwrap()[2].port(), 3);
    let missing = r#"{"id":"11111111-2222-3333-4444-555555555555","target":[],"read_only":true}"#;
    let error = serde_json::from_str::<CrucibleOpts>(missing).unwrap_err();
    assert!(error.to_string().contains("lossy"));
}

#[test]
fn each_refusal_names_the_place() {
    let refused = |request: VolumeConstructionRequest, text: &str| {
        let error = request.validate().unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    };
    let first = "sub_volumes[0].opts.target: 127.0.0.1:8810 is named twice";
    refused(
        volume(vec![with(|opts, _| opts.target[1] = opts.target[0])]),
        first,
    );
    refused(
        with(|opts, _| opts.target.truncate(2)),
        "opts.target: three region servers",
    );
    refused(
        with(|opts, _| opts.flush_timeout = Some(f32::NAN)),
        "opts.flush_timeout",
    );
    refused(
        with(|opts, _| opts.key = Some("AAAA".to_owned().into())),
        "opts.key: the key has 3 bytes",
    );
    refused(
        with(|opts, _| opts.cert_pem = Some("/c".to_owned())),
        "key_pem is missing",
    );
    refused(with(|_, generation| *generation = 0), "gen: generation 0");
    refused(volume(vec![]), "sub_volumes: neither");
    let mut other = region();
    if let VolumeConstructionRequest::Region { block_size, .. } = &mut other {
        *block_size = 4096;
    }
    refused(
        volume(vec![region(), other]),
        "sub_volumes[1]: block size 4096 within",
    );
    let deep = (0..20).fold(region(), |inner, _| volume(vec![inner]));
    refused(deep, "more than 16 volumes");
}

#[test]
fn no_key_is_printed() {
    let key = "tCw7zw0hAsPuxMOTWwnPEFYjBK9qJRtYyGdEXKEnrg0=";
    let request = with(|opts, _| opts.key = Some(key.to_owned().into()));
    request.validate().unwrap();
    assert!(!format!("{request:?}").contains("tCw7"));
    assert!(serde_json::to_string(&request).unwrap().contains(key));
}

#[test]
fn a_machine_moves_with_a_higher_generation_and_nothing_else() {
    let old = parent(volume(vec![region()]));
    let higher = || with(|_, generation| *generation += 1);
    assert_eq!(old.may_migrate_to(&parent(volume(vec![higher()]))), Ok(()));
    assert_eq!(old.may_migrate_to(&volume(vec![higher()])), Ok(()));
    let refused = |new: &VolumeConstructionRequest, text: &str| {
        let error = old.may_migrate_to(new).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    };
    refused(&old, "volume.sub_volumes[0]: generation 1 after 1");
    refused(&volume(vec![]), "number of sub_volumes");
    let moved = with(|opts, generation| {
        opts.target[0].set_port(1);
        *generation += 1;
    });
    refused(&volume(vec![moved]), "target differs");
    let locked = with(|opts, generation| {
        opts.read_only = true;
        *generation += 1;
    });
    refused(&volume(vec![locked]), "opts differs");
    refused(&higher(), "type differs");
    let gained = volume(vec![region()]).may_migrate_to(&parent(volume(vec![higher()])));
    assert!(gained.is_err());
}

#[test]
fn one_target_is_replaced_at_a_time() {
    let old = volume(vec![region(), region()]);
    let moved = |ports: &[usize]| {
        with(|opts, _| {
            for at in ports {
                opts.target[*at].set_port(99);
            }
        })
    };
    let change = old
        .replaced_target(&volume(vec![region(), moved(&[1])]))
        .unwrap();
    assert_eq!((change.old.port(), change.new.port()), (8820, 99));
    assert_eq!(old.replaced_target(&old), Err(CompareError::Same));
    for new in [
        volume(vec![region(), moved(&[0, 1])]),
        volume(vec![moved(&[0]), moved(&[0])]),
    ] {
        let error = old.replaced_target(&new).unwrap_err();
        assert!(
            matches!(error, CompareError::SecondTarget { .. }),
            "{error}"
        );
    }
    let newer = volume(vec![with(|_, generation| *generation = 9), moved(&[0])]);
    assert!(old.replaced_target(&newer).is_ok());
    assert!(newer.replaced_target(&old).is_err());
}
