//! Rules for Rust sources: the module doc, and what may not be named where.

use super::Finding;
use super::lexer::{Masked, mask};
use super::words::holds;

/// Crates whose business is the terminal: their output and environment are their own.
const PROGRAMS: &[&str] = &["standalone", "dsc", "crutest", "sim"];

/// A set of names that may not be used in some places.
struct Ban {
    names: &'static [&'static str],
    /// Whether string literals count too (device nodes), or code only.
    in_strings: bool,
    /// Whether test code may use the names.
    tests_may: bool,
    applies: fn(&Place<'_>) -> bool,
    what: &'static str,
    way_out: &'static str,
}

const BANS: &[Ban] = &[
    Ban {
        names: &[
            "tokio",
            // Addresses are only data.
            "TcpStream",
            "TcpListener",
            "UdpSocket",
            "UnixStream",
            "ToSocketAddrs",
            "std::fs",
            "std::thread",
            "std::os",
            "Instant::now",
            "SystemTime::now",
        ],
        in_strings: false,
        tests_may: false,
        applies: |place| place.in_core,
        what: "a sans-IO core may not name it",
        way_out: "make it an action that the driver performs, or an event that it delivers",
    },
    Ban {
        names: &["println!", "print!", "eprintln!", "eprint!"],
        in_strings: false,
        tests_may: true,
        applies: |place| place.is_library,
        what: "a library does not print",
        way_out: "return the text, or log it with `tracing`",
    },
    Ban {
        names: &["std::env", "env::var", "env::args", "process::exit"],
        in_strings: false,
        tests_may: true,
        applies: |place| place.is_library,
        what: "a library knows no environment and ends no process",
        way_out: "take the value as an argument from the program",
    },
    Ban {
        names: &[
            "kvm_ioctls",
            "kvm_bindings",
            "bhyve_api",
            "/dev/kvm",
            "/dev/vmm",
            "/dev/vmmctl",
        ],
        in_strings: true,
        tests_may: false,
        applies: |place| !place.may_name_hypervisors,
        what: "only vmm/src/hypervisor speaks to KVM and bhyve",
        way_out: "ask for it through the traits `Hypervisor`, `Vm` and `Vcpu`",
    },
];

/// What a path says about a source file.
struct Place<'a> {
    /// The crate's name, or empty outside `crates/`.
    krate: &'a str,
    in_core: bool,
    is_library: bool,
    may_name_hypervisors: bool,
    /// Under `tests/`, `benches/` or `examples/`.
    is_test: bool,
}

impl<'a> Place<'a> {
    fn of(file: &'a str) -> Place<'a> {
        let inside = file.strip_prefix("crates/");
        let (krate, rest) = inside
            .and_then(|rest| rest.split_once('/'))
            .unwrap_or(("", file));
        let is_test = ["tests/", "benches/", "examples/"]
            .iter()
            .any(|at| rest.starts_with(at))
            || rest.ends_with("/tests.rs")
            || rest.contains("/tests/");
        let is_binary = rest == "src/main.rs" || rest.starts_with("src/bin/");
        Place {
            krate,
            in_core: !krate.is_empty() && rest.starts_with("src/core/"),
            is_library: !krate.is_empty() && !PROGRAMS.contains(&krate) && !is_binary,
            may_name_hypervisors: krate == "bhyve-api"
                || krate.is_empty()
                || (krate == "vmm" && rest.starts_with("src/hypervisor")),
            is_test,
        }
    }
}

/// Adds the findings of one source file.
pub(super) fn check(file: &str, content: &str, findings: &mut Vec<Finding>) {
    if !content.starts_with("//! ") {
        findings.push(Finding::new(
            file,
            1,
            "the file does not start with its `//!` doc",
            "say on line 1 what idea lives here",
        ));
    }
    let place = Place::of(file);
    let masked = mask(content);
    for ban in BANS {
        if (ban.applies)(&place) {
            check_ban(file, &place, &masked, ban, findings);
        }
    }
}

fn check_ban(
    file: &str,
    place: &Place<'_>,
    masked: &Masked,
    ban: &Ban,
    findings: &mut Vec<Finding>,
) {
    let text = if ban.in_strings {
        &masked.code_and_strings
    } else {
        &masked.code
    };
    for (index, line) in text.lines().enumerate() {
        let is_test = place.is_test || masked.in_test.get(index).copied().unwrap_or(false);
        if is_test && ban.tests_may {
            continue;
        }
        for name in ban.names {
            if holds(line, name) {
                let subject = if place.krate.is_empty() {
                    "this file"
                } else {
                    place.krate
                };
                findings.push(Finding::new(
                    file,
                    index + 1,
                    format!("`{name}` in {subject}: {}", ban.what),
                    ban.way_out,
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(file: &str, content: &str) -> Vec<usize> {
        let mut findings = Vec::new();
        check(file, content, &mut findings);
        findings.into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn the_module_doc_comes_first() {
        assert_eq!(lines("crates/block/src/a.rs", "use b;\n"), [1]);
        assert_eq!(lines("crates/block/src/a.rs", "// a\n//! b\n"), [1]);
        assert!(lines("crates/block/src/a.rs", "//! A.\n").is_empty());
    }

    #[test]
    fn a_core_has_no_clock_and_no_files() {
        let source = "//! A.\nuse std::fs;\n// std::net is prose\nlet a = Instant::now();\n";
        assert_eq!(
            lines("crates/crucible-upstairs/src/core/a.rs", source),
            [2, 4]
        );
        assert!(lines("crates/crucible-upstairs/src/drive/a.rs", source).is_empty());
    }

    #[test]
    fn libraries_neither_print_nor_look_around() {
        let source = "//! A.\nprintln!();\nlet a = std::env::var(b);\n";
        assert_eq!(lines("crates/block/src/a.rs", source), [2, 3, 3]);
        assert!(lines("crates/standalone/src/a.rs", source).is_empty());
        assert!(lines("crates/crucible-downstairs/src/main.rs", source).is_empty());
        assert!(lines("crates/block/tests/a.rs", source).is_empty());
    }

    #[test]
    fn test_modules_may_print() {
        let source = "//! A.\n#[cfg(test)]\nmod tests {\n    println!();\n}\n";
        assert!(lines("crates/block/src/a.rs", source).is_empty());
    }

    #[test]
    fn env_macros_are_no_environment() {
        assert!(lines("crates/block/src/a.rs", "//! A.\nlet a = env!(\"A\");\n").is_empty());
    }

    #[test]
    fn one_directory_speaks_to_hypervisors() {
        let source = "//! A.\nopen(\"/dev/kvm\");\nbhyve_api::run();\n";
        assert_eq!(lines("crates/vmm/src/machine/a.rs", source), [2, 3]);
        assert_eq!(lines("crates/standalone/src/a.rs", source), [2, 3]);
        assert!(lines("crates/vmm/src/hypervisor/kvm.rs", source).is_empty());
        assert!(lines("crates/bhyve-api/src/a.rs", source).is_empty());
    }
}
