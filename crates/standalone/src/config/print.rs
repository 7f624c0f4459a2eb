//! What was understood, as TOML that can be read back or as JSON; and the schema as text for people.

use std::fmt::Write as _;

use serde_json::{Map, Value as Json, json};
use vmm::machine::config::CpuidVendor;

use super::Config;
use super::read::{Table, Value};
use super::schema::{
    Availability, BLOCK_DEV, CLOUDINIT, CPUID, DEV, Family, Key, Kind, MAIN, Presence,
};

/// The configuration as TOML: every key with its value, defaults marked.
pub fn print_toml(config: &Config) -> String {
    let mut text = String::new();
    for table in &config.tables {
        if !text.is_empty() {
            text.push('\n');
        }
        let _ = writeln!(text, "[{}]", quoted_name(&table.name));
        if let Some((selector, variant)) = table.variant {
            let _ = writeln!(text, "{selector} = {:?}", variant.name);
        }
        for setting in &table.settings {
            let line = format!("{} = {}", setting.key.name, toml_value(&setting.value));
            if setting.key.kind == Kind::Secret {
                let _ = writeln!(text, "# {} is given and not shown", setting.key.name);
            } else if setting.given {
                let _ = writeln!(text, "{line}");
            } else {
                let _ = writeln!(text, "{line:<32} # default");
            }
        }
    }
    for table in &config.cpuid {
        let _ = writeln!(text, "\n[{}]", quoted_name(&table.name));
        let _ = writeln!(text, "vendor = {:?}", vendor(table.profile.vendor));
        for (leaf, [eax, ebx, ecx, edx]) in &table.profile.leaves {
            let name = leaf_name(*leaf);
            let _ = writeln!(text, "{name:?} = [{eax:#x}, {ebx:#x}, {ecx:#x}, {edx:#x}]");
        }
    }
    text
}

/// The configuration as one JSON object: tables by their full names.
pub fn print_json(config: &Config) -> Json {
    let mut tables = Map::new();
    for table in &config.tables {
        tables.insert(table.name.clone(), json_table(table));
    }
    for table in &config.cpuid {
        let mut leaves = Map::new();
        leaves.insert("vendor".to_owned(), json!(vendor(table.profile.vendor)));
        for (leaf, registers) in &table.profile.leaves {
            leaves.insert(leaf_name(*leaf), json!(registers));
        }
        tables.insert(table.name.clone(), Json::Object(leaves));
    }
    Json::Object(tables)
}

/// Every table and key with type, default and meaning.
pub fn schema_text() -> String {
    let mut text = String::new();
    section(&mut text, "[main]", MAIN);
    for family in [&BLOCK_DEV, &DEV] {
        family_text(&mut text, family);
    }
    section(&mut text, "[cloudinit]", CLOUDINIT);
    section(&mut text, "[cpuid.NAME]", CPUID);
    text.push_str(
        "  LEAF or LEAF-INDEX   four integers    registers eax, ebx, ecx, edx of that leaf\n",
    );
    text
}

fn family_text(text: &mut String, family: &Family) {
    section(text, &format!("[{}.NAME]", family.name), family.common);
    for variant in family.variants {
        let note = match variant.availability {
            Availability::Built => "",
            Availability::NotYet => " (not in this build yet)",
        };
        let head = format!("  {} = \"{}\"", family.selector, variant.name);
        let _ = writeln!(text, "{head}: {}{note}", variant.doc);
        rows(text, "    ", variant.keys);
    }
}

fn section(text: &mut String, title: &str, keys: &[Key]) {
    if !text.is_empty() {
        text.push('\n');
    }
    let _ = writeln!(text, "{title}");
    rows(text, "  ", keys);
}

fn rows(text: &mut String, indent: &str, keys: &[Key]) {
    for key in keys {
        let default = match key.presence {
            Presence::Required => "required".to_owned(),
            Presence::Optional => "optional".to_owned(),
            Presence::Default(value) => format!("default {value}"),
        };
        let name = format!("{indent}{}", key.name);
        let _ = writeln!(
            text,
            "{name:<22} {:<16} {}; {default}",
            kind_name(key.kind),
            key.doc
        );
    }
}

fn kind_name(kind: Kind) -> String {
    match kind {
        Kind::Text | Kind::Secret => "string".to_owned(),
        Kind::Path => "path".to_owned(),
        Kind::Bool => "true or false".to_owned(),
        Kind::Integer { min, max } if max >= u64::from(u32::MAX) => format!("integer >= {min}"),
        Kind::Integer { min, max } => format!("{min}..={max}"),
        Kind::Seconds => "seconds".to_owned(),
        Kind::Choice(words) => words.join(" | "),
        Kind::TextList => "strings".to_owned(),
        Kind::PciPath => "bus.slot.func".to_owned(),
        Kind::DiskName => "[block_dev] name".to_owned(),
        Kind::Targets => "3 x ip:port".to_owned(),
        Kind::PortMappings => "{port, addr} ...".to_owned(),
    }
}

fn json_table(table: &Table) -> Json {
    let mut object = Map::new();
    if let Some((selector, variant)) = table.variant {
        object.insert(selector.to_owned(), json!(variant.name));
    }
    for setting in &table.settings {
        object.insert(setting.key.name.to_owned(), json_value(&setting.value));
    }
    Json::Object(object)
}

fn json_value(value: &Value) -> Json {
    match value {
        Value::Text(text) => json!(text),
        Value::Secret(_) => json!("(not shown)"),
        Value::Integer(number) => json!(number),
        Value::Seconds(seconds) => json!(seconds),
        Value::Bool(value) => json!(value),
        Value::TextList(list) => json!(list),
        Value::PciPath(path) => json!(path.to_string()),
        Value::PortMappings(mappings) => mappings
            .iter()
            .map(|(port, addr)| json!({"port": port, "addr": addr}))
            .collect(),
    }
}

fn toml_value(value: &Value) -> String {
    match value {
        Value::Text(text) => toml_text(text),
        Value::Secret(_) => String::new(),
        Value::Integer(number) => number.to_string(),
        Value::Seconds(seconds) => format!("{seconds:?}"),
        Value::Bool(value) => value.to_string(),
        Value::TextList(list) => {
            let items: Vec<String> = list.iter().map(|item| toml_text(item)).collect();
            format!("[{}]", items.join(", "))
        }
        Value::PciPath(path) => format!("\"{path}\""),
        Value::PortMappings(mappings) => {
            let items: Vec<String> = mappings
                .iter()
                .map(|(port, addr)| format!("{{ port = {port}, addr = {} }}", toml_text(addr)))
                .collect();
            format!("[{}]", items.join(", "))
        }
    }
}

fn toml_text(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Keys are strings of one line: what JSON escapes, TOML reads, but for the one character that JSON leaves alone.
fn toml_key(text: &str) -> String {
    json!(text).to_string().replace('\u{7f}', "\\u007f")
}

/// The part after the dot may need quotes.
fn quoted_name(name: &str) -> String {
    match name.split_once('.') {
        Some((family, rest)) => {
            let bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            if !rest.is_empty() && rest.chars().all(bare) {
                name.to_owned()
            } else {
                format!("{family}.{}", toml_key(rest))
            }
        }
        None => name.to_owned(),
    }
}

fn vendor(vendor: CpuidVendor) -> &'static str {
    match vendor {
        CpuidVendor::Amd => "amd",
        CpuidVendor::Intel => "intel",
    }
}

fn leaf_name((leaf, index): (u32, Option<u32>)) -> String {
    match index {
        Some(index) => format!("{leaf:X}-{index:X}"),
        None => format!("{leaf:X}"),
    }
}
