//! The documents at the root: they exist, their links lead somewhere, the map names every crate.

use std::fs;
use std::path::Path;

use super::Finding;

const PRESENT: &[&str] = &[
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "PROMISES.md",
    "LICENSE-MIT",
    "LICENSE-APACHE",
];

/// Checks that the documents exist and that the map names all `crates`.
pub(super) fn check_presence(root: &Path, crates: &[String], findings: &mut Vec<Finding>) {
    for name in PRESENT {
        if !root.join(name).is_file() {
            findings.push(Finding::new(name, 0, "missing", "write it"));
        }
    }
    if let Ok(map) = fs::read_to_string(root.join("ARCHITECTURE.md")) {
        check_map(&map, crates, findings);
    }
}

fn check_map(map: &str, crates: &[String], findings: &mut Vec<Finding>) {
    for name in crates {
        if !map.contains(&format!("`{name}`")) {
            findings.push(Finding::new(
                "ARCHITECTURE.md",
                0,
                format!("crate `{name}` is not on the map"),
                "add a line to the code map",
            ));
        }
    }
}

/// Checks the links of one document. `exists`: whether a path from the root leads somewhere.
pub(super) fn check_links(
    file: &str,
    content: &str,
    exists: impl Fn(&str) -> bool,
    findings: &mut Vec<Finding>,
) {
    let own = anchors(content);
    let directory = file.rsplit_once('/').map_or("", |(directory, _)| directory);
    for (line, target) in links(content) {
        if target.contains("://") || target.starts_with("mailto:") {
            continue;
        }
        let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
        if path.is_empty() {
            if !own.iter().any(|known| known == anchor) {
                findings.push(Finding::new(
                    file,
                    line,
                    format!("no heading for `#{anchor}`"),
                    "correct the link or the heading",
                ));
            }
        } else if !exists(&resolve(directory, path)) {
            findings.push(Finding::new(
                file,
                line,
                format!("the link to `{path}` leads nowhere"),
                "correct it, relative to the document",
            ));
        }
    }
}

/// Links `[text](target)` outside code, each with its line from 1.
fn links(content: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (index, line) in content.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            continue;
        }
        if fenced {
            continue;
        }
        // Pieces at even places lie outside of back quotes; a link's text may hold a pair of them,
        // so only the `](` must stand outside.
        let mut column = 0;
        for (place, piece) in line.split('`').enumerate() {
            if place % 2 == 0 {
                for (at, _) in piece.match_indices("](") {
                    let rest = &line[column + at + 2..];
                    if let Some((target, _)) = rest.split_once(')') {
                        found.push((index + 1, target));
                    }
                }
            }
            column += piece.len() + 1;
        }
    }
    found
}

/// Names that headings give to their places, as the usual viewers build them.
fn anchors(content: &str) -> Vec<String> {
    content
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            line.trim_start_matches('#')
                .trim()
                .to_lowercase()
                .chars()
                .filter(|character| character.is_alphanumeric() || " -_".contains(*character))
                .map(|character| if character == ' ' { '-' } else { character })
                .collect()
        })
        .collect()
}

/// Joins `directory` and `path`, both with `/`, and folds `.` and `..`.
fn resolve(directory: &str, path: &str) -> String {
    let mut parts: Vec<&str> = directory
        .split('/')
        .filter(|part| !part.is_empty())
        .collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whats(file: &str, content: &str, existing: &[&str]) -> Vec<String> {
        let mut findings = Vec::new();
        check_links(
            file,
            content,
            |path| existing.contains(&path),
            &mut findings,
        );
        findings.into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn links_are_followed_from_their_document() {
        assert!(
            whats(
                "docs/a.md",
                "see [b](../b.md#c) and [d](d.md)",
                &["b.md", "docs/d.md"]
            )
            .is_empty()
        );
        assert_eq!(
            whats("a.md", "[b](b.md)", &[]),
            ["the link to `b.md` leads nowhere"]
        );
    }

    #[test]
    fn anchors_need_a_heading() {
        let text = "# The house\n[a](#the-house) [b](#the-attic)\n";
        assert_eq!(whats("a.md", text, &[]), ["no heading for `#the-attic`"]);
    }

    #[test]
    fn code_holds_no_links() {
        assert!(whats("a.md", "```\n[a](b)\n```\n`[c](d)`\n", &[]).is_empty());
        assert_eq!(whats("a.md", "[`c`](d)\n", &[]).len(), 1);
    }

    #[test]
    fn foreign_addresses_are_not_followed() {
        assert!(whats("a.md", "[a](https://example.invalid/)", &[]).is_empty());
    }

    #[test]
    fn the_map_names_every_crate() {
        let mut findings = Vec::new();
        check_map(
            "`block` and devices",
            &["block".into(), "devices".into()],
            &mut findings,
        );
        assert_eq!(findings.len(), 1);
    }
}
