//! Values in a template's places: what a send must give, and the Cloud API components that it becomes.
//!
//! contracts/meta-cloud-api.md 7.4.

use super::{
    BODY_MAX, COUPON_MAX, Category, Filled, HEADER_MAX, ParameterFormat, Template, URL_MAX, Variable, chars, distinct, scan,
};
use crate::problem::{Check, Problem};
use serde_json::{Map, Value, json};

/// Spaces in a row within a value; newlines and tabs are refused altogether (contracts/meta-cloud-api.md 7.4).
const VALUE_SPACES_MAX: usize = 4;

fn is_link(text: &str) -> bool {
    (text.starts_with("https://") || text.starts_with("http://")) && !text.contains(char::is_whitespace)
}

impl Template {
    /// Whether a send gives it a file.
    pub fn takes_a_file(&self) -> bool {
        self.component("HEADER").is_some_and(|header| matches!(header["format"].as_str(), Some("IMAGE" | "VIDEO" | "DOCUMENT")))
    }

    /// What a send must give, in the order of an array of variables: header, body, buttons.
    pub fn variables(&self) -> Vec<Variable> {
        let mut variables: Vec<Variable> = Vec::new();
        for slot in self.slots() {
            // One name in header and body is one variable.
            if !variables.iter().any(|variable| variable.key == slot.key) {
                let required = slot.kind != Kind::Payload;
                variables.push(Variable { key: slot.key, component: slot.component, required });
            }
        }
        variables
    }

    /// Characters of the body filled with its own examples: an estimate of what a reader gets.
    pub fn estimated_length(&self) -> usize {
        let Some(body) = self.component("BODY") else { return 0 };
        let text = text_of(body);
        let variables: usize = scan(text).unwrap_or_default().iter().map(|v| chars(&text[v.range.clone()])).sum();
        let example = &body["example"];
        let examples: usize = match self.parameter_format {
            ParameterFormat::Named => {
                let named = example["body_text_named_params"].as_array();
                named.into_iter().flatten().filter_map(|p| p["example"].as_str()).map(chars).sum()
            }
            ParameterFormat::Positional => {
                example["body_text"][0].as_array().into_iter().flatten().filter_map(Value::as_str).map(chars).sum()
            }
        };
        chars(text) - variables + examples
    }

    /// Puts `variables` in place: an object by key (see `variables`), an array in order, or null for none.
    /// Codes: `wrong_variable_count`, `missing_variable`, `unknown_variable`, `invalid_value`, `too_long`.
    pub fn fill(&self, variables: &Value) -> Result<Filled, Vec<Problem>> {
        let mut check = Check::default();
        let given = self.given(variables, &mut check);
        let mut components: Vec<Value> = Vec::new();
        for slot in self.slots() {
            let Some(value) = given.get(&slot.key) else { continue };
            let Some(parameter) = self.parameter(&slot, value, &mut check) else { continue };
            match (components.last_mut(), slot.button) {
                // The header's and the body's parameters stand together, each button's alone.
                (Some(last), None) if last["type"] == slot.place => {
                    if let Some(parameters) = last["parameters"].as_array_mut() {
                        parameters.push(parameter);
                    }
                }
                (_, None) => components.push(json!({"type": slot.place, "parameters": [parameter]})),
                (_, Some((index, sub_type))) => components.push(json!({
                    "type": "button", "sub_type": sub_type, "index": index.to_string(), "parameters": [parameter],
                })),
            }
        }
        let replaced = |component: Option<&Value>| {
            let text = component.map(text_of).unwrap_or_default();
            let header = component.is_some_and(|c| c["type"] == "HEADER");
            let mut out = String::new();
            let mut from = 0;
            for variable in scan(text).unwrap_or_default() {
                out.push_str(&text[from..variable.range.start]);
                let value = given.get(&self.key_in(header, variable.name)).cloned().unwrap_or_default();
                out.push_str(&plain(&value).unwrap_or_default());
                from = variable.range.end;
            }
            out.push_str(&text[from..]);
            out
        };
        let body = replaced(self.component("BODY"));
        check.within(&body, "BODY", BODY_MAX);
        check.within(&replaced(self.component("HEADER")), "HEADER", HEADER_MAX);
        check.done(Some(Filled { components, body }))
    }

    fn given(&self, variables: &Value, check: &mut Check) -> Map<String, Value> {
        let known = self.variables();
        let wanted: Vec<&Variable> = known.iter().filter(|v| v.required).collect();
        match variables {
            Value::Array(values) if values.len() == wanted.len() => {
                wanted.iter().zip(values).map(|(variable, value)| (variable.key.clone(), value.clone())).collect()
            }
            Value::Array(values) => {
                let names: Vec<&str> = wanted.iter().map(|v| v.key.as_str()).collect();
                let message = format!("{} variables given, {} wanted ({})", values.len(), wanted.len(), names.join(", "));
                check.add("variables", "wrong_variable_count", message);
                Map::new()
            }
            Value::Null => self.given(&Value::Array(Vec::new()), check),
            Value::Object(values) => {
                for variable in wanted.iter().filter(|variable| !values.contains_key(&variable.key)) {
                    check.add(&variable.component, "missing_variable", format!("{:?} is missing", variable.key));
                }
                for key in values.keys().filter(|key| !known.iter().any(|v| v.key == **key)) {
                    check.add("variables", "unknown_variable", format!("the template has no variable {key:?}"));
                }
                values.clone()
            }
            _ => {
                check.add("variables", "wrong_type", "variables is an object or an array");
                Map::new()
            }
        }
    }

    fn parameter(&self, slot: &Slot, value: &Value, check: &mut Check) -> Option<Value> {
        let refuse = |check: &mut Check, why: &str| {
            check.add(&slot.component, "invalid_value", format!("{:?} {why}", slot.key));
            None
        };
        if let Kind::Media(format) = slot.kind {
            let file = match value {
                Value::Object(file) if file.get("id").is_some_and(Value::is_string) && !file.contains_key("link") => {
                    value.clone()
                }
                Value::Object(file)
                    if file.get("link").and_then(Value::as_str).is_some_and(is_link) && !file.contains_key("id") =>
                {
                    value.clone()
                }
                Value::String(link) if is_link(link) => json!({"link": link}),
                Value::String(id) if !id.is_empty() => json!({"id": id}),
                _ => return refuse(check, "is a media id, a link, or an object with one of them"),
            };
            return Some(json!({"type": format, format: file}));
        }
        if slot.kind == Kind::Location {
            return match value {
                Value::Object(place) if place.contains_key("latitude") && place.contains_key("longitude") => {
                    Some(json!({"type": "location", "location": value}))
                }
                _ => refuse(check, "is an object with latitude and longitude"),
            };
        }
        let Some(text) = plain(value) else { return refuse(check, "must be a string or a number") };
        if text.trim().is_empty() {
            return refuse(check, "is empty");
        }
        if text.contains(['\n', '\r', '\t']) || text.contains(&" ".repeat(VALUE_SPACES_MAX + 1)) {
            return refuse(check, "has a line break, a tab or more than 4 spaces in a row");
        }
        let long = match slot.kind {
            Kind::Coupon => chars(&text) > COUPON_MAX,
            _ => chars(&text) > URL_MAX,
        };
        if long {
            return refuse(check, "is too long");
        }
        Some(match slot.kind {
            Kind::Coupon => json!({"type": "coupon_code", "coupon_code": text}),
            Kind::Payload => json!({"type": "payload", "payload": text}),
            Kind::Text if self.parameter_format == ParameterFormat::Named && slot.button.is_none() => {
                json!({"type": "text", "parameter_name": slot.key, "text": text})
            }
            _ => json!({"type": "text", "text": text}),
        })
    }

    fn component(&self, kind: &str) -> Option<&Value> {
        self.components.iter().find(|component| component["type"] == kind)
    }

    fn key_in(&self, header: bool, name: &str) -> String {
        // Positions count in header and body apart.
        if header && self.parameter_format == ParameterFormat::Positional { "header".into() } else { name.into() }
    }

    fn slots(&self) -> Vec<Slot> {
        let mut slots = Vec::new();
        let mut texts = |component: &Value, place: &'static str| {
            for name in distinct(&scan(text_of(component)).unwrap_or_default()) {
                let key = self.key_in(place == "header", name);
                slots.push(Slot { key, component: place.to_uppercase(), place, kind: Kind::Text, button: None });
            }
        };
        let header = self.component("HEADER");
        let media = header.and_then(|header| match header["format"].as_str()? {
            "IMAGE" => Some(Kind::Media("image")),
            "VIDEO" => Some(Kind::Media("video")),
            "DOCUMENT" => Some(Kind::Media("document")),
            "LOCATION" => Some(Kind::Location),
            _ => None,
        });
        if let Some(header) = header {
            texts(header, "header");
        }
        if self.category == Category::Authentication {
            // Meta's fixed body has the code as its one variable; the button repeats it.
            let slot = |place, component: &str, button| Slot {
                key: "code".into(),
                component: component.into(),
                place,
                kind: Kind::Code,
                button,
            };
            return vec![slot("body", "BODY", None), slot("button", "BUTTONS[0]", Some((0, "url")))];
        }
        if let Some(body) = self.component("BODY") {
            texts(body, "body");
        }
        if let Some(kind) = media {
            slots.insert(0, Slot { key: "header".into(), component: "HEADER".into(), place: "header", kind, button: None });
        }
        let buttons = self.component("BUTTONS").and_then(|component| component["buttons"].as_array());
        for (index, button) in buttons.into_iter().flatten().enumerate() {
            let (kind, sub_type) = match button["type"].as_str().unwrap_or_default() {
                "URL" if button["url"].as_str().is_some_and(|url| url.contains("{{")) => (Kind::Text, "url"),
                "COPY_CODE" => (Kind::Coupon, "copy_code"),
                "QUICK_REPLY" => (Kind::Payload, "quick_reply"),
                _ => continue,
            };
            slots.push(Slot {
                key: format!("button_{index}"),
                component: format!("BUTTONS[{index}]"),
                place: "button",
                kind,
                button: Some((index, sub_type)),
            });
        }
        slots
    }
}

/// A place for a value.
struct Slot {
    key: String,
    component: String,
    /// The send component's `type`.
    place: &'static str,
    kind: Kind,
    button: Option<(usize, &'static str)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Code,
    Media(&'static str),
    Location,
    Coupon,
    Payload,
}

fn text_of(component: &Value) -> &str {
    component["text"].as_str().unwrap_or_default()
}

fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}
