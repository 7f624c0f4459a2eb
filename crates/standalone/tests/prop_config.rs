//! Any text as a configuration: it is understood or refused, and what is understood survives being printed.

use proptest::prelude::*;
use standalone::config;

/// Words that mean something somewhere, so that combinations get past the first check.
fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "main",
            "block_dev",
            "dev",
            "cloudinit",
            "cpuid",
            "name",
            "cpus",
            "memory",
            "kernel",
            "bootrom",
            "type",
            "driver",
            "path",
            "size",
            "block_size",
            "workers",
            "pci-path",
            "user-data",
            "vendor",
            "clock",
            "serial",
            "boot_order",
            "targets",
            "read_only",
            "generation",
            "blocks_per_extent",
            "extent_count",
            "encryption_key",
            "request_timeout",
            "cert_pem",
        ])
        .prop_map(str::to_owned),
        "[a-z0-9_-]{1,8}",
    ]
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "\"file\"",
            "\"null\"",
            "\"mem-async\"",
            "\"crucible\"",
            "\"crucible-mem\"",
            "[\"127.0.0.1:1\", \"127.0.0.1:2\", \"[::1]:3\"]",
            "\"pci-nvme\"",
            "\"cloudinit\"",
            "\"0.4.0\"",
            "\"amd\"",
            "\"virtual\"",
            "true",
            "[1, 2, 3, 4]",
            "[\"a\"]",
            "{ a = 1 }",
            "1979-05-27",
            "1.5",
            "inf",
            "-1",
            "18446744073709551615",
            "512",
            "\"/dev/null\"",
            "''",
        ])
        .prop_map(str::to_owned),
        any::<i64>().prop_map(|number| number.to_string()),
        "[ -~]{0,12}",
    ]
}

fn line() -> impl Strategy<Value = String> {
    prop_oneof![
        word().prop_map(|name| format!("[{name}]")),
        (word(), word()).prop_map(|(family, name)| format!("[{family}.{name}]")),
        (word(), value()).prop_map(|(key, value)| format!("{key} = {value}")),
    ]
}

proptest! {
    #[test]
    fn any_lines_are_understood_or_refused(lines in prop::collection::vec(line(), 0..16)) {
        let text = lines.join("\n");
        if let Err(errors) = config::parse("any.toml".into(), &text) {
            prop_assert!(!errors.is_empty());
            for error in errors {
                let text = error.to_string();
                prop_assert!(text.starts_with("any.toml:"), "{}", text);
                prop_assert!(error.place.line >= 1);
            }
        }
    }

    #[test]
    fn any_bytes_are_understood_or_refused(text in "\\PC{0,64}") {
        prop_assert!(config::parse("any.toml".into(), &text).is_err());
    }

    #[test]
    fn what_is_printed_means_the_same(
        cpus in 1u8..=32,
        memory in 1u32..100_000,
        bytes in 1u32..1000,
        cmdline in "[ -~]{0,40}",
        data in "[ -~\n\t]{0,40}",
        order in any::<bool>(),
    ) {
        let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
        let kernel = format!("{}/tests/prop_config.rs", env!("CARGO_MANIFEST_DIR"));
        let order = if order { "boot_order = [\"d\"]\n" } else { "" };
        let text = format!(
            "[main]\nname = \"p\"\ncpus = {cpus}\nmemory = {memory}\nbootrom = \"/dev/zero\"\n{order}\
             [block_dev.x]\ntype = \"mem-async\"\nsize = {}\n[dev.d]\ndriver = \"pci-nvme\"\n\
             block_dev = \"x\"\npci-path = \"0.9.0\"\n[cloudinit]\nuser-data = {}\nmeta-data-path = {}\n",
            u64::from(bytes) * 512,
            quoted(&data),
            quoted(&kernel),
        );
        // A device file has no length: the one complaint is about the ROM. Without it, all is well.
        let errors = config::parse("a.toml".into(), &text).map(|_| ()).map_err(|errors| errors.len());
        prop_assert_eq!(errors, Err(1));
        let refused = text.replace("bootrom = \"/dev/zero\"", &format!("cmdline = {}", quoted(&cmdline)));
        prop_assert!(config::parse("b.toml".into(), &refused).is_err());
    }
}
