//! Pages as text: everything that is not ours goes through `Text`, which escapes it.

use chrono::{DateTime, Utc};
use std::fmt::{self, Display, Write as _};

/// Foreign words, safe in HTML text and in double-quoted attributes.
pub(super) struct Text<T>(pub(super) T);

impl<T: Display> Display for Text<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Escape<'a, 'b>(&'a mut fmt::Formatter<'b>);
        impl fmt::Write for Escape<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                for c in text.chars() {
                    match c {
                        '&' => self.0.write_str("&amp;")?,
                        '<' => self.0.write_str("&lt;")?,
                        '>' => self.0.write_str("&gt;")?,
                        '"' => self.0.write_str("&quot;")?,
                        '\'' => self.0.write_str("&#39;")?,
                        c => self.0.write_char(c)?,
                    }
                }
                Ok(())
            }
        }
        write!(Escape(f), "{}", self.0)
    }
}

/// HTML that was made here.
#[derive(Debug, Clone, Default)]
pub(super) struct Html(pub(super) String);

impl Html {
    pub(super) fn add(&mut self, part: fmt::Arguments<'_>) {
        // Writing to a String does not fail.
        let _ = self.0.write_fmt(part);
    }
}

impl Display for Html {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `html!("<b>{}</b>", Text(name))`
macro_rules! html {
    ($($part:tt)*) => { Html(format!($($part)*)) };
}
pub(super) use html;

pub(super) fn time(at: DateTime<Utc>) -> Html {
    html!("<time datetime=\"{}\">{}</time>", at.to_rfc3339(), at.format("%d %b %H:%M:%S"))
}

pub(super) fn maybe_time(at: Option<DateTime<Utc>>) -> Html {
    at.map_or_else(none, time)
}

pub(super) fn maybe(text: Option<&str>) -> Html {
    text.map_or_else(none, |text| html!("{}", Text(text)))
}

fn none() -> Html {
    html!("<span class=none>–</span>")
}

/// A state as a coloured word.
pub(super) fn badge(state: &str) -> Html {
    let tone = match state {
        "succeeded" | "live" | "done" | "delivered" | "released" | "active" => "good",
        "stuck" | "failed" | "restricted" | "parked" => "bad",
        "waiting" | "undoing" | "retrying" | "paused" | "pending" | "releasing" | "unknown" | "held" | "suspended" => "warn",
        "undone" | "cancelled" | "abandoned" => "quiet",
        _ => "busy",
    };
    html!("<span class=\"badge {tone}\">{}</span>", Text(state))
}

/// A table, or a sentence where there is nothing.
pub(super) fn table(columns: &[&str], rows: &[Html], empty: &str) -> Html {
    if rows.is_empty() {
        return html!("<p class=empty>{}</p>", Text(empty));
    }
    let mut out = Html::default();
    out.add(format_args!("<div class=scroll><table><thead><tr>"));
    for column in columns {
        out.add(format_args!("<th>{}", Text(column)));
    }
    out.add(format_args!("</tr></thead><tbody>"));
    for row in rows {
        out.add(format_args!("<tr>{row}</tr>"));
    }
    out.add(format_args!("</tbody></table></div>"));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_words_stay_words() {
        let evil = r#"<script>"x" & 'y'</script>"#;
        assert_eq!(Text(evil).to_string(), "&lt;script&gt;&quot;x&quot; &amp; &#39;y&#39;&lt;/script&gt;");
        assert!(!badge(evil).0.contains("<script"));
        assert!(!table(&[evil], &[html!("<td>{}", Text(evil))], evil).0.contains("<script"));
    }
}
