//! Every table and key that a configuration file may have, as data.
//!
//! One row holds a key's name, type, default and meaning; reading, the nearest-key hint, `--print-config`
//! and `--help` are all made from these rows.

/// What a key's value must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Any string.
    Text,
    /// A key in base64, which is shown nowhere.
    Secret,
    /// A path; relative ones count from the current directory.
    Path,
    /// `true` or `false`.
    Bool,
    /// An integer in a range, both ends allowed.
    Integer {
        /// Smallest.
        min: u64,
        /// Largest.
        max: u64,
    },
    /// A number of seconds, possibly with a fraction.
    Seconds,
    /// One of these strings.
    Choice(&'static [&'static str]),
    /// An array of strings.
    TextList,
    /// `"bus.slot.function"`, decimal.
    PciPath,
    /// The name of a `[block_dev.NAME]` table.
    DiskName,
    /// Exactly three `"ip:port"` strings.
    Targets,
    /// An array of `{ port, addr }` tables.
    PortMappings,
}

/// What happens when a key is not given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Presence {
    /// That is an error.
    Required,
    /// It has no value.
    Optional,
    /// It has this value, written as in TOML.
    Default(&'static str),
}

/// One key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Key {
    /// As written in the file.
    pub name: &'static str,
    /// Type.
    pub kind: Kind,
    /// When absent.
    pub presence: Presence,
    /// Meaning, one line.
    pub doc: &'static str,
}

/// Whether this build can do what a variant asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// Yes.
    Built,
    /// Known, but not in this build yet.
    NotYet,
}

/// One value of a family's selecting key (`type` of a disk, `driver` of a device).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Variant {
    /// The value.
    pub name: &'static str,
    /// Whether it can be used.
    pub availability: Availability,
    /// Keys of this variant beside the common ones; one of the same name takes the place of a common one.
    pub keys: &'static [Key],
    /// Meaning, one line.
    pub doc: &'static str,
}

/// A family of named tables: `[block_dev.NAME]` or `[dev.NAME]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Family {
    /// The first part of the tables' names.
    pub name: &'static str,
    /// The key that selects the variant.
    pub selector: &'static str,
    /// Keys of every variant.
    pub common: &'static [Key],
    /// The variants.
    pub variants: &'static [Variant],
}

const fn key(name: &'static str, kind: Kind, presence: Presence, doc: &'static str) -> Key {
    Key {
        name,
        kind,
        presence,
        doc,
    }
}

const ANY_U64: Kind = Kind::Integer {
    min: 0,
    max: u64::MAX,
};
const ANY_U32: Kind = Kind::Integer {
    min: 0,
    max: u32::MAX as u64,
};
const DEADLINE: Kind = Kind::Integer {
    min: 0,
    max: crate::control::api::STOP_DEADLINE_MAX,
};
const EXIT_CODE: Kind = Kind::Integer { min: 0, max: 255 };
const BLOCK_SIZE: Kind = Kind::Integer {
    min: 512,
    max: 32768,
};
const SIZE: Kind = Kind::Integer {
    min: 512,
    max: i64::MAX as u64,
};
const QUEUE_SIZE: Kind = Kind::Integer { min: 1, max: 32768 };

use Presence::{Default, Optional, Required};

/// `[main]`.
pub const MAIN: &[Key] = &[
    key("name", Kind::Text, Required, "name of the machine"),
    key(
        "cpus",
        Kind::Integer {
            min: 1,
            max: vmm::machine::config::CPUS_MAX as u64,
        },
        Required,
        "number of vCPUs",
    ),
    key(
        "memory",
        Kind::Integer {
            min: 1,
            max: 8 << 20,
        },
        Required,
        "guest memory in MiB",
    ),
    key(
        "bootrom",
        Kind::Path,
        Optional,
        "firmware image, a multiple of 4 KiB and at most 16 MiB; needed unless there is a kernel",
    ),
    key(
        "bootrom_version",
        Kind::Text,
        Default("\"v0.0.1-alpha 1\""),
        "firmware version shown in SMBIOS",
    ),
    key(
        "kernel",
        Kind::Path,
        Optional,
        "kernel to start directly: bzImage, ELF with a PVH note, or multiboot ELF",
    ),
    key(
        "initrd",
        Kind::Path,
        Optional,
        "initial ramdisk for the kernel",
    ),
    key(
        "cmdline",
        Kind::Text,
        Optional,
        "command line for the kernel",
    ),
    key(
        "hypervisor",
        Kind::Choice(&["auto", "soft", "kvm", "bhyve"]),
        Default("\"auto\""),
        "CPU backend; auto takes the best one that works here",
    ),
    key(
        "clock",
        Kind::Choice(&["host", "virtual"]),
        Default("\"host\""),
        "time from the host, or from executed instructions (repeatable runs)",
    ),
    key(
        "serial",
        Kind::Path,
        Default("\"./ttya\""),
        "unix socket of the serial console COM1",
    ),
    key(
        "control",
        Kind::Text,
        Default("\"./ctl\""),
        "unix socket of the control interface (standalone ctl, HTTP); \"\" for none",
    ),
    key(
        "stop_deadline",
        DEADLINE,
        Default("60"),
        "seconds that the guest has to switch itself off when it is asked to stop",
    ),
    key(
        "storage_deadline",
        DEADLINE,
        Default("30"),
        "seconds that disks have to come to rest at the end, before they are cut off",
    ),
    key(
        "boot_order",
        Kind::TextList,
        Optional,
        "names of [dev] tables in the order in which firmware tries them",
    ),
    key(
        "cpuid_profile",
        Kind::Text,
        Optional,
        "name of the [cpuid.NAME] table that the guest sees",
    ),
    key(
        "exit_on_halt",
        EXIT_CODE,
        Default("0"),
        "exit code after the guest powered off",
    ),
    key(
        "exit_on_reboot",
        EXIT_CODE,
        Optional,
        "end with this exit code when the guest reboots, instead of rebooting",
    ),
    key(
        "use_reservoir",
        Kind::Bool,
        Default("false"),
        "take guest memory from the bhyve reservoir (no effect elsewhere)",
    ),
    key(
        "cpu_binding",
        Kind::Choice(&["any", "upper-half"]),
        Default("\"any\""),
        "which host CPUs the vCPUs may use",
    ),
    key(
        "acpi_variant",
        Kind::Choice(&["V0"]),
        Default("\"V0\""),
        "flavour of the ACPI tables",
    ),
];

/// `[cloudinit]`.
pub const CLOUDINIT: &[Key] = &[
    key("user-data", Kind::Text, Optional, "user-data, inline"),
    key("meta-data", Kind::Text, Optional, "meta-data, inline"),
    key(
        "network-config",
        Kind::Text,
        Optional,
        "network-config, inline",
    ),
    key(
        "user-data-path",
        Kind::Path,
        Optional,
        "user-data, from a file",
    ),
    key(
        "meta-data-path",
        Kind::Path,
        Optional,
        "meta-data, from a file",
    ),
    key(
        "network-config-path",
        Kind::Path,
        Optional,
        "network-config, from a file",
    ),
];

const WORKERS: Key = key(
    "workers",
    Kind::Integer { min: 1, max: 32 },
    Default("8"),
    "threads that carry out requests",
);

/// `[block_dev.NAME]`.
pub const BLOCK_DEV: Family = Family {
    name: "block_dev",
    selector: "type",
    common: &[
        key(
            "block_size",
            BLOCK_SIZE,
            Default("512"),
            "logical block in bytes, a power of two",
        ),
        key(
            "read_only",
            Kind::Bool,
            Optional,
            "refuse writes; without it the backend decides",
        ),
        key(
            "skip_flush",
            Kind::Bool,
            Default("false"),
            "answer flushes without doing them",
        ),
    ],
    variants: &[
        Variant {
            name: "file",
            availability: Availability::Built,
            keys: &[
                key("path", Kind::Path, Required, "file or block device"),
                WORKERS,
            ],
            doc: "a file or block device of the host",
        },
        Variant {
            name: "mem-async",
            availability: Availability::Built,
            keys: &[key("size", SIZE, Required, "size in bytes"), WORKERS],
            doc: "host memory, lost at exit",
        },
        Variant {
            name: "null",
            availability: Availability::Built,
            keys: &[key("size", SIZE, Default("1073741824"), "size in bytes")],
            doc: "reads zeroes, forgets writes; for measurements",
        },
        Variant {
            name: "cloudinit",
            availability: Availability::Built,
            keys: &[],
            doc: "read-only NoCloud volume made from [cloudinit]",
        },
        Variant {
            name: "crucible",
            availability: Availability::Built,
            keys: &[
                key(
                    "block_size",
                    BLOCK_SIZE,
                    Optional,
                    "logical block in bytes; without it that of the regions, else they must agree",
                ),
                key(
                    "blocks_per_extent",
                    ANY_U64,
                    Optional,
                    "blocks in an extent; likewise",
                ),
                key(
                    "extent_count",
                    ANY_U32,
                    Optional,
                    "extents in the volume; likewise",
                ),
                key("targets", Kind::Targets, Required, "the three downstairs"),
                key(
                    "generation",
                    ANY_U64,
                    Optional,
                    "must rise at every start; without it, it is kept rising in CONFIG.generations",
                ),
                key("upstairs_id", Kind::Text, Optional, "uuid of this client"),
                key(
                    "lossy",
                    Kind::Bool,
                    Default("false"),
                    "drop jobs on purpose",
                ),
                key(
                    "flush_timeout",
                    Kind::Seconds,
                    Optional,
                    "seconds between automatic flushes, at most 3600; without it half a second",
                ),
                key(
                    "request_timeout",
                    Kind::Seconds,
                    Optional,
                    "seconds that a request waits while too few downstairs are there, then it fails and the guest \
                     may try again; without it 25, behind virtio 150",
                ),
                key(
                    "degraded_activation",
                    Kind::Bool,
                    Default("false"),
                    "start with two of the three downstairs; the third joins by repair",
                ),
                key(
                    "encryption_key",
                    Kind::Secret,
                    Optional,
                    "256 bits in base64",
                ),
                key("cert_pem", Kind::Path, Optional, "client certificate"),
                key("key_pem", Kind::Path, Optional, "its private key"),
                key("root_cert_pem", Kind::Path, Optional, "root certificate"),
                key(
                    "control_addr",
                    Kind::Text,
                    Optional,
                    "ip:port of the control server",
                ),
            ],
            doc: "a replicated volume",
        },
        Variant {
            name: "crucible-mem",
            availability: Availability::Built,
            keys: &[key("size", SIZE, Required, "size in bytes")],
            doc: "a volume in memory behind the replicated volume's layers",
        },
    ],
};

const PCI_PATH: Key = key(
    "pci-path",
    Kind::PciPath,
    Required,
    "place on the PCI bus: \"bus.slot.function\"",
);
const DISK: Key = key(
    "block_dev",
    Kind::DiskName,
    Required,
    "name of its [block_dev] table",
);

/// `[dev.NAME]`.
pub const DEV: Family = Family {
    name: "dev",
    selector: "driver",
    common: &[],
    variants: &[
        Variant {
            name: "pci-nvme",
            availability: Availability::Built,
            keys: &[DISK, PCI_PATH],
            doc: "NVMe controller with one namespace",
        },
        Variant {
            name: "pci-virtio-block",
            availability: Availability::Built,
            keys: &[DISK, PCI_PATH],
            doc: "virtio disk",
        },
        Variant {
            name: "pci-virtio-rng",
            availability: Availability::Built,
            keys: &[PCI_PATH],
            doc: "virtio source of random bytes",
        },
        Variant {
            name: "qemu-pvpanic",
            availability: Availability::Built,
            keys: &[key(
                "enable_isa",
                Kind::Bool,
                Default("false"),
                "without it there is no such device",
            )],
            doc: "port 0x505, by which a guest reports a panic",
        },
        Variant {
            name: "isa-debug-exit",
            availability: Availability::Built,
            keys: &[key(
                "iobase",
                Kind::Integer {
                    min: 0,
                    max: 0xffff,
                },
                Default("0xf4"),
                "port; a write of N ends the process with (N << 1) | 1",
            )],
            doc: "lets a guest end the process",
        },
        Variant {
            name: "pci-virtio-viona",
            availability: Availability::NotYet,
            keys: &[
                key("vnic", Kind::Text, Required, "name of the VNIC"),
                PCI_PATH,
                key("rx-queue-size", QUEUE_SIZE, Default("2048"), "receive ring"),
                key("tx-queue-size", QUEUE_SIZE, Default("256"), "transmit ring"),
                key(
                    "tx_copy_data",
                    Kind::Bool,
                    Optional,
                    "copy transmitted data",
                ),
                key(
                    "tx_header_pad",
                    Kind::Integer {
                        min: 0,
                        max: 0xffff,
                    },
                    Optional,
                    "bytes before the header",
                ),
            ],
            doc: "virtio network device over viona",
        },
        Variant {
            name: "pci-virtio-socket",
            availability: Availability::NotYet,
            keys: &[
                PCI_PATH,
                key(
                    "guest_cid",
                    Kind::Integer {
                        min: 3,
                        max: u32::MAX as u64,
                    },
                    Required,
                    "address of the guest",
                ),
                key(
                    "port_mappings",
                    Kind::PortMappings,
                    Optional,
                    "guest port to host address",
                ),
            ],
            doc: "virtio socket",
        },
    ],
};

/// `[cpuid.NAME]`: this key and any number of leaves.
pub const CPUID: &[Key] = &[key(
    "vendor",
    Kind::Choice(&["amd", "intel"]),
    Required,
    "whose rules hold for leaves out of range",
)];

/// Names of the top-level tables.
pub const TOP_LEVEL: [&str; 5] = ["main", "block_dev", "dev", "cloudinit", "cpuid"];

impl Family {
    /// The variant of this name.
    pub fn variant(&self, name: &str) -> Option<&'static Variant> {
        self.variants.iter().find(|variant| variant.name == name)
    }

    /// All keys of a variant: the common ones, then its own.
    pub fn keys_of(
        &self,
        variant: &'static Variant,
    ) -> impl Iterator<Item = &'static Key> + Clone + use<> {
        let own = |key: &&Key| !variant.keys.iter().any(|it| it.name == key.name);
        self.common.iter().filter(own).chain(variant.keys)
    }

    /// Names of the variants whose own keys include `key`.
    pub fn owners_of(&self, key: &str) -> Vec<&'static str> {
        self.variants
            .iter()
            .filter(|variant| variant.keys.iter().any(|own| own.name == key))
            .map(|variant| variant.name)
            .collect()
    }
}

/// The known word that `word` was probably meant to be: fewest edits, at most a third of its length
/// (but always one), ties to the first.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|candidate| (edits(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours that turn `left` into `right`, with
/// `-` and `_` and the two cases taken as equal.
fn edits(left: &str, right: &str) -> usize {
    let fold = |text: &str| -> Vec<char> {
        text.chars()
            .take(64)
            .map(|c| {
                if c == '-' {
                    '_'
                } else {
                    c.to_ascii_lowercase()
                }
            })
            .collect()
    };
    let (left, right) = (fold(left), fold(right));
    let width = right.len() + 1;
    // Three rows suffice: a swap looks two rows back.
    let mut before = vec![0; width];
    let mut above: Vec<usize> = (0..width).collect();
    for (i, l) in left.iter().enumerate() {
        let mut row = vec![i + 1; width];
        for (j, r) in right.iter().enumerate() {
            let replaced = above[j] + usize::from(l != r);
            row[j + 1] = replaced.min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *l == right[j - 1] && left[i - 1] == *r {
                row[j + 1] = row[j + 1].min(before[j - 1] + 1);
            }
        }
        before = std::mem::replace(&mut above, row);
    }
    above[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_the_one_with_fewest_edits() {
        let known = ["name", "cpus", "memory", "bootrom", "bootrom_version"];
        for (typed, meant) in [
            ("worker", None),
            ("nmae", Some("name")),
            ("cpu", Some("cpus")),
            ("Memory", Some("memory")),
            ("bootrom-version", Some("bootrom_version")),
            ("boot_rom", Some("bootrom")),
            ("xyz", None),
            ("", None),
        ] {
            assert_eq!(nearest(typed, known), meant, "{typed}");
        }
    }

    #[test]
    fn no_table_names_a_key_twice() {
        let check = |keys: Vec<&Key>| {
            for (index, key) in keys.iter().enumerate() {
                assert!(
                    !keys[..index].iter().any(|other| other.name == key.name),
                    "{}",
                    key.name
                );
                assert!(
                    !key.doc.is_empty() && !key.doc.ends_with('.'),
                    "{}",
                    key.name
                );
            }
        };
        check(MAIN.iter().collect());
        check(CLOUDINIT.iter().collect());
        for family in [&BLOCK_DEV, &DEV] {
            for variant in family.variants {
                check(family.keys_of(variant).collect());
            }
        }
    }
}
