//! Text in columns.

/// Rows of cells; the first row is the heading.
#[derive(Clone, Debug, Default)]
pub(super) struct Table(Vec<Vec<String>>);

impl Table {
    /// With this heading.
    pub(super) fn new(heading: &[&str]) -> Self {
        Self(vec![heading.iter().map(|&cell| cell.to_owned()).collect()])
    }

    /// Without a heading: names and values.
    pub(super) fn bare() -> Self {
        Self::default()
    }

    /// One more row.
    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.0.push(cells.into());
    }

    /// The lines, each with its end.
    pub(super) fn text(&self) -> String {
        let columns = self.0.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.0.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.0 {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:<width$}  "));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Bytes for people.
pub(super) fn bytes(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let power = (count.checked_ilog2().unwrap_or(0) / 10) as usize;
    let unit = units.get(power).copied().unwrap_or("EiB");
    let whole = 1_u64 << (10 * power);
    if count.is_multiple_of(whole) {
        format!("{} {unit}", count / whole)
    } else {
        format!("{:.1} {unit}", count as f64 / whole as f64)
    }
}

/// A latency for people.
pub(super) fn span(nanos: u64) -> String {
    match nanos {
        0 => "-".to_owned(),
        1..=999 => format!("{nanos} ns"),
        1_000..=999_999 => format!("{:.0} us", nanos as f64 / 1e3),
        1_000_000..=999_999_999 => format!("{:.1} ms", nanos as f64 / 1e6),
        _ => format!("{:.1} s", nanos as f64 / 1e9),
    }
}

/// Seconds for people.
pub(super) fn seconds(count: f64) -> String {
    let whole = count as u64;
    match whole {
        0..=119 => format!("{whole} s"),
        120..=7199 => format!("{} min", whole / 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["A", "LONG", "C"]);
        table.row(["ä long one".to_owned(), "x".to_owned(), String::new()]);
        assert_eq!(table.text(), "A           LONG  C\nä long one  x\n");
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(8 << 30), "8 GiB");
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
        assert_eq!(span(999), "999 ns");
        assert_eq!(span(65_536), "66 us");
        assert_eq!(span(1_500_000), "1.5 ms");
        assert_eq!(seconds(59.9), "59 s");
        assert_eq!(seconds(7260.0), "2 h 1 min");
    }
}
