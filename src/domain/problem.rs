//! What is wrong with a request, part by part: found all at once, each named where it is.

use serde::Serialize;
use serde_json::{Map, Value};

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Where: a template's component (`BODY`, `BUTTONS[2]`), or a field's path (`interactive.action.buttons[0].reply.title`).
    pub component: String,
    /// Stable machine code: `required`, `too_long`, `variable_at_edge` ...
    pub code: &'static str,
    /// One sentence for a person.
    pub message: String,
}

impl Problem {
    pub fn new(component: impl Into<String>, code: &'static str, message: impl Into<String>) -> Self {
        Self { component: component.into(), code, message: message.into() }
    }
}

/// Checks the fields of JSON objects and gathers what is wrong.
#[derive(Debug, Default)]
pub(crate) struct Check {
    pub(crate) problems: Vec<Problem>,
}

impl Check {
    pub(crate) fn add(&mut self, component: impl Into<String>, code: &'static str, message: impl Into<String>) {
        self.problems.push(Problem::new(component, code, message));
    }

    pub(crate) fn object<'a>(&mut self, value: Option<&'a Value>, path: &str) -> Option<&'a Map<String, Value>> {
        match value {
            Some(Value::Object(fields)) => return Some(fields),
            None | Some(Value::Null) => self.add(path, "required", format!("{path} is missing")),
            Some(_) => self.add(path, "wrong_type", format!("{path} must be an object")),
        }
        None
    }

    /// An array of `least` to `most` items.
    pub(crate) fn array<'a>(&mut self, value: Option<&'a Value>, path: &str, least: usize, most: usize) -> &'a [Value] {
        match value {
            Some(Value::Array(items)) if (least..=most).contains(&items.len()) => return items,
            Some(Value::Array(items)) => {
                self.add(path, "wrong_count", format!("{path} has {} items and must have {least} to {most}", items.len()));
            }
            None | Some(Value::Null) => self.add(path, "required", format!("{path} is missing")),
            Some(_) => self.add(path, "wrong_type", format!("{path} must be an array")),
        }
        &[]
    }

    /// A text of 1 to `most` characters.
    pub(crate) fn text<'a>(&mut self, fields: &'a Map<String, Value>, path: &str, name: &str, most: usize) -> Option<&'a str> {
        let at = join(path, name);
        match fields.get(name) {
            Some(Value::String(text)) if text.trim().is_empty() => self.add(&at, "required", format!("{at} is empty")),
            Some(Value::String(text)) => return self.within(text, &at, most),
            None | Some(Value::Null) => self.add(&at, "required", format!("{at} is missing")),
            Some(_) => self.add(&at, "wrong_type", format!("{at} must be a string")),
        }
        None
    }

    /// Likewise, but it may be missing.
    pub(crate) fn optional_text<'a>(
        &mut self,
        fields: &'a Map<String, Value>,
        path: &str,
        name: &str,
        most: usize,
    ) -> Option<&'a str> {
        match fields.get(name) {
            None | Some(Value::Null) => None,
            Some(_) => self.text(fields, path, name, most),
        }
    }

    pub(crate) fn within<'a>(&mut self, text: &'a str, at: &str, most: usize) -> Option<&'a str> {
        let length = text.chars().count();
        if length > most {
            self.add(at, "too_long", format!("{at} has {length} characters and may have {most}"));
            return None;
        }
        Some(text)
    }

    /// A field that we would drop in silence is refused: it is a misspelling, or asks for what we cannot do.
    pub(crate) fn only(&mut self, fields: &Map<String, Value>, path: &str, known: &[&str]) {
        for name in fields.keys().filter(|name| !known.contains(&name.as_str())) {
            let at = join(path, name);
            self.add(&at, "unknown_field", format!("{at} is not known"));
        }
    }

    pub(crate) fn done<T>(self, value: Option<T>) -> Result<T, Vec<Problem>> {
        match value {
            Some(value) if self.problems.is_empty() => Ok(value),
            _ => Err(self.problems),
        }
    }
}

pub(crate) fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}
