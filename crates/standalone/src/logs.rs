//! Log lines on standard output: for people on a terminal, as JSON objects elsewhere.
//!
//! Terminal: `Nov 21 11:22:33.123 INFO machine created, vcpus: 4`. Elsewhere a line each in the form that
//! bunyan's tools read: `{"v":0,"name":"standalone","level":30,"time":"...","msg":"..."}`.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Turns logging on, at `level` or what the environment says.
///
/// Errors: a level that nobody knows, as a text.
pub fn start(level: Option<&str>) -> Result<(), String> {
    let environment = ["TRIVET_LOG", "PROPOLIS_LOG"]
        .iter()
        .find_map(|name| std::env::var(name).ok());
    let words = level
        .map(str::to_owned)
        .or(environment)
        .unwrap_or_else(|| "info".to_owned());
    let filter = EnvFilter::try_new(translate(&words)).map_err(|error| {
        format!(
            "log level {words:?}: {error}; expected critical, error, warning, info, debug, trace, or directives such as info,devices=debug"
        )
    })?;
    let people = std::io::stdout().is_terminal();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(people)
        .event_format(Lines {
            people,
            host: host_name(),
        });
    subscriber
        .try_init()
        .map_err(|error| format!("logging: {error}"))
}

/// Level names of propolis into those of the filter.
fn translate(words: &str) -> String {
    match words.trim().to_ascii_lowercase().as_str() {
        "critical" => "error".to_owned(),
        "warning" => "warn".to_owned(),
        other => other.to_owned(),
    }
}

fn host_name() -> String {
    [
        "/proc/sys/kernel/hostname",
        "/etc/nodename",
        "/etc/hostname",
    ]
    .iter()
    .find_map(|path| std::fs::read_to_string(path).ok())
    .map_or_else(|| "localhost".to_owned(), |name| name.trim().to_owned())
}

struct Lines {
    people: bool,
    host: String,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_millis() as u64);
        let level = *event.metadata().level();
        if self.people {
            let text = for_people(now, level, &fields);
            if writer.has_ansi_escapes() {
                writeln!(writer, "{}", coloured(level, &text))
            } else {
                writeln!(writer, "{text}")
            }
        } else {
            let module = event.metadata().target();
            writeln!(
                writer,
                "{}",
                for_tools(now, level, module, &self.host, &fields)
            )
        }
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, Value)>,
}

impl Fields {
    fn add(&mut self, field: &Field, value: Value) {
        self.others.push((field.name(), value));
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" {
            self.message = text;
        } else {
            self.add(field, Value::String(text));
        }
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.add(field, json!(value));
        }
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, json!(value));
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, json!(value));
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, json!(value));
    }
}

fn for_people(now_ms: u64, level: Level, fields: &Fields) -> String {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let [_, month, day, hour, minute, second, milli] = calendar(now_ms);
    let name = match level {
        Level::ERROR => "ERRO",
        Level::WARN => "WARN",
        Level::INFO => "INFO",
        Level::DEBUG => "DEBG",
        Level::TRACE => "TRCE",
    };
    let month = MONTHS[(month as usize - 1) % 12];
    let mut text = format!(
        "{month} {day:02} {hour:02}:{minute:02}:{second:02}.{milli:03} {name} {}",
        fields.message
    );
    for (key, value) in &fields.others {
        let shown = match value {
            Value::String(value) => value.clone(),
            other => other.to_string(),
        };
        // Writing to a string cannot fail.
        let _ = write!(text, ", {key}: {shown}");
    }
    // A log line is one line, whatever a guest or a file name puts into it.
    text.replace(|c: char| c.is_control(), " ")
}

fn coloured(level: Level, text: &str) -> String {
    let colour = match level {
        Level::ERROR => 31,
        Level::WARN => 33,
        Level::INFO => 32,
        Level::DEBUG | Level::TRACE => 2,
    };
    // The level's name stands after the time: `Nov 21 11:22:33.123 `.
    match text.split_at_checked(20) {
        Some((time, rest)) if rest.len() >= 4 && rest.is_char_boundary(4) => {
            let (name, rest) = rest.split_at(4);
            format!("{time}\u{1b}[{colour}m{name}\u{1b}[0m{rest}")
        }
        _ => text.to_owned(),
    }
}

fn for_tools(now_ms: u64, level: Level, module: &str, host: &str, fields: &Fields) -> String {
    let number = match level {
        Level::ERROR => 50,
        Level::WARN => 40,
        Level::INFO => 30,
        Level::DEBUG => 20,
        Level::TRACE => 10,
    };
    let [year, month, day, hour, minute, second, milli] = calendar(now_ms);
    let time =
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z");
    let mut object = Map::new();
    for (key, value) in &fields.others {
        object.insert((*key).to_owned(), value.clone());
    }
    // These last: no field may take their place.
    for (key, value) in [
        ("v", json!(0)),
        ("name", json!("standalone")),
        ("hostname", json!(host)),
        ("pid", json!(std::process::id())),
        ("level", json!(number)),
        ("time", json!(time)),
        ("module", json!(module)),
        ("msg", json!(fields.message)),
    ] {
        object.insert(key.to_owned(), value);
    }
    Value::Object(object).to_string()
}

/// Year, month, day, hour, minute, second and millisecond in UTC.
///
/// The days are counted in eras of 400 years that begin on 1 March, so that leap days come last.
fn calendar(ms_since_1970: u64) -> [u64; 7] {
    let (days, in_day) = (ms_since_1970 / 86_400_000, ms_since_1970 % 86_400_000);
    let shifted = days + 719_468;
    let (era, in_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (in_era - in_era / 1_460 + in_era / 36_524 - in_era / 146_096) / 365;
    let in_year = in_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * in_year + 2) / 153;
    let day = in_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    [
        year,
        month,
        day,
        in_day / 3_600_000,
        in_day / 60_000 % 60,
        in_day / 1_000 % 60,
        in_day % 1_000,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (seconds, expected) in [
            (0, [1970, 1, 1, 0, 0, 0, 5]),
            (951_782_400, [2000, 2, 29, 0, 0, 0, 5]),
            (1_709_251_199, [2024, 2, 29, 23, 59, 59, 5]),
            (1_767_225_600, [2026, 1, 1, 0, 0, 0, 5]),
            (4_107_542_400, [2100, 3, 1, 0, 0, 0, 5]),
        ] {
            assert_eq!(calendar(seconds * 1000 + 5), expected, "{seconds}");
        }
    }

    #[test]
    fn both_forms() {
        let fields = Fields {
            message: "machine created".to_owned(),
            others: vec![("vcpus", json!(4)), ("name", json!("a\nb"))],
        };
        assert_eq!(
            for_people(1_767_225_600_123, Level::WARN, &fields),
            "Jan 01 00:00:00.123 WARN machine created, vcpus: 4, name: a b"
        );
        let line = for_tools(1_767_225_600_123, Level::INFO, "vmm", "box", &fields);
        let object: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(object["time"], "2026-01-01T00:00:00.123Z");
        assert_eq!(object["level"], 30);
        assert_eq!(object["name"], "standalone");
        assert_eq!(object["vcpus"], 4);
    }

    #[test]
    fn names_of_levels() {
        assert_eq!(translate("Critical"), "error");
        assert_eq!(translate("warning"), "warn");
        assert_eq!(translate("info,devices=debug"), "info,devices=debug");
    }
}
