//! A reader for the few shapes of `Cargo.toml` that the arrow rules look at.
//!
//! It knows table headers and `key = value` lines, which is all that our manifests use; a value over
//! several lines would show as odd keys and be refused by the rules, which is the right outcome.

/// One `key = value` line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    /// Line number from 1.
    pub(super) line: usize,
    /// The table it stands in, without brackets: `dependencies`.
    pub(super) table: &'a str,
    /// The first part of the key, without quotes: `libc` of `libc.workspace`.
    pub(super) key: &'a str,
    /// The rest of the key: `workspace` of `libc.workspace`; empty when there is none.
    pub(super) subkey: &'a str,
    /// The value as written, with any comment after it.
    pub(super) value: &'a str,
}

impl Entry<'_> {
    /// Whether the value is taken from the workspace's own table.
    pub(super) fn is_inherited(&self) -> bool {
        let in_key = self.subkey == "workspace" && self.value.starts_with("true");
        let compact: String = self.value.split_whitespace().collect();
        in_key || compact.contains("workspace=true")
    }

    /// Whether the table lists dependencies: of the build, of tests, or of one target.
    pub(super) fn is_dependency(&self) -> bool {
        let last = self.table.rsplit('.').next().unwrap_or(self.table);
        let plain = matches!(
            last,
            "dependencies" | "dev-dependencies" | "build-dependencies"
        );
        plain && !self.table.starts_with("workspace")
    }
}

/// Reads all entries of a manifest.
pub(super) fn entries(content: &str) -> Vec<Entry<'_>> {
    let mut table = "";
    let mut entries = Vec::new();
    for (index, line) in content.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(header) = line.strip_prefix('[') {
            table = header
                .split(']')
                .next()
                .unwrap_or(header)
                .trim_start_matches('[')
                .trim();
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            continue;
        };
        let key = key.trim();
        let (key, subkey) = key.split_once('.').unwrap_or((key, ""));
        entries.push(Entry {
            line: index + 1,
            table,
            key: key.trim().trim_matches('"'),
            subkey: subkey.trim(),
            value: value.trim(),
        });
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_keys_and_lines_are_read() {
        let text = "[package]\nname = \"a\"\n\n[dependencies]\nb.workspace = true\nc = { workspace = true }\n";
        let entries = entries(text);
        assert_eq!(entries.len(), 3);
        assert_eq!(
            (entries[1].line, entries[1].key, entries[1].table),
            (5, "b", "dependencies")
        );
        assert!(entries[1].is_inherited() && entries[1].is_dependency());
        assert!(entries[2].is_inherited() && entries[2].is_dependency());
        assert!(!entries[0].is_dependency());
    }

    #[test]
    fn target_tables_list_dependencies_too() {
        let text = "[target.'cfg(target_os = \"linux\")'.dependencies]\nio-uring = \"0.7\"\n";
        let entries = entries(text);
        assert!(entries[0].is_dependency());
        assert!(!entries[0].is_inherited());
    }

    #[test]
    fn the_workspace_table_is_a_price_list_and_no_dependency() {
        assert!(!entries("[workspace.dependencies]\na = \"1\"\n")[0].is_dependency());
    }
}
