//! What people see: colours only on a terminal, tables that line up, amounts of time that read.

use serde_json::Value;
use std::{
    fmt,
    io::{ErrorKind, IsTerminal as _, Write as _, stderr, stdout},
    time::Duration,
};

/// `print!` for a reader who may have seen enough: behind `| head` the rest is lost, and nothing is wrong.
macro_rules! put {
    ($($words:tt)*) => { $crate::terminal::put(format_args!($($words)*)) };
}
/// `println!`, as [`put!`].
macro_rules! say {
    ($($words:tt)*) => { $crate::terminal::put(format_args!("{}\n", format_args!($($words)*))) };
}

/// What [`put!`] and [`say!`] stand for.
pub(crate) fn put(words: fmt::Arguments<'_>) {
    match stdout().write_fmt(words) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            eprintln!("{} standard output: {error}", Paint::stderr().red("error:"));
            std::process::exit(1);
        }
        _ => {}
    }
}

/// Colours for one stream: plain unless that stream is a terminal and `NO_COLOR` is unset.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Paint {
    on: bool,
}

impl Paint {
    pub(crate) fn stdout() -> Self {
        Self { on: stdout().is_terminal() && allowed() }
    }
    pub(crate) fn stderr() -> Self {
        Self { on: stderr().is_terminal() && allowed() }
    }
    pub(crate) fn is_on(self) -> bool {
        self.on
    }
    pub(crate) fn bold(self, text: impl fmt::Display) -> String {
        self.wrap("1", text)
    }
    pub(crate) fn dim(self, text: impl fmt::Display) -> String {
        self.wrap("2", text)
    }
    pub(crate) fn red(self, text: impl fmt::Display) -> String {
        self.wrap("31", text)
    }
    pub(crate) fn green(self, text: impl fmt::Display) -> String {
        self.wrap("32", text)
    }
    pub(crate) fn yellow(self, text: impl fmt::Display) -> String {
        self.wrap("33", text)
    }
    pub(crate) fn cyan(self, text: impl fmt::Display) -> String {
        self.wrap("36", text)
    }
    /// A state in the colour of what it means.
    pub(crate) fn status(self, status: &str) -> String {
        match status {
            "succeeded" | "done" | "live" | "active" | "paid" => self.green(status),
            "failed" | "stuck" | "restricted" | "overdue" => self.red(status),
            "waiting" | "undoing" | "undone" | "cancelled" | "paused" | "released" | "releasing" => self.yellow(status),
            _ => self.cyan(status),
        }
    }
    fn wrap(self, code: &str, text: impl fmt::Display) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
}

fn allowed() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && std::env::var("TERM").as_deref() != Ok("dumb")
}

/// A table of `rows` under the names of `columns`; each column is a path into the row, such as `legal.ice`.
pub(crate) fn table(columns: &[&str], rows: &[Value], paint: Paint) -> String {
    let cells: Vec<Vec<String>> = rows.iter().map(|row| columns.iter().map(|column| cell(at(row, column))).collect()).collect();
    let widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(i, column)| {
            cells.iter().map(|row| row[i].chars().count()).chain([title(column).chars().count()]).max().unwrap_or(0)
        })
        .collect();
    let last = columns.len().saturating_sub(1);
    let mut text = String::new();
    for (i, column) in columns.iter().enumerate() {
        let width = if i == last { 0 } else { widths[i] + 2 };
        text.push_str(&paint.dim(format!("{:width$}", title(column))));
    }
    for row in &cells {
        text.push('\n');
        for (i, value) in row.iter().enumerate() {
            let pad = if i == last { 0 } else { widths[i] + 2 - value.chars().count() };
            let shown = if columns[i].ends_with("status") { paint.status(value) } else { value.clone() };
            text.push_str(&shown);
            text.push_str(&" ".repeat(pad));
        }
    }
    text
}

/// One resource, a field a line; nested objects are shown by their paths.
pub(crate) fn sheet(resource: &Value, paint: Paint) -> String {
    fn flatten(prefix: &str, value: &Value, into: &mut Vec<(String, String)>) {
        match value {
            Value::Object(fields) => {
                for (name, field) in fields {
                    let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                    flatten(&path, field, into);
                }
            }
            other => into.push((prefix.to_owned(), cell(other))),
        }
    }
    let mut fields = Vec::new();
    flatten("", resource, &mut fields);
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    fields
        .iter()
        .map(|(name, value)| {
            let value = if name.ends_with("status") { paint.status(value) } else { value.clone() };
            format!("{}  {value}", paint.dim(format!("{name:width$}")))
        })
        .collect::<Vec<_>>()
        .join("\n")
}

/// `1.2 s`, `3 min 04 s`, `31 d`.
pub(crate) fn length(of: Duration) -> String {
    let seconds = of.as_secs();
    match seconds {
        0..=59 => format!("{:.1} s", of.as_secs_f64()),
        60..=3_599 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        3_600..=86_399 => format!("{} h {:02} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {:02} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// The value at a dotted path, or null.
pub(crate) fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(value, |value, name| value.get(name).unwrap_or(&Value::Null))
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn title(column: &str) -> String {
    column.rsplit('.').next().unwrap_or(column).replace('_', " ").to_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const PLAIN: Paint = Paint { on: false };

    #[test]
    fn tables_line_up_and_are_plain_off_a_terminal() {
        let rows = [json!({"id": "a", "line": {"status": "live"}}), json!({"id": "long one", "line": {}})];
        assert_eq!(table(&["id", "line.status"], &rows, PLAIN), "ID        STATUS\na         live\nlong one  -");
    }

    #[test]
    fn lengths_read() {
        assert_eq!(length(Duration::from_millis(1_240)), "1.2 s");
        assert_eq!(length(Duration::from_secs(184)), "3 min 04 s");
        assert_eq!(length(Duration::from_secs(31 * 86_400)), "31 d 00 h");
    }
}
