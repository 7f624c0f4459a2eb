//! From raw values to checked ones: every key against its row of the schema.

use std::collections::BTreeMap;
use std::sync::Arc;

use crucible_upstairs::crypt::KeyText;
use vmm::machine::config::PciPath;

use super::document::{Entry, Node, Raw};
use super::error::{ConfigError, Place, Problem};
use super::schema::{Availability, Family, Key, Kind, Presence, Variant, nearest};

/// A checked value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Text, path, choice or name.
    Text(String),
    /// What is shown nowhere.
    Secret(KeyText),
    /// Integer within its range.
    Integer(u64),
    /// Seconds.
    Seconds(f64),
    /// Boolean.
    Bool(bool),
    /// Strings.
    TextList(Vec<String>),
    /// Place on the PCI bus.
    PciPath(PciPath),
    /// Guest ports and host addresses.
    PortMappings(Vec<(u32, String)>),
}

/// A checked key of a checked table.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Its row.
    pub key: &'static Key,
    /// Line of the key; that of the table for defaults.
    pub line: u32,
    /// What it is.
    pub value: Value,
    /// Written in the file, not a default.
    pub given: bool,
}

/// A table whose keys have been checked one by one.
#[derive(Clone, Debug)]
pub struct Table {
    /// Full name, such as `block_dev.root`.
    pub name: String,
    /// Line of its header.
    pub line: u32,
    /// The selecting key and its value, for families.
    pub variant: Option<(&'static str, &'static Variant)>,
    /// Settings in the order of the schema.
    pub settings: Vec<Setting>,
}

impl Table {
    /// The setting of this key, given or default.
    pub fn setting(&self, key: &str) -> Option<&Setting> {
        self.settings.iter().find(|setting| setting.key.name == key)
    }

    /// Text, path, choice or name.
    pub fn text(&self, key: &str) -> Option<&str> {
        match self.setting(key)?.value {
            Value::Text(ref text) => Some(text),
            _ => None,
        }
    }

    /// An integer.
    pub fn integer(&self, key: &str) -> Option<u64> {
        match self.setting(key)?.value {
            Value::Integer(number) => Some(number),
            _ => None,
        }
    }

    /// Seconds.
    pub fn seconds(&self, key: &str) -> Option<f64> {
        match self.setting(key)?.value {
            Value::Seconds(seconds) => Some(seconds),
            _ => None,
        }
    }

    /// What is shown nowhere.
    pub fn secret(&self, key: &str) -> Option<&KeyText> {
        match self.setting(key)?.value {
            Value::Secret(ref text) => Some(text),
            _ => None,
        }
    }

    /// A boolean.
    pub fn flag(&self, key: &str) -> Option<bool> {
        match self.setting(key)?.value {
            Value::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// A list of strings.
    pub fn list(&self, key: &str) -> Option<&[String]> {
        match self.setting(key)?.value {
            Value::TextList(ref list) => Some(list),
            _ => None,
        }
    }

    /// A place on the PCI bus.
    pub fn pci_path(&self, key: &str) -> Option<PciPath> {
        match self.setting(key)?.value {
            Value::PciPath(path) => Some(path),
            _ => None,
        }
    }

    /// The part of the name after the dot.
    pub fn short_name(&self) -> &str {
        self.name
            .split_once('.')
            .map_or(&self.name, |(_, name)| name)
    }
}

/// Collects errors while the file is gone through, so that all of them are shown at once.
#[derive(Debug)]
pub struct Findings {
    file: Arc<str>,
    errors: Vec<ConfigError>,
}

impl Findings {
    /// None yet, for `file`.
    pub fn new(file: Arc<str>) -> Self {
        Self {
            file,
            errors: Vec::new(),
        }
    }

    /// Notes a mistake in a table.
    pub fn in_table(&mut self, line: u32, table: &str, problem: Problem) {
        self.note(line, table, None, problem);
    }

    /// Notes a mistake about a key.
    pub fn in_key(&mut self, line: u32, table: &str, key: &str, problem: Problem) {
        self.note(line, table, Some(key.to_owned()), problem);
    }

    /// Notes a mistake about a key that `table` has, at the line of that key.
    pub fn at(&mut self, table: &Table, key: &str, problem: Problem) {
        let line = table
            .setting(key)
            .map_or(table.line, |setting| setting.line);
        self.in_key(line, &table.name, key, problem);
    }

    fn note(&mut self, line: u32, table: &str, key: Option<String>, problem: Problem) {
        self.errors.push(ConfigError {
            place: Place {
                file: self.file.clone(),
                line,
            },
            table: Some(table.to_owned()),
            key,
            problem,
        });
    }

    /// `value`, unless something was wrong; errors in the order of their lines.
    pub fn finish<T>(mut self, value: Option<T>) -> Result<T, Vec<ConfigError>> {
        match value {
            Some(value) if self.errors.is_empty() => Ok(value),
            _ => {
                self.errors
                    .sort_by(|left, right| left.place.cmp(&right.place));
                Err(self.errors)
            }
        }
    }

    /// Whether anything has been noted.
    pub fn any(&self) -> bool {
        !self.errors.is_empty()
    }
}

/// Checks a table with fixed keys.
pub fn read_table(
    name: &str,
    line: u32,
    entries: &BTreeMap<String, Entry>,
    keys: &'static [Key],
    findings: &mut Findings,
) -> Table {
    for (word, entry) in entries {
        if !keys.iter().any(|key| key.name == word) {
            let problem = Problem::UnknownKey {
                nearest: nearest(word, keys.iter().map(|key| key.name)).map(str::to_owned),
                belongs_to: Vec::new(),
            };
            findings.in_key(entry.line, name, word, problem);
        }
    }
    Table {
        name: name.to_owned(),
        line,
        variant: None,
        settings: settings(name, line, entries, keys.iter(), findings),
    }
}

/// Checks a table of a family; `None` if its variant cannot be told or used.
pub fn read_variant(
    short_name: &str,
    line: u32,
    entries: &BTreeMap<String, Entry>,
    family: &'static Family,
    findings: &mut Findings,
) -> Option<Table> {
    let name = format!("{}.{short_name}", family.name);
    let variant = selected(&name, line, entries, family, findings)?;
    let known = || family.keys_of(variant);
    for (word, entry) in entries {
        if word != family.selector && !known().any(|key| key.name == word) {
            let owners = family.owners_of(word);
            let words = known().map(|key| key.name).chain([family.selector]);
            let problem = Problem::UnknownKey {
                nearest: match owners.is_empty() {
                    true => nearest(word, words).map(str::to_owned),
                    false => None,
                },
                belongs_to: owners
                    .iter()
                    .map(|owner| format!("{} = {owner:?}", family.selector))
                    .collect(),
            };
            findings.in_key(entry.line, &name, word, problem);
        }
    }
    let settings = settings(&name, line, entries, known(), findings);
    if variant.availability == Availability::NotYet {
        let line = entries
            .get(family.selector)
            .map_or(line, |entry| entry.line);
        let built: Vec<&str> = family
            .variants
            .iter()
            .filter(|variant| variant.availability == Availability::Built)
            .map(|variant| variant.name)
            .collect();
        let problem = Problem::NotYet {
            what: variant.name.to_owned(),
            built: quoted(&built),
        };
        findings.in_key(line, &name, family.selector, problem);
        return None;
    }
    Some(Table {
        name,
        line,
        variant: Some((family.selector, variant)),
        settings,
    })
}

fn selected(
    name: &str,
    line: u32,
    entries: &BTreeMap<String, Entry>,
    family: &'static Family,
    findings: &mut Findings,
) -> Option<&'static Variant> {
    let names: Vec<&str> = family.variants.iter().map(|variant| variant.name).collect();
    let Some(entry) = entries.get(family.selector) else {
        let doc = format!("one of {}", quoted(&names));
        findings.in_key(line, name, family.selector, Problem::MissingKey { doc });
        return None;
    };
    let Raw::Text(word) = &entry.node.value else {
        let problem = Problem::WrongType {
            expected: format!("one of {}", quoted(&names)),
            found: entry.node.value.describe(),
        };
        findings.in_key(entry.line, name, family.selector, problem);
        return None;
    };
    let variant = family.variant(word);
    if variant.is_none() {
        let problem = Problem::UnknownChoice {
            allowed: quoted(&names),
            found: word.clone(),
            nearest: nearest(word, names.iter().copied()).map(str::to_owned),
        };
        findings.in_key(entry.line, name, family.selector, problem);
    }
    variant
}

fn settings(
    table: &str,
    table_line: u32,
    entries: &BTreeMap<String, Entry>,
    keys: impl Iterator<Item = &'static Key>,
    findings: &mut Findings,
) -> Vec<Setting> {
    let mut settings = Vec::new();
    for key in keys {
        let (line, value, given) = match (entries.get(key.name), key.presence) {
            (Some(entry), _) => match check(&entry.node, key.kind) {
                Ok(value) => (entry.line, value, true),
                Err(problem) => {
                    findings.in_key(entry.line, table, key.name, problem);
                    continue;
                }
            },
            (None, Presence::Optional) => continue,
            (None, Presence::Required) => {
                let doc = key.doc.to_owned();
                findings.in_key(table_line, table, key.name, Problem::MissingKey { doc });
                continue;
            }
            (None, Presence::Default(text)) => match default_value(text, key.kind) {
                Some(value) => (table_line, value, false),
                None => continue,
            },
        };
        settings.push(Setting {
            key,
            line,
            value,
            given,
        });
    }
    settings
}

/// The default of a row; a test makes sure that each one can be read.
pub fn default_value(text: &str, kind: Kind) -> Option<Value> {
    let file: Arc<str> = "default".into();
    let document = super::document::parse(&file, &format!("v = {text}")).ok()?;
    check(&document.get("v")?.node, kind).ok()
}

/// Words in quotes, with commas.
pub fn quoted(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    words.join(", ")
}

fn check(node: &Node, kind: Kind) -> Result<Value, Problem> {
    let wrong = |expected: &str| Problem::WrongType {
        expected: expected.to_owned(),
        found: node.value.describe(),
    };
    match (kind, &node.value) {
        (Kind::Text | Kind::DiskName, Raw::Text(text)) => Ok(Value::Text(text.clone())),
        (Kind::Text | Kind::DiskName, _) => Err(wrong("a string")),
        (Kind::Secret, Raw::Text(text)) => Ok(Value::Secret(text.clone().into())),
        // What was found is not repeated: part of it may be the secret.
        (Kind::Secret, _) => Err(Problem::WrongType {
            expected: "a string".to_owned(),
            found: "something else".to_owned(),
        }),
        (Kind::Path, Raw::Text(text)) if text.is_empty() => Err(wrong("a path")),
        (Kind::Path, Raw::Text(text)) => Ok(Value::Text(text.clone())),
        (Kind::Path, _) => Err(wrong("a path as a string")),
        (Kind::Bool, Raw::Bool(value)) => Ok(Value::Bool(*value)),
        (Kind::Bool, _) => Err(wrong("true or false")),
        (Kind::Integer { min, max }, Raw::Integer(number)) => match u64::try_from(*number) {
            Ok(number) if (min..=max).contains(&number) => Ok(Value::Integer(number)),
            _ => Err(Problem::OutOfRange {
                min,
                max,
                found: number.to_string(),
            }),
        },
        (Kind::Integer { .. }, _) => Err(wrong("an integer")),
        (Kind::Seconds, Raw::Float(number)) if number.is_finite() && *number >= 0.0 => {
            Ok(Value::Seconds(*number))
        }
        (Kind::Seconds, Raw::Integer(number)) => u32::try_from(*number)
            .map(|number| Value::Seconds(f64::from(number)))
            .map_err(|_| wrong("a number of seconds")),
        (Kind::Seconds, _) => Err(wrong("a number of seconds")),
        (Kind::Choice(allowed), Raw::Text(text)) => {
            if allowed.contains(&text.as_str()) {
                Ok(Value::Text(text.clone()))
            } else {
                Err(Problem::UnknownChoice {
                    allowed: quoted(allowed),
                    found: text.clone(),
                    nearest: nearest(text, allowed.iter().copied()).map(str::to_owned),
                })
            }
        }
        (Kind::Choice(allowed), _) => Err(wrong(&format!("one of {}", quoted(allowed)))),
        (Kind::TextList, value) => text_list(value)
            .map(Value::TextList)
            .ok_or_else(|| wrong("an array of strings")),
        (Kind::PciPath, Raw::Text(text)) => parse_pci_path(text)
            .map(Value::PciPath)
            .ok_or_else(|| wrong(PCI_PATH_FORM)),
        (Kind::PciPath, _) => Err(wrong(PCI_PATH_FORM)),
        (Kind::Targets, value) => {
            let expected = "an array of exactly three \"ip:port\" strings";
            let list = text_list(value).filter(|list| list.len() == 3);
            let list = list.ok_or_else(|| wrong(expected))?;
            match list.iter().find(|item| !is_address(item)) {
                None => Ok(Value::TextList(list)),
                Some(item) => Err(Problem::WrongType {
                    expected: expected.to_owned(),
                    found: format!("{item:?} among them"),
                }),
            }
        }
        (Kind::PortMappings, value) => port_mappings(value)
            .map(Value::PortMappings)
            .ok_or_else(|| wrong("an array of { port = NUMBER, addr = \"ip:port\" }")),
    }
}

const PCI_PATH_FORM: &str =
    "\"bus.slot.function\" with decimal numbers up to 255, 31 and 7, such as \"0.5.0\"";

/// Reads `bus.slot.function`; digits only, so that `0x1`, `+1` and blanks are refused.
pub fn parse_pci_path(text: &str) -> Option<PciPath> {
    let mut parts = text.split('.').map(|part| {
        let digits = part.len() <= 3 && part.bytes().all(|byte| byte.is_ascii_digit());
        if digits {
            part.parse::<u8>().ok()
        } else {
            None
        }
    });
    let path = PciPath {
        bus: parts.next()??,
        slot: parts.next()??,
        function: parts.next()??,
    };
    let in_range = path.slot < 32 && path.function < 8;
    (parts.next().is_none() && in_range).then_some(path)
}

fn text_list(value: &Raw) -> Option<Vec<String>> {
    let Raw::Array(items) = value else {
        return None;
    };
    items
        .iter()
        .map(|item| match &item.value {
            Raw::Text(text) => Some(text.clone()),
            _ => None,
        })
        .collect()
}

fn is_address(text: &str) -> bool {
    text.parse::<std::net::SocketAddr>().is_ok()
}

fn port_mappings(value: &Raw) -> Option<Vec<(u32, String)>> {
    let Raw::Array(items) = value else {
        return None;
    };
    items
        .iter()
        .map(|item| {
            let Raw::Table(entries) = &item.value else {
                return None;
            };
            let port = match &entries.get("port")?.node.value {
                Raw::Integer(port) => u32::try_from(*port).ok()?,
                _ => return None,
            };
            match &entries.get("addr")?.node.value {
                Raw::Text(addr) if is_address(addr) && entries.len() == 2 => {
                    Some((port, addr.clone()))
                }
                _ => None,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::schema::{BLOCK_DEV, CLOUDINIT, DEV, MAIN};
    use super::*;

    #[test]
    fn every_default_of_the_schema_is_valid() {
        let families = [&BLOCK_DEV, &DEV].into_iter().flat_map(|family| {
            family
                .variants
                .iter()
                .flat_map(|variant| family.keys_of(variant))
        });
        for key in MAIN.iter().chain(CLOUDINIT).chain(families) {
            if let Presence::Default(text) = key.presence {
                assert!(default_value(text, key.kind).is_some(), "{}", key.name);
            }
        }
    }

    #[test]
    fn pci_paths() {
        let path = |bus, slot, function| PciPath {
            bus,
            slot,
            function,
        };
        for (text, expected) in [
            ("0.5.0", Some(path(0, 5, 0))),
            ("255.31.7", Some(path(255, 31, 7))),
            ("0.32.0", None),
            ("0.1.8", None),
            ("0.5", None),
            ("0.5.0.1", None),
            ("0.+5.0", None),
            ("0..0", None),
            ("0:5.0", None),
            ("256.0.0", None),
        ] {
            assert_eq!(parse_pci_path(text), expected, "{text}");
        }
    }
}
