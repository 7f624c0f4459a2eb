//! Rules for every text file: characters, line ends, length.

use super::Finding;

/// A Rust file longer than this has a second noun in it.
const RUST_LINES_MAX: usize = 900;

/// Endings of the text files that the rules look at.
const ENDINGS: &[&str] = &[".rs", ".toml", ".md", ".sh", ".yml", ".yaml"];

/// Directories of data that tests read byte for byte.
const DATA: &[&str] = &["fixtures/", "golden/", "corpus/"];

/// Whether the rules speak about this file.
pub(super) fn is_ours(file: &str) -> bool {
    let is_data = DATA
        .iter()
        .any(|directory| file.starts_with(directory) || file.contains(&format!("/{directory}")));
    let is_text = ENDINGS.iter().any(|ending| file.ends_with(ending)) || file == ".ci/run";
    is_text && !is_data
}

/// Adds a finding for each line with a bad character or end, and one for a file that is too long.
pub(super) fn check(file: &str, content: &str, findings: &mut Vec<Finding>) {
    let mut lines = 0;
    for (index, line) in content.split('\n').enumerate() {
        lines = index + 1;
        let mut add = |what: String, way_out: &str| {
            findings.push(Finding::new(file, index + 1, what, way_out));
        };
        if line.ends_with([' ', '\t', '\r']) {
            add(
                "white space at the end of the line".to_owned(),
                "cut it off",
            );
        }
        if let Some(bad) = line.chars().find(|character| is_bad(*character)) {
            let code = u32::from(bad);
            add(
                format!("control character U+{code:04X}"),
                "write it as an escape, or use spaces",
            );
        }
    }
    if !content.is_empty() && !content.ends_with('\n') {
        findings.push(Finding::new(
            file,
            lines,
            "no newline at the end of the file",
            "add one",
        ));
    }
    let length = content.lines().count();
    if file.ends_with(".rs") && length > RUST_LINES_MAX {
        findings.push(Finding::new(
            file,
            0,
            format!("{length} lines, at most {RUST_LINES_MAX} are allowed"),
            "look for a second noun and give it a file",
        ));
    }
}

/// Control characters, and the invisible ones that make text read differently from what it is.
fn is_bad(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whats(file: &str, content: &str) -> Vec<String> {
        let mut findings = Vec::new();
        check(file, content, &mut findings);
        findings
            .into_iter()
            .map(|finding| format!("{}: {}", finding.line, finding.what))
            .collect()
    }

    #[test]
    fn clean_text_passes() {
        assert!(whats("a.md", "one\ntwo µs → done\n").is_empty());
        assert!(whats("a.md", "").is_empty());
    }

    #[test]
    fn tabs_and_trailing_space_are_found() {
        assert_eq!(whats("a.md", "a\tb\n"), ["1: control character U+0009"]);
        assert_eq!(
            whats("a.md", "x\na \n"),
            ["2: white space at the end of the line"]
        );
    }

    #[test]
    fn the_last_line_ends() {
        assert_eq!(
            whats("a.md", "a\nb"),
            ["2: no newline at the end of the file"]
        );
    }

    #[test]
    fn direction_marks_are_found() {
        assert_eq!(
            whats("a.rs", "a\u{202e}b\n"),
            ["1: control character U+202E"]
        );
    }

    #[test]
    fn nine_hundred_lines_are_enough() {
        let allowed = "//\n".repeat(RUST_LINES_MAX);
        assert!(whats("a.rs", &allowed).is_empty());
        assert_eq!(
            whats("a.rs", &format!("{allowed}//\n")),
            ["0: 901 lines, at most 900 are allowed"]
        );
    }

    #[test]
    fn data_is_left_alone() {
        assert!(is_ours("crates/a/src/b.rs"));
        assert!(is_ours(".ci/run"));
        assert!(!is_ours("crates/a/tests/golden/b.md"));
        assert!(!is_ours("Cargo.lock"));
        assert!(!is_ours("a.png"));
    }
}
