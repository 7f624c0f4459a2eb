//! Just enough of Rust's lexical grammar to tell code from comments and string literals.
//!
//! The rules ask "does this line *use* `x`?", and prose about `x` must not count. The answer needs
//! no parser: comments, strings, raw strings, byte strings and character literals are enough.

/// A source text in three readings with the same lines and columns.
#[derive(Debug)]
pub(super) struct Masked {
    /// Comments and the content of literals are blanks.
    pub(super) code: String,
    /// Only comments are blanks.
    pub(super) code_and_strings: String,
    /// For each line (from 0), whether it lies in an item under `#[cfg(test)]`.
    pub(super) in_test: Vec<bool>,
}

/// Reads `source` and blanks what is not code.
pub(super) fn mask(source: &str) -> Masked {
    let mut reader = Reader {
        input: source.chars().collect(),
        at: 0,
        code: String::with_capacity(source.len()),
        code_and_strings: String::with_capacity(source.len()),
    };
    reader.read_all();
    let in_test = test_lines(&reader.code);
    Masked {
        code: reader.code,
        code_and_strings: reader.code_and_strings,
        in_test,
    }
}

struct Reader {
    input: Vec<char>,
    at: usize,
    code: String,
    code_and_strings: String,
}

#[derive(Clone, Copy)]
enum Kind {
    Code,
    Literal,
    Comment,
}

impl Reader {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.input.get(self.at + ahead).copied()
    }

    /// Consumes one character and files it under `kind`.
    fn take(&mut self, kind: Kind) {
        let Some(character) = self.peek(0) else {
            return;
        };
        self.at += 1;
        let blank = if character == '\n' { '\n' } else { ' ' };
        let (code, with_strings) = match kind {
            Kind::Code => (character, character),
            Kind::Literal => (blank, character),
            Kind::Comment => (blank, blank),
        };
        self.code.push(code);
        self.code_and_strings.push(with_strings);
    }

    fn take_many(&mut self, count: usize, kind: Kind) {
        for _ in 0..count {
            self.take(kind);
        }
    }

    fn read_all(&mut self) {
        while let Some(character) = self.peek(0) {
            match (character, self.peek(1)) {
                ('/', Some('/')) => self.line_comment(),
                ('/', Some('*')) => self.block_comment(),
                ('"', _) => self.string(),
                ('r', _) | ('b', Some('r')) | ('c', Some('r')) if self.raw_string() => {}
                ('\'', _) => self.quote(),
                _ => self.take(Kind::Code),
            }
        }
    }

    fn line_comment(&mut self) {
        while self.peek(0).is_some_and(|character| character != '\n') {
            self.take(Kind::Comment);
        }
    }

    fn block_comment(&mut self) {
        let mut depth = 0_usize;
        while let Some(character) = self.peek(0) {
            match (character, self.peek(1)) {
                ('/', Some('*')) => {
                    depth += 1;
                    self.take_many(2, Kind::Comment);
                }
                ('*', Some('/')) => {
                    depth -= 1;
                    self.take_many(2, Kind::Comment);
                    if depth == 0 {
                        return;
                    }
                }
                _ => self.take(Kind::Comment),
            }
        }
    }

    fn string(&mut self) {
        self.take(Kind::Code);
        while let Some(character) = self.peek(0) {
            match character {
                '\\' => self.take_many(2, Kind::Literal),
                '"' => {
                    self.take(Kind::Code);
                    return;
                }
                _ => self.take(Kind::Literal),
            }
        }
    }

    /// Consumes a raw string if one starts here; says whether it did.
    fn raw_string(&mut self) -> bool {
        let part_of_a_word = self.at > 0
            && self
                .input
                .get(self.at - 1)
                .is_some_and(|before| is_word_character(*before));
        if part_of_a_word {
            return false;
        }
        let prefix = if self.peek(0) == Some('r') { 1 } else { 2 };
        let mut hashes = 0;
        while self.peek(prefix + hashes) == Some('#') {
            hashes += 1;
        }
        if self.peek(prefix + hashes) != Some('"') {
            return false;
        }
        self.take_many(prefix + hashes + 1, Kind::Code);
        while let Some(character) = self.peek(0) {
            let closes =
                character == '"' && (1..=hashes).all(|ahead| self.peek(ahead) == Some('#'));
            if closes {
                self.take_many(1 + hashes, Kind::Code);
                return true;
            }
            self.take(Kind::Literal);
        }
        true
    }

    /// A quote opens a character literal or a lifetime; only the former has a closing quote.
    fn quote(&mut self) {
        match (self.peek(1), self.peek(2)) {
            (Some('\\'), _) => {
                self.take(Kind::Code);
                self.take_many(2, Kind::Literal);
                while self
                    .peek(0)
                    .is_some_and(|character| character != '\'' && character != '\n')
                {
                    self.take(Kind::Literal);
                }
                self.take(Kind::Code);
            }
            (Some(_), Some('\'')) => {
                self.take(Kind::Code);
                self.take(Kind::Literal);
                self.take(Kind::Code);
            }
            _ => self.take(Kind::Code),
        }
    }
}

/// Whether `character` can be part of an identifier.
pub(super) fn is_word_character(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Marks the lines of every item that follows a `#[cfg(test)]`, by counting braces.
fn test_lines(code: &str) -> Vec<bool> {
    let lines: Vec<&str> = code.lines().collect();
    let mut marks = vec![false; lines.len()];
    let mut line = 0;
    while line < lines.len() {
        let attribute: String = lines[line].split_whitespace().collect();
        let opens = attribute.contains("#[cfg(test)]") || attribute.contains("#[cfg(all(test,");
        if !opens {
            line += 1;
            continue;
        }
        let mut depth = 0_i64;
        let mut entered = false;
        while line < lines.len() {
            marks[line] = true;
            for character in lines[line].chars() {
                match character {
                    '{' => {
                        depth += 1;
                        entered = true;
                    }
                    '}' => depth -= 1,
                    _ => {}
                }
            }
            let item_ends = (entered && depth <= 0) || (!entered && lines[line].contains(';'));
            line += 1;
            if item_ends {
                break;
            }
        }
    }
    marks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(source: &str) -> String {
        mask(source).code
    }

    #[test]
    fn comments_are_blank() {
        assert_eq!(code("a // b\nc"), "a     \nc");
        assert_eq!(code("a /* b /* c */ d */ e"), "a                   e");
    }

    #[test]
    fn strings_are_blank_in_one_reading_and_kept_in_the_other() {
        let masked = mask("let a = \"b // \\\" c\";");
        assert_eq!(masked.code, "let a = \"         \";");
        assert_eq!(masked.code_and_strings, "let a = \"b // \\\" c\";");
    }

    #[test]
    fn raw_strings_end_at_their_own_hashes() {
        assert_eq!(code("r#\"a\"b\"# c"), "r#\"   \"# c");
        assert_eq!(code("br\"a\" c"), "br\" \" c");
        assert_eq!(code("for\"a\""), "for\" \"");
    }

    #[test]
    fn lifetimes_are_no_character_literals() {
        assert_eq!(code("fn f<'a>(x: &'a str) { '\"'; '\\''; 'b' }"), {
            "fn f<'a>(x: &'a str) { ' '; '  '; ' ' }"
        });
    }

    #[test]
    fn items_under_cfg_test_are_marked() {
        let masked = mask("fn a() {}\n#[cfg(test)]\nmod tests {\n  fn b() {}\n}\nfn c() {}\n");
        assert_eq!(masked.in_test, [false, true, true, true, true, false]);
        let declared = mask("#[cfg(test)]\nmod tests;\nfn c() {}\n");
        assert_eq!(declared.in_test, [true, true, false]);
    }
}
