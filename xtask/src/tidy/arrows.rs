//! The arrows between crates: they point down only, and every manifest says so.
//!
//! The table is the one of `ARCHITECTURE.md`; a new arrow is a design question first and a line here
//! afterwards.

use super::Finding;
use super::manifest::{Entry, entries};

/// A crate and the crates of the house that it may stand on.
struct Floor {
    krate: &'static str,
    may: &'static [&'static str],
}

/// The house, from the ground up. What is not listed may not be used.
const HOUSE: &[Floor] = &[
    Floor {
        krate: "vm-types",
        may: &[],
    },
    Floor {
        krate: "bhyve-api",
        may: &[],
    },
    Floor {
        krate: "softcpu",
        may: &["vm-types"],
    },
    Floor {
        krate: "block",
        may: &["vm-types"],
    },
    Floor {
        krate: "crucible-protocol",
        may: &["vm-types"],
    },
    Floor {
        krate: "bounded-listener",
        may: &[],
    },
    Floor {
        krate: "devices",
        may: &["block", "vm-types"],
    },
    Floor {
        krate: "crucible-upstairs",
        may: &["bounded-listener", "crucible-protocol", "block", "vm-types"],
    },
    Floor {
        krate: "crucible-downstairs",
        may: &["bounded-listener", "crucible-protocol", "vm-types"],
    },
    Floor {
        krate: "vmm",
        may: &["devices", "block", "softcpu", "bhyve-api", "vm-types"],
    },
    Floor {
        krate: "standalone",
        may: &[
            "bounded-listener",
            "vmm",
            "devices",
            "block",
            "crucible-upstairs",
            "crucible-protocol",
            "vm-types",
        ],
    },
    Floor {
        krate: "dsc",
        may: &["bounded-listener", "crucible-protocol", "vm-types"],
    },
    Floor {
        krate: "crutest",
        may: &[
            "crucible-upstairs",
            "crucible-protocol",
            "block",
            "vm-types",
        ],
    },
    Floor {
        krate: "crucible-pantry",
        may: &[
            "bounded-listener",
            "crucible-upstairs",
            "crucible-protocol",
            "vm-types",
        ],
    },
    Floor {
        krate: "sim",
        may: LIBRARIES,
    },
    Floor {
        krate: "fuzz",
        may: LIBRARIES,
    },
    Floor {
        krate: "benches",
        may: LIBRARIES,
    },
    Floor {
        krate: "xtask",
        may: &[],
    },
];

/// What the workshop may use: everything but programs. `standalone`'s library half reads foreign
/// TOML, which is worth fuzzing, and so it counts.
const LIBRARIES: &[&str] = &[
    "vm-types",
    "bhyve-api",
    "softcpu",
    "block",
    "crucible-protocol",
    "bounded-listener",
    "devices",
    "crucible-upstairs",
    "crucible-downstairs",
    "vmm",
    "standalone",
];

/// Foreign crates that only some crates may use.
struct Foreign {
    name: &'static str,
    only: &'static [&'static str],
    why: &'static str,
}

const TERMINAL: &[&str] = &[
    "standalone",
    "dsc",
    "crutest",
    "crucible-pantry",
    "crucible-downstairs",
    "crucible-upstairs",
    "sim",
    "fuzz",
    "benches",
    "xtask",
];

/// Crates with sockets of their own.
const NETWORK: &[&str] = &[
    "bounded-listener",
    "crucible-upstairs",
    "crucible-downstairs",
    "standalone",
    "dsc",
    "crutest",
    "crucible-pantry",
];

const FOREIGN: &[Foreign] = &[
    Foreign {
        name: "tokio",
        only: NETWORK,
        why: "the drivers of the volume and the control socket own the sockets",
    },
    Foreign {
        name: "axum",
        only: NETWORK,
        why: "the drivers of the volume and the control socket own the sockets",
    },
    Foreign {
        name: "aws-lc-rs",
        only: &["crucible-upstairs", "benches"],
        why: "keys stay in crucible-upstairs/src/crypt",
    },
    Foreign {
        name: "aes-gcm-siv",
        only: &["crucible-upstairs", "benches"],
        why: "keys stay in crucible-upstairs/src/crypt",
    },
    Foreign {
        name: "rusqlite",
        only: &["crucible-downstairs"],
        why: "the old extent format is crucible-downstairs/src/store's business",
    },
    Foreign {
        name: "clap",
        only: TERMINAL,
        why: "a library has no command line",
    },
    Foreign {
        name: "tracing-subscriber",
        only: TERMINAL,
        why: "the program chooses the log",
    },
    Foreign {
        name: "signal-hook",
        only: TERMINAL,
        why: "signals belong to the program",
    },
    Foreign {
        name: "toml",
        only: &["standalone", "dsc"],
        why: "a library reads no configuration",
    },
    Foreign {
        name: "iced-x86",
        only: &["softcpu"],
        why: "instructions are softcpu's business",
    },
    Foreign {
        name: "rustc_apfloat",
        only: &["softcpu"],
        why: "the x87 is softcpu's business",
    },
    Foreign {
        name: "kvm-ioctls",
        only: &["vmm"],
        why: "KVM is vmm/src/hypervisor's business",
    },
    Foreign {
        name: "kvm-bindings",
        only: &["vmm"],
        why: "KVM is vmm/src/hypervisor's business",
    },
];

/// Fields that every package takes from the workspace, so that they say the same everywhere.
const INHERITED: &[&str] = &["version", "edition", "rust-version", "license", "publish"];

/// Adds the findings of one manifest. `crates`: names of the crates under `crates/`.
pub(super) fn check(file: &str, content: &str, crates: &[String], findings: &mut Vec<Finding>) {
    let entries = entries(content);
    if file == "Cargo.toml" {
        check_workspace(file, content, &entries, findings);
        return;
    }
    let directory = file.trim_end_matches("/Cargo.toml");
    let krate = directory.rsplit('/').next().unwrap_or(directory);
    check_package(file, krate, &entries, findings);

    let Some(floor) = HOUSE.iter().find(|floor| floor.krate == krate) else {
        findings.push(Finding::new(
            file,
            1,
            format!("crate `{krate}` has no place in the house"),
            "decide what it stands on, and add it to ARCHITECTURE.md and tidy's table",
        ));
        return;
    };
    for entry in entries.iter().filter(|entry| entry.is_dependency()) {
        let name = entry.key;
        let is_ours = crates.iter().any(|known| known == name)
            || HOUSE.iter().any(|floor| floor.krate == name);
        if is_ours && !floor.may.contains(&name) {
            findings.push(Finding::new(
                file,
                entry.line,
                format!("`{krate}` -> `{name}` is no arrow of the house"),
                "pass a narrow handle from above, or move the shared type down to vm-types",
            ));
        }
        if let Some(rule) = FOREIGN.iter().find(|rule| rule.name == name)
            && !rule.only.contains(&krate)
        {
            findings.push(Finding::new(
                file,
                entry.line,
                format!("`{name}` in `{krate}`: {}", rule.why),
                format!("leave it to {}", rule.only.join(", ")),
            ));
        }
        if !entry.is_inherited() {
            findings.push(Finding::new(
                file,
                entry.line,
                format!("`{name}` has its own version here"),
                format!("list it in [workspace.dependencies] and write `{name}.workspace = true`"),
            ));
        }
    }
}

fn check_package(file: &str, krate: &str, entries: &[Entry<'_>], findings: &mut Vec<Finding>) {
    for field in INHERITED {
        let inherited = entries
            .iter()
            .any(|entry| entry.table == "package" && entry.key == *field && entry.is_inherited());
        if !inherited {
            findings.push(Finding::new(
                file,
                1,
                format!("[package] has no `{field}.workspace = true`"),
                "add it",
            ));
        }
    }
    let named = entries
        .iter()
        .find(|entry| entry.table == "package" && entry.key == "name" && entry.subkey.is_empty());
    if named.is_none_or(|entry| entry.value.trim_matches('"') != krate) {
        findings.push(Finding::new(
            file,
            1,
            format!("the package's name is not its directory's, `{krate}`"),
            "give both the same name",
        ));
    }
    let lints = entries.iter().any(|entry| {
        entry.table == "lints" && entry.key == "workspace" && entry.value.starts_with("true")
    });
    if !lints {
        findings.push(Finding::new(
            file,
            1,
            "the package does not take the workspace's lints",
            "add `[lints] workspace = true`",
        ));
    }
}

fn check_workspace(file: &str, content: &str, entries: &[Entry<'_>], findings: &mut Vec<Finding>) {
    let lines: Vec<&str> = content.lines().collect();
    for entry in entries
        .iter()
        .filter(|entry| entry.table == "workspace.dependencies")
    {
        let explained = lines
            .get(entry.line - 1)
            .is_some_and(|line| line.trim_end().contains(" # "));
        let ours = entry.value.contains("path =");
        if !ours && !explained {
            findings.push(Finding::new(
                file,
                entry.line,
                format!("`{}` stands here without a reason", entry.key),
                "say what it is for in a comment on the same line",
            ));
        }
    }
    let licensed = entries
        .iter()
        .any(|entry| entry.table == "workspace.package" && entry.key == "license");
    if !licensed {
        findings.push(Finding::new(
            file,
            1,
            "[workspace.package] has no licence",
            "write license = \"MIT OR Apache-2.0\"",
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "[package]\nname = \"NAME\"\nversion.workspace = true\n\
        edition.workspace = true\nrust-version.workspace = true\nlicense.workspace = true\n\
        publish.workspace = true\n[lints]\nworkspace = true\n";

    fn whats(krate: &str, rest: &str) -> Vec<String> {
        let content = format!("{}{rest}", HEAD.replace("NAME", krate));
        let mut findings = Vec::new();
        let crates = ["vmm".to_owned(), "devices".to_owned()];
        check(
            &format!("crates/{krate}/Cargo.toml"),
            &content,
            &crates,
            &mut findings,
        );
        findings.into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn arrows_point_down() {
        assert!(whats("vmm", "[dependencies]\ndevices.workspace = true\n").is_empty());
        assert_eq!(
            whats("devices", "[dependencies]\nvmm.workspace = true\n"),
            ["`devices` -> `vmm` is no arrow of the house"]
        );
    }

    #[test]
    fn arrows_hold_in_tests_and_on_every_target() {
        assert_eq!(
            whats("block", "[dev-dependencies]\ndevices.workspace = true\n").len(),
            1
        );
        let target = "[target.'cfg(unix)'.dependencies]\ndevices.workspace = true\n";
        assert_eq!(whats("block", target).len(), 1);
    }

    #[test]
    fn command_lines_belong_to_programs() {
        assert_eq!(
            whats("block", "[dependencies]\nclap.workspace = true\n"),
            ["`clap` in `block`: a library has no command line"]
        );
        assert!(whats("standalone", "[dependencies]\nclap.workspace = true\n").is_empty());
    }

    #[test]
    fn versions_live_in_one_place() {
        assert_eq!(
            whats("block", "[dependencies]\nlibc = \"0.2\"\n"),
            ["`libc` has its own version here"]
        );
    }

    #[test]
    fn an_unknown_crate_is_a_design_question() {
        assert_eq!(
            whats("attic", ""),
            ["crate `attic` has no place in the house"]
        );
    }

    #[test]
    fn licence_and_lints_are_inherited() {
        let mut findings = Vec::new();
        let content = "[package]\nname = \"block\"\n";
        check("crates/block/Cargo.toml", content, &[], &mut findings);
        let whats: Vec<&str> = findings
            .iter()
            .map(|finding| finding.what.as_str())
            .collect();
        assert!(whats.contains(&"[package] has no `license.workspace = true`"));
        assert!(whats.contains(&"the package does not take the workspace's lints"));
    }

    #[test]
    fn a_foreign_crate_needs_a_reason() {
        let mut findings = Vec::new();
        let content = "[workspace.package]\nlicense = \"MIT\"\n[workspace.dependencies]\n\
            a = \"1\"\nb = \"2\" # numbers\nc = { path = \"crates/c\" }\n";
        check("Cargo.toml", content, &[], &mut findings);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].line, 4);
    }

    #[test]
    fn the_table_itself_has_no_cycle() {
        for (index, floor) in HOUSE.iter().enumerate() {
            for below in floor.may {
                let place = HOUSE.iter().position(|other| other.krate == *below);
                assert!(
                    place.is_some_and(|place| place < index),
                    "{} -> {below}",
                    floor.krate
                );
            }
        }
    }
}
