//! Fuzz targets: each one is a plain function over bytes, so that any driver can call it.
//!
//! Reading order: [`TARGETS`] (what can be fuzzed), [`breed`] (inputs from inputs), [`campaign`] (a
//! seeded run of one target, with a watchdog). The binary gives them a command line; a coverage-guided
//! fuzzer can call [`Target::run`] as it is.
//!
//! A target returns when all is well and panics when not. It must not hang, whatever the bytes.

pub mod breed;
pub mod campaign;
mod crucible;

use devices::testkit::{nvme_fuzz, platform_fuzz, virtio_fuzz};
use softcpu::testkit::{Mode, run_arbitrary};

/// Something that takes bytes from strangers.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name on the command line.
    pub name: &'static str,
    /// What the bytes stand for.
    pub about: &'static str,
    /// Texts that good inputs are made of.
    pub seeds: &'static [&'static [u8]],
    /// One input.
    pub run: fn(&[u8]),
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target {
        name: "processor",
        about: "guest code, tables and registers in every mode: decode, lower, execute",
        seeds: PROCESSOR_SEEDS,
        run: processor,
    },
    Target {
        name: "block",
        about: "disk requests of a device",
        seeds: &[&[0; 64]],
        run: |bytes| {
            let (fetched, answered) = block::testkit::fuzz_requests(bytes);
            assert_eq!(fetched, answered, "requests fetched, requests answered");
        },
    },
    Target {
        name: "nbd",
        about: "what a client says to an NBD export",
        seeds: NBD_SEEDS,
        run: |bytes| {
            let kept = block::testkit::fuzz_nbd(bytes);
            assert!(kept.is_ok(), "{kept:?}");
        },
    },
    Target {
        name: "nvme-registers",
        about: "accesses to an NVMe controller's registers",
        seeds: STEP_SEEDS,
        run: nvme_fuzz::registers,
    },
    Target {
        name: "nvme-commands",
        about: "NVMe commands of an unruly driver",
        seeds: STEP_SEEDS,
        run: nvme_fuzz::commands,
    },
    Target {
        name: "nvme-model",
        about: "NVMe commands against a model of the disk",
        seeds: STEP_SEEDS,
        run: nvme_fuzz::model,
    },
    Target {
        name: "virtio-block",
        about: "a virtio disk's rings and registers",
        seeds: STEP_SEEDS,
        run: virtio_fuzz::block,
    },
    Target {
        name: "virtio-entropy",
        about: "a virtio random source's rings and registers",
        seeds: STEP_SEEDS,
        run: virtio_fuzz::entropy,
    },
    Target {
        name: "platform",
        about: "a guest's doings on a board with every platform device",
        seeds: STEP_SEEDS,
        run: platform_fuzz::platform,
    },
    Target {
        name: "boot-image",
        about: "kernel images of all kinds",
        seeds: BOOT_SEEDS,
        run: platform_fuzz::boot_image,
    },
    Target {
        name: "config",
        about: "the text of vm.toml",
        seeds: CONFIG_SEEDS,
        run: config,
    },
    Target {
        name: "control",
        about: "requests to the control socket, and answers that standalone ctl shows",
        seeds: CONTROL_SEEDS,
        run: standalone::control::fuzz,
    },
    Target {
        name: "crucible-frames",
        about: "a connection of a volume, cut anywhere",
        seeds: crucible::FRAME_SEEDS,
        run: crucible::frames,
    },
    Target {
        name: "crucible-message",
        about: "the fields of one message of a volume",
        seeds: crucible::MESSAGE_SEEDS,
        run: crucible::message,
    },
    Target {
        name: "crucible-region",
        about: "the text of region.json",
        seeds: crucible::REGION_SEEDS,
        run: crucible::region,
    },
    Target {
        name: "crucible-request",
        about: "the JSON of a volume construction request",
        seeds: crucible::REQUEST_SEEDS,
        run: crucible::request,
    },
    Target {
        name: "crucible-extent",
        about: "slots, bitmap and metadata of an extent file",
        seeds: crucible::EXTENT_SEEDS,
        run: crucible::extent,
    },
];

/// Conversations: the shape of the disk, flags, options, requests.
const NBD_SEEDS: &[&[u8]] = &[
    // Structured replies, GO, a read, a flush.
    b"\x18\0\0\0\x03IHAVEOPT\0\0\0\x08\0\0\0\0IHAVEOPT\0\0\0\x07\0\0\0\x08\0\0\0\0\0\x01\0\x03\
      \x25\x60\x95\x13\0\0\0\0ABCDEFGH\0\0\0\0\0\0\x01\0\0\0\x02\0\
      \x25\x60\x95\x13\0\0\0\x03ABCDEFGI\0\0\0\0\0\0\0\0\0\0\0\0",
    // The old way in, zeroes, a trim, goodbye.
    b"\x08\0\0\0\x01IHAVEOPT\0\0\0\x01\0\0\0\x04disk\
      \x25\x60\x95\x13\0\x03\0\x06ABCDEFGH\0\0\0\0\0\0\x02\0\0\0\x02\0\
      \x25\x60\x95\x13\0\0\0\x04ABCDEFGI\0\0\0\0\0\0\x02\0\0\0\x02\0\
      \x25\x60\x95\x13\0\0\0\x02ABCDEFGJ\0\0\0\0\0\0\0\0\0\0\0\0",
    // A list, a question for metadata contexts, an end.
    b"\0\0\0\0\x03IHAVEOPT\0\0\0\x03\0\0\0\0IHAVEOPT\0\0\0\x0a\0\0\0\x0c\0\0\0\x04disk\0\0\0\0\
      IHAVEOPT\0\0\0\x02\0\0\0\0",
];

/// Bytes that are read as steps: lengths matter more than content.
const STEP_SEEDS: &[&[u8]] = &[
    &[0; 256],
    &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
];

/// Beginnings of images: an ELF file header, a multiboot header, the magic of a bzImage.
const BOOT_SEEDS: &[&[u8]] = &[
    b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0\0\0\x10\0\0\0\0\0\x40\0\0\0\0\0\0\0",
    b"\x02\xb0\xad\x1b\0\0\0\0\xfe\x4f\x52\xe4",
    b"\x55\xaaHdrS\x0f\x02\0\0\0\0",
    &[0; 600],
];

/// Instructions for one input of `processor`: enough to leave straight-line code.
const PROCESSOR_BUDGET: u64 = 2_000;

/// Short pieces of code of many families, so that mutations start from what decodes.
const PROCESSOR_SEEDS: &[&[u8]] = &[
    // add, xor, lea, dec, jnz
    &[
        0x48, 0x01, 0xd8, 0x48, 0x31, 0xc2, 0x48, 0x8d, 0x74, 0x86, 0x08, 0xff, 0xc9, 0x75, 0xf2,
    ],
    // rep movsb, rep stosq, lock cmpxchg16b
    &[0xf3, 0xa4, 0xf3, 0x48, 0xab, 0xf0, 0x48, 0x0f, 0xc7, 0x0f],
    // mov cr3, wrmsr, lgdt, iretq, int 3
    &[
        0x0f, 0x22, 0xd8, 0x0f, 0x30, 0x0f, 0x01, 0x10, 0x48, 0xcf, 0xcc,
    ],
    // fld, fmul, fsincos, fxsave, movaps, pshufb, pcmpestri
    &[
        0xd9, 0x00, 0xd8, 0xc9, 0xd9, 0xfb, 0x0f, 0xae, 0x00, 0x0f, 0x28, 0xc1, 0x66, 0x0f, 0x38,
    ],
    // far call, sysenter, syscall, in, out, hlt
    &[0xff, 0x1e, 0x0f, 0x34, 0x0f, 0x05, 0xec, 0xee, 0xf4],
];

fn processor(bytes: &[u8]) {
    let Some((first, code)) = bytes.split_first() else {
        return;
    };
    let mode = Mode::ALL[usize::from(*first) % Mode::ALL.len()];
    run_arbitrary(mode, code, PROCESSOR_BUDGET);
}

const CONFIG_SEEDS: &[&[u8]] = &[
    b"[main]\nname = \"a\"\ncpus = 1\nmemory = 256\nkernel = \"/k\"\ncmdline = \"\"\n",
    b"[block_dev.a]\ntype = \"file\"\npath = \"/d\"\nworkers = 4\nblock_size = 4096\n",
    b"[dev.b]\ndriver = \"pci-nvme\"\nblock_dev = \"a\"\npci-path = \"0.4.0\"\n",
    b"[cpuid.host]\nvendor = \"amd\"\n\"1-0\" = [1, 2, 3, 4]\n[cloudinit]\nuser-data = \"\"\n",
];

const CONTROL_SEEDS: &[&[u8]] = &[
    b"{\"deadline\": 60}",
    b"{\"old\":\"127.0.0.1:8810\",\"new\":\"[::1]:8840\"}",
    b"HTTP/1.1 409 Conflict\r\ncontent-type: application/json\r\ncontent-length: 15\r\n\r\n{\"message\":\"a\"}",
    b"HTTP/1.1 200 OK\r\n\r\n{\"name\":\"a\",\"kind\":\"file\",\"path\":null,\"devices\":[],\"size_bytes\":1,\
      \"block_size\":512,\"read_only\":false,\"queue\":{\"in_flight\":0,\"in_flight_max\":0,\"batches\":0,\
      \"throttled\":0},\"operations\":{\"read\":{\"completed\":1,\"bytes\":512,\"failed\":0,\"latency\":{\"count\":1,\
      \"p50_ns\":1,\"p99_ns\":1,\"p999_ns\":1,\"buckets\":[{\"below_ns\":2,\"count\":1}]}}},\"volume\":null}",
];

fn config(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Err(errors) = standalone::config::parse("vm.toml".into(), &text) {
        assert!(!errors.is_empty(), "refused without a reason");
        for error in errors {
            assert!(!error.to_string().is_empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_target_survives_a_short_seeded_campaign() {
        for target in TARGETS {
            let done = campaign::run(target, 1, 200, Duration::from_secs(20));
            assert!(done.inputs > 0, "{}", target.name);
        }
    }

    #[test]
    fn slow_every_target_survives_a_long_campaign() {
        if std::env::var_os("TRIVET_SLOW").is_some() {
            for target in TARGETS {
                let done = campaign::run(target, 2, u64::MAX, Duration::from_secs(10));
                assert!(done.inputs > 100, "{}: {} inputs", target.name, done.inputs);
            }
        }
    }

    #[test]
    fn every_target_takes_nothing_at_all() {
        TARGETS.iter().for_each(|target| (target.run)(&[]));
    }

    #[test]
    fn names_are_unique() {
        for (index, target) in TARGETS.iter().enumerate() {
            assert!(
                TARGETS[..index]
                    .iter()
                    .all(|other| other.name != target.name)
            );
        }
    }
}
