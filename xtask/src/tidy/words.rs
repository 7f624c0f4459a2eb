//! Words that must not be committed, in any file.
//!
//! The words below are written in two halves, so that this file passes its own rule.

use super::Finding;
use super::lexer::is_word_character;

struct Word {
    text: &'static str,
    what: &'static str,
    way_out: &'static str,
    place: Place,
}

/// Where a word is forbidden.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Everywhere,
    RustOnly,
}

const UNFINISHED: &str = "finish it, or file an issue and assert today's behaviour";
const DEBUGGING: &str = "take it out, or use `tracing`";
const HOST: &str = "name the package, and let the client's own configuration find it";
const MACHINE: &str = "build the path from the workspace root or a temporary directory";

const WORDS: &[Word] = &[
    word(
        concat!("to", "do!("),
        "unfinished code",
        UNFINISHED,
        Place::RustOnly,
    ),
    word(
        concat!("unimple", "mented!("),
        "unfinished code",
        UNFINISHED,
        Place::RustOnly,
    ),
    word(
        concat!("d", "bg!("),
        "a debugging aid",
        DEBUGGING,
        Place::RustOnly,
    ),
    word(
        concat!("#[ig", "nore"),
        "a test that never runs",
        UNFINISHED,
        Place::RustOnly,
    ),
    word(
        concat!("FIX", "ME"),
        "a note to oneself",
        UNFINISHED,
        Place::Everywhere,
    ),
    word(
        concat!("XX", "X"),
        "a note to oneself",
        UNFINISHED,
        Place::Everywhere,
    ),
    word(
        concat!("TO", "DO"),
        "a note to oneself",
        UNFINISHED,
        Place::Everywhere,
    ),
    word(
        concat!("crates", ".io"),
        "a registry's host",
        HOST,
        Place::Everywhere,
    ),
    word(
        concat!("pypi", ".org"),
        "a registry's host",
        HOST,
        Place::Everywhere,
    ),
    word(
        concat!("npmjs", ".org"),
        "a registry's host",
        HOST,
        Place::Everywhere,
    ),
    word(
        concat!("deb.deb", "ian.org"),
        "a registry's host",
        HOST,
        Place::Everywhere,
    ),
    word(
        concat!("ftp.deb", "ian.org"),
        "a registry's host",
        HOST,
        Place::Everywhere,
    ),
    word(
        concat!("security.deb", "ian.org"),
        "a registry's host",
        HOST,
        Place::Everywhere,
    ),
    word(
        concat!("proxy.gol", "ang.org"),
        "a registry's host",
        HOST,
        Place::Everywhere,
    ),
    word(
        concat!("/wo", "rk/"),
        "a path of one machine",
        MACHINE,
        Place::Everywhere,
    ),
    word(
        concat!("/ho", "me/"),
        "a path of one machine",
        MACHINE,
        Place::Everywhere,
    ),
    word(
        concat!("/tmp/tar", "get-"),
        "a path of one machine",
        MACHINE,
        Place::Everywhere,
    ),
    word(
        concat!("/ro", "ot/.cargo"),
        "a path of one machine",
        MACHINE,
        Place::Everywhere,
    ),
];

const fn word(text: &'static str, what: &'static str, way_out: &'static str, place: Place) -> Word {
    Word {
        text,
        what,
        way_out,
        place,
    }
}

/// Adds a finding for each line of `content` that holds a forbidden word.
pub(super) fn check(file: &str, content: &str, findings: &mut Vec<Finding>) {
    let is_rust = file.ends_with(".rs");
    for (index, line) in content.lines().enumerate() {
        for word in WORDS {
            if word.place == Place::RustOnly && !is_rust {
                continue;
            }
            if holds(line, word.text) {
                findings.push(Finding::new(
                    file,
                    index + 1,
                    format!("`{}` is {}", word.text, word.what),
                    word.way_out,
                ));
            }
        }
    }
}

/// Whether `line` holds `text` as a word of its own: no letter or digit touches it on a side where
/// it has one itself.
pub(super) fn holds(line: &str, text: &str) -> bool {
    let starts_as_word = text.chars().next().is_some_and(is_word_character);
    let ends_as_word = text.chars().next_back().is_some_and(is_word_character);
    line.match_indices(text).any(|(at, _)| {
        let before = line[..at]
            .chars()
            .next_back()
            .is_some_and(is_word_character);
        let after = line[at + text.len()..]
            .chars()
            .next()
            .is_some_and(is_word_character);
        !(starts_as_word && before || ends_as_word && after)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_line(file: &str, line: &str) -> usize {
        let mut findings = Vec::new();
        check(file, line, &mut findings);
        findings.len()
    }

    #[test]
    fn every_word_is_found_in_rust() {
        for word in WORDS {
            assert!(
                check_line("a.rs", &format!("  {} ", word.text)) >= 1,
                "{}",
                word.text
            );
        }
    }

    #[test]
    fn a_word_inside_another_does_not_count() {
        let longer = concat!("XX", "XX");
        assert_eq!(check_line("a.rs", longer), 0);
        assert!(!holds("methodology", "method"));
        assert!(holds("a method", "method"));
    }

    #[test]
    fn prose_may_speak_of_macros() {
        assert_eq!(check_line("a.md", concat!("no to", "do!() here")), 0);
    }
}
