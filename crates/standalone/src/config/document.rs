//! The parsed file before anybody knows what its keys mean: values with their lines.

use std::collections::BTreeMap;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Place, Problem};

/// A value and the line it begins on.
#[derive(Clone, Debug)]
pub struct Node {
    /// Line, from 1. For tables and array elements, that of their first character.
    pub line: u32,
    /// The value.
    pub value: Raw,
}

/// A value of the file.
#[derive(Clone, Debug)]
pub enum Raw {
    /// A string.
    Text(String),
    /// An integer that fits.
    Integer(i128),
    /// A float.
    Float(f64),
    /// A boolean.
    Bool(bool),
    /// A date or time; nothing uses one.
    Date(String),
    /// An array.
    Array(Vec<Node>),
    /// A table; the line of each entry is its key's.
    Table(BTreeMap<String, Entry>),
}

/// One key of a table.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Line of the key, from 1.
    pub line: u32,
    /// Its value.
    pub node: Node,
}

impl Raw {
    /// The value in the words of an error message.
    pub fn describe(&self) -> String {
        match self {
            Self::Text(text) => format!("the string {:?}", shorten(text)),
            Self::Integer(number) => format!("the integer {number}"),
            Self::Float(number) => format!("the number {number}"),
            Self::Bool(value) => format!("{value}"),
            Self::Date(_) => "a date".to_owned(),
            Self::Array(items) => format!("an array of {}", items.len()),
            Self::Table(_) => "a table".to_owned(),
        }
    }
}

fn shorten(text: &str) -> String {
    if text.chars().count() > 40 {
        let mut short: String = text.chars().take(37).collect();
        short.push_str("...");
        short
    } else {
        text.to_owned()
    }
}

/// Parses `text`, the content of `file`.
///
/// Errors: the file is no TOML, or holds a number beyond what we can keep.
pub fn parse(file: &Arc<str>, text: &str) -> Result<BTreeMap<String, Entry>, Vec<ConfigError>> {
    let lines = LineTable::new(text);
    let syntax = |line: u32, reason: String| {
        vec![ConfigError {
            place: Place {
                file: file.clone(),
                line,
            },
            table: None,
            key: None,
            problem: Problem::Syntax(reason),
        }]
    };
    let table = DeTable::parse(text).map_err(|error| {
        let line = error.span().map_or(1, |span| lines.line_of(span.start));
        syntax(line, error.message().to_owned())
    })?;
    convert_table(table.get_ref(), &lines).map_err(|(line, reason)| syntax(line, reason))
}

type Failure = (u32, String);

fn convert_table(
    table: &DeTable<'_>,
    lines: &LineTable,
) -> Result<BTreeMap<String, Entry>, Failure> {
    let mut entries = BTreeMap::new();
    for (key, value) in table.iter() {
        let entry = Entry {
            line: lines.line_of(key.span().start),
            node: convert(value, lines)?,
        };
        entries.insert(key.get_ref().to_string(), entry);
    }
    Ok(entries)
}

fn convert(value: &Spanned<DeValue<'_>>, lines: &LineTable) -> Result<Node, Failure> {
    let line = lines.line_of(value.span().start);
    let value = match value.get_ref() {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Integer(number) => {
            let parsed = i128::from_str_radix(number.as_str(), number.radix());
            Raw::Integer(parsed.map_err(|_| (line, "an integer is too large".to_owned()))?)
        }
        DeValue::Float(number) => {
            let parsed = number.as_str().parse();
            Raw::Float(parsed.map_err(|_| (line, "a number cannot be read".to_owned()))?)
        }
        DeValue::Boolean(value) => Raw::Bool(*value),
        DeValue::Datetime(date) => Raw::Date(date.to_string()),
        DeValue::Array(items) => {
            let items: Result<_, _> = items.iter().map(|item| convert(item, lines)).collect();
            Raw::Array(items?)
        }
        DeValue::Table(table) => Raw::Table(convert_table(table, lines)?),
    };
    Ok(Node { line, value })
}

/// Starts of lines, to find the line of a byte.
struct LineTable(Vec<usize>);

impl LineTable {
    fn new(text: &str) -> Self {
        let starts = text
            .bytes()
            .enumerate()
            .filter(|(_, byte)| *byte == b'\n')
            .map(|(at, _)| at + 1);
        Self(std::iter::once(0).chain(starts).collect())
    }

    fn line_of(&self, byte: usize) -> u32 {
        let line = self.0.partition_point(|start| *start <= byte);
        u32::try_from(line.max(1)).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_know_their_lines() {
        let file: Arc<str> = "t.toml".into();
        let document = parse(&file, "# c\n[main]\nname = \"a\"\n\ncpus = 0x1_0\n").unwrap();
        let Raw::Table(main) = &document["main"].node.value else {
            unreachable!()
        };
        assert_eq!((main["name"].line, main["cpus"].line), (3, 5));
        assert!(matches!(main["cpus"].node.value, Raw::Integer(16)));
    }

    #[test]
    fn a_syntax_error_names_its_line() {
        let file: Arc<str> = "t.toml".into();
        let errors = parse(&file, "[main]\nname = \n").unwrap_err();
        assert_eq!(errors[0].place.line, 2);
        assert!(matches!(errors[0].problem, Problem::Syntax(_)));
    }
}
